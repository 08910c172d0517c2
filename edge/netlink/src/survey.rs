use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use watari_model::MacAddr;

use crate::query::{destination, ip_of};
use crate::{Handle, NetlinkError};

/// An address as people want to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenAddress {
    /// The link's index.
    pub index: u32,
    /// The address with its prefix length.
    pub net: IpNet,
}

/// A route of the main table as people want to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRoute {
    /// Destination; the prefix length 0 is the default route.
    pub destination: IpNet,
    /// The next hop.
    pub via: Option<IpAddr>,
    /// The link's index; none for a route that drops.
    pub index: Option<u32>,
    /// What it does: `unicast`, `unreachable`, `blackhole`, …
    pub kind: String,
    /// Its origin: `kernel`, `static`, `dhcp`, …
    pub protocol: String,
    /// `scope link`.
    pub link_scope: bool,
    /// `onlink`.
    pub onlink: bool,
    /// The preferred source address.
    pub source: Option<IpAddr>,
}

/// A neighbour as people want to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenNeighbour {
    /// The link's index.
    pub index: u32,
    /// Whose entry it is.
    pub address: IpAddr,
    /// The MAC address, if it is known.
    pub mac: Option<MacAddr>,
    /// `PERMANENT`, `REACHABLE`, `STALE`, …
    pub state: String,
}

impl Handle {
    /// Every address of the namespace, those that IPv6 makes by itself too.
    pub fn all_addresses(&mut self) -> Result<Vec<SeenAddress>, NetlinkError> {
        let ask = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.ask("cannot list the addresses", ask, true)?;
        Ok(answers.iter().filter_map(seen_address).collect())
    }

    /// Every route of the main table, whatever it does.
    pub fn all_routes(&mut self) -> Result<Vec<SeenRoute>, NetlinkError> {
        let mut seen = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            let ask = RouteNetlinkMessage::GetRoute(message);
            let answers = self.ask("cannot list the routes", ask, true)?;
            seen.extend(answers.iter().filter_map(seen_route));
        }
        Ok(seen)
    }

    /// Every neighbour of the namespace, in whatever state.
    pub fn all_neighbours(&mut self) -> Result<Vec<SeenNeighbour>, NetlinkError> {
        let ask = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let answers = self.ask("cannot list the neighbours", ask, true)?;
        Ok(answers.iter().filter_map(seen_neighbour).collect())
    }
}

fn seen_address(answer: &RouteNetlinkMessage) -> Option<SeenAddress> {
    let RouteNetlinkMessage::NewAddress(message) = answer else {
        return None;
    };
    let (mut local, mut other) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            _ => {}
        }
    }
    let net = IpNet::new(local.or(other)?, message.header.prefix_len).ok()?;
    Some(SeenAddress {
        index: message.header.index,
        net,
    })
}

fn seen_route(answer: &RouteNetlinkMessage) -> Option<SeenRoute> {
    let RouteNetlinkMessage::NewRoute(message) = answer else {
        return None;
    };
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        _ => IpAddr::from([0; 16]),
    };
    let (mut to, mut via, mut index, mut source) = (unspecified, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip_of(address)?,
            RouteAttribute::Gateway(address) => via = ip_of(address),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::PrefSource(address) => source = ip_of(address),
            _ => {}
        }
    }
    let drops = header.kind != RouteType::Unicast;
    Some(SeenRoute {
        destination: IpNet::new(to, header.destination_prefix_length).ok()?,
        via,
        index: index.filter(|_| !drops),
        kind: match header.kind {
            RouteType::BlackHole => "blackhole".to_owned(),
            kind => format!("{kind:?}").to_lowercase(),
        },
        protocol: protocol(header.protocol),
        link_scope: header.scope == RouteScope::Link,
        onlink: header.flags.contains(RouteFlags::Onlink),
        source,
    })
}

fn protocol(protocol: RouteProtocol) -> String {
    match protocol {
        RouteProtocol::Other(number) => number.to_string(),
        known => format!("{known:?}").to_lowercase(),
    }
}

fn seen_neighbour(answer: &RouteNetlinkMessage) -> Option<SeenNeighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = answer else {
        return None;
    };
    let address = destination(message)?;
    let state = match message.header.state {
        // Broadcast and multicast: nobody asked for these.
        NeighbourState::Noarp => return None,
        NeighbourState::Other(number) => number.to_string(),
        known => format!("{known:?}").to_uppercase(),
    };
    let mac = message.attributes.iter().find_map(|attribute| {
        let NeighbourAttribute::LinkLayerAddress(bytes) = attribute else {
            return None;
        };
        bytes.as_slice().try_into().ok().map(MacAddr)
    });
    Some(SeenNeighbour {
        index: message.header.ifindex,
        address,
        mac,
        state,
    })
}
