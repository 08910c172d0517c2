//! A `lab.yaml`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| watari_fuzz::lab_spec(bytes));
