//! A `lab.yaml`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use watari_lab::Spec;

fuzz_target!(|text: &str| {
    let _ = Spec::parse(text);
});
