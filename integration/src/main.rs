//! The tool `ironring`: see its `--help`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ironring_integration::cli::main()
}
