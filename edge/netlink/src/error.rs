use std::io;
use std::path::PathBuf;

/// A change or a question that the kernel refused, or that could not be put to it.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused a request.
    #[error("{what}: {source}{}", hint(.kernel))]
    Refused {
        /// What was tried, on what.
        what: String,
        /// The error number.
        source: io::Error,
        /// The kernel's own words (`NLMSGERR_ATTR_MSG`); may be empty.
        kernel: String,
    },
    /// The socket failed.
    #[error("{what}: {source}")]
    Socket {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel's answer could not be read.
    #[error("{what}: the kernel's answer could not be read: {why}")]
    Answer {
        /// What was tried.
        what: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// A file below `/proc/sys`, or that of a namespace.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn hint(kernel: &str) -> String {
    if kernel.is_empty() {
        String::new()
    } else {
        format!(" (kernel: {kernel})")
    }
}

impl NetlinkError {
    /// The error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. }
            | Self::Socket { source, .. }
            | Self::File { source, .. } => source.raw_os_error(),
            Self::Answer { .. } => None,
        }
    }

    /// True if the object that was to be made is there already (`EEXIST`).
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(nix::Error::EEXIST as i32)
    }

    /// True if the object is not there (`ENODEV`, `ENOENT`, `ESRCH`, `EADDRNOTAVAIL`).
    pub fn is_absent(&self) -> bool {
        const ABSENT: [nix::Error; 5] = [
            nix::Error::ENODEV,
            nix::Error::ENOENT,
            nix::Error::ESRCH,
            nix::Error::ENXIO,
            nix::Error::EADDRNOTAVAIL,
        ];
        ABSENT
            .iter()
            .any(|&absent| self.errno() == Some(absent as i32))
    }
}
