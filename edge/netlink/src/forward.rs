use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteMetric, RouteType};
use nix::errno::Errno;

use crate::change::family;
use crate::query::next_hop;
use crate::{Handle, NetlinkError};

/// `RTAX_MTU` of `linux/rtnetlink.h`: its bit among the metrics that are locked.
const LOCKED_MTU: u32 = 1 << 2;

/// A packet that looks for its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// Who sent it; without a link, an address of this node or none.
    pub source: Option<IpAddr>,
    /// Whom it is for.
    pub destination: IpAddr,
    /// The link that it came in by; none for a packet of this node itself.
    pub from_link: Option<u32>,
}

/// Where the kernel's routes lead a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Out of a link.
    Out {
        /// The link.
        index: u32,
        /// The next hop; none if the destination itself is on the link.
        via: Option<IpAddr>,
        /// The MTU that the route says, in bytes, where it says one that counts for packets
        /// that are forwarded.
        mtu: Option<u32>,
        /// The address that the node itself would send from.
        source: Option<IpAddr>,
    },
    /// To the node itself.
    Local,
    /// To many: broadcast, multicast, anycast.
    Group,
    /// Nowhere: the kernel refuses it.
    Refused(Refusal),
}

/// Why the kernel's routes lead nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// There is no route.
    NoRoute,
    /// A route of type `unreachable`.
    Unreachable,
    /// The node does not forward what comes in by that link.
    NotForwarding,
    /// A route of type `prohibit`.
    Prohibited,
    /// A route of type `blackhole`.
    Blackhole,
    /// The source belongs elsewhere (`rp_filter`), or cannot be one.
    Source,
}

impl Refusal {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NoRoute => "no route leads there",
            Self::Unreachable => "the route says unreachable",
            Self::NotForwarding => "the node does not forward what comes in by that link",
            Self::Prohibited => "the route says prohibited",
            Self::Blackhole => "the route is a blackhole",
            Self::Source => "a packet of that source does not come from there (rp_filter)",
        }
    }
}

impl Handle {
    /// The way of a packet, by all rules and routes, as the stack looks it up.
    pub fn way(&mut self, packet: &Forwarded) -> Result<Way, NetlinkError> {
        let way = self.look_up(packet)?;
        let Way::Refused(refusal) = way else {
            return Ok(way);
        };
        if packet.from_link.is_none() {
            return Ok(way);
        }
        // For what comes in, the kernel says less of why than for what the node sends itself.
        let own = self.look_up(&packet.of_this_node())?;
        Ok(Way::Refused(match (refusal, own) {
            (_, Way::Refused(refusal)) => refusal,
            (Refusal::Unreachable | Refusal::NoRoute, _) => Refusal::NotForwarding,
            _ => Refusal::Source,
        }))
    }

    /// The way by which `bpf_fib_lookup` sends a packet: as [`Self::way`], but that it does not
    /// ask whether the source belongs to the link.
    pub fn way_of_program(&mut self, packet: &Forwarded) -> Result<Way, NetlinkError> {
        match self.way(packet)? {
            Way::Refused(Refusal::Source) => self.look_up(&packet.of_this_node()),
            other => Ok(other),
        }
    }

    fn look_up(&mut self, packet: &Forwarded) -> Result<Way, NetlinkError> {
        let mut message = RouteMessage::default();
        let length = if packet.destination.is_ipv4() {
            32
        } else {
            128
        };
        message.header.address_family = family(packet.destination);
        message.header.destination_prefix_length = length;
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Destination(packet.destination.into()));
        if let Some(source) = packet.source {
            message.header.source_prefix_length = length;
            attributes.push(RouteAttribute::Source(source.into()));
        }
        if let Some(index) = packet.from_link {
            attributes.push(RouteAttribute::Iif(index));
        }
        let what = format!("cannot look up the way to {}", packet.destination);
        let asked = self.ask(&what, RouteNetlinkMessage::GetRoute(message), false);
        let answers = match asked {
            Err(error) => return refusal(&error).map(Way::Refused).ok_or(error),
            Ok(answers) => answers,
        };
        let found = answers.iter().find_map(way_of);
        Ok(found.unwrap_or(Way::Refused(Refusal::NoRoute)))
    }
}

impl Forwarded {
    fn of_this_node(self) -> Self {
        Self {
            source: None,
            from_link: None,
            ..self
        }
    }
}

fn refusal(error: &NetlinkError) -> Option<Refusal> {
    let errno = Errno::from_raw(error.errno()?);
    Some(match errno {
        Errno::ENETUNREACH => Refusal::NoRoute,
        Errno::EHOSTUNREACH => Refusal::Unreachable,
        Errno::EACCES => Refusal::Prohibited,
        Errno::EINVAL => Refusal::Blackhole,
        Errno::EXDEV => Refusal::Source,
        _ => return None,
    })
}

fn way_of(answer: &RouteNetlinkMessage) -> Option<Way> {
    let RouteNetlinkMessage::NewRoute(message) = answer else {
        return None;
    };
    Some(match message.header.kind {
        RouteType::Local => Way::Local,
        RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast => Way::Group,
        RouteType::Unreachable => Way::Refused(Refusal::Unreachable),
        RouteType::Prohibit => Way::Refused(Refusal::Prohibited),
        RouteType::BlackHole => Way::Refused(Refusal::Blackhole),
        RouteType::Unicast => {
            let (index, via) = next_hop(message);
            Way::Out {
                index: index?,
                via,
                mtu: mtu_of(message),
                source: source_of(message),
            }
        }
        _ => return None,
    })
}

fn source_of(message: &RouteMessage) -> Option<IpAddr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(address) => crate::query::ip_of(address),
            _ => None,
        })
}

/// IPv4 heeds it for packets of others only where it is locked.
fn mtu_of(message: &RouteMessage) -> Option<u32> {
    let metrics = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Metrics(metrics) => Some(metrics),
            _ => None,
        })?;
    let (mut mtu, mut locked) = (None, 0);
    for metric in metrics {
        match metric {
            RouteMetric::Mtu(bytes) => mtu = Some(*bytes),
            RouteMetric::Lock(bits) => locked = *bits,
            _ => {}
        }
    }
    let counts = message.header.address_family != netlink_packet_route::AddressFamily::Inet
        || locked & LOCKED_MTU != 0;
    mtu.filter(|_| counts)
}
