//! What cannot be meant is refused, not ignored.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

#[test]
fn what_cannot_be_meant_is_refused() {
    let cases: [(&[&str], &str); 7] = [
        (&["drops", "--reason", "nope"], "spoofed-address"),
        (&["flows", "--port", "0"], "1..=65535"),
        (&["flows", "--port", "65536"], "1..=65535"),
        (
            &["trace", "10.0.0.1", "10.0.0.2:80", "--source-port", "0"],
            "1..=65535",
        ),
        (&["agent", "--established", "0"], "not in"),
        (&["agent", "--transient", "0"], "not in"),
        (&["trace", "10.0.0.1", "10.0.0.2:0"], "no port"),
    ];
    for (words, why) in cases {
        let output = Command::new(env!("CARGO_BIN_EXE_watari"))
            .args(words)
            .output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains(why), "{words:?}: {said}");
    }
}
