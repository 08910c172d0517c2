//! A file of Kubernetes manifests.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for name in ["pods.yaml", "pods.json"] {
        let _ = watari_manifests::parse(Path::new(name), bytes);
    }
});
