//! A pod's links that somebody changed, found and repaired on a real kernel, and what the kernel
//! tells of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::fd::AsRawFd;
use std::time::Duration;

use ipnet::IpNet;
use watari_model::{Attachment, ContainerId, HostPrefix, IfName, NetworkName};
use watari_netlink::{Event, Handle, Monitor, Netns, create, inspect, repair};
use watari_plan::{Transparent, differences, transparent};
use watari_tables::{Endpoint, LinkTables};
use watari_testkit::{Netns as TestNetns, wait_until};

struct Place {
    node: TestNetns,
    pod: TestNetns,
    endpoint: Endpoint,
}

impl Place {
    fn new() -> Self {
        let (node, pod) = (TestNetns::new("node"), TestNetns::new("pod"));
        let addresses = ["10.240.0.88/16", "fd00::88/64"];
        let addresses: Vec<IpNet> = addresses.iter().map(|net| net.parse().unwrap()).collect();
        let endpoint = transparent(&Transparent {
            network: &NetworkName::new("azure").unwrap(),
            attachment: &Attachment {
                container: ContainerId::new("c1").unwrap(),
                ifname: IfName::new("eth0").unwrap(),
            },
            prefix: &HostPrefix::default(),
            mtu: 1400,
            pod_mac: None,
            addresses: &addresses,
            destinations: &[],
            ipv6: true,
        });
        let opened = Netns::open(pod.path()).unwrap();
        node.run(&["ip", "address", "add", "10.240.0.4/32", "dev", "lo"]);
        node.run(&["ip", "address", "add", "fd00::4/128", "dev", "lo"]);
        node.enter(|| {
            for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
            }
            create(&endpoint, &mut Handle::open().unwrap(), &opened).unwrap();
        });
        Self {
            node,
            pod,
            endpoint,
        }
    }

    /// Repairs a side and gives what was wrong with it before; it must be well after.
    fn repair(place: &TestNetns, desired: &LinkTables) -> Vec<String> {
        place.enter(|| {
            let mut handle = Handle::open().unwrap();
            let observed = inspect(&mut handle, desired).unwrap().unwrap();
            let found = differences(desired, Some(&observed.tables));
            let mut words: Vec<String> = found
                .iter()
                .filter(|difference| difference.is_loss())
                .map(ToString::to_string)
                .collect();
            if !observed.up {
                words.push("down".to_owned());
            }
            repair(&mut handle, desired, &observed).unwrap();
            let after = inspect(&mut handle, desired).unwrap().unwrap();
            let left = differences(desired, Some(&after.tables));
            let left: Vec<_> = left.iter().filter(|left| left.is_loss()).collect();
            assert!(left.is_empty() && after.up, "{left:?}, up {}", after.up);
            words
        })
    }

    fn host(&self) -> &str {
        self.endpoint.host.name.as_str()
    }

    fn ping(&self) {
        for (from, to) in [("10.240.0.88", "10.240.0.4"), ("fd00::88", "fd00::4")] {
            self.pod.run(&["ping", "-c1", "-W2", "-I", from, to]);
        }
    }
}

fn contain(found: &[String], wanted: &[&str]) {
    for words in wanted {
        assert!(
            found.iter().any(|found| found.contains(words)),
            "{words:?} is not in {found:#?}"
        );
    }
}

#[test]
fn the_nodes_side_gets_back_what_it_lost() {
    let place = Place::new();
    let host = place.host();
    assert_eq!(
        Place::repair(&place.node, &place.endpoint.host),
        [""; 0],
        "a new pod needs no repair"
    );
    for words in [
        format!("ip link set {host} mtu 1300"),
        format!("ip link set {host} alias other"),
        format!("ip link set {host} address 02:00:00:00:00:09"),
        "ip route del 10.240.0.88".to_owned(),
        "ip -6 route del fd00::88".to_owned(),
        format!("ip neigh replace 10.240.0.88 lladdr 02:00:00:00:00:08 dev {host} nud permanent"),
        format!("ip -6 neigh del proxy fe80::1234:5678:9abc dev {host}"),
    ] {
        place.node.run(&words.split(' ').collect::<Vec<_>>());
    }
    place.node.enter(|| {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{host}/proxy_arp"), "0").unwrap();
    });
    let found = Place::repair(&place.node, &place.endpoint.host);
    contain(
        &found,
        &[
            "MTU is 1300, should be 1400",
            "alias is",
            "MAC is 02:00:00:00:00:09",
            "route 10.240.0.88/32 is missing",
            "route fd00::88/128 is missing",
            "permanent neighbour 10.240.0.88",
            "proxy neighbour fe80::1234:5678:9abc is missing",
            "proxy_arp = 1 is missing",
        ],
    );
    place.ping();
    // Down takes the routes with it.
    place.node.run(&["ip", "link", "set", host, "down"]);
    let found = Place::repair(&place.node, &place.endpoint.host);
    contain(&found, &["down", "route 10.240.0.88/32 is missing"]);
    place.ping();
    // So small that there is no IPv6 any more.
    place.node.run(&["ip", "link", "set", host, "mtu", "1000"]);
    let found = Place::repair(&place.node, &place.endpoint.host);
    contain(&found, &["MTU is 1000", "addr_gen_mode = 1 is missing"]);
    place.ping();
}

#[test]
fn the_pods_side_gets_back_what_it_lost_and_keeps_what_it_added() {
    let place = Place::new();
    for words in [
        "ip address del 10.240.0.88/16 dev eth0",
        "ip address add 192.0.2.9/32 dev eth0",
        "ip -6 address flush dev eth0 scope global",
        "ip neigh flush dev eth0 nud permanent",
        "ip -6 route del default",
        "ip route replace default dev eth0",
    ] {
        place.pod.run(&words.split(' ').collect::<Vec<_>>());
    }
    let found = Place::repair(&place.pod, &place.endpoint.pod);
    contain(
        &found,
        &[
            "address 10.240.0.88/16 is missing",
            "address fd00::88/64 is missing",
            "route 0.0.0.0/0 via 169.254.1.1 is missing",
            "route ::/0 via fe80::1234:5678:9abc is missing",
            "permanent neighbour 169.254.1.1",
        ],
    );
    let addresses = place.pod.run(&["ip", "address", "show", "dev", "eth0"]);
    assert!(addresses.contains("192.0.2.9"), "{addresses}");
    place.ping();
    place.pod.run(&["ip", "link", "set", "eth0", "down"]);
    Place::repair(&place.pod, &place.endpoint.pod);
    place.ping();
}

#[test]
fn a_snapshot_shows_each_link_as_a_look_at_it_alone() {
    let place = Place::new();
    place.node.enter(|| {
        let mut handle = Handle::open().unwrap();
        let alone = inspect(&mut handle, &place.endpoint.host).unwrap();
        let snapshot = handle.snapshot().unwrap();
        assert_eq!(snapshot.observed(&place.endpoint.host).unwrap(), alone);
        assert_eq!(snapshot.observed(&place.endpoint.pod).unwrap(), None);
        assert!(alone.is_some());
    });
}

#[test]
fn the_kernel_tells_of_each_kind_of_change() {
    let place = Place::new();
    let host = place.host();
    place.node.enter(|| {
        let index = Handle::open()
            .unwrap()
            .link(&place.endpoint.host.name)
            .unwrap()
            .unwrap()
            .index;
        let mut monitor = Monitor::open().unwrap();
        assert!(monitor.as_raw_fd() >= 0);
        assert_eq!(monitor.read().unwrap(), [], "nothing changed yet");
        let mut expect = |words: &str, is: &dyn Fn(&Event) -> bool| {
            watari_testkit::run(&words.split(' ').collect::<Vec<_>>());
            let mut seen = Vec::new();
            wait_until(Duration::from_secs(5), words, || {
                seen.extend(monitor.read().unwrap());
                seen.iter().any(is)
            });
        };
        expect(
            &format!("ip link set {host} mtu 1300"),
            &|event| matches!(event, Event::Link { index: at, gone: false, .. } if *at == index),
        );
        expect(
            &format!("ip address add 192.0.2.1/32 dev {host}"),
            &|event| *event == Event::Address(index),
        );
        expect("ip route del 10.240.0.88", &|event| {
            *event == Event::Route(Some(index))
        });
        expect("ip -6 route del fd00::88", &|event| {
            *event == Event::Route(Some(index))
        });
        expect(&format!("ip neigh del 10.240.0.88 dev {host}"), &|event| {
            *event == Event::Neighbour(index)
        });
        expect(&format!("ip link del {host}"), &|event| {
            matches!(event, Event::Link { index: at, gone: true, name } if *at == index
                && name.as_ref() == Some(&place.endpoint.host.name))
        });
    });
}
