//! The way out on a real kernel: a pod, its node, and a world beyond it that knows the way to the
//! pod, so that whatever leaves without being masqueraded is answered and seen.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use watari_nft::masquerade::Masquerading;
use watari_tables::{Masquerade, Ranges};
use watari_testkit::{Netns, wait_until};

const PATIENCE: Duration = Duration::from_secs(10);
/// Towards the world, IPv4 then IPv6.
const NODE: [&str; 2] = ["10.1.0.1", "fd01::1"];
const POD: [&str; 2] = ["10.244.1.2", "fd44:1::2"];
/// Another pod of the same node, which is not in the ranges.
const STRANGER: [&str; 2] = ["10.99.0.2", "fd99::2"];
/// Where the world answers: masqueraded, and excepted.
const OUTSIDE: [&str; 2] = ["198.51.100.1", "2001:db8:1::1"];
const EXCEPTED: [&str; 2] = ["203.0.113.1", "2001:db8:2::1"];
const PORT: u16 = 7;

struct Place {
    world: Netns,
    node: Netns,
    pod: Netns,
    stranger: Netns,
}

fn ip(ns: &Netns, lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = ["ip"].into_iter().chain(line.split_whitespace()).collect();
        ns.run(&words);
    }
}

impl Place {
    fn new() -> Self {
        let (world, node) = (Netns::new("world"), Netns::new("node"));
        let peer = world.path().display();
        ip(
            &node,
            &format!(
                "link add up0 type veth peer name eth0 netns {peer}
                 addr add {}/24 dev up0
                 addr add {}/64 dev up0 nodad
                 link set up0 up
                 ",
                NODE[0], NODE[1]
            ),
        );
        for address in [OUTSIDE, EXCEPTED].concat() {
            ip(&world, &format!("addr add {address} dev lo"));
        }
        ip(
            &world,
            &format!(
                "addr add 10.1.0.2/24 dev eth0
                 addr add fd01::2/64 dev eth0 nodad
                 link set eth0 up
                 route add default via {}
                 route add default via {}",
                NODE[0], NODE[1]
            ),
        );
        ip(
            &node,
            "route add default via 10.1.0.2\nroute add default via fd01::2",
        );
        node.enter(|| {
            for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
            }
        });
        let pod = pod(&node, "azv1", POD);
        let stranger = pod_of_nobody(&node);
        Self {
            world,
            node,
            pod,
            stranger,
        }
    }

    /// Whom the world sees when `from` asks at an address.
    fn seen(&self, from: &Netns, address: &str) -> IpAddr {
        let listener = self
            .world
            .enter(|| TcpListener::bind((address, PORT)).unwrap());
        let address: IpAddr = address.parse().unwrap();
        let to = SocketAddr::new(address, PORT);
        let _client = from.enter(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap());
        listener.accept().unwrap().1.ip()
    }

    /// The same by a datagram.
    fn seen_by_udp(&self, from: &Netns, address: &str) -> IpAddr {
        let server = self
            .world
            .enter(|| UdpSocket::bind((address, PORT)).unwrap());
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let any = if address.contains(':') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let client = from.enter(|| UdpSocket::bind(any).unwrap());
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.connect((address, PORT)).unwrap();
        client.send(b"x").unwrap();
        let (_, peer) = server.recv_from(&mut [0; 8]).unwrap();
        server.send_to(b"y", peer).unwrap();
        client.recv(&mut [0; 8]).unwrap();
        peer.ip()
    }

    fn on_node<T: Send>(&self, work: impl FnOnce(&mut Masquerading) -> T + Send) -> T {
        self.node.enter(|| work(&mut Masquerading::open().unwrap()))
    }

    fn set(&self, wanted: &Masquerade) -> Vec<String> {
        self.on_node(|masquerading| masquerading.set(wanted).unwrap())
    }

    fn ruleset(&self) -> String {
        self.node.run(&["nft", "list", "ruleset"])
    }
}

fn pod(node: &Netns, link: &str, addresses: [&str; 2]) -> Netns {
    let pod = Netns::new("pod");
    let peer = pod.path().display();
    let [v4, v6] = addresses;
    ip(
        node,
        &format!(
            "link add {link} type veth peer name eth0 netns {peer}
             addr add fe80::1/64 dev {link} nodad
             link set {link} up
             route add {v4} dev {link}
             route add {v6} dev {link}"
        ),
    );
    let gateway = NODE[0];
    ip(
        &pod,
        &format!(
            "link set eth0 up
             addr add {v4}/32 dev eth0
             addr add {v6}/128 dev eth0 nodad
             route add {gateway} dev eth0
             route add default via {gateway}
             route add default via fe80::1 dev eth0"
        ),
    );
    pod
}

fn pod_of_nobody(node: &Netns) -> Netns {
    pod(node, "azv2", STRANGER)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn table(exceptions: &[&str]) -> Masquerade {
    let nets = |texts: &[&str]| {
        let net = |text: &&str| text.parse::<IpNet>().unwrap();
        texts.iter().map(net).collect()
    };
    Masquerade {
        pods: nets(&["10.244.1.0/24", "fd44:1::/64"]),
        exceptions: nets(exceptions),
    }
}

const EXCEPTIONS: [&str; 4] = [
    "10.0.0.0/8",
    "203.0.113.0/24",
    "fd00::/8",
    "2001:db8:2::/48",
];

#[test]
fn what_is_excepted_is_not_masqueraded_and_all_else_is() {
    let place = Place::new();
    // Before, the world sees the pod itself.
    for family in [0, 1] {
        assert_eq!(
            place.seen(&place.pod, OUTSIDE[family]),
            address(POD[family])
        );
    }
    let told = place.set(&table(&EXCEPTIONS));
    assert_eq!(told, ["table inet watari-masquerade is missing"]);
    for family in [0, 1] {
        let (own, node) = (address(POD[family]), address(NODE[family]));
        let stranger = address(STRANGER[family]);
        assert_eq!(place.seen(&place.pod, OUTSIDE[family]), node);
        assert_eq!(place.seen(&place.pod, EXCEPTED[family]), own);
        assert_eq!(place.seen_by_udp(&place.pod, OUTSIDE[family]), node);
        assert_eq!(place.seen_by_udp(&place.pod, EXCEPTED[family]), own);
        assert_eq!(place.seen(&place.stranger, OUTSIDE[family]), stranger);
        assert_eq!(place.seen(&place.node, OUTSIDE[family]), node);
    }
    // As an operator sees it.
    let shown = place.ruleset();
    for line in [
        "elements = { 10.244.1.0/24 }",
        "ip saddr @pods4 ip daddr != @exceptions4 masquerade fully-random",
        "ip6 saddr @pods6 ip6 daddr != @exceptions6 masquerade fully-random",
        "type nat hook postrouting priority srcnat; policy accept;",
    ] {
        assert!(shown.contains(line), "{line} in\n{shown}");
    }
}

#[test]
fn it_is_written_once_and_observed_as_written() {
    let place = Place::new();
    // Numbers of all that is there: what is made anew gets another.
    let handles = || {
        let shown = place.node.run(&["nft", "-a", "list", "ruleset"]);
        let lines = shown.lines().filter(|line| line.contains("# handle"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let wanted = table(&[&EXCEPTIONS[..], &["224.0.0.0/3", "::/96", "ff00::/8"]].concat());
    assert_eq!(place.on_node(|m| m.observe().unwrap()), None);
    place.set(&wanted);
    assert_eq!(
        place.on_node(|m| m.observe().unwrap()),
        Some(wanted.clone())
    );
    let before = handles();
    assert_eq!(place.set(&wanted), [""; 0]);
    assert_eq!(handles(), before);
}

#[test]
fn whatever_somebody_does_to_it_is_told_and_taken_back() {
    let place = Place::new();
    let wanted = table(&EXCEPTIONS);
    place.set(&wanted);
    for (damage, told) in [
        (
            "delete element inet watari-masquerade pods4 { 10.244.1.0/24 }",
            "pods: 10.244.1.0-10.244.1.255 missing",
        ),
        (
            "add element inet watari-masquerade exceptions4 { 192.0.2.0/24 }",
            "exceptions: 192.0.2.0-192.0.2.255 too much",
        ),
        (
            "flush chain inet watari-masquerade postrouting",
            "chain postrouting has 0 rules instead of 2",
        ),
        (
            "insert rule inet watari-masquerade postrouting accept",
            "chain postrouting has 3 rules instead of 2",
        ),
        (
            "delete table inet watari-masquerade",
            "table inet watari-masquerade is missing",
        ),
        (
            "flush chain inet watari-masquerade postrouting; delete chain inet watari-masquerade postrouting",
            "chain postrouting is missing",
        ),
    ] {
        place.node.run(&["nft", damage]);
        let differences = place.set(&wanted);
        assert!(
            differences.iter().any(|one| one == told),
            "{damage}: {differences:?}"
        );
        assert_eq!(
            place.on_node(|m| m.differences(&wanted).unwrap()),
            [""; 0],
            "{damage}"
        );
    }
}

#[test]
fn it_is_removed_without_trace_and_tables_of_others_stay() {
    let place = Place::new();
    let wanted = table(&EXCEPTIONS);
    assert!(!place.on_node(|m| m.remove().unwrap()));
    place.node.run(&["nft", "add table inet mine"]);
    let mine = place.ruleset();
    place.set(&wanted);
    assert!(place.on_node(|m| m.remove().unwrap()));
    assert_eq!(place.ruleset(), mine);
    // Without pods there is no table.
    assert_eq!(place.set(&Masquerade::default()), [""; 0]);
    place.set(&wanted);
    let none = Masquerade {
        pods: Ranges::default(),
        ..wanted
    };
    assert_eq!(place.set(&none).len(), 1);
    assert_eq!(place.ruleset(), mine);
}

#[test]
fn the_ranges_of_a_large_cluster_fit() {
    let node = Netns::new("node");
    let ranges = (0..5_000_u32).flat_map(|at| {
        let v4 = |low: u32| IpAddr::V4((0x0a00_0000 + at * 512 + low).into());
        let v6 = |low: u128| IpAddr::V6(((0xfd44 << 112) + (u128::from(at) << 65) + low).into());
        [(v4(0), v4(255)), (v6(0), v6(255))]
    });
    let wanted = Masquerade {
        exceptions: ranges.collect(),
        ..table(&[])
    };
    assert_eq!(wanted.exceptions.iter().count(), 10_000);
    node.enter(|| {
        let mut masquerading = Masquerading::open().unwrap();
        masquerading.set(&wanted).unwrap();
        assert_eq!(masquerading.observe().unwrap(), Some(wanted.clone()));
        assert_eq!(masquerading.set(&wanted).unwrap(), [""; 0]);
    });
}

#[test]
fn no_connection_slips_through_while_it_is_replaced() {
    let place = Place::new();
    let variants = [table(&EXCEPTIONS), table(&EXCEPTIONS[1..])];
    place.set(&variants[0]);
    let stop = AtomicBool::new(false);
    let (listener, echo) = place.world.enter(|| {
        let bind = |port| TcpListener::bind((OUTSIDE[0], port)).unwrap();
        (bind(PORT), bind(PORT + 1))
    });
    listener.set_nonblocking(true).unwrap();
    let at = |port| SocketAddr::new(address(OUTSIDE[0]), port);
    // One that stands all the while.
    let mut standing = place
        .pod
        .enter(|| TcpStream::connect_timeout(&at(PORT + 1), PATIENCE).unwrap());
    standing.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut echoed, _) = echo.accept().unwrap();
    let mut say = |word: &[u8; 4]| {
        standing.write_all(word).unwrap();
        let mut heard = [0; 4];
        echoed.read_exact(&mut heard).unwrap();
        echoed.write_all(&heard).unwrap();
        standing.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, word);
    };
    let mut seen = BTreeSet::new();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut made = 0_u32;
            place.pod.enter(|| {
                while !stop.load(Ordering::Relaxed) {
                    TcpStream::connect_timeout(&at(PORT), PATIENCE).unwrap();
                    made += 1;
                }
            });
            made
        });
        let mut accepted = 0;
        // How many there were until now.
        let mut accept = || loop {
            match listener.accept() {
                Ok((_, peer)) => {
                    seen.insert(peer.ip());
                    accepted += 1;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return accepted,
                Err(error) => panic!("{error}"),
            }
        };
        for round in 0..300 {
            let differences = place.set(&variants[(round + 1) % 2]);
            assert_eq!(differences.len(), 1, "{differences:?}");
            say(b"word");
            accept();
        }
        stop.store(true, Ordering::Relaxed);
        let made = client.join().unwrap();
        wait_until(PATIENCE, "all connections to be accepted", || {
            accept() == made
        });
        assert!(made > 300, "{made} connections in 300 replacements");
    });
    assert_eq!(seen, BTreeSet::from([address(NODE[0])]));
}
