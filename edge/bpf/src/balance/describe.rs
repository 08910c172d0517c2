use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use watari_abi::{ServiceName as Text, maps};
use watari_model::Protocol;
use watari_tables::{BalancerName, Frontend, FrontendKind};

use super::change::ring_size;
use super::observe::frontends;
use super::shadow::{Role, Rooms, Shadow};
use super::words::name_of;
use super::{numbers, rebuild};
use crate::error::BpfError;
use crate::map::Map;
use crate::pins::PinDir;

/// A balancer as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The number of the Service's port, which connections and remembered clients have.
    pub number: u32,
    /// Of its frontends.
    pub protocol: Protocol,
    /// Where it is reached.
    pub frontends: Vec<DescribedFrontend>,
    /// Who is behind.
    pub backends: Vec<DescribedBackend>,
    /// Slots of its table of Maglev; zero for none.
    pub ring: u32,
}

/// Where a balancer is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DescribedFrontend {
    /// Address and ports.
    pub at: Frontend,
    /// What kind of address it is.
    pub kind: FrontendKind,
}

/// A member of a balancer's sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescribedBackend {
    /// Where it is.
    pub at: SocketAddr,
    /// Its number, which connections have.
    pub number: u32,
    /// Its slots in the set of clients of cluster addresses; zero: it is not in that set.
    pub inside: u32,
    /// In that of clients inside, of other addresses.
    pub inside_external: u32,
    /// In that of clients outside.
    pub outside: u32,
}

/// How full a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The map.
    pub map: &'static str,
    /// Entries in use.
    pub used: u32,
    /// Entries that there are.
    pub room: u32,
}

pub(super) fn describe(shadow: &Shadow, name: &BalancerName) -> Option<Described> {
    let record = shadow.records.get(name)?;
    let mut backends: BTreeMap<SocketAddr, DescribedBackend> = BTreeMap::new();
    for role in Role::ALL {
        for number in shadow.slots(record.roles[role as usize]) {
            let Some(backend) = shadow.numbers.get(*number) else {
                continue;
            };
            let at = numbers::place(backend);
            let backend = backends.entry(at).or_insert(DescribedBackend {
                at,
                number: *number,
                inside: 0,
                inside_external: 0,
                outside: 0,
            });
            *match role {
                Role::Inside => &mut backend.inside,
                Role::InsideExternal => &mut backend.inside_external,
                Role::Outside => &mut backend.outside,
            } += 1;
        }
    }
    let ring = shadow.sets.get(&record.ring).and_then(|kept| kept.stretch);
    let outside = record.roles[Role::Outside as usize];
    // What is written of its stretch, which has room for a power of two.
    let written = |_| ring_size(rebuild::members(shadow, outside).len());
    let frontends = frontends(shadow, record).into_iter();
    Some(Described {
        number: record.number,
        protocol: record.protocol,
        frontends: frontends
            .map(|(at, kind)| DescribedFrontend { at, kind })
            .collect(),
        backends: backends.into_values().collect(),
        ring: ring.map_or(0, written),
    })
}

pub(super) fn usage(shadow: &Shadow, rooms: &Rooms) -> Vec<Usage> {
    let count = |all: usize| u32::try_from(all).unwrap_or(u32::MAX);
    let (slots, _) = shadow.stretches.usage();
    let (backends, _) = shadow.numbers.usage();
    [
        (
            maps::FRONTENDS,
            count(shadow.frontends.len()),
            rooms.frontends,
        ),
        (maps::PORT_RANGES, count(shadow.ranges.len()), rooms.ranges),
        (maps::SERVICE_CIDRS, count(shadow.cidrs.len()), rooms.cidrs),
        (maps::SOURCE_RANGES, shadow.source_count, rooms.sources),
        (maps::SERVICE_NAMES, count(shadow.names.len()), rooms.names),
        (maps::SETS, shadow.sets_in_use(), rooms.sets),
        (maps::SLOTS, slots, rooms.slots),
        (maps::BACKENDS, backends, rooms.backends),
    ]
    .map(|(map, used, room)| Usage { map, used, room })
    .to_vec()
}

/// What the numbers of Services' ports stand for, for who meets them in a connection: read from the pinned
/// map, by whomever.
pub struct ServiceNames(Map<u32, Text>);

impl ServiceNames {
    /// Opens the names of the datapath pinned in `dir`.
    pub fn open(dir: &PinDir) -> Result<Self, BpfError> {
        Ok(Self(Map::open(&dir.map(maps::SERVICE_NAMES))?))
    }

    /// `NAMESPACE/NAME:PORT`; the port's name is empty for the only one.
    pub fn get(&self, number: u32) -> Result<Option<String>, BpfError> {
        Ok(self.0.get(&number)?.as_ref().and_then(words))
    }

    /// Every one.
    pub fn all(&self) -> Result<HashMap<u32, String>, BpfError> {
        let mut all = HashMap::new();
        self.0
            .for_each(|number, text| all.extend(words(&text).map(|words| (number, words))))?;
        Ok(all)
    }
}

fn words(text: &Text) -> Option<String> {
    name_of(text, false).map(|name| name.to_string())
}
