#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ironring_fuzz::backend_split(input));
