//! Somebody outside of the cluster, behind the router.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use watari_testkit::Netns;

use crate::bed::Bed;

/// A host that no node has a neighbour in: packets to it go by the router. It reaches every address
/// by the router, which reaches the addresses of Services by a node ([`Outside::by`]).
#[derive(Debug)]
pub struct Outside {
    /// Its namespace.
    pub netns: Netns,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its other address.
    pub v6: Ipv6Addr,
}

impl Outside {
    /// Puts it behind the router of a bed. The nodes get a default route there.
    ///
    /// # Panics
    /// When the bed has no router.
    pub fn new(bed: &Bed) -> Self {
        let router = bed.router.as_ref().expect("a bed with a router");
        let host = Self {
            netns: Netns::new("outside"),
            v4: Ipv4Addr::new(192, 0, 2, 10),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 0x10),
        };
        let there = host.netns.path().display().to_string();
        run(
            router,
            &format!("ip link add outside type veth peer name eth0 netns {there}"),
        );
        for (netns, link, end) in [(router, "outside", 1), (&host.netns, "eth0", 0x10)] {
            run(netns, &format!("ip link set {link} up"));
            let v4 = if end == 1 { 1 } else { 10 };
            run(netns, &format!("ip address add 192.0.2.{v4}/24 dev {link}"));
            run(
                netns,
                &format!("ip address add 2001:db8:9::{end:x}/64 dev {link} nodad"),
            );
        }
        run(&host.netns, "ip route add default via 192.0.2.1");
        run(&host.netns, "ip route add default via 2001:db8:9::1");
        for node in &bed.nodes {
            let number = node.number;
            node.run(&format!("ip route add default via 172.20.{number}.254"));
            node.run(&format!("ip route add default via fd20:0:0:{number}::fe"));
        }
        host
    }

    /// Its address of a family.
    pub fn address(&self, v6: bool) -> IpAddr {
        if v6 { self.v6.into() } else { self.v4.into() }
    }

    /// The router sends what is for this range to that node, whatever it did before.
    ///
    /// # Panics
    /// When the bed has no router.
    pub fn by(bed: &Bed, range: &str, node: usize) {
        let router = bed.router.as_ref().expect("a bed with a router");
        let v6 = range.contains(':');
        let via = bed.nodes[node].addresses()[usize::from(v6)];
        run(router, &format!("ip route replace {range} via {via}"));
    }
}

fn run(netns: &Netns, command: &str) {
    netns.run(&command.split(' ').collect::<Vec<_>>());
}
