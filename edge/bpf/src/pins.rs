use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FsType, statfs};
use watari_abi::{ABI_VERSION, Hook};
use watari_model::IfName;

use crate::error::{BpfError, Doing};
use crate::sys::{Pinned, ProgramFd};

/// Where a node's datapath is pinned.
pub const ROOT: &str = "/sys/fs/bpf/watari";

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPF_FS: FsType = FsType(0xcafe_4a11_u32 as _);

/// The directory of one generation of the datapath: `maps/`, `programs/` and `links/`.
///
/// A bpffs refuses names with a dot, which a link's name may hold; it stands there as a colon,
/// which no link's name holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinDir(PathBuf);

impl PinDir {
    /// That of this build's ABI, below `root`.
    pub fn current(root: &Path) -> Self {
        Self::of_abi(root, ABI_VERSION)
    }

    /// That of an ABI, below `root`.
    pub fn of_abi(root: &Path, abi: u32) -> Self {
        Self(root.join(format!("v{abi}")))
    }

    /// Any directory.
    #[cfg(feature = "load")]
    pub(crate) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// True if there is anything.
    pub fn exists(&self) -> bool {
        self.0.is_dir()
    }

    /// Where the map of that name is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.0.join("maps").join(name)
    }

    /// Where the program of a hook is pinned.
    pub fn program(&self, hook: Hook) -> PathBuf {
        self.0.join("programs").join(hook.program())
    }

    /// Where the tcx links are pinned.
    pub fn links(&self) -> PathBuf {
        self.0.join("links")
    }

    /// Where the tcx link of a hook is pinned.
    pub fn link(&self, link: &IfName, hook: Hook) -> PathBuf {
        self.links()
            .join(format!("{}-{}", in_bpffs(link), hook.program()))
    }

    /// A directory for each link at which we made the clsact qdisc.
    pub(crate) fn qdiscs(&self) -> PathBuf {
        self.0.join("qdiscs")
    }

    /// The mark that we made the qdisc of that link.
    pub(crate) fn qdisc(&self, link: &IfName) -> PathBuf {
        self.qdiscs().join(in_bpffs(link))
    }

    /// Opens the program of a hook.
    pub(crate) fn open_program(&self, hook: Hook) -> Result<ProgramFd, BpfError> {
        let path = self.program(hook);
        ProgramFd::open(&path).doing(|| format!("open the program {}", path.display()))
    }

    /// Makes the directories that are missing.
    #[cfg(feature = "load")]
    pub(crate) fn make(&self) -> Result<(), BpfError> {
        for part in ["maps", "programs", "links", "qdiscs"] {
            let path = self.0.join(part);
            fs::create_dir_all(&path).doing(|| format!("make {}", path.display()))?;
        }
        Ok(())
    }

    /// Removes the directory and everything pinned in it.
    #[cfg(feature = "load")]
    pub(crate) fn remove(&self) -> Result<(), BpfError> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).doing(|| format!("remove {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}

/// A link's name as part of a name in a bpffs.
fn in_bpffs(link: &IfName) -> String {
    link.as_str().replace('.', ":")
}

/// The link and hook that a name in `links/` stands for.
pub(crate) fn link_and_hook(name: &str) -> Option<(IfName, Hook)> {
    let (link, program) = name.rsplit_once('-')?;
    let link = IfName::new(link.replace(':', ".")).ok()?;
    let hook = Hook::ALL.iter().find(|hook| hook.program() == program)?;
    Some((link, *hook))
}

/// The link that a name in `qdiscs/` stands for.
#[cfg(feature = "load")]
pub(crate) fn link_of(name: &str) -> Option<IfName> {
    IfName::new(name.replace(':', ".")).ok()
}

/// The names in a directory; none if it is not there.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>, BpfError> {
    let read = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.doing(|| format!("read the directory {}", directory.display())),
    }
}

/// Removes a pin or a mark, which need not be there.
pub(crate) fn unpin(path: &Path) -> Result<(), BpfError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).doing(|| format!("unpin {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Pins `object` at `path` in one step, whatever is pinned there now.
pub(crate) fn pin_over(object: &impl Pinned, path: &Path) -> Result<(), BpfError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(":new");
    let beside = PathBuf::from(beside);
    // Somebody may have been killed between the two steps.
    unpin(&beside)?;
    object
        .pin(&beside)
        .doing(|| format!("pin at {}", beside.display()))?;
    fs::rename(&beside, path).doing(|| format!("pin at {}", path.display()))
}

/// True if `path`, or the nearest directory above it that exists, is in a bpffs.
pub fn in_bpf_filesystem(path: &Path) -> bool {
    path.ancestors()
        .find_map(|path| statfs(path).ok())
        .is_some_and(|stat| stat.filesystem_type() == BPF_FS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_links_survive_the_file_system() {
        for name in ["azv0123456789a", "eth0.100", "a-b", "from_pod-x"] {
            let link = IfName::new(name).unwrap();
            for hook in Hook::ALL {
                let path = PinDir::at("/x".into()).link(&link, *hook);
                let file = path.file_name().unwrap().to_str().unwrap();
                assert!(!file.contains('.'), "{file}");
                assert_eq!(link_and_hook(file), Some((link.clone(), *hook)));
            }
        }
        assert_eq!(link_and_hook("eth0-other"), None);
    }
}
