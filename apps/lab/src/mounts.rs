use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const NONE: Option<&str> = None;

/// Shows `source` at `target`.
pub fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND, NONE)
        .with_context(|| format!("bind {} to {}", source.display(), target.display()))
}

/// An empty file system in memory at `target`.
pub fn tmpfs(target: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("tmpfs"),
        target,
        Some("tmpfs"),
        flags,
        Some("mode=755"),
    )
    .with_context(|| format!("mount a tmpfs at {}", target.display()))
}

/// A BPF file system of its own at `target`.
pub fn bpffs(target: &Path) -> Result<()> {
    mount(Some("bpf"), target, Some("bpf"), MsFlags::empty(), NONE)
        .with_context(|| format!("mount a bpffs at {}", target.display()))
}

/// From now on nothing mounted here is seen outside; unmounts outside are seen here, so that a
/// lab keeps no file system of the machine busy.
pub fn detach_from_parent() -> Result<()> {
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(NONE, "/", NONE, flags, NONE).context("make the mounts of the new namespace its own")
}

/// A `/sys` that shows the present network namespace, with the cgroups (and whatever else was
/// mounted below the old one, except bpffs). `stage` is an empty directory.
pub fn fresh_sys(stage: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("sysfs"), stage, Some("sysfs"), flags, NONE)
        .with_context(|| format!("mount sysfs at {}", stage.display()))?;
    let table = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    for old in outermost_below(&table, "/sys/") {
        let Ok(inside) = old.strip_prefix("/sys") else {
            continue;
        };
        let target = stage.join(inside);
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        let bound = mount(Some(&old), &target, NONE, flags, NONE);
        // Only the cgroups are needed; a debugging file system may have no place in this one.
        if bound.is_err() && old.starts_with("/sys/fs/cgroup") {
            bound.with_context(|| format!("bind {} to {}", old.display(), target.display()))?;
        }
    }
    mount(Some(stage), "/sys", NONE, MsFlags::MS_MOVE, NONE)
        .with_context(|| format!("move {} to /sys", stage.display()))
}

/// The mount points below `prefix` that are not below another one of them, except bpffs.
fn outermost_below(table: &str, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for line in table.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(target), Some(kind)) = (fields.next(), fields.next()) else {
            continue;
        };
        let target = PathBuf::from(target);
        let nested = found.iter().any(|outer| target.starts_with(outer));
        if kind != "bpf" && target.starts_with(prefix) && target != Path::new("/sys") && !nested {
            found.push(target);
        }
    }
    found
}

/// Shows a file with `contents` at `target`. The file is kept in `keep`, a directory of this
/// mount namespace alone.
pub fn own_file(keep: &Path, target: &Path, contents: &str) -> Result<()> {
    let name = target.file_name().unwrap_or_default();
    let source = keep.join(name);
    crate::paths::write(&source, contents)?;
    // `/etc/resolv.conf` is often a link into `/run`, and may lead nowhere in this one.
    let place = fs::canonicalize(target)
        .or_else(|_| follow(target))
        .with_context(|| format!("find {}", target.display()))?;
    if !place.exists() {
        if let Some(parent) = place.parent() {
            crate::paths::create_dir(parent)?;
        }
        crate::paths::write(&place, "")?;
    }
    bind(&source, &place)
}

fn follow(link: &Path) -> std::io::Result<PathBuf> {
    match fs::read_link(link) {
        Ok(to) => Ok(link.parent().unwrap_or(Path::new("/")).join(to)),
        Err(_) if !link.exists() => Ok(link.to_owned()),
        Err(error) => Err(error),
    }
}

/// Unmounts what is mounted below `directory`, deepest first; answers what could not be.
pub fn sweep(directory: &Path) -> Vec<anyhow::Error> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut below: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(1).map(PathBuf::from))
        .filter(|target| target.starts_with(directory))
        .collect();
    // The table is in order of mounting: what came later lies deeper or on top.
    below.reverse();
    below
        .iter()
        .filter_map(|target| {
            umount2(target, MntFlags::MNT_DETACH)
                .with_context(|| format!("unmount {}", target.display()))
                .err()
        })
        .collect()
}

/// Takes away the file system at `target` and all below it, if one is mounted there.
pub fn detach(target: &Path) -> Result<()> {
    match umount2(target, MntFlags::MNT_DETACH) {
        // EINVAL: nothing is mounted there.
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("unmount {}", target.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_outermost_mounts_are_carried_over() {
        let table = "sysfs /sys sysfs rw 0 0\ntmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                     cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n\
                     debugfs /sys/kernel/debug debugfs rw 0 0\nproc /proc proc rw 0 0\n";
        assert_eq!(
            outermost_below(table, "/sys/"),
            [
                PathBuf::from("/sys/fs/cgroup"),
                PathBuf::from("/sys/kernel/debug")
            ]
        );
    }
}
