use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use watari_abi::SocketHook;

use crate::error::{BpfError, Doing};
use crate::pins::{PinDir, pin_over, unpin};
use crate::sys::{CgroupLink, Pinned, ProgramFd};

/// A directory of the cgroup v2 hierarchy.
#[derive(Debug)]
pub(crate) struct Cgroup {
    directory: File,
    /// The kernel's number of it.
    pub id: u64,
    path: PathBuf,
}

impl Cgroup {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self, BpfError> {
        let open = || {
            let directory = File::open(path)?;
            if fstatfs(&directory)?.filesystem_type() != CGROUP2_SUPER_MAGIC {
                return Err(io::Error::other("it is no directory of a cgroup2 mount"));
            }
            let id = directory.metadata()?.ino();
            Ok((directory, id))
        };
        let (directory, id) = open().doing(|| format!("open the cgroup {}", path.display()))?;
        let path = path.to_owned();
        Ok(Self {
            directory,
            id,
            path,
        })
    }
}

/// A program of ours at a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AtCgroup {
    /// Where at it.
    pub hook: SocketHook,
    /// Which cgroup; zero for none any more.
    pub cgroup: u64,
    /// The program's number.
    pub program: u32,
}

/// In this order programs are attached, and in the opposite one they are detached: what tells a process
/// its peer is there before any is given another one.
const ORDER: [SocketHook; 9] = [
    SocketHook::Release,
    SocketHook::Getpeername4,
    SocketHook::Getpeername6,
    SocketHook::Recvmsg4,
    SocketHook::Recvmsg6,
    SocketHook::Sendmsg4,
    SocketHook::Sendmsg6,
    SocketHook::Connect4,
    SocketHook::Connect6,
];

/// What attaches the socket programs, and knows those attached: each by a pinned link, beside what
/// others attach.
pub(crate) struct SocketHooks {
    dir: PinDir,
}

impl SocketHooks {
    pub fn new(dir: PinDir) -> Self {
        Self { dir }
    }

    /// Attaches every program that `program` gives at a cgroup, or puts it in the place of the one
    /// that is attached there.
    pub fn attach(
        &self,
        cgroup: &Cgroup,
        program: impl Fn(SocketHook) -> Result<ProgramFd, BpfError>,
    ) -> Result<(), BpfError> {
        for hook in ORDER {
            self.attach_one(cgroup, hook, &program(hook)?)?;
        }
        Ok(())
    }

    fn attach_one(
        &self,
        cgroup: &Cgroup,
        hook: SocketHook,
        program: &ProgramFd,
    ) -> Result<(), BpfError> {
        let pin = self.dir.socket_link(hook);
        let what = || format!("attach {} at {}", hook.program(), cgroup.path.display());
        let there = CgroupLink::open(&pin).ok();
        let is_right = |link: &&CgroupLink| {
            let info = link.info();
            info.is_ok_and(|info| info.cgroup == cgroup.id && info.attach == hook as u32)
        };
        if let Some(link) = there.as_ref().filter(is_right) {
            return link.update(program).doing(what);
        }
        let new = CgroupLink::create(program, cgroup.directory.as_fd(), hook).doing(what)?;
        pin_over(&new, &pin)?;
        // For a moment both are there: the second finds what the first has chosen, which is no
        // Service's.
        there.map_or(Ok(()), |link| detached(&link, hook))
    }

    /// What is attached, and the links that are attached nowhere any more.
    pub fn list(&self) -> Result<Vec<AtCgroup>, BpfError> {
        let mut found = Vec::new();
        for hook in ORDER {
            let pin = self.dir.socket_link(hook);
            let info = match CgroupLink::open(&pin).and_then(|link| link.info()) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
                other => other.doing(|| format!("read the link {}", pin.display()))?,
            };
            found.push(AtCgroup {
                hook,
                cgroup: info.cgroup,
                program: info.program,
            });
        }
        Ok(found)
    }

    /// Takes all off their cgroup.
    pub fn detach(&self) -> Result<(), BpfError> {
        for hook in ORDER.into_iter().rev() {
            let pin = self.dir.socket_link(hook);
            if let Ok(link) = CgroupLink::open(&pin) {
                detached(&link, hook)?;
            }
            unpin(&pin)?;
        }
        Ok(())
    }
}

/// Takes a link's program off; well if its cgroup is gone.
fn detached(link: &CgroupLink, hook: SocketHook) -> Result<(), BpfError> {
    match link.detach() {
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
        other => other.doing(|| format!("detach {}", hook.program())),
    }
}

/// Puts a program in the place of the one of the link that is pinned there; false if there is none.
pub(crate) fn replace(pin: &Path, program: &ProgramFd) -> Result<bool, BpfError> {
    let Ok(link) = CgroupLink::open(pin) else {
        return Ok(false);
    };
    let what = || format!("replace the program of {}", pin.display());
    if link.info().doing(what)?.cgroup == 0 {
        return Ok(false);
    }
    link.update(program).doing(what)?;
    Ok(true)
}

/// The root of the cgroup v2 hierarchy, as this process sees it: the first mount of a mount table in the
/// form of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
pub fn cgroup_root(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        if kind.split(' ').next()? != "cgroup2" {
            return None;
        }
        let target = mount.split(' ').nth(4)?;
        Some(PathBuf::from(unescaped(target)))
    })
}

/// The kernel writes space, tab, newline and backslash as a backslash with three octal digits.
fn unescaped(text: &str) -> String {
    let mut plain = text.to_owned();
    for (code, character) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        plain = plain.replace(code, character);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_has_every_hook_once() {
        let mut order = ORDER;
        order.sort_unstable();
        assert_eq!(order, SocketHook::ALL);
    }

    #[test]
    fn the_mount_is_found_in_either_kind_of_hierarchy() {
        let hybrid = "\
            25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            30 29 0:26 / /sys/fs/cgroup/cpu rw shared:5 - cgroup cgroup rw,cpu\n\
            31 29 0:27 / /sys/fs/cgroup/unified\\040x rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            cgroup_root(hybrid),
            Some(PathBuf::from("/sys/fs/cgroup/unified x"))
        );
        assert_eq!(cgroup_root("30 29 0:26 / /x rw - cgroup cgroup rw"), None);
    }

    #[test]
    fn what_is_no_cgroup_is_refused() {
        let error = Cgroup::open(Path::new("/proc")).unwrap_err().to_string();
        assert!(
            error.contains("/proc") && error.contains("cgroup2"),
            "{error}"
        );
    }
}
