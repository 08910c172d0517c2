//! Where the kernel's routes lead packets that come in by a link, or are the node's own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;

use watari_model::IfName;
use watari_netlink::{Forwarded, Handle, Refusal, Way};
use watari_testkit::Netns;

/// A node that forwards between a pod behind `pod` and others behind `uplink`.
fn node() -> Netns {
    let node = Netns::new("node");
    for setting in [
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.default.rp_filter=0",
    ] {
        node.run(&["sysctl", "-qw", setting]);
    }
    for line in [
        "link add pod type veth peer other0",
        "link add uplink type veth peer other1",
        "link set pod up",
        "link set uplink up",
        "link set other0 up",
        "link set other1 up",
        "address add 10.1.0.4/24 dev uplink",
        "address add fd01::4/64 dev uplink nodad",
        "route add 10.9.0.1 dev pod",
        "route add fd09::1 dev pod",
        "route add 10.9.1.0/24 via 10.1.0.5 mtu lock 1400",
        "route add fd09:1::/64 via fd01::5 mtu 1400",
        "route add 10.9.2.0/24 via 10.1.0.5 mtu 1300",
        "route add blackhole 10.9.9.0/24",
        "route add unreachable fd09:9::/64",
        "route add prohibit 10.9.8.0/24",
    ] {
        let words: Vec<&str> = ["ip"].into_iter().chain(line.split(' ')).collect();
        node.run(&words);
    }
    node
}

struct Asked<'a> {
    handle: &'a mut Handle,
    pod: u32,
}

impl Asked<'_> {
    fn forwarded(&mut self, source: &str, destination: &str) -> Way {
        let packet = Forwarded {
            source: Some(source.parse().unwrap()),
            destination: destination.parse().unwrap(),
            from_link: Some(self.pod),
        };
        self.handle.way(&packet).unwrap()
    }

    fn by_program(&mut self, source: &str, destination: &str) -> Way {
        let packet = Forwarded {
            source: Some(source.parse().unwrap()),
            destination: destination.parse().unwrap(),
            from_link: Some(self.pod),
        };
        self.handle.way_of_program(&packet).unwrap()
    }
}

fn within(node: &Netns, work: impl FnOnce(&mut Asked<'_>, u32) + Send) {
    node.enter(|| {
        let mut handle = Handle::open().unwrap();
        let index = |handle: &mut Handle, name: &str| {
            let found = handle.link(&IfName::new(name).unwrap()).unwrap();
            found.unwrap().index
        };
        let (pod, up) = (index(&mut handle, "pod"), index(&mut handle, "uplink"));
        let handle = &mut handle;
        work(&mut Asked { handle, pod }, up);
    });
}

fn out(index: u32, via: &str, mtu: Option<u32>) -> Way {
    Way::Out {
        index,
        via: Some(via.parse::<IpAddr>().unwrap()),
        mtu,
        source: None,
    }
}

#[test]
fn what_comes_in_goes_where_the_routes_lead() {
    within(&node(), |ask, up| {
        let way = ask.forwarded("10.9.0.1", "10.9.1.7");
        assert_eq!(way, out(up, "10.1.0.5", Some(1400)));
        let way = ask.forwarded("fd09::1", "fd09:1::7");
        assert_eq!(way, out(up, "fd01::5", Some(1400)));
        // For packets of others, IPv4 heeds an MTU only where it is locked.
        let way = ask.forwarded("10.9.0.1", "10.9.2.7");
        assert_eq!(way, out(up, "10.1.0.5", None));
        assert_eq!(ask.forwarded("10.9.0.1", "10.1.0.4"), Way::Local);
        assert_eq!(ask.forwarded("fd09::1", "fd01::4"), Way::Local);
        let on_link = ask.forwarded("10.9.0.1", "10.1.0.77");
        assert!(
            matches!(on_link, Way::Out { index, via: None, .. } if index == up),
            "{on_link:?}"
        );
    });
}

#[test]
fn why_a_packet_goes_nowhere_is_said() {
    let node = node();
    within(&node, |ask, _| {
        let refusals = [
            ("10.9.0.1", "10.9.9.1", Refusal::Blackhole),
            ("10.9.0.1", "10.9.8.1", Refusal::Prohibited),
            ("10.9.0.1", "192.0.2.1", Refusal::NoRoute),
            ("fd09::1", "fd09:9::1", Refusal::Unreachable),
            ("fd09::1", "2001:db8::1", Refusal::NoRoute),
        ];
        for (source, destination, refusal) in refusals {
            let way = ask.forwarded(source, destination);
            assert_eq!(way, Way::Refused(refusal), "{source} to {destination}");
            assert_eq!(ask.by_program(source, destination), Way::Refused(refusal));
        }
    });
    node.run(&["sysctl", "-qw", "net.ipv4.conf.pod.forwarding=0"]);
    within(&node, |ask, _| {
        let way = ask.forwarded("10.9.0.1", "10.9.1.7");
        assert_eq!(way, Way::Refused(Refusal::NotForwarding));
        let way = ask.by_program("10.9.0.1", "10.9.1.7");
        assert_eq!(way, Way::Refused(Refusal::NotForwarding));
    });
}

#[test]
fn only_the_stack_asks_where_a_source_belongs() {
    let node = node();
    node.run(&["sysctl", "-qw", "net.ipv4.conf.pod.rp_filter=1"]);
    within(&node, |ask, up| {
        let way = ask.forwarded("10.9.0.99", "10.9.1.7");
        assert_eq!(way, Way::Refused(Refusal::Source));
        let way = ask.by_program("10.9.0.99", "10.9.1.7");
        assert!(
            matches!(way, Way::Out { index, mtu: Some(1400), .. } if index == up),
            "{way:?}"
        );
    });
}

#[test]
fn the_nodes_own_way_is_found_in_both_families() {
    within(&node(), |ask, up| {
        for destination in ["10.9.1.7", "fd09:1::7"] {
            let found = ask.handle.route_to(destination.parse().unwrap()).unwrap();
            assert_eq!(found.map(|to| to.index), Some(up), "{destination}");
        }
    });
}
