//! A file of Kubernetes manifests.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| watari_fuzz::manifests(bytes));
