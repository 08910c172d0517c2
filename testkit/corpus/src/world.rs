use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use watari_abi::{
    Address, Config, Connection, ConnectionKey, Endpoint, Link, PrefixKey, Remote, StackPort, Tuple,
};
use watari_datapath::{Route, Table};

use crate::packets::Mac;

/// What a runner has: where the packets are seen, and when.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Host-side link of pod A. With `BPF_PROG_TEST_RUN`, the interface of the context.
    pub link_a: u32,
    /// Host-side link of pod B.
    pub link_b: u32,
    /// The uplink.
    pub uplink: u32,
    /// The MAC that frames at these links are for: that of the interface of the context. All zeros
    /// is the loopback interface's.
    pub host_mac: Mac,
    /// Now, in ns of `CLOCK_MONOTONIC`.
    pub now: u64,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            link_a: 1,
            link_b: 12,
            uplink: 1,
            host_mac: [0; 6],
            now: 1_000_000_000_000,
        }
    }
}

/// The tables before the first packet.
#[derive(Clone, Default)]
pub struct World {
    /// `endpoints`.
    pub endpoints: Vec<(Address, Endpoint)>,
    /// `links`.
    pub links: Vec<(u32, Link)>,
    /// `remotes`.
    pub remotes: Vec<(PrefixKey, Remote)>,
    /// `established` and `transient`.
    pub connections: Vec<(Table, ConnectionKey, Connection)>,
    /// `stack_ports`.
    pub stack_ports: Vec<(StackPort, u64)>,
    /// `config`.
    pub config: Config,
    /// What the node's routes say of a next hop; not all runners have routes, see
    /// [`Case::needs_routes`](crate::Case::needs_routes).
    pub routes: Vec<(Address, Route)>,
    /// There is no room among the established.
    pub established_full: bool,
}

/// The addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Net {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Somebody with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// A pod of this node.
    A,
    /// Another.
    B,
    /// A pod of another node.
    Far,
    /// Somebody outside.
    World,
    /// This node.
    Node,
    /// The other node: the next hop for its pods.
    OtherNode,
    /// A Service, or whatever else a connection believes to talk to.
    Service,
}

impl Net {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// For names of cases.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }

    /// Somebody's address.
    pub fn of(self, who: Who) -> IpAddr {
        let (v4, v6) = match who {
            Who::A => ([10, 240, 0, 5], 0x0a05),
            Who::B => ([10, 240, 0, 6], 0x0a06),
            Who::Far => ([10, 240, 1, 7], 0x1_0007),
            Who::World => ([198, 51, 100, 9], 0xffff_0009_u32),
            Who::Node => ([10, 0, 0, 4], 0xaaaa_0004),
            Who::OtherNode => ([10, 0, 0, 8], 0xaaaa_0008),
            Who::Service => ([10, 96, 0, 10], 0xcccc_0010),
        };
        match self {
            Self::V4 => Ipv4Addr::from(v4).into(),
            Self::V6 => {
                let prefix = u128::from_be_bytes(
                    "2001:db8::"
                        .parse::<Ipv6Addr>()
                        .expect("an address")
                        .octets(),
                );
                Ipv6Addr::from(prefix | u128::from(v6)).into()
            }
        }
    }

    /// The range that the other node owns.
    pub fn far_range(self) -> PrefixKey {
        let (address, length): (IpAddr, u32) = match self {
            Self::V4 => (Ipv4Addr::new(10, 240, 1, 0).into(), 96 + 24),
            Self::V6 => (
                "2001:db8::1:0"
                    .parse::<Ipv6Addr>()
                    .expect("an address")
                    .into(),
                112,
            ),
        };
        PrefixKey {
            length,
            address: address.into(),
        }
    }

    /// The ends of a packet; ports in machine order.
    pub fn tuple(self, from: (Who, u16), to: (Who, u16), protocol: u8) -> Tuple {
        Tuple {
            source: self.of(from.0).into(),
            destination: self.of(to.0).into(),
            source_port: from.1.to_be(),
            destination_port: to.1.to_be(),
            protocol,
            pad: [0; 3],
        }
    }

    /// The number of its ICMP.
    pub const fn icmp(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 58,
        }
    }
}

impl Who {
    /// Its MAC, of a pod, or of whoever sends for it.
    pub const fn mac(self) -> Mac {
        match self {
            Self::A => [0x02, 0, 0, 0, 0, 0x0a],
            Self::B => [0x02, 0, 0, 0, 0, 0x0b],
            _ => [0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc],
        }
    }

    /// The MAC of a pod's host-side link, as its endpoint has it.
    pub const fn host_mac(self) -> Mac {
        match self {
            Self::A => [0x02, 0, 0, 0, 0xff, 0x0a],
            Self::B => [0x02, 0, 0, 0, 0xff, 0x0b],
            other => other.mac(),
        }
    }
}

impl World {
    /// Two pods here, one on another node, of both families, and a way there.
    pub fn usual(place: &Place) -> Self {
        let mut world = Self::default();
        for (who, ifindex) in [(Who::A, place.link_a), (Who::B, place.link_b)] {
            for net in Net::ALL {
                let endpoint = Endpoint {
                    ifindex,
                    mac: who.mac(),
                    host_mac: who.host_mac(),
                    identity: 0,
                    flags: 0,
                };
                world.endpoints.push((net.of(who).into(), endpoint));
            }
            let link = Link {
                mac: who.mac(),
                ..Link::default()
            };
            world.links.push((ifindex, link));
        }
        for net in Net::ALL {
            let next_hop = net.of(Who::OtherNode).into();
            let remote = Remote { next_hop, flags: 0 };
            world.remotes.push((net.far_range(), remote));
        }
        world
    }
}
