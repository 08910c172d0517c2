use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    self, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use watari_model::{IfName, MacAddr};
use watari_tables::{Neighbour, Route};

use crate::Netns;
use crate::handle::Outgoing;

/// `rtm_protocol` of the routes that Watari keeps beside those of its pods: a number that no list
/// of protocols (`linux/rtnetlink.h`, `rt_protos` of iproute2) gives to anybody. `ip route` shows
/// it as `proto 87`.
pub const OWN_PROTOCOL: u8 = 87;
/// `RT_TABLE_LOCAL` of `linux/rtnetlink.h`.
const TABLE_LOCAL: u8 = 255;

/// One end of a veth pair that is to be made.
#[derive(Debug, Clone)]
pub struct Veth<'a> {
    /// Its name.
    pub name: &'a IfName,
    /// Its MAC address; the kernel chooses one when absent.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The namespace that it is made in; the handle's own when absent.
    pub netns: Option<&'a Netns>,
}

/// Who a route says that it comes from (`rtm_protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteProtocol {
    /// `proto static`: an administrator's, and the plugin's.
    Static,
    /// `proto dhcp`: what a node got with its address.
    Dhcp,
    /// `proto kernel`: what the kernel would have made of an address.
    Kernel,
    /// [`OWN_PROTOCOL`]: listed, replaced and removed as a whole.
    Own,
}

/// What a route does with a packet (`rtm_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends it on.
    Unicast,
    /// Refuses it with an ICMP error.
    Unreachable,
    /// Takes it in: the destination is an address of this namespace. In the table `local`.
    Local,
}

/// A route with all that can be said of it.
#[derive(Debug, Clone, Copy)]
pub struct NewRoute {
    /// Destination and next hop.
    pub route: Route,
    /// The link; none for a route that drops.
    pub index: Option<u32>,
    /// Its origin.
    pub protocol: RouteProtocol,
    /// What it does.
    pub kind: RouteKind,
    /// Of a direct IPv4 route: the destination is on the link itself (`scope link`), so it may be a
    /// next hop; else it is somewhere behind it.
    pub scope_link: bool,
    /// The next hop is on the link though no address of the node says so.
    pub onlink: bool,
    /// Another route to the same destination is replaced.
    pub replace: bool,
}

impl NewRoute {
    /// A unicast route as the plugin makes it: `proto static`, refused if there is one.
    pub fn unicast(index: u32, route: Route) -> Self {
        Self {
            route,
            index: Some(index),
            protocol: RouteProtocol::Static,
            kind: RouteKind::Unicast,
            scope_link: route.via.is_none(),
            onlink: false,
            replace: false,
        }
    }

    /// What the kernel makes of an address of a link by itself, for IPv6 some time after the
    /// address is there.
    pub fn local(index: u32, address: IpAddr) -> Self {
        let route = Route {
            destination: address.into(),
            via: None,
        };
        Self {
            protocol: RouteProtocol::Kernel,
            kind: RouteKind::Local,
            ..Self::unicast(index, route)
        }
    }
}

/// A change of a namespace's network. Links are meant by index, which does not change under a
/// rename, but where they have none yet.
#[derive(Debug, Clone)]
pub enum Change<'a> {
    /// Makes a veth pair.
    CreateVeth(Veth<'a>, Veth<'a>),
    /// Makes a bridge that forwards at once and sends every multicast frame to every port.
    CreateBridge {
        /// Its name.
        name: &'a IfName,
        /// Its MAC address; else it would be that of one of its ports.
        mac: MacAddr,
        /// Its MTU in bytes.
        mtu: u32,
    },
    /// Makes a link a port of a bridge: the link, the bridge.
    Join(u32, u32),
    /// Deletes a link, and the other end of a pair with it.
    DeleteLink(&'a IfName),
    /// Sets `ifalias`.
    Alias(u32, &'a str),
    /// Sets the MTU in bytes.
    Mtu(u32, u32),
    /// Sets the MAC address.
    Mac(u32, MacAddr),
    /// Brings a link up.
    Up(u32),
    /// Takes a link down.
    Down(u32),
    /// Adds an address: no prefix route is made, nothing is detected (RFC 4862, section 5.4).
    AddAddress(u32, IpNet),
    /// Adds an address, with the prefix route that the kernel makes.
    AddAddressWithRoute(u32, IpNet),
    /// Adds a route, to the main table if it is not a local one.
    AddRoute(NewRoute),
    /// Deletes a route of this protocol.
    DeleteRoute(NewRoute),
    /// Adds, or replaces, a permanent neighbour.
    SetNeighbour(u32, Neighbour),
    /// Answers solicitations for an address on a link.
    AddProxy(u32, IpAddr),
}

impl Change<'_> {
    pub(crate) fn message(&self) -> Outgoing {
        let create = NLM_F_CREATE | NLM_F_EXCL;
        let (message, flags) = match self {
            Self::CreateVeth(ours, theirs) => (create_veth(ours, theirs), create),
            Self::AddAddress(index, net) => {
                let flags = AddressFlags::Noprefixroute | AddressFlags::Nodad;
                (
                    RouteNetlinkMessage::NewAddress(address(*index, *net, flags)),
                    create,
                )
            }
            Self::AddAddressWithRoute(index, net) => {
                let message = address(*index, *net, AddressFlags::Nodad);
                (RouteNetlinkMessage::NewAddress(message), create)
            }
            Self::AddRoute(new) => {
                let flags = if new.replace {
                    NLM_F_CREATE | NLM_F_REPLACE
                } else {
                    create
                };
                (RouteNetlinkMessage::NewRoute(route_message(new)), flags)
            }
            Self::DeleteRoute(old) => {
                let mut message = route_message(old);
                // Any scope.
                message.header.scope = RouteScope::NoWhere;
                (RouteNetlinkMessage::DelRoute(message), 0)
            }
            Self::CreateBridge { name, mac, mtu } => (create_bridge(name, *mac, *mtu), create),
            Self::SetNeighbour(index, neighbour) => {
                let mut message = neighbour_message(*index, neighbour.address);
                let mac = neighbour.mac.0.to_vec();
                message
                    .attributes
                    .push(NeighbourAttribute::LinkLayerAddress(mac));
                (
                    RouteNetlinkMessage::NewNeighbour(message),
                    NLM_F_CREATE | NLM_F_REPLACE,
                )
            }
            Self::AddProxy(index, address) => {
                let mut message = neighbour_message(*index, *address);
                message.header.flags = NeighbourFlags::Proxy;
                (
                    RouteNetlinkMessage::NewNeighbour(message),
                    NLM_F_CREATE | NLM_F_REPLACE,
                )
            }
            Self::DeleteLink(_)
            | Self::Alias(..)
            | Self::Mtu(..)
            | Self::Mac(..)
            | Self::Up(_)
            | Self::Down(_)
            | Self::Join(..) => (self.link_message(), 0),
        };
        Outgoing { message, flags }
    }

    /// The message of a change that is about the link itself. `RTM_NEWLINK` of a link that is
    /// there changes it.
    fn link_message(&self) -> RouteNetlinkMessage {
        let mut link = LinkMessage::default();
        match self {
            Self::DeleteLink(name) => {
                link.attributes
                    .push(LinkAttribute::IfName(name.to_string()));
                return RouteNetlinkMessage::DelLink(link);
            }
            Self::Alias(index, alias) => {
                link.header.index = *index;
                link.attributes
                    .push(LinkAttribute::IfAlias((*alias).to_owned()));
            }
            Self::Mtu(index, mtu) => {
                link.header.index = *index;
                link.attributes.push(LinkAttribute::Mtu(*mtu));
            }
            Self::Mac(index, mac) => {
                link.header.index = *index;
                link.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
            }
            Self::Join(index, bridge) => {
                link.header.index = *index;
                link.attributes.push(LinkAttribute::Controller(*bridge));
            }
            Self::Up(index) | Self::Down(index) => {
                let up = matches!(self, Self::Up(_));
                link.header.index = *index;
                link.header.flags = if up {
                    LinkFlags::Up
                } else {
                    LinkFlags::empty()
                };
                link.header.change_mask = LinkFlags::Up;
            }
            _ => {}
        }
        RouteNetlinkMessage::NewLink(link)
    }
}

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateVeth(ours, theirs) => {
                write!(
                    f,
                    "cannot create the veth pair {} and {}",
                    ours.name, theirs.name
                )?;
                theirs
                    .netns
                    .map_or(Ok(()), |netns| write!(f, " in {}", netns.path().display()))
            }
            Self::CreateBridge { name, .. } => write!(f, "cannot create the bridge {name}"),
            Self::Join(index, bridge) => {
                write!(f, "cannot make link {index} a port of link {bridge}")
            }
            Self::DeleteLink(name) => write!(f, "cannot delete link {name}"),
            Self::Alias(index, alias) => write!(f, "cannot set alias {alias:?} of link {index}"),
            Self::Mtu(index, mtu) => write!(f, "cannot set MTU {mtu} of link {index}"),
            Self::Mac(index, mac) => write!(f, "cannot set MAC {mac} of link {index}"),
            Self::Up(index) => write!(f, "cannot bring up link {index}"),
            Self::Down(index) => write!(f, "cannot take down link {index}"),
            Self::AddAddress(index, net) | Self::AddAddressWithRoute(index, net) => {
                write!(f, "cannot add address {net} to link {index}")
            }
            Self::AddRoute(new) => write!(f, "cannot add {new}"),
            Self::DeleteRoute(old) => write!(f, "cannot delete {old}"),
            Self::SetNeighbour(index, Neighbour { address, mac }) => {
                write!(f, "cannot set neighbour {address} {mac} of link {index}")
            }
            Self::AddProxy(index, address) => {
                write!(f, "cannot add the proxy entry {address} to link {index}")
            }
        }
    }
}

impl fmt::Display for NewRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {}", self.route.destination)?;
        if let Some(via) = self.route.via {
            write!(f, " via {via}")?;
        }
        self.index
            .map_or(Ok(()), |index| write!(f, " over link {index}"))
    }
}

fn create_veth(ours: &Veth<'_>, theirs: &Veth<'_>) -> RouteNetlinkMessage {
    let mut link = veth_end(ours);
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(veth_end(theirs)))),
    ]));
    RouteNetlinkMessage::NewLink(link)
}

fn create_bridge(name: &IfName, mac: MacAddr, mtu: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_string()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Address(mac.0.to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![
                InfoBridge::ForwardDelay(0),
                InfoBridge::MulticastSnooping(false),
            ])),
        ]),
    ];
    RouteNetlinkMessage::NewLink(link)
}

fn veth_end(end: &Veth<'_>) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes
        .push(LinkAttribute::IfName(end.name.to_string()));
    link.attributes.push(LinkAttribute::Mtu(end.mtu));
    if let Some(mac) = end.mac {
        link.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
    }
    if let Some(netns) = end.netns {
        link.attributes
            .push(LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()));
    }
    link
}

pub(crate) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn address(index: u32, net: IpNet, flags: AddressFlags) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message
        .attributes
        .push(AddressAttribute::Address(net.addr()));
    // The header's flags have eight bits; IFA_F_NOPREFIXROUTE is the tenth.
    message.attributes.push(AddressAttribute::Flags(flags));
    message
}

fn route_message(new: &NewRoute) -> RouteMessage {
    let Route { destination, via } = new.route;
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination.addr());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = match new.kind {
        RouteKind::Local => TABLE_LOCAL,
        _ => RouteHeader::RT_TABLE_MAIN,
    };
    message.header.protocol = match new.protocol {
        RouteProtocol::Static => route::RouteProtocol::Static,
        RouteProtocol::Dhcp => route::RouteProtocol::Dhcp,
        RouteProtocol::Kernel => route::RouteProtocol::Kernel,
        RouteProtocol::Own => route::RouteProtocol::Other(OWN_PROTOCOL),
    };
    message.header.kind = match new.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Local => RouteType::Local,
    };
    let v4_unicast = new.kind == RouteKind::Unicast && destination.addr().is_ipv4();
    message.header.scope = if v4_unicast && via.is_none() && new.scope_link {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    if new.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    if destination.prefix_len() > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(destination.network().into()));
    }
    if let Some(via) = via {
        message.attributes.push(RouteAttribute::Gateway(via.into()));
    }
    if let Some(index) = new.index {
        message.attributes.push(RouteAttribute::Oif(index));
    }
    message
}

fn neighbour_message(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message
        .attributes
        .push(NeighbourAttribute::Destination(address.into()));
    message
}
