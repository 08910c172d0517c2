//! The environment of a plugin: a line a variable, `NAME=VALUE`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| watari_fuzz::cni_request(bytes));
