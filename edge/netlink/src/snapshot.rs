//! All of a namespace at once, for who looks at many links.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteHeader, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use watari_model::{IfName, MacAddr};
use watari_tables::{LinkTables, Neighbour, Route, Sysctl};

use crate::query::{address_of, destination, neighbour_of, next_hop, route_of};
use crate::{Handle, Link, NetlinkError, sysctl};

/// A link as it is, as far as its tables speak of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Its index.
    pub index: u32,
    /// `IFF_UP`.
    pub up: bool,
    /// What stands on it, of the kinds that the desired tables speak about.
    pub tables: LinkTables,
}

/// The links of a namespace with what stands on each, by index.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    links: BTreeMap<IfName, Link>,
    addresses: BTreeMap<u32, BTreeSet<IpNet>>,
    routes: BTreeMap<u32, BTreeSet<Route>>,
    neighbours: BTreeMap<u32, BTreeSet<Neighbour>>,
    proxies: BTreeMap<u32, BTreeSet<IpAddr>>,
}

impl Handle {
    /// Reads the whole namespace: a question for each kind of thing, however many links there are.
    pub fn snapshot(&mut self) -> Result<Snapshot, NetlinkError> {
        let links = self.links()?;
        let mut snapshot = Snapshot {
            links: links
                .into_iter()
                .map(|link| (link.name.clone(), link))
                .collect(),
            ..Snapshot::default()
        };
        let ask = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        for answer in self.ask("cannot list the addresses", ask, true)? {
            snapshot.take_address(&answer);
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            let ask = RouteNetlinkMessage::GetRoute(message);
            for answer in self.ask("cannot list the routes", ask, true)? {
                snapshot.take_route(&answer);
            }
        }
        for flags in [NeighbourFlags::empty(), NeighbourFlags::Proxy] {
            let mut message = NeighbourMessage::default();
            message.header.flags = flags;
            let ask = RouteNetlinkMessage::GetNeighbour(message);
            for answer in self.ask("cannot list the neighbours", ask, true)? {
                snapshot.take_neighbour(&answer, !flags.is_empty());
            }
        }
        Ok(snapshot)
    }
}

impl Snapshot {
    fn take_address(&mut self, answer: &RouteNetlinkMessage) {
        let RouteNetlinkMessage::NewAddress(message) = answer else {
            return;
        };
        let index = message.header.index;
        let found = address_of(answer, index);
        self.addresses.entry(index).or_default().extend(found);
    }

    fn take_route(&mut self, answer: &RouteNetlinkMessage) {
        let RouteNetlinkMessage::NewRoute(message) = answer else {
            return;
        };
        if let Some(index) = next_hop(message).0 {
            let found = route_of(answer, index);
            self.routes.entry(index).or_default().extend(found);
        }
    }

    fn take_neighbour(&mut self, answer: &RouteNetlinkMessage, proxies: bool) {
        let RouteNetlinkMessage::NewNeighbour(message) = answer else {
            return;
        };
        let index = message.header.ifindex;
        if proxies {
            let found = destination(message);
            self.proxies.entry(index).or_default().extend(found);
        } else if message.header.state == NeighbourState::Permanent {
            let found = neighbour_of(message, index);
            self.neighbours.entry(index).or_default().extend(found);
        }
    }

    /// The link of that name.
    pub fn link(&self, name: &IfName) -> Option<&Link> {
        self.links.get(name)
    }

    /// Every link, by name.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// The addresses of a link, without the link-local ones that IPv6 makes by itself.
    pub fn addresses(&self, index: u32) -> BTreeSet<IpNet> {
        self.addresses.get(&index).cloned().unwrap_or_default()
    }

    /// The unicast routes of the main table over a link.
    pub fn routes(&self, index: u32) -> BTreeSet<Route> {
        self.routes.get(&index).cloned().unwrap_or_default()
    }

    /// The permanent neighbours of a link.
    pub fn neighbours(&self, index: u32) -> BTreeSet<Neighbour> {
        self.neighbours.get(&index).cloned().unwrap_or_default()
    }

    /// A link as its desired tables would have it; none if it was not there. Reads the settings
    /// now, in the calling thread's namespace, which must be the snapshot's.
    pub fn observed(&self, desired: &LinkTables) -> Result<Option<Observed>, NetlinkError> {
        let Some(link) = self.links.get(&desired.name) else {
            return Ok(None);
        };
        let at = link.index;
        let tables = LinkTables {
            name: link.name.clone(),
            mac: link.mac.unwrap_or(MacAddr([0; 6])),
            mtu: link.mtu,
            alias: link.alias.clone(),
            addresses: self.addresses(at),
            routes: self.routes(at),
            neighbours: self.neighbours(at),
            proxies: self.proxies.get(&at).cloned().unwrap_or_default(),
            sysctls: settings(desired)?,
        };
        let up = link.up;
        Ok(Some(Observed {
            index: at,
            up,
            tables,
        }))
    }
}

/// The values of the settings that `desired` names, as far as there are such settings.
pub(crate) fn settings(desired: &LinkTables) -> Result<BTreeSet<Sysctl>, NetlinkError> {
    let mut found = BTreeSet::new();
    for setting in &desired.sysctls {
        let value = sysctl::read_setting(&sysctl::link_setting(&desired.name, setting))?;
        found.extend(value.map(|value| Sysctl {
            value,
            ..setting.clone()
        }));
    }
    Ok(found)
}
