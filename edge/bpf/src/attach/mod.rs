mod netlink;

use std::fs;
use std::path::PathBuf;

use watari_abi::Hook;
use watari_model::IfName;

use self::netlink::{Filter, HANDLE, PRIORITY, TrafficControl};
use crate::error::{BpfError, Doing};
use crate::links::{self, Names};
#[cfg(feature = "load")]
use crate::pins::link_of;
use crate::pins::{PinDir, link_and_hook, names, pin_over, unpin};
use crate::sys::{LinkFd, Pinned, ProgramFd};

/// How programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attachment {
    /// By tcx links (Linux 6.6), pinned.
    Tcx,
    /// By filters of a clsact qdisc, known by priority, handle and name (`watari_<hook>`).
    Clsact,
}

impl Attachment {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// A program of ours at a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attached {
    /// The link's name now.
    pub link: IfName,
    /// Its index.
    pub ifindex: u32,
    /// Where at it.
    pub hook: Hook,
    /// How.
    pub by: Attachment,
    /// The program's number.
    pub program: u32,
}

/// What attaches programs, and knows those attached.
pub(crate) struct Hooks {
    dir: PinDir,
    control: Option<TrafficControl>,
}

/// A program of ours, with what it takes to remove it.
#[derive(Debug)]
pub(crate) enum Found {
    Link {
        at: Attached,
        pin: PathBuf,
    },
    Filter {
        at: Attached,
        filter: Filter,
    },
    /// The pin of a link whose device is gone, or that somebody detached.
    Dead {
        pin: PathBuf,
    },
}

impl Found {
    pub fn at(&self) -> Option<&Attached> {
        match self {
            Self::Link { at, .. } | Self::Filter { at, .. } => Some(at),
            Self::Dead { .. } => None,
        }
    }
}

fn is_egress(hook: Hook) -> bool {
    matches!(hook, Hook::ToPod)
}

fn filter_name(hook: Hook) -> String {
    format!("watari_{}", hook.program())
}

/// Those filters at a link that are of these hooks.
fn filters_of(link: &IfName, ifindex: u32, hooks: &[Hook], filters: Vec<Filter>) -> Vec<Found> {
    let ours = |filter: Filter| {
        let hook = *hooks
            .iter()
            .find(|hook| filter_name(**hook) == filter.name)?;
        let at = Attached {
            link: link.clone(),
            ifindex,
            hook,
            by: Attachment::Clsact,
            program: filter.program,
        };
        Some(Found::Filter { at, filter })
    };
    filters.into_iter().filter_map(ours).collect()
}

impl Hooks {
    pub fn new(dir: PinDir) -> Self {
        let control = None;
        Self { dir, control }
    }

    pub fn dir(&self) -> &PinDir {
        &self.dir
    }

    fn control(&mut self) -> Result<&mut TrafficControl, BpfError> {
        let control = match self.control.take() {
            Some(control) => control,
            None => TrafficControl::open().doing(|| "open a route netlink socket".to_owned())?,
        };
        Ok(self.control.insert(control))
    }

    /// Attaches a program, or puts it in the place of the one that is attached there.
    pub fn attach(
        &mut self,
        by: Attachment,
        (link, ifindex): (&IfName, u32),
        hook: Hook,
        program: &ProgramFd,
    ) -> Result<(), BpfError> {
        match by {
            Attachment::Tcx => self.attach_tcx(link, ifindex, hook, program),
            Attachment::Clsact => self.attach_clsact(link, ifindex, hook, program),
        }
    }

    /// By a filter, which takes some microseconds. Attaching by tcx waits for an RCU grace period
    /// with the lock of all network configuration held: 24 ms for the two hooks of a pod where
    /// filters take 0.2. The agent does that later ([`crate::Datapath::promote`]).
    pub fn attach_quickly(
        &mut self,
        at: (&IfName, u32),
        hook: Hook,
        program: &ProgramFd,
    ) -> Result<(), BpfError> {
        if self.has_tcx(at, hook) {
            return self.attach(Attachment::Tcx, at, hook, program);
        }
        match self.attach(Attachment::Clsact, at, hook, program) {
            // A kernel without the qdisc, or without the filter.
            Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => {
                self.attach(Attachment::Tcx, at, hook, program)
            }
            other => other,
        }
    }

    /// Whether a program of ours is attached there by tcx.
    fn has_tcx(&self, (link, ifindex): (&IfName, u32), hook: Hook) -> bool {
        self.tcx_at(link, ifindex, hook).is_some()
    }

    fn tcx_at(&self, link: &IfName, ifindex: u32, hook: Hook) -> Option<LinkFd> {
        let there = LinkFd::open(&self.dir.link(link, hook)).ok()?;
        let alive = there.info().is_ok_and(|info| info.ifindex == ifindex);
        alive.then_some(there)
    }

    fn attach_tcx(
        &self,
        link: &IfName,
        ifindex: u32,
        hook: Hook,
        program: &ProgramFd,
    ) -> Result<(), BpfError> {
        let pin = self.dir.link(link, hook);
        let what = || format!("attach {} at {link} by tcx", hook.program());
        if let Some(there) = self.tcx_at(link, ifindex, hook) {
            return there.update(program).doing(what);
        }
        let new = LinkFd::create_tcx(program, ifindex, is_egress(hook)).doing(what)?;
        pin_over(&new, &pin)
    }

    fn attach_clsact(
        &mut self,
        link: &IfName,
        ifindex: u32,
        hook: Hook,
        program: &ProgramFd,
    ) -> Result<(), BpfError> {
        let mark = self.dir.qdisc(link);
        let control = self.control()?;
        let made = control
            .add_clsact(ifindex)
            .doing(|| format!("make the clsact qdisc of {link}"))?;
        if made && !mark.is_dir() {
            fs::create_dir(&mark).doing(|| format!("make {}", mark.display()))?;
        }
        let name = filter_name(hook);
        if !made {
            let there = control
                .filters(ifindex)
                .doing(|| format!("read the filters of {link}"))?;
            let foreign = there.iter().any(|f| {
                f.egress == is_egress(hook)
                    && (f.priority, f.handle) == (PRIORITY, HANDLE)
                    && f.name != name
            });
            if foreign {
                let what =
                    format!("a filter at {link} has priority {PRIORITY} and handle {HANDLE}");
                return Err(BpfError::Foreign { what });
            }
        }
        control
            .set_filter(ifindex, is_egress(hook), program, &name)
            .doing(|| format!("attach {} at {link} by a filter", hook.program()))
    }

    /// The names of this namespace's links.
    pub fn link_names(&mut self) -> Result<Names, BpfError> {
        let names = self.control()?.link_names();
        names.doing(|| "list the links".to_owned())
    }

    /// Everything of ours that is attached, of both kinds.
    pub fn list(&mut self) -> Result<Vec<Found>, BpfError> {
        let names = self.link_names()?;
        self.list_by(&names)
    }

    /// The same for who has read the names of the links.
    pub fn list_by(&mut self, names: &Names) -> Result<Vec<Found>, BpfError> {
        let mut found = self.list_tcx(names)?;
        for ifindex in self.clsact_links()? {
            found.extend(self.filters_at(ifindex, names)?);
        }
        Ok(found)
    }

    /// What is attached by tcx.
    pub fn list_tcx(&self, links: &Names) -> Result<Vec<Found>, BpfError> {
        let mut found = Vec::new();
        for name in names(&self.dir.links())? {
            let pin = self.dir.links().join(&name);
            let Some((_, hook)) = link_and_hook(&name) else {
                continue;
            };
            let info = match LinkFd::describe(&pin) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
                other => other.doing(|| format!("read the link {}", pin.display()))?,
            };
            let alive = Some(info.ifindex).filter(|ifindex| *ifindex != 0);
            found.push(match alive.and_then(|ifindex| links.of(ifindex)) {
                Some(link) => Found::Link {
                    at: Attached {
                        link,
                        ifindex: info.ifindex,
                        hook,
                        by: Attachment::Tcx,
                        program: info.program,
                    },
                    pin,
                },
                None => Found::Dead { pin },
            });
        }
        Ok(found)
    }

    /// The links at which filters of ours may be.
    pub fn clsact_links(&mut self) -> Result<Vec<u32>, BpfError> {
        let links = self.control()?.clsact_links();
        links.doing(|| "list the qdiscs".to_owned())
    }

    /// Our filters at a link; none if it is gone.
    pub fn filters_at(&mut self, ifindex: u32, links: &Names) -> Result<Vec<Found>, BpfError> {
        let Some(link) = links.of(ifindex) else {
            return Ok(Vec::new());
        };
        let filters = self.control()?.filters(ifindex);
        let filters = filters.doing(|| format!("read the filters of {link}"))?;
        Ok(filters_of(&link, ifindex, Hook::ALL, filters))
    }

    /// Takes these hooks' programs off one link, however they are attached.
    pub fn detach_at(
        &mut self,
        link: &IfName,
        ifindex: u32,
        hooks: &[Hook],
    ) -> Result<(), BpfError> {
        self.unpin(link, hooks)?;
        let control = self.control()?;
        let filters = control
            .filters(ifindex)
            .doing(|| format!("read the filters of {link}"))?;
        filters_of(link, ifindex, hooks, filters)
            .iter()
            .try_for_each(|found| self.detach(found))
    }

    /// Unpins the tcx links of these hooks, and forgets the link's qdisc if the link is gone.
    pub fn unpin(&self, link: &IfName, hooks: &[Hook]) -> Result<(), BpfError> {
        for hook in hooks {
            unpin(&self.dir.link(link, *hook))?;
        }
        let mark = self.dir.qdisc(link);
        if mark.is_dir() && links::index_of(link).is_err() {
            fs::remove_dir(&mark).doing(|| format!("remove {}", mark.display()))?;
        }
        Ok(())
    }

    /// Takes a program off its link. A qdisc that we made and nobody uses any more goes too.
    pub fn detach(&mut self, found: &Found) -> Result<(), BpfError> {
        self.detach_under_traffic(found)?;
        match found {
            Found::Filter { at, .. } => self.drop_qdisc(&at.link, at.ifindex),
            Found::Link { .. } | Found::Dead { .. } => Ok(()),
        }
    }

    /// Takes a program off its link, and leaves the qdisc: while one is made or removed the kernel
    /// drops what the link sends (`dev_deactivate` in `qdisc_graft`).
    pub fn detach_under_traffic(&mut self, found: &Found) -> Result<(), BpfError> {
        match found {
            // The last reference to a link detaches it.
            Found::Link { pin, .. } | Found::Dead { pin } => unpin(pin),
            Found::Filter { at, filter } => match self.control()?.delete_filter(filter) {
                Err(error) if is_gone(&error) => Ok(()),
                other => other.doing(|| format!("take the filter {} off {}", filter.name, at.link)),
            },
        }
    }

    fn drop_qdisc(&mut self, link: &IfName, ifindex: u32) -> Result<(), BpfError> {
        let mark = self.dir.qdisc(link);
        if !mark.is_dir() {
            return Ok(());
        }
        let control = self.control()?;
        let left = control
            .filters(ifindex)
            .doing(|| format!("read the filters of {link}"))?;
        if left.is_empty() {
            match control.delete_clsact(ifindex) {
                Err(error) if is_gone(&error) => {}
                other => other.doing(|| format!("remove the clsact qdisc of {link}"))?,
            }
            fs::remove_dir(&mark).doing(|| format!("remove {}", mark.display()))?;
        }
        Ok(())
    }

    /// Removes the qdiscs that we made and nobody uses.
    #[cfg(feature = "load")]
    pub fn drop_marked_qdiscs(&mut self) -> Result<(), BpfError> {
        for name in names(&self.dir.qdiscs())? {
            let link = link_of(&name);
            if let Some(link) = link
                && let Ok(ifindex) = links::index_of(&link)
            {
                self.drop_qdisc(&link, ifindex)?;
            }
        }
        Ok(())
    }

    /// Forgets the qdiscs of links that are gone.
    #[cfg(feature = "load")]
    pub fn forget_gone_qdiscs(&self) -> Result<(), BpfError> {
        for name in names(&self.dir.qdiscs())? {
            let gone = link_of(&name).is_none_or(|link| links::index_of(&link).is_err());
            if gone {
                let mark = self.dir.qdiscs().join(&name);
                fs::remove_dir(&mark).doing(|| format!("remove {}", mark.display()))?;
            }
        }
        Ok(())
    }
}

/// Attaches a program by a filter at a link that has none.
#[cfg(feature = "load")]
pub(crate) fn try_filter(program: &ProgramFd, ifindex: u32) -> std::io::Result<()> {
    let mut control = TrafficControl::open()?;
    control.add_clsact(ifindex)?;
    control.set_filter(ifindex, false, program, "watari_probe")
}

/// The filter or qdisc, or the link under it, is not there any more.
fn is_gone(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)
    )
}
