//! The socket programs of a node: at which cgroup, and whether all of them are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use watari_abi::SocketHook;

use crate::attach::{Cgroup, SocketHooks};
use crate::datapath::{Observed, Stray};
use crate::error::BpfError;
use crate::pins::PinDir;
use crate::sys::{Pinned, ProgramFd};

/// The socket programs of the datapath that is pinned in a directory.
pub(crate) struct Sockets {
    dir: PinDir,
    hooks: SocketHooks,
    cgroup: Option<PathBuf>,
}

impl Sockets {
    pub fn new(dir: PinDir) -> Self {
        Self {
            hooks: SocketHooks::new(dir.clone()),
            dir,
            cgroup: None,
        }
    }

    /// The cgroup by whose name they are observed; that which they were last attached at is, too.
    pub fn expect(&mut self, cgroup: Option<PathBuf>) {
        self.cgroup = cgroup;
    }

    /// Programs whose pins are gone.
    pub fn unpinned(&self) -> impl Iterator<Item = String> {
        SocketHook::ALL
            .iter()
            .filter(|hook| !self.dir.socket_program(**hook).exists())
            .map(|hook| hook.program().to_owned())
    }

    /// Says where they are: as a table if all of them are at one cgroup, and are those that are
    /// pinned.
    pub fn observe(&self, observed: &mut Observed) -> Result<(), BpfError> {
        let attached = self.hooks.list()?;
        if attached.is_empty() {
            return Ok(());
        }
        let mut wrong = Vec::new();
        let expected = self.cgroup.as_deref().map(Cgroup::open);
        let id = match &expected {
            Some(Ok(cgroup)) => Some(cgroup.id),
            Some(Err(error)) => {
                wrong.push(error.to_string());
                None
            }
            None => None,
        };
        let there: BTreeSet<SocketHook> = attached.iter().map(|at| at.hook).collect();
        let missing = SocketHook::ALL.iter().filter(|hook| !there.contains(hook));
        wrong.extend(missing.map(|hook| format!("{} is not attached", hook.program())));
        for at in &attached {
            let name = at.hook.program();
            if at.cgroup == 0 {
                wrong.push(format!("{name} is detached, or its cgroup is gone"));
            } else if id.is_none_or(|id| id != at.cgroup) {
                wrong.push(format!("{name} is at another cgroup"));
            } else if self.pinned(at.hook) != Some(at.program) {
                wrong.push(format!("{name} is not the program that is loaded"));
            }
        }
        match &self.cgroup {
            Some(cgroup) if wrong.is_empty() => observed.tables.sockets = Some(cgroup.clone()),
            _ => observed.strays.push(Stray::Sockets(wrong.join(", "))),
        }
        Ok(())
    }

    fn pinned(&self, hook: SocketHook) -> Option<u32> {
        let program = ProgramFd::open(&self.dir.socket_program(hook));
        program
            .and_then(|program| program.info())
            .ok()
            .map(|info| info.id)
    }

    /// Attaches all of them at a cgroup.
    pub fn attach(&mut self, path: &Path) -> Result<(), BpfError> {
        let cgroup = Cgroup::open(path)?;
        self.cgroup = Some(path.to_owned());
        self.hooks
            .attach(&cgroup, |hook| self.dir.open_socket_program(hook))
    }

    /// Takes them off.
    pub fn detach(&self) -> Result<(), BpfError> {
        self.hooks.detach()
    }
}
