use std::path::PathBuf;

use watari_abi::{Hook, SocketHook};

use crate::error::{BpfError, Doing};
use crate::pins::PinDir;
use crate::sys::{Pinned, ProgramFd};

/// Where a program stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At a link.
    Link(Hook),
    /// At a cgroup.
    Socket(SocketHook),
}

/// The programs of an image, each with its place.
pub(super) type Programs = Vec<(Place, ProgramFd)>;

impl Place {
    /// Every one.
    pub fn all() -> impl Iterator<Item = Self> {
        let links = Hook::ALL.iter().copied().map(Self::Link);
        links.chain(SocketHook::ALL.iter().copied().map(Self::Socket))
    }

    /// The name of the program there.
    pub fn program(self) -> &'static str {
        match self {
            Self::Link(hook) => hook.program(),
            Self::Socket(hook) => hook.program(),
        }
    }

    /// Where that is pinned.
    pub fn pin(self, dir: &PinDir) -> PathBuf {
        match self {
            Self::Link(hook) => dir.program(hook),
            Self::Socket(hook) => dir.socket_program(hook),
        }
    }

    /// The program that is pinned there.
    pub fn open(self, dir: &PinDir) -> Result<ProgramFd, BpfError> {
        let path = self.pin(dir);
        ProgramFd::open(&path).doing(|| format!("open the program {}", path.display()))
    }
}

/// The program of a place.
pub(super) fn of(programs: &Programs, place: Place) -> Option<&ProgramFd> {
    let found = programs.iter().find(|(of, _)| *of == place);
    found.map(|(_, program)| program)
}
