//! A lab of a test's own, by the built `watari`.
// Each test program uses its part.
#![allow(dead_code)]

pub mod cluster;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;
use watari_testkit::run;

/// A lab with a name of its own, taken down with this value.
pub struct TestLab {
    pub name: String,
    pub dir: TempDir,
}

impl TestLab {
    /// A name and a folder; nothing is up yet.
    pub fn new(hint: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            name: format!("lab-{hint}-{}-{count}", std::process::id()),
            dir: tempfile::tempdir().expect("make a folder"),
        }
    }

    /// Brings it up as this `lab.yaml` says.
    pub fn up(hint: &str, yaml: &str) -> Self {
        let lab = Self::new(hint);
        let file = lab.file("lab.yaml", yaml);
        lab.watari(&["up", "-f", &file]);
        lab
    }

    /// The same without agents: for what is not about them, and quicker.
    pub fn plain(hint: &str, yaml: &str) -> Self {
        let lab = Self::new(hint);
        let file = lab.file("lab.yaml", yaml);
        lab.watari(&["up", "--no-agent", "-f", &file]);
        lab
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("write a file of the test");
        path.to_str().expect("a path is text").to_owned()
    }

    /// `watari lab WORDS… --lab NAME`, ready to be started.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary("watari"));
        command.args(["lab", "--lab", &self.name]).args(words);
        command
    }

    /// Runs it and gives its output; panics when it fails.
    #[track_caller]
    pub fn watari(&self, words: &[&str]) -> String {
        let watari = binary("watari");
        let own = [watari.to_str().expect("a path"), "lab", "--lab", &self.name];
        run(&[&own, words].concat())
    }

    /// Runs it, whatever comes of it.
    pub fn try_watari(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("start watari")
    }

    /// Runs a shell line inside a node, a pod or the fabric; panics when it fails.
    #[track_caller]
    pub fn sh(&self, place: &str, line: &str) -> String {
        self.watari(&["exec", place, "--", "sh", "-c", line])
    }

    /// True when the shell line succeeds.
    pub fn sh_works(&self, place: &str, line: &str) -> bool {
        let output = self.try_watari(&["exec", place, "--", "sh", "-c", line]);
        output.status.success()
    }

    /// The output of `get pods --json`, one pod of it.
    pub fn pod(&self, name: &str) -> Option<serde_json::Value> {
        // 1 means that a pod is not well, which a test may want to see.
        let output = self.try_watari(&["get", "pods", "--json"]);
        let all: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let pods = all["pods"].as_array()?;
        pods.iter().find(|pod| pod["name"] == name).cloned()
    }

    /// All of this lab that is on the machine, a line each.
    pub fn traces(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
        found.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&self.name))
                .map(str::to_owned),
        );
        for directory in [Path::new("/run/watari/labs").to_owned(), cgroups()] {
            let path = directory.join(&self.name);
            if path.exists() {
                found.push(path.display().to_string());
            }
        }
        for entry in fs::read_dir("/proc").expect("list processes").flatten() {
            let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            // One that has ended, and that nobody has asked about yet, has no program.
            let runs = fs::read_link(entry.path().join("exe")).is_ok();
            if runs && cgroup.contains(&format!("/watari/{}", self.name)) {
                found.push(format!("process {}: {cgroup}", entry.path().display()));
            }
        }
        found
    }
}

impl Drop for TestLab {
    fn drop(&mut self) {
        let down = self.try_watari(&["down"]);
        if !down.status.success() {
            eprintln!("cannot take lab {} down: {down:?}", self.name);
        }
    }
}

fn cgroups() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
    let line = mounts.lines().find(|line| line.contains(" cgroup2 "));
    let target = line.and_then(|line| line.split(' ').nth(1));
    Path::new(target.expect("a cgroup2 mount")).join("watari")
}

/// A built binary: in `$WATARI_BIN_DIR`, else beside the test.
pub fn binary(name: &str) -> PathBuf {
    let beside = || {
        let test = std::env::current_exe().expect("know the path of this test");
        test.ancestors()
            .nth(2)
            .expect("target/PROFILE/deps/TEST")
            .to_owned()
    };
    let dir = std::env::var_os("WATARI_BIN_DIR").map_or_else(beside, PathBuf::from);
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "{} is not built: cargo build --workspace",
        path.display()
    );
    path
}
