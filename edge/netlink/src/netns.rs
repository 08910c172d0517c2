use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, fstatfs};

use crate::NetlinkError;

/// `NSFS_MAGIC` of `linux/magic.h`.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

impl Netns {
    /// Opens the namespace that `path` pins. A file that is no namespace, as the empty one that
    /// an unmounted pin leaves behind, is refused.
    pub fn open(path: &Path) -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError::File {
            what: "cannot open the network namespace",
            path: path.to_owned(),
            source,
        };
        // A pipe in its place must not hold anybody up.
        let file = File::options()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)
            .map_err(failed)?;
        let kind = fstatfs(&file)
            .map_err(|errno| failed(errno.into()))?
            .filesystem_type();
        if kind != NSFS_MAGIC {
            return Err(failed(std::io::Error::other(
                "the file is not a namespace (nothing is mounted on it)",
            )));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// The namespace that the calling thread is in.
    pub fn current() -> Result<Self, NetlinkError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True if both are the same namespace.
    pub fn is_same(&self, other: &Self) -> bool {
        use std::os::unix::fs::MetadataExt;
        match (self.file.metadata(), other.file.metadata()) {
            (Ok(ours), Ok(theirs)) => ours.ino() == theirs.ino() && ours.dev() == theirs.dev(),
            _ => false,
        }
    }

    /// Runs `work` with the calling thread inside this namespace, and comes back.
    ///
    /// # Errors
    /// When the thread cannot enter. If it cannot come back the process is in no state to go on,
    /// and that is an error too, whatever `work` returned.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> Result<T, NetlinkError> {
        let home = Self::current()?;
        self.enter()?;
        let value = work();
        home.enter()?;
        Ok(value)
    }

    /// Moves the calling thread into this namespace for good.
    pub fn enter(&self) -> Result<(), NetlinkError> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| NetlinkError::File {
            what: "cannot enter the network namespace",
            path: self.path.clone(),
            source: errno.into(),
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
