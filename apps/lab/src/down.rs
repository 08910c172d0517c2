use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Error, Result, bail};

use crate::cgroup::Cgroup;
use crate::lock::{DirLock, Mode};
use crate::mounts;
use crate::names::Label;
use crate::paths::{LABS, LabDir};

/// Takes a lab down, in whatever state it is, and answers what could not be removed. All is
/// found by convention: the cgroup, the mounts and the directory of that name. Namespaces go
/// with their last process. Well when there is no such lab.
pub fn down(name: &Label) -> Result<Vec<Error>> {
    if Cgroup::lab(name)?.holds_me() {
        bail!("this runs inside lab {name}: take it down from outside");
    }
    let dir = LabDir::of(name);
    let lock = DirLock::existing(dir.path(), Mode::Exclusive)?;
    let left = remove(name, &dir);
    drop(lock);
    Ok(left)
}

/// Removes all of a lab. The caller holds its lock.
pub fn remove(name: &Label, dir: &LabDir) -> Vec<Error> {
    let mut left = empty(name, dir);
    // With something left the directory stays, so that the lab is still found.
    if left.is_empty() {
        left.extend(remove_dir(dir.path()).err());
    }
    // Those above are shared with other labs: they go with the last one.
    for shared in [LABS, "/run/watari"] {
        let _ = fs::remove_dir(shared);
    }
    if let Ok(top) = Cgroup::top() {
        let _ = fs::remove_dir(top.path());
    }
    left
}

/// Removes all of a lab but its directory and the lock on it.
pub fn clear(name: &Label, dir: &LabDir) -> Result<()> {
    let mut left = empty(name, dir);
    let entries =
        fs::read_dir(dir.path()).with_context(|| format!("list {}", dir.path().display()));
    for entry in entries?.flatten() {
        left.extend(remove_dir(&entry.path()).err());
    }
    match left.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Ends the processes, and with them the namespaces; removes the mounts.
fn empty(name: &Label, dir: &LabDir) -> Vec<Error> {
    let mut left = Vec::new();
    // From here on nobody takes it for a lab that is up.
    left.extend(remove_dir(&dir.ready()).err());
    left.extend(
        Cgroup::lab(name)
            .and_then(|group| group.destroy())
            .context("end the lab's processes")
            .err(),
    );
    left.extend(mounts::sweep(dir.path()));
    left
}

/// Removes a file or a directory with all in it; well when it is not there.
fn remove_dir(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("remove {}", path.display())),
    }
}
