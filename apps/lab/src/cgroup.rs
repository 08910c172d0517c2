use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::names::Label;
use crate::paths;

/// How long the processes of a killed cgroup may take to go.
const PATIENCE: Duration = Duration::from_secs(15);

/// A directory of the cgroup v2 hierarchy.
///
/// Membership is what finds a lab's processes again: it survives `fork`, `exec` and whatever
/// kills the command that started them, and no recycled process id can stand in for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup(PathBuf);

/// The first cgroup v2 mount of a mount table in the form of `/proc/self/mounts`.
pub fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(target.replace("\\040", " ")))
    })
}

impl Cgroup {
    /// By its directory.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// `watari`, above all labs.
    pub fn top() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
        let mount = mount_point(&mounts).context(
            "no cgroup2 file system in /proc/self/mounts: mount one (mount -t cgroup2 none /sys/fs/cgroup)",
        )?;
        Ok(Self(mount.join("watari")))
    }

    /// `watari/LAB`.
    pub fn lab(lab: &Label) -> Result<Self> {
        Ok(Self::top()?.child(lab.as_str()))
    }

    /// `watari/LAB/NODE`.
    pub fn node(lab: &Label, node: &Label) -> Result<Self> {
        Ok(Self::lab(lab)?.child(node.as_str()))
    }

    /// A cgroup below this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self(self.0.join(name))
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Its path inside the hierarchy, as `/proc/PID/cgroup` shows it.
    pub fn name(&self) -> Option<String> {
        let top = Self::top().ok()?;
        let inside = self.0.strip_prefix(top.0.parent()?).ok()?;
        Some(format!("/{}", inside.display()))
    }

    /// Creates it and those above it.
    pub fn create(&self) -> Result<()> {
        paths::create_dir(&self.0).context("a lab needs root and a writable cgroup2 mount")
    }

    /// Moves this process into it. It is never created here: a take-down that has removed it
    /// must not be undone by a process that comes late.
    pub fn join(&self) -> Result<()> {
        paths::write(&self.0.join("cgroup.procs"), "0")
    }

    /// The processes directly in it; none when it does not exist.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let text = match fs::read_to_string(self.0.join("cgroup.procs")) {
            Err(error) if is_gone(&error) => return Ok(Vec::new()),
            other => other.with_context(|| format!("read processes of {}", self.0.display()))?,
        };
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Kills all that runs in it and below it, waits until they are gone, and removes it.
    /// Well when it is not there.
    pub fn destroy(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match fs::write(self.0.join("cgroup.kill"), "1") {
                Err(error) if is_gone(&error) && !self.0.exists() => return Ok(()),
                Err(error) if !is_gone(&error) => {
                    return Err(error).with_context(|| format!("kill all in {}", self.0.display()));
                }
                _ => {}
            }
            match remove_tree(&self.0) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    let left = self.processes().unwrap_or_default();
                    bail!(
                        "{} is still there after {} s ({error}); processes in it: {left:?}",
                        self.0.display(),
                        PATIENCE.as_secs()
                    );
                }
                // Some are not quite gone, or one joined after the kill: once more, the kill too.
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// True when the calling process is in it or below it.
    pub fn holds_me(&self) -> bool {
        let Some(name) = self.name() else {
            return false;
        };
        let mine = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        mine.lines()
            .filter_map(|line| line.strip_prefix("0::"))
            .any(|path| path == name || path.starts_with(&format!("{name}/")))
    }
}

fn is_gone(error: &io::Error) -> bool {
    // ENODEV: the cgroup was removed between `open` and `write`.
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENODEV)
}

/// Removes the directories only: the files of a cgroup are the kernel's.
fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_wherever_it_is() {
        let hybrid = "sysfs /sys sysfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        assert_eq!(
            mount_point(hybrid),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(mount_point("proc /proc proc rw 0 0\n"), None);
        assert_eq!(mount_point("\n \nx\n"), None);
    }
}
