//! A result, which another plugin wrote. What was read is written in every version, and what was written in the newest is read as the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| watari_fuzz::cni_result(bytes));
