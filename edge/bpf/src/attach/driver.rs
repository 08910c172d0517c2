//! The program at the drivers of uplinks: one pinned link for each.

use watari_model::IfName;

use crate::error::{BpfError, Doing};
use crate::pins::{PinDir, names, pin_over, unpin};
use crate::sys::{DriverLink, DriverMode, Pinned, ProgramFd};

/// The attachments at drivers, below the directory of a generation.
#[derive(Debug, Clone)]
pub struct Drivers {
    dir: PinDir,
}

impl Drivers {
    /// Those of that generation.
    pub fn new(dir: PinDir) -> Self {
        Self { dir }
    }

    /// Attaches the pinned program to an uplink of this thread's network namespace, or puts it in the
    /// place of an older one there.
    pub fn attach(&self, link: &IfName, ifindex: u32, mode: DriverMode) -> Result<(), BpfError> {
        let path = self.dir.driver_program();
        let program =
            ProgramFd::open(&path).doing(|| format!("open the program {}", path.display()))?;
        let pin = self.dir.driver_link(link);
        if let Ok(there) = DriverLink::open(&pin)
            && there.info().is_ok_and(|info| info.ifindex == ifindex)
        {
            return there
                .update(&program)
                .doing(|| format!("replace the program at the driver of {link}"));
        }
        let folder = self.dir.drivers();
        std::fs::create_dir_all(&folder).doing(|| format!("make {}", folder.display()))?;
        // One of a link of that name which is gone.
        unpin(&pin)?;
        let attached = DriverLink::create(&program, ifindex, mode)
            .doing(|| format!("attach a program to the driver of {link}"))?;
        pin_over(&attached, &pin)
    }

    /// Detaches what is attached to that uplink; nothing need be.
    pub fn detach(&self, link: &IfName) -> Result<(), BpfError> {
        unpin(&self.dir.driver_link(link))
    }

    /// The uplinks where it is attached: name as pinned, index of the link and number of the program.
    pub fn list(&self) -> Result<Vec<(String, u32, u32)>, BpfError> {
        let folder = self.dir.drivers();
        let mut found = Vec::new();
        for name in names(&folder)? {
            let path = folder.join(&name);
            let info = DriverLink::open(&path).and_then(|link| link.info());
            let info = info.doing(|| format!("look at {}", path.display()))?;
            found.push((name.replace(':', "."), info.ifindex, info.program));
        }
        Ok(found)
    }
}
