//! The tables of Services: brought from what they hold to what they should hold by the fewest writes.
//!
//! The kernel's tables are the only state. What is known here (`shadow`) is rebuilt from them at
//! start, so that whoever is killed between two writes leaves a state from which the next one goes on:
//! every frontend leads to members of the old set or of the new one at any time, and what is
//! half done is either wanted, and done, or not, and taken away.
//!
//! Where a set is of `n` members with equal weights: a member that comes costs the write of its entry, of a
//! slot and of the set's header; one that goes a slot, the header, and its entry, which is ready no more;
//! one that takes another's place two entries and a slot.

mod adapter;
mod change;
mod commit;
mod confirm;
mod describe;
mod layer;
mod memory;
mod numbers;
mod observe;
mod plan;
mod rebuild;
mod sets;
mod shadow;
mod stretches;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use watari_model::Protocol;
use watari_tables::{BalancerName, Services, ServicesChange};

pub use adapter::Balancer;
pub use describe::{Described, DescribedBackend, DescribedFrontend, ServiceNames, Usage};
pub use layer::{Array, Layer, Table};
pub use memory::{Entries, Memory, MemoryTable, Write};
pub use words::{canonical, difference};
pub(crate) use words::{prefix_key, range_of};

use crate::error::BpfError;

/// A node's load balancing: what it holds, and what brings it to what it should hold.
///
/// Every time is in ns of `CLOCK_MONOTONIC`.
pub trait Balancing: Send {
    /// What the kernel holds now, read from its tables.
    fn observe(&mut self) -> Result<Observed, BpfError>;

    /// What of it is not as desired: as [`difference`] has it of what [`Self::observe`] gives, but without
    /// everything being said in words at once.
    fn compare(&mut self, desired: &Services) -> Result<Compared, BpfError> {
        let observed = self.observe()?;
        Ok(Compared {
            changes: difference(&observed, desired),
            strays: observed.strays,
        })
    }

    /// Makes these changes, in this order; one that fails keeps none of the others from being made.
    /// Returns when programs decide by them, and nobody is given to a member that left.
    fn apply(&mut self, changes: &[ServicesChange], now: u64) -> Applied;

    /// What can only be done some time after a change: slots and numbers that no program or connection has
    /// any more are free again. To be called about once a second while there is something to do; gives
    /// whether there is. Takes what makes no sense away, once something was applied.
    fn tidy(&mut self, now: u64) -> Result<bool, BpfError>;

    /// The numbers of Services' ports, with those that left within the last minute.
    fn names(&self) -> HashMap<u32, BalancerName>;

    /// Where a balancer is reached and who is behind, as the kernel has it.
    fn describe(&self, name: &BalancerName) -> Option<Described>;

    /// How full the tables are.
    fn usage(&self) -> Vec<Usage>;

    /// Says how many connections each pair of a Service's port and a backend has: the loads of
    /// backends are made that, and numbers that still have connections are nobody else's.
    fn recount(&mut self, counts: &HashMap<(u32, u32), u64>, now: u64) -> Result<(), BpfError>;

    /// Tells the programs what holds for the whole node; what else they are told stays.
    fn configure(&mut self, node: &NodeConfig) -> Result<(), BpfError>;
}

/// What the programs are told about the node they are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeConfig {
    /// Whether any packet is looked up among Services.
    pub services: bool,
    /// The node's own addresses: the source of what it translates.
    pub v4: Option<IpAddr>,
    /// The same for IPv6.
    pub v6: Option<IpAddr>,
    /// The first port and the last one that sources are translated to; the node itself uses none of them.
    pub ports: (u16, u16),
}

/// What a kernel holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// What is whole, in the words of what is desired. [`difference`] compares it.
    pub services: Services,
    /// What is not, in words.
    pub strays: Vec<String>,
    /// Balancers that lack something which `services` has no word for: they are to be set once more.
    pub unfinished: BTreeSet<BalancerName>,
}

/// How far a kernel is from what is desired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// The fewest steps there.
    pub changes: Vec<ServicesChange>,
    /// What makes no sense, in words.
    pub strays: Vec<String>,
}

/// What [`Balancing::apply`] did.
#[derive(Debug, Default)]
pub struct Applied {
    /// How many changes were made.
    pub done: usize,
    /// How many entries were written.
    pub writes: u64,
    /// Changes that failed, and why. One that lacks nothing but room for its table of Maglev is made all
    /// the same, and clients outside are given to any backend.
    pub failed: Vec<(ServicesChange, BpfError)>,
    /// Who left a balancer.
    pub departed: Vec<Departed>,
}

/// A backend that no set of a balancer has any more: whoever is connected to it by this Service drains, or
/// is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Departed {
    /// The number of the Service's port.
    pub service: u32,
    /// The number of the backend.
    pub backend: u32,
    /// Where it is reached; with port zero at the port that the client chose.
    pub at: SocketAddr,
    /// By which protocol.
    pub protocol: Protocol,
    /// Whether clients may be remembered to be its.
    pub affinity: bool,
}
