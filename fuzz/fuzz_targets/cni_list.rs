//! A conflist, or a configuration of one plugin.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| watari_fuzz::cni_list(bytes));
