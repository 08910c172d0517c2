//! A sequence of raw packets at the hooks of the datapath, in one world.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| watari_fuzz::datapath(bytes));
