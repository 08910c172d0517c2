//! Where a container runtime runs: namespaces to enter, a cgroup to stay in, a folder for its files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use watari_testkit::{Netns, wait_until};

/// How a test reaches a node: enough to start programs in it, and to sweep what they leave.
#[derive(Debug, Clone)]
pub struct Place {
    /// A process in the node's network, mount and UTS namespaces.
    pub pid: u32,
    /// The node's cgroup, relative to the mounts of the cgroup file systems, with a leading `/`.
    pub cgroup: String,
    /// For the runtime's files; the same path inside the node and outside.
    pub dir: PathBuf,
}

impl Place {
    /// A command that runs in the namespaces of the node. In which cgroup is the caller's matter.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.pid));
        command
            .args(["--net", "--mount", "--uts", "--"])
            .args(words);
        command
    }

    /// As [`Place::command`], and in the cgroup `leaf` below the node's, which is made.
    ///
    /// # Panics
    /// When the cgroup cannot be made.
    pub fn command_in_cgroup(&self, leaf: &str, words: &[&str]) -> Command {
        let cgroup = unified().join(&self.cgroup[1..]).join(leaf);
        fs::create_dir_all(&cgroup)
            .unwrap_or_else(|e| panic!("make the cgroup {}: {e}", cgroup.display()));
        let procs = cgroup.join("cgroup.procs");
        let join = r#"echo $$ > "$0" && exec "$@""#;
        let mut command = Command::new("setpriv");
        // Without the test there is nobody to end it.
        command
            .args(["--pdeathsig", "KILL", "sh", "-c", join])
            .arg(procs);
        command.arg("nsenter").arg(format!("--target={}", self.pid));
        command
            .args(["--net", "--mount", "--uts", "--"])
            .args(words);
        command
    }

    /// The processes in the node's cgroup and below, by the unified hierarchy.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = Vec::new();
        for group in below(&unified().join(&self.cgroup[1..])) {
            let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            found.extend(procs.lines().filter_map(|l| l.parse::<u32>().ok()));
        }
        found
    }
}

/// A node of the test's own: a network namespace given, a mount namespace with a `/run` of its own,
/// a cgroup. Everything in it ends with this value.
#[derive(Debug)]
pub struct OwnNode {
    place: Place,
    holder: Child,
}

impl OwnNode {
    /// A node around this network namespace.
    ///
    /// # Panics
    /// When its namespaces cannot be made (needs root).
    pub fn new(name: &str, netns: &Netns) -> Self {
        let script = "mount -t tmpfs -o mode=755 tmpfs /run && hostname \"$0\" && echo up && \
                      exec sleep 86400";
        let mut holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "nsenter"])
            .arg(format!("--net={}", netns.path().display()))
            .args(["unshare", "--mount", "--uts", "--propagation", "private"])
            .args(["sh", "-c", script, name])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the process that holds a node");
        let mut said = String::new();
        let out = holder.stdout.take().expect("its output is piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut said)
            .expect("hear from the process that holds a node");
        assert_eq!(
            said.trim(),
            "up",
            "the namespaces of node {name} (needs root)"
        );
        let place = Place {
            pid: holder.id(),
            cgroup: format!("/watari-e2e-{}-{name}", std::process::id()),
            dir: netns.dir().to_owned(),
        };
        Self { place, holder }
    }

    /// How to reach it.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

impl Drop for OwnNode {
    fn drop(&mut self) {
        kill_cgroup(&self.place);
        if let Err(error) = self.holder.kill().and_then(|()| self.holder.wait()) {
            eprintln!("cannot end the holder of {}: {error}", self.place.cgroup);
        }
        remove_cgroup(&self.place.cgroup);
    }
}

/// Kills everything in the node's cgroup, and waits until it is gone.
fn kill_cgroup(place: &Place) {
    let group = unified().join(&place.cgroup[1..]);
    if !group.is_dir() {
        return;
    }
    if let Err(error) = fs::write(group.join("cgroup.kill"), "1") {
        eprintln!("cannot kill what is in {}: {error}", group.display());
    }
    wait_until(
        Duration::from_secs(10),
        "the processes of the node to end",
        || place.processes().is_empty(),
    );
}

/// Removes a cgroup and those below it from every hierarchy.
fn remove_cgroup(cgroup: &str) {
    for mount in hierarchies() {
        let mut groups = below(&mount.join(&cgroup[1..]));
        groups.reverse();
        for group in groups {
            if let Err(error) = fs::remove_dir(&group) {
                eprintln!("cannot remove {}: {error}", group.display());
            }
        }
    }
}

/// A cgroup and those below it, parents first; empty when it does not exist.
pub fn below(group: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![group.to_owned()];
    while let Some(group) = open.pop() {
        let Ok(entries) = fs::read_dir(&group) else {
            continue;
        };
        let folders = entries
            .flatten()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        open.extend(folders.map(|e| e.path()));
        found.push(group);
    }
    found
}

/// Where the cgroup file systems are mounted, of either version.
pub fn hierarchies() -> Vec<PathBuf> {
    mounts(&["cgroup", "cgroup2"])
}

/// Where the unified hierarchy (version 2) is mounted.
///
/// # Panics
/// When it is not.
pub fn unified() -> PathBuf {
    mounts(&["cgroup2"])
        .into_iter()
        .next()
        .expect("a mounted cgroup2 file system")
}

fn mounts(kinds: &[&str]) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read /proc/self/mounts");
    let of_kind = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (path, kind) = (words.next()?, words.next()?);
        kinds.contains(&kind).then(|| PathBuf::from(path))
    });
    of_kind.collect()
}
