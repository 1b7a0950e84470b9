//! The daemon. Everything is in the library.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ironring_backend::main_with(std::env::args_os())
}
