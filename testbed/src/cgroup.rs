//! A cgroup of threads: whose sockets are served by the programs that are attached to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// How long its threads may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// A cgroup of version two, below that of this process, which single threads join. Gone with this
/// value, once they have ended.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("watari-testbed-{}-{number}", std::process::id());
        let path = own()?.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let made = Self { path };
        // Else a thread could not be in another cgroup than its process.
        made.write("cgroup.type", "threaded")?;
        Ok(made)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The calling thread, and those that it starts from now on, are in it: sockets that they make
    /// are.
    pub fn join(&self) -> Result<()> {
        self.write("cgroup.threads", "0")
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {text} to {}", path.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let end = Instant::now() + PATIENCE;
        while let Err(error) = fs::remove_dir(&self.path) {
            if Instant::now() > end {
                eprintln!("cannot remove {}: {error}", self.path.display());
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// That of this process, where it is mounted.
pub(crate) fn own() -> Result<PathBuf> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    let root = mounts.find_map(|mut fields| {
        let (place, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    });
    let root = root.context("no cgroup file system of version 2 is mounted")?;
    let groups =
        fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    let mut lines = groups.lines();
    let path = lines.find_map(|line| line.strip_prefix("0::/"));
    let path = path.context("this process is in no cgroup of version 2")?;
    Ok(root.join(path))
}
