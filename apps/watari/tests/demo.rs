//! The demonstration, whole: what a newcomer runs first.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

struct Lab(String);

impl Lab {
    fn watari(words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_watari"))
            .args(words)
            // As after `./run demo` of an ordinary user.
            .env("SUDO_UID", "1000")
            .output()
            .unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let output = Self::watari(&["lab", "--lab", &self.0, "down"]);
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn it_holds_all_that_it_shows_and_may_be_repeated() {
    let lab = Lab(format!("demo-{}", std::process::id()));
    for _ in 0..2 {
        let output = Lab::watari(&["demo", "--lab", &lab.0]);
        let report = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}\n{report}");
        assert!(!report.contains("WRONG"), "{report}");
        let next = report.lines().last().unwrap();
        assert!(next.starts_with("sudo "), "what they type next: {next}");
        for line in [
            "10.240.0.5/16",
            "default via 169.254.1.1 dev eth0 proto static",
            "10.240.1.50 (owned, no pod has it): answered by 12:34:56:78:9a:bc",
            "10.240.1.51 (owned by no node): nobody answers",
            "a pod reaches every pod on every node without NAT: 36 of 36",
            "an agent on a node reaches every pod on that node: 6 of 6",
            "reaches every pod on every node without NAT: 18 of 18",
            "node node1: healthy",
            "default/web-1 to default/web-2 on its node: direct",
            "default/web-1 to default/web-3 on another node: direct",
        ] {
            assert!(report.contains(line), "no line {line:?} in:\n{report}");
        }
    }
}

#[test]
fn who_may_not_is_told_who_may() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let watari = folder.path().join("watari");
    fs::copy(env!("CARGO_BIN_EXE_watari"), &watari).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(watari)
        .args(["lab", "up", "--lab", "nobodys", "--cni-bin", "/bin/true"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.ends_with("(run it as root, or with sudo)\n"),
        "{errors}"
    );
    assert_eq!(output.status.code(), Some(2));
}
