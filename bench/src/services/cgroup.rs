//! A cgroup whose threads the programs at the socket serve, in a process that is outside.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Until the kernel lets go of a cgroup whose last thread has just ended.
const ATTEMPTS: u32 = 100;

/// A cgroup of version 2 with threads of this process in it. Gone with this value, which puts this
/// process back to where it was.
pub struct Cgroup {
    /// Whom the process was with.
    before: PathBuf,
    /// The process' own, that of all its threads.
    process: PathBuf,
    served: PathBuf,
}

/// The way into a cgroup for one thread.
pub struct Entrance(File);

impl Cgroup {
    /// Makes it.
    pub fn new() -> Result<Self> {
        let mount = mount()?;
        let own = std::fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let own = own.context("this process is in no cgroup of version 2")?;
        let process = mount.join(format!("watari-bench-{}", std::process::id()));
        let served = process.join("served");
        let made = Self {
            before: mount.join(own),
            process,
            served,
        };
        for dir in [&made.process, &made.served] {
            std::fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        write(&made.process.join("cgroup.procs"), "0")?;
        write(&made.served.join("cgroup.type"), "threaded")?;
        Ok(made)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.served
    }

    /// For a thread that shall be in it.
    pub fn entrance(&self) -> Result<Entrance> {
        let path = self.served.join("cgroup.threads");
        let file = File::options().write(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Entrance(file))
    }
}

impl Entrance {
    /// Takes the calling thread in.
    pub fn enter(mut self) -> Result<()> {
        // Zero is whoever writes it.
        self.0.write_all(b"0").context("cannot put a thread into a cgroup")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let back = write(&self.before.join("cgroup.procs"), "0");
        let remove = |dir: &PathBuf| {
            for _ in 1..ATTEMPTS {
                if std::fs::remove_dir(dir).is_ok() {
                    return Ok(());
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            std::fs::remove_dir(dir).with_context(|| format!("cannot remove {}", dir.display()))
        };
        let gone = back
            .and_then(|()| remove(&self.served))
            .and_then(|()| remove(&self.process));
        if let Err(error) = gone {
            eprintln!("{error:#}");
        }
    }
}

/// Where the file system of cgroups of version 2 is mounted.
fn mount() -> Result<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    let mut mounts = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = mounts.find(|fields| fields.get(2) == Some(&"cgroup2"));
    let path = found.and_then(|fields| fields.get(1).map(PathBuf::from));
    path.context("no cgroups of version 2 are mounted")
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text)
        .with_context(|| format!("cannot write {text:?} to {}", path.display()))
}
