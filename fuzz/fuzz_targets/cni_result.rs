//! A result, which another plugin wrote. What was read is written in every version, and what was
//! written in the newest is read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use watari_cni_spec::{CniResult, Version};

fuzz_target!(|bytes: &[u8]| {
    let Ok(result) = CniResult::from_json(bytes) else {
        return;
    };
    for version in Version::ALL {
        let text = result.to_json(version);
        let again = CniResult::from_json(text.as_bytes()).expect("what we write, we read");
        if version == Version::LATEST {
            assert_eq!(again, result);
        }
    }
});
