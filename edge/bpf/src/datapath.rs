use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use watari_abi::{Connection, ConnectionKey, Counter, DropEvent, FlowEvent, Reason, Tally};
use watari_model::IfName;
use watari_tables::{Datapath as Tables, Hook, HookAt, LocalEndpoint};

use crate::error::BpfError;

/// A node's datapath: what it holds, and what brings it to what it should hold.
///
/// The plugin writes to it too, after it has recorded the pod in the node store. So a writer
/// **observes first, then reads the store** to know what is desired, then applies: whatever of a new pod was
/// observed is then desired, too, and is not taken for a leftover.
pub trait Datapath {
    /// What the kernel holds now.
    fn observe(&mut self) -> Result<Observed, BpfError>;

    /// Brings the kernel from what was observed to what is desired, by the smallest change: what
    /// is not wanted at a link is taken off it first; entries are made before programs that use
    /// them are attached; what no program uses any more is removed last. A change that fails
    /// keeps none of the others from being made.
    fn apply(&mut self, observed: &Observed, desired: &Tables) -> Applied;

    /// Attaches by the chosen kind what is attached by the other one, up to `limit` programs, and
    /// gives how many there were. The plugin attaches by filters, since that is fast; a tcx link
    /// costs the packet less.
    fn promote(&mut self, limit: usize) -> Result<usize, BpfError>;

    /// Hands every connection to `take`, some thousands a system call.
    fn flows(&mut self, take: &mut dyn FnMut(Flow)) -> Result<(), BpfError>;

    /// What was dropped since the datapath was first loaded.
    fn drops(&mut self) -> Result<Drops, BpfError>;

    /// What was counted since the datapath was first loaded.
    fn counters(&mut self) -> Result<Vec<(Counter, Tally)>, BpfError>;

    /// Looks at up to about `limit` connections, from where it was the last time, and removes
    /// those that have expired by `now` (ns of `CLOCK_MONOTONIC`).
    fn sweep(&mut self, now: u64, limit: usize) -> Result<Swept, BpfError>;

    /// Reads the events that are there, up to about `limit`.
    fn events(&mut self, limit: usize) -> Result<Vec<Event>, BpfError>;
}

/// What a kernel holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// What is whole, in the words of what is desired.
    pub tables: Tables,
    /// What is not.
    pub strays: Vec<Stray>,
    /// Pins that are gone, or that somebody replaced: the datapath has to be loaded again.
    pub unpinned: Vec<String>,
    /// Programs that [`Datapath::promote`] would attach otherwise.
    pub to_promote: usize,
}

/// Something in the kernel that no table could say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stray {
    /// An endpoint whose link is gone, or does not know its MAC.
    Endpoint {
        /// Its address.
        address: IpAddr,
        /// The index of its link.
        ifindex: u32,
    },
    /// A link without an endpoint.
    Link {
        /// Its index.
        ifindex: u32,
        /// Its name, if it is there.
        link: Option<IfName>,
    },
    /// An older program, or one twice.
    Hook {
        /// Where.
        at: HookAt,
        /// What is wrong.
        why: &'static str,
    },
    /// The pin of a link that is detached from everything.
    Pin(String),
}

impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint { address, ifindex } => {
                write!(
                    f,
                    "endpoint {address} behind link {ifindex}, which is gone or another's"
                )
            }
            Self::Link {
                ifindex,
                link: Some(link),
            } => {
                write!(f, "link {link} ({ifindex}) without an endpoint")
            }
            Self::Link {
                ifindex,
                link: None,
            } => write!(f, "link {ifindex}, which is gone"),
            Self::Hook { at, why } => write!(f, "{} at {}: {why}", name(at.hook), at.link),
            Self::Pin(name) => write!(f, "pin {name} of a link that is attached nowhere"),
        }
    }
}

/// One step from what is to what should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Take a program off a link.
    Detach(HookAt),
    /// Make or change an endpoint, and its link's entry.
    SetEndpoint(IpAddr, LocalEndpoint),
    /// Make or change the way to pods elsewhere.
    SetRemote(IpNet, IpAddr),
    /// Attach a program, or replace the one there.
    Attach(HookAt),
    /// Forget pods elsewhere.
    RemoveRemote(IpNet),
    /// Remove an endpoint; its link's entry with the last one.
    RemoveEndpoint(IpAddr),
    /// Remove something that nobody can use.
    RemoveStray(Stray),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Detach(at) => write!(f, "detach {} from {}", name(at.hook), at.link),
            Self::Attach(at) => write!(f, "attach {} at {}", name(at.hook), at.link),
            Self::SetEndpoint(address, endpoint) => {
                write!(f, "set endpoint {address} behind {}", endpoint.link)
            }
            Self::SetRemote(range, node) => write!(f, "set {range} to node {node}"),
            Self::RemoveRemote(range) => write!(f, "remove {range}"),
            Self::RemoveEndpoint(address) => write!(f, "remove endpoint {address}"),
            Self::RemoveStray(stray) => write!(f, "remove {stray}"),
        }
    }
}

/// What [`Datapath::apply`] did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Changes that were made.
    pub done: Vec<Change>,
    /// Changes that failed, and why; a link that is gone is one of the reasons.
    pub failed: Vec<(Change, BpfError)>,
}

/// A connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Its ends.
    pub key: ConnectionKey,
    /// What is known of it.
    pub connection: Connection,
    /// Whether it is in the table that evicts nothing.
    pub established: bool,
}

/// What was dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drops {
    /// By reason, those without a packet too.
    pub totals: Vec<(Reason, Tally)>,
    /// By link and hook; of links that are gone as well, as far as there was room.
    pub by_link: Vec<DropsAt>,
}

/// What was dropped at one place for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropsAt {
    /// The link's index.
    pub ifindex: u32,
    /// Its name, if it is there.
    pub link: Option<IfName>,
    /// The hook, if this build knows it.
    pub hook: Option<watari_abi::Hook>,
    /// The reason, if this build knows it.
    pub reason: Option<Reason>,
    /// How much.
    pub tally: Tally,
}

/// How far a sweep came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Connections looked at.
    pub looked_at: usize,
    /// Connections removed.
    pub removed: usize,
    /// Whether it came to the end of the tables; the next call begins anew.
    pub at_end: bool,
}

/// What the programs tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // Both are read from one ring's bytes, and soon gone.
pub enum Event {
    /// A connection was made or ended.
    Flow(FlowEvent),
    /// A packet was dropped.
    Drop(DropEvent),
}

/// The hook as the programs number it.
pub fn abi_hook(hook: Hook) -> watari_abi::Hook {
    match hook {
        Hook::FromPod => watari_abi::Hook::FromPod,
        Hook::ToPod => watari_abi::Hook::ToPod,
        Hook::FromUplink => watari_abi::Hook::FromUplink,
    }
}

/// The hook as tables name it.
pub fn table_hook(hook: watari_abi::Hook) -> Hook {
    match hook {
        watari_abi::Hook::FromPod => Hook::FromPod,
        watari_abi::Hook::ToPod => Hook::ToPod,
        watari_abi::Hook::FromUplink => Hook::FromUplink,
    }
}

fn name(hook: Hook) -> &'static str {
    abi_hook(hook).program()
}

/// The changes from what was observed to what is desired, in the order in which they are made.
pub fn difference(observed: &Observed, desired: &Tables) -> Vec<Change> {
    let is = &observed.tables;
    let mut changes = Vec::new();
    let unwanted = is.hooks.difference(&desired.hooks);
    changes.extend(unwanted.cloned().map(Change::Detach));
    for (address, endpoint) in &desired.endpoints {
        if is.endpoints.get(address) != Some(endpoint) {
            changes.push(Change::SetEndpoint(*address, endpoint.clone()));
        }
    }
    for (range, node) in &desired.remotes {
        if is.remotes.get(range) != Some(node) {
            changes.push(Change::SetRemote(*range, *node));
        }
    }
    let missing = desired.hooks.difference(&is.hooks);
    changes.extend(missing.cloned().map(Change::Attach));
    let mut gone = is.remotes.keys();
    changes.extend(
        gone.by_ref()
            .filter(|range| !desired.remotes.contains_key(range))
            .map(|range| Change::RemoveRemote(*range)),
    );
    let gone = is.endpoints.keys();
    changes.extend(
        gone.filter(|address| !desired.endpoints.contains_key(address))
            .map(|address| Change::RemoveEndpoint(*address)),
    );
    let strays = observed.strays.iter();
    changes.extend(
        strays
            .filter(|stray| !is_put_right(stray, desired))
            .map(|stray| Change::RemoveStray(stray.clone())),
    );
    changes
}

/// Whether other changes make it what it should be.
fn is_put_right(stray: &Stray, desired: &Tables) -> bool {
    match stray {
        Stray::Endpoint { address, .. } => desired.endpoints.contains_key(address),
        Stray::Link { link, .. } => link.as_ref().is_some_and(|link| {
            desired
                .endpoints
                .values()
                .any(|endpoint| endpoint.link == *link)
        }),
        Stray::Hook { why, at } => *why == OLDER && desired.hooks.contains(at),
        Stray::Pin(_) => false,
    }
}

/// Why an attached program is a stray: it is not the one that is pinned.
pub(crate) const OLDER: &str = "it is not the program that is loaded";
/// The same for one that is attached by filter and by tcx.
pub(crate) const TWICE: &str = "it is attached twice";
