//! Where a container runtime runs: namespaces to enter, a cgroup to stay in, a folder for its files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, setns};

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

    /// Does this in the node's network namespace, on a thread of its own.
    ///
    /// # Panics
    /// When the namespace cannot be entered, or `work` panics.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let path = format!("/proc/{}/ns/net", self.pid);
        let netns = File::open(&path).unwrap_or_else(|e| panic!("open {path}: {e}"));
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&netns, CloneFlags::CLONE_NEWNET).expect("enter the namespace (needs root)");
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
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

/// Removes a cgroup and those below it from every hierarchy.
pub fn remove_cgroup(cgroup: &str) {
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
