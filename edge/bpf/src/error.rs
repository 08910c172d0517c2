use std::io;
use std::path::PathBuf;

use watari_model::IfName;

/// Why something about the datapath in the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The kernel refused.
    #[error("cannot {what}: {source}{}", hint(source))]
    Kernel {
        /// What was tried, on what.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// A map is not the one that this build knows.
    #[error(
        "the map {map} has keys and values of {} and {} bytes, not {} and {}: it is of another \
         version; the agent of this version migrates it",
        found.0, found.1, wanted.0, wanted.1
    )]
    Layout {
        /// The map.
        map: String,
        /// Bytes of its keys and values.
        found: (usize, usize),
        /// Bytes of those that this build knows.
        wanted: (usize, usize),
    },
    /// There is no link of that name in this network namespace.
    #[error("there is no link {0} in this network namespace")]
    NoLink(IfName),
    /// The object with the programs is not what it should be.
    #[error("the eBPF object of this build is unusable: {0}")]
    Object(String),
    /// The kernel's verifier refused a program.
    #[error("the kernel refuses the program {program}: {why}")]
    Refused {
        /// Which one.
        program: String,
        /// The end of what the verifier said.
        why: String,
    },
    /// The pins would be in no bpffs.
    #[error(
        "{0} is in no bpffs, where programs and maps are pinned; `mount -t bpf bpf /sys/fs/bpf` \
         makes one"
    )]
    NoBpfFilesystem(PathBuf),
    /// Another process loads or removes the same datapath, and does not come to an end.
    #[error("another process is loading or removing the datapath below {0}, for long")]
    Busy(PathBuf),
    /// Somebody else's object is where ours would be.
    #[error("{what}: it is not Watari's, so it stays as it is")]
    Foreign {
        /// What is there.
        what: String,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            " (eBPF needs root, or CAP_BPF with CAP_NET_ADMIN and CAP_PERFMON)"
        }
        Some(libc::E2BIG) => " (the map is full)",
        Some(libc::ENOSYS) => " (this kernel has no eBPF)",
        _ => "",
    }
}

impl BpfError {
    /// The error number, when the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// True if what was looked for is not there.
    pub fn is_absent(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENOENT | libc::ENODEV | libc::ENOLINK)
        ) || matches!(self, Self::NoLink(_))
    }
}

/// Says what was tried.
pub(crate) trait Doing<T> {
    /// Wraps the error with the words of `what`, as "open the map …".
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, BpfError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, BpfError> {
        self.map_err(|source| BpfError::Kernel {
            what: what(),
            source,
        })
    }
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, BpfError> {
        self.map_err(io::Error::from).doing(what)
    }
}
