//! Cgroups whose threads the programs at the socket serve, in a process that is outside.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// How often it is tried to remove a cgroup, whose last thread may just have ended, and how long
/// until the next time.
const ATTEMPTS: (u32, Duration) = (100, Duration::from_millis(20));

/// A cgroup of version 2 for this process. Gone with this value, which puts the process back to where
/// it was.
pub struct Cgroup {
    /// Whom the process was with.
    before: PathBuf,
    own: PathBuf,
}

/// One below it, for threads of this process. Gone with this value.
pub struct Served(PathBuf);

/// The way into it for one thread.
pub struct Entrance(File);

impl Cgroup {
    /// Makes it.
    pub fn new() -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let mount = watari_bpf::cgroup_root(&mounts);
        let mount = mount.context("no cgroups of version 2 are mounted")?;
        let before = std::fs::read_to_string("/proc/self/cgroup")?;
        let before = before.lines().find_map(|line| line.strip_prefix("0::/"));
        let before = before.context("this process is in no cgroup of version 2")?;
        let made = Self {
            before: mount.join(before),
            own: mount.join(format!("watari-bench-{}", std::process::id())),
        };
        make(&made.own)?;
        write(&made.own.join("cgroup.procs"), "0")?;
        Ok(made)
    }

    /// One for threads.
    pub fn child(&self, name: &str) -> Result<Served> {
        let served = Served(self.own.join(name));
        make(&served.0)?;
        write(&served.0.join("cgroup.type"), "threaded")?;
        Ok(served)
    }
}

impl Served {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// For a thread that shall be in it.
    pub fn entrance(&self) -> Result<Entrance> {
        let path = self.0.join("cgroup.threads");
        let file = File::options().write(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Entrance(file))
    }
}

impl Entrance {
    /// Takes the calling thread in.
    pub fn enter(mut self) -> Result<()> {
        // Zero is whoever writes it.
        let taken = self.0.write_all(b"0");
        taken.context("cannot put a thread into a cgroup")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            eprintln!("{error:#}");
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let back = write(&self.before.join("cgroup.procs"), "0");
        if let Err(error) = back.and_then(|()| remove(&self.own)) {
            eprintln!("{error:#}");
        }
    }
}

fn make(dir: &Path) -> Result<()> {
    std::fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))
}

fn remove(dir: &Path) -> Result<()> {
    let (attempts, between) = ATTEMPTS;
    for _ in 1..attempts {
        if std::fs::remove_dir(dir).is_ok() {
            return Ok(());
        }
        std::thread::sleep(between);
    }
    std::fs::remove_dir(dir).with_context(|| format!("cannot remove {}", dir.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    let written = std::fs::write(path, text);
    written.with_context(|| format!("cannot write {text:?} to {}", path.display()))
}
