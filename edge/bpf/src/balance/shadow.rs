use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ipnet::IpNet;
use watari_abi::{Address, Frontend, FrontendKey, PortRangeKey, SourceRangeKey};
use watari_model::Protocol;
use watari_tables::{BalancerName, Others};

use super::numbers::Numbers;
use super::stretches::{Stretch, Stretches};

/// For whom a set is: an index of [`Record::roles`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Clients of cluster addresses.
    Inside = 0,
    /// Clients inside, of other addresses.
    InsideExternal = 1,
    /// Clients outside.
    Outside = 2,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Inside, Self::InsideExternal, Self::Outside];
}

/// What the kernel holds of a balancer.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// The number of the Service's port.
    pub number: u32,
    pub protocol: Protocol,
    /// Sets, by [`Role`]; zero for none.
    pub roles: [u32; 3],
    /// Maglev's table of clients outside; zero for none.
    pub ring: u32,
    /// Whether the ring is what it should be.
    pub ring_right: bool,
    pub frontends: Vec<FrontendKey>,
    pub ranges: Vec<PortRangeKey>,
    pub sources: Vec<SourceRangeKey>,
    /// Seconds; to know whose clients are remembered.
    pub affinity: u32,
}

/// A set as the kernel has it.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    pub stretch: Option<Stretch>,
    /// The numbers in its slots.
    pub slots: Vec<u32>,
}

/// What becomes of an address' other ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AtAddress {
    pub others: Option<Others>,
    /// Prefixes of ranges that it has.
    pub ranges: u32,
}

/// What waits until no program can be using it any more; the time comes when somebody says what time it is,
/// for what was found at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Later {
    /// Slots that a set had.
    Stretch(Stretch),
    /// A set that nobody asks for.
    Set(u32),
    /// The name of a Service's port that is gone.
    Name(u32),
}

/// Entries that make no sense.
#[derive(Debug, Clone, Default)]
pub(super) struct Strays {
    pub frontends: BTreeSet<FrontendKey>,
    pub ranges: BTreeSet<PortRangeKey>,
    pub sources: BTreeSet<SourceRangeKey>,
    pub words: Vec<String>,
}

/// What the kernel holds, as far as it is needed to know what to write: after every write that
/// succeeded it is what the tables say.
#[derive(Debug)]
pub(super) struct Shadow {
    /// By names that are those of `names`.
    pub records: BTreeMap<Arc<BalancerName>, Record>,
    pub frontends: HashMap<FrontendKey, Frontend>,
    pub ranges: HashMap<PortRangeKey, Frontend>,
    pub addresses: HashMap<Address, AtAddress>,
    pub cidrs: BTreeSet<IpNet>,
    pub sets: HashMap<u32, Kept>,
    pub free_sets: BTreeSet<u32>,
    /// Sets from this number on were never used.
    pub next_set: u32,
    pub stretches: Stretches,
    pub numbers: Numbers,
    /// Numbers of Services' ports, with those that are gone.
    pub names: HashMap<u32, Arc<BalancerName>>,
    pub next_name: u32,
    pub source_count: u32,
    pub later: Vec<(Option<u64>, Later)>,
    pub strays: Strays,
    /// Whether the programs are told that there are ranges of ports.
    pub told_ranges: bool,
}

/// Entries of each table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rooms {
    pub frontends: u32,
    pub ranges: u32,
    pub cidrs: u32,
    pub sources: u32,
    pub names: u32,
    pub sets: u32,
    pub slots: u32,
    pub backends: u32,
}

impl Strays {
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.ranges.is_empty() && self.sources.is_empty()
    }
}

impl Shadow {
    /// A number for a set.
    pub fn take_set(&mut self, rooms: &Rooms) -> Option<u32> {
        if let Some(number) = self.free_sets.pop_first() {
            return Some(number);
        }
        let number = self.next_set;
        (number < rooms.sets).then(|| {
            self.next_set += 1;
            number
        })
    }

    /// The numbers in a set's slots.
    pub fn slots(&self, set: u32) -> &[u32] {
        self.sets.get(&set).map_or(&[], |kept| &kept.slots)
    }

    /// Whoever is in one of the sets.
    pub fn members(&self, roles: [u32; 3]) -> HashSet<u32> {
        let mut all = HashSet::new();
        for (at, set) in roles.iter().enumerate() {
            if !roles[..at].contains(set) {
                all.extend(self.slots(*set));
            }
        }
        all
    }

    /// Sets that are in use.
    pub fn sets_in_use(&self) -> u32 {
        self.next_set - 1 - u32::try_from(self.free_sets.len()).unwrap_or(0)
    }
}
