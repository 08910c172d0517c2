//! The environment of a plugin: a line a variable, `NAME=VALUE`.
#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use libfuzzer_sys::fuzz_target;
use watari_cni_spec::{Request, format_args_variable};

fuzz_target!(|bytes: &[u8]| {
    let lookup = |name: &str| {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let value =
            lines.find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        Some(OsString::from_vec(value.to_vec()))
    };
    if let Ok(request) = Request::from_env(lookup) {
        let text = format_args_variable(&request.args);
        let again = watari_cni_spec::parse_args(&text).expect("what we write, we read");
        assert_eq!(again, request.args);
    }
});
