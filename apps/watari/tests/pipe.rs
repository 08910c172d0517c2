//! A reader that goes away ends the program in silence.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Stdio};

#[test]
fn nobody_reading_is_no_defect() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..2000 {
        let text = format!(
            r#"{{"cniVersion":"1.0.0","name":"n{number}","plugins":[{{"type":"loopback"}}]}}"#
        );
        std::fs::write(directory.path().join(format!("{number:04}.conflist")), text).unwrap();
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_watari"))
        .args(["cni", "list", "--conf-dir"])
        .arg(directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(141));
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let full = std::fs::File::options().write(true).open("/dev/full");
    let output = Command::new(env!("CARGO_BIN_EXE_watari"))
        .args(["lab", "get", "labs"])
        .stdout(full.unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("No space left"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(output.status.code(), Some(2));
}
