use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use watari_model::{IfName, MacAddr};
use watari_tables::{Neighbour, Route};

use crate::change::family;
use crate::own_routes::own_route;
use crate::{Handle, NetlinkError};

/// A link as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: IfName,
    /// Its MAC address, if it has one of 48 bits.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// `ifalias`; empty for none.
    pub alias: String,
    /// `IFLA_LINK`: for a veth the index of the other end, in that end's namespace.
    pub peer: Option<u32>,
    /// `IFF_UP`.
    pub up: bool,
    /// `IFF_RUNNING`: it carries packets. Follows `up` and the carrier with a delay.
    pub running: bool,
    /// `IFF_LOOPBACK`.
    pub loopback: bool,
    /// The driver's kind (`veth`, `bridge`, …); empty for a physical link.
    pub kind: String,
}

/// Where the kernel would send a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteTo {
    /// The link.
    pub index: u32,
    /// The next hop.
    pub via: Option<IpAddr>,
}

impl Handle {
    /// The link of that name; none if there is none.
    pub fn link(&mut self, name: &IfName) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_string()));
        self.one_link(&format!("cannot look up link {name}"), message)
    }

    /// The link of that index; none if there is none.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.one_link(&format!("cannot look up link {index}"), message)
    }

    fn one_link(
        &mut self,
        what: &str,
        mut message: LinkMessage,
    ) -> Result<Option<Link>, NetlinkError> {
        // Statistics are a kilobyte that nobody reads.
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answers = self.ask(what, RouteNetlinkMessage::GetLink(message), false)?;
        Ok(answers.iter().find_map(link_of))
    }

    /// All links, in order of index.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let ask = RouteNetlinkMessage::GetLink(message);
        let answers = self.ask("cannot list the links", ask, true)?;
        let mut links: Vec<_> = answers.iter().filter_map(link_of).collect();
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// The addresses of a link, without the link-local ones that IPv6 makes by itself.
    pub fn addresses(&mut self, index: u32) -> Result<BTreeSet<IpNet>, NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        let what = format!("cannot list the addresses of link {index}");
        let answers = self.ask(&what, RouteNetlinkMessage::GetAddress(message), true)?;
        Ok(answers
            .iter()
            .filter_map(|answer| address_of(answer, index))
            .collect())
    }

    /// The unicast routes of the main table over a link, without those that the kernel makes
    /// for IPv6's link-local addresses.
    pub fn routes(&mut self, index: u32) -> Result<BTreeSet<Route>, NetlinkError> {
        let what = format!("cannot list the routes over link {index}");
        let mut routes = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            message.attributes.push(RouteAttribute::Oif(index));
            let answers = self.ask(&what, RouteNetlinkMessage::GetRoute(message), true)?;
            routes.extend(answers.iter().filter_map(|answer| route_of(answer, index)));
        }
        Ok(routes)
    }

    /// Every entry of a link's neighbour table that has a MAC, permanent or learnt.
    pub fn neighbours(&mut self, index: u32) -> Result<Vec<(Neighbour, bool)>, NetlinkError> {
        let answers = self.neighbour_dump(index, NeighbourFlags::empty())?;
        let mut found = Vec::new();
        for answer in &answers {
            let RouteNetlinkMessage::NewNeighbour(message) = answer else {
                continue;
            };
            if let Some(neighbour) = neighbour_of(message, index) {
                let permanent = message.header.state == NeighbourState::Permanent;
                found.push((neighbour, permanent));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The addresses that a link answers solicitations for.
    pub fn proxies(&mut self, index: u32) -> Result<BTreeSet<IpAddr>, NetlinkError> {
        let answers = self.neighbour_dump(index, NeighbourFlags::Proxy)?;
        let mut found = BTreeSet::new();
        for answer in &answers {
            let RouteNetlinkMessage::NewNeighbour(message) = answer else {
                continue;
            };
            if message.header.ifindex == index {
                found.extend(destination(message));
            }
        }
        Ok(found)
    }

    fn neighbour_dump(
        &mut self,
        index: u32,
        flags: NeighbourFlags,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let what = format!("cannot list the neighbours of link {index}");
        let mut message = NeighbourMessage::default();
        message.header.flags = flags;
        message.attributes.push(NeighbourAttribute::IfIndex(index));
        self.ask(&what, RouteNetlinkMessage::GetNeighbour(message), true)
    }

    /// Where a packet to `address` would go; none if nowhere.
    pub fn route_to(&mut self, address: IpAddr) -> Result<Option<RouteTo>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        message
            .attributes
            .push(RouteAttribute::Destination(address.into()));
        let what = format!("cannot look up the route to {address}");
        let asked = self.ask(&what, RouteNetlinkMessage::GetRoute(message), false);
        let answers = match asked {
            Err(error) if is_unroutable(&error) => return Ok(None),
            other => other?,
        };
        Ok(answers.iter().find_map(|answer| {
            let RouteNetlinkMessage::NewRoute(message) = answer else {
                return None;
            };
            if message.header.kind != RouteType::Unicast {
                return None;
            }
            let (index, via) = next_hop(message);
            Some(RouteTo { index: index?, via })
        }))
    }
}

fn is_unroutable(error: &NetlinkError) -> bool {
    const UNROUTABLE: [nix::Error; 4] = [
        nix::Error::ENETUNREACH,
        nix::Error::EHOSTUNREACH,
        nix::Error::EACCES,
        nix::Error::EINVAL,
    ];
    UNROUTABLE
        .iter()
        .any(|&errno| error.errno() == Some(errno as i32))
}

fn link_of(answer: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return None;
    };
    let mut link = Link {
        index: message.header.index,
        name: message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => IfName::new(name.as_str()).ok(),
                _ => None,
            })?,
        mac: None,
        mtu: 0,
        alias: String::new(),
        peer: None,
        up: message.header.flags.contains(LinkFlags::Up),
        running: message.header.flags.contains(LinkFlags::Running),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        kind: String::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => {
                link.mac = bytes.as_slice().try_into().ok().map(MacAddr);
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::Link(peer) => link.peer = Some(*peer),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let netlink_packet_route::link::LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    Some(link)
}

/// Reads an answer in every way that this file knows.
pub(crate) fn look_at(answer: &RouteNetlinkMessage) {
    let index = match answer {
        RouteNetlinkMessage::NewLink(message) => message.header.index,
        RouteNetlinkMessage::NewAddress(message) => message.header.index,
        RouteNetlinkMessage::NewNeighbour(message) => {
            let _ = neighbour_of(message, message.header.ifindex);
            message.header.ifindex
        }
        RouteNetlinkMessage::NewRoute(message) => next_hop(message).0.unwrap_or_default(),
        _ => 0,
    };
    let _ = link_of(answer);
    let _ = address_of(answer, index);
    let _ = route_of(answer, index);
    let _ = own_route(answer);
}

pub(crate) fn address_of(answer: &RouteNetlinkMessage, index: u32) -> Option<IpNet> {
    let RouteNetlinkMessage::NewAddress(message) = answer else {
        return None;
    };
    if message.header.index != index {
        return None;
    }
    // IFA_LOCAL is the address where there is one; IPv6 has only IFA_ADDRESS.
    let local = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
    let other = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
    let address = local.or(other)?;
    let automatic = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if automatic {
        return None;
    }
    IpNet::new(address, message.header.prefix_len).ok()
}

pub(crate) fn route_of(answer: &RouteNetlinkMessage, index: u32) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = answer else {
        return None;
    };
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let (oif, via) = next_hop(message);
    if oif != Some(index) {
        return None;
    }
    let destination = route_destination(message)?;
    let automatic = matches!(destination, IpNet::V6(net)
        if (net.addr().is_unicast_link_local() && net.prefix_len() == 64) || net.addr().is_multicast());
    (!automatic).then_some(Route { destination, via })
}

/// What a route is for; without an address it is for everything.
pub(crate) fn route_destination(message: &RouteMessage) -> Option<IpNet> {
    let header = &message.header;
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(address) => ip_of(address),
            _ => None,
        });
    let address = address.unwrap_or(match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        _ => IpAddr::from([0; 16]),
    });
    IpNet::new(address, header.destination_prefix_length).ok()
}

pub(crate) fn next_hop(message: &RouteMessage) -> (Option<u32>, Option<IpAddr>) {
    let (mut index, mut via) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Gateway(address) => via = ip_of(address),
            _ => {}
        }
    }
    (index, via)
}

pub(crate) fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

pub(crate) fn neighbour_of(message: &NeighbourMessage, index: u32) -> Option<Neighbour> {
    if message.header.ifindex != index {
        return None;
    }
    let mac = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                bytes.as_slice().try_into().ok().map(MacAddr)
            }
            _ => None,
        })?;
    Some(Neighbour {
        address: destination(message)?,
        mac,
    })
}

pub(crate) fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
            _ => None,
        })
}
