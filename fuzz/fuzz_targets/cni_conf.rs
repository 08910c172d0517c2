//! A network configuration, for each command and for each kind of address plugin.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| watari_fuzz::cni_conf(bytes));
