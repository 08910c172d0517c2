//! An entry of the result cache.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| watari_fuzz::result_cache(bytes));
