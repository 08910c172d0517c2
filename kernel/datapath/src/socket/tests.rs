use std::collections::{BTreeMap, BTreeSet};

use watari_abi::{Backend, FrontendKey, PortRangeKey, SocketKey, Talks, backend_flags};

use super::*;
use crate::desk::{Services, Shared, Socket};

const POD: u64 = 7;
const HOST: u64 = 8;
const STRANGER: u64 = 9;

fn v4(last: u8) -> Address {
    Address::v4(u32::from_ne_bytes([10, 0, 0, last]))
}

fn v6(last: u8) -> Address {
    let mut octets = [0; 16];
    (octets[0], octets[15]) = (0xfd, last);
    Address::from_octets(octets)
}

fn call(address: Address, port: u16, protocol: u8) -> Call {
    Call {
        address,
        port: port.to_be(),
        protocol,
    }
}

/// A node with a Service at 10.0.0.1 and `fd00::1`, port 80, TCP and UDP, of three backends for each
/// family.
struct Node {
    services: Services,
    clients: BTreeMap<u64, Client>,
    config: Config,
    now: u64,
    sockets: u64,
}

/// A socket between two calls.
#[derive(Clone)]
struct Open {
    cookie: u64,
    netns: u64,
    talks: Option<Shared<Talks>>,
}

impl Node {
    fn new() -> Self {
        let mut node = Self {
            services: Services::default(),
            clients: BTreeMap::new(),
            config: Config {
                flags: config_flags::SERVICES,
                v4: v4(250),
                v6: v6(250),
                ..Config::default()
            },
            now: 1_000_000_000_000,
            sockets: 0,
        };
        for number in 1..=3_u8 {
            for (address, number) in [(v4(100 + number), number), (v6(100 + number), 10 + number)] {
                let backend = Backend {
                    address,
                    port: 8080_u16.to_be(),
                    flags: backend_flags::READY,
                };
                node.services.backends.insert(u32::from(number), backend);
            }
        }
        node.services.put_set(1, &[1, 2, 3]);
        node.services.put_set(2, &[11, 12, 13]);
        for protocol in [TCP, UDP] {
            node.serve(v4(1), 80, protocol, frontend(u32::from(protocol), 1));
            node.serve(v6(1), 80, protocol, frontend(20 + u32::from(protocol), 2));
        }
        let pod = Client {
            v4: v4(20),
            v6: v6(20),
        };
        let host = Client {
            v4: node.config.v4,
            v6: node.config.v6,
        };
        node.clients.extend([(POD, pod), (HOST, host)]);
        node
    }

    fn serve(&mut self, address: Address, port: u16, protocol: u8, frontend: Frontend) {
        let key = FrontendKey {
            address,
            port: port.to_be(),
            protocol,
            pad: 0,
        };
        self.services.frontends.insert(key, frontend);
    }

    fn change(&mut self, change: impl Fn(&mut Frontend)) {
        self.services.frontends.values_mut().for_each(change);
    }

    fn open(&mut self, netns: u64) -> Open {
        self.sockets += 1;
        Open {
            cookie: self.sockets,
            netns,
            talks: None,
        }
    }

    fn at<T>(&mut self, open: &mut Open, what: impl FnOnce(&mut Socket<'_>) -> T) -> T {
        let mut socket = Socket {
            services: &mut self.services,
            clients: &self.clients,
            config: self.config,
            now: self.now,
            cookie: open.cookie,
            netns: open.netns,
            talks: open.talks.take(),
            counted: std::vec::Vec::new(),
        };
        let done = what(&mut socket);
        open.talks = socket.talks;
        done
    }

    fn connect(&mut self, open: &mut Open, to: &Call) -> Answer {
        self.at(open, |socket| connect(socket, to))
    }

    fn send(&mut self, open: &mut Open, to: &Call) -> Answer {
        self.at(open, |socket| send(socket, to))
    }

    fn seen(&mut self, open: &mut Open, peer: &Call) -> Option<(Address, u16)> {
        self.at(open, |socket| seen(socket, peer))
    }

    fn release(&mut self, open: &mut Open, protocol: u8) {
        self.at(open, |socket| release(socket, protocol));
    }
}

fn frontend(service: u32, set: u32) -> Frontend {
    Frontend {
        service,
        inside: set,
        outside: set,
        ..Frontend::default()
    }
}

fn given(answer: Answer, protocol: u8) -> Call {
    match answer {
        Answer::Redirected { address, port } => Call {
            address,
            port,
            protocol,
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_connection_goes_to_a_backend_and_the_process_sees_the_service() {
    for (service, protocol) in [(v4(1), TCP), (v6(1), TCP), (v4(1), UDP), (v6(1), UDP)] {
        let mut node = Node::new();
        let mut backends = BTreeSet::new();
        for _ in 0..100 {
            let mut socket = node.open(POD);
            let wanted = call(service, 80, protocol);
            let peer = given(node.connect(&mut socket, &wanted), protocol);
            assert_eq!(peer.port, 8080_u16.to_be());
            assert_eq!(
                node.seen(&mut socket, &peer),
                Some((wanted.address, wanted.port))
            );
            backends.insert(peer.address.octets());
            let elsewhere = call(v4(77), 8080, protocol);
            assert_eq!(node.seen(&mut socket, &elsewhere), None);
            node.release(&mut socket, protocol);
            assert!(node.services.sockets.is_empty());
        }
        assert_eq!(backends.len(), 3);
    }
}

#[test]
fn what_is_no_services_is_left_alone() {
    let mut node = Node::new();
    let mut socket = node.open(POD);
    let mut loopback = [0; 16];
    loopback[15] = 1;
    for (address, port, protocol) in [
        (v4(2), 80, TCP),
        (v4(1), 81, TCP),
        (v4(1), 80, 132),
        (v6(2), 80, UDP),
        (Address::v4(u32::from_ne_bytes([127, 0, 0, 1])), 80, TCP),
        (Address::from_octets(loopback), 80, TCP),
        (Address::UNSPECIFIED, 80, TCP),
    ] {
        let to = call(address, port, protocol);
        assert_eq!(node.connect(&mut socket, &to), Answer::Untouched);
        assert_eq!(node.send(&mut socket, &to), Answer::Untouched);
    }
    assert!(node.services.sockets.is_empty() && socket.talks.is_none());
    // Nor is anything, without Services.
    node.config.flags = 0;
    let service = call(v4(1), 80, TCP);
    assert_eq!(node.connect(&mut socket, &service), Answer::Untouched);
}

#[test]
fn a_datagram_socket_stays_with_its_backend_while_that_takes_connections() {
    let mut node = Node::new();
    let mut socket = node.open(POD);
    let to = call(v4(1), 80, UDP);
    let first = given(node.send(&mut socket, &to), UDP);
    for _ in 0..50 {
        assert_eq!(given(node.send(&mut socket, &to), UDP), first);
    }
    let number = node.services.sockets.iter().next().unwrap().1.backend;
    node.services
        .backends
        .entry(number)
        .and_modify(|backend| backend.flags = 0);
    let others: std::vec::Vec<u32> = (1..=3).filter(|other| *other != number).collect();
    node.services.put_set(1, &others);
    let second = given(node.send(&mut socket, &to), UDP);
    assert_ne!(second, first);
    assert_eq!(node.services.sockets.len(), 1, "the first is forgotten");
    assert_eq!(given(node.send(&mut socket, &to), UDP), second);
    node.release(&mut socket, UDP);
    assert!(node.services.sockets.is_empty());
}

#[test]
fn user_space_ends_a_datagram_sockets_stay_by_removing_its_entry() {
    let mut node = Node::new();
    let mut socket = node.open(POD);
    let to = call(v4(1), 80, UDP);
    let mut got = BTreeSet::new();
    for _ in 0..64 {
        let peer = given(node.send(&mut socket, &to), UDP);
        got.insert(peer.address.octets());
        // Late answers are still the Service's.
        let key = *node.services.sockets.iter().next().unwrap().0;
        node.services.sockets.remove(&key);
        let seen = node.seen(&mut socket, &peer);
        assert_eq!(seen, Some((to.address, to.port)));
    }
    assert_eq!(got.len(), 3);
}

#[test]
fn a_number_that_is_another_backends_now_is_not_used() {
    let mut node = Node::new();
    let mut socket = node.open(POD);
    let to = call(v4(1), 80, UDP);
    let first = given(node.send(&mut socket, &to), UDP);
    let number = node.services.sockets.iter().next().unwrap().1.backend;
    node.services
        .backends
        .entry(number)
        .and_modify(|backend| backend.address = v4(150));
    let second = given(node.send(&mut socket, &to), UDP);
    assert_ne!(second, first);
}

#[test]
fn a_socket_talks_to_several_services_and_forgets_the_oldest() {
    let mut node = Node::new();
    for last in 30..40 {
        node.serve(v4(last), 53, UDP, frontend(u32::from(last), 1));
    }
    let mut socket = node.open(POD);
    let mut peers = std::vec::Vec::new();
    for last in 30..34 {
        peers.push(given(node.send(&mut socket, &call(v4(last), 53, UDP)), UDP));
    }
    for (last, peer) in (30..34).zip(&peers) {
        // Two Services with one backend are told apart by nobody: the last wins.
        if peers.iter().filter(|other| *other == peer).count() == 1 {
            let again = given(node.send(&mut socket, &call(v4(last), 53, UDP)), UDP);
            assert_eq!(again, *peer);
        }
    }
    for last in 34..40 {
        given(node.send(&mut socket, &call(v4(last), 53, UDP)), UDP);
    }
    assert!(node.services.sockets.len() <= Talks::MOST);
    node.release(&mut socket, UDP);
    assert!(node.services.sockets.is_empty());
}

#[test]
fn a_connection_that_failed_leaves_nothing_behind() {
    let mut node = Node::new();
    let mut socket = node.open(POD);
    let to = call(v4(1), 80, TCP);
    for _ in 0..5 {
        given(node.connect(&mut socket, &to), TCP);
        assert_eq!(node.services.sockets.len(), 1);
    }
    node.release(&mut socket, TCP);
    assert!(node.services.sockets.is_empty());
}

#[test]
fn a_socket_that_is_connected_to_somebody_else_since_is_told_so() {
    let mut node = Node::new();
    let mut socket = node.open(POD);
    given(node.connect(&mut socket, &call(v4(1), 80, TCP)), TCP);
    let other = call(v4(60), 443, TCP);
    assert_eq!(node.connect(&mut socket, &other), Answer::Untouched);
    assert_eq!(node.seen(&mut socket, &other), None);
}

#[test]
fn a_client_is_known_by_the_address_that_its_packets_have() {
    let mut node = Node::new();
    node.change(|frontend| frontend.affinity = 60);
    for (netns, v4_client, v6_client) in [
        (POD, v4(20), v6(20)),
        (HOST, v4(250), v6(250)),
        (
            STRANGER,
            Address::v6([u32::MAX, u32::MAX, 9, 0]),
            Address::v6([u32::MAX, u32::MAX, 9, 0]),
        ),
    ] {
        for (service, client, number) in [(v4(1), v4_client, 6), (v6(1), v6_client, 26)] {
            let mut socket = node.open(netns);
            let to = call(service, 80, TCP);
            let peer = given(node.connect(&mut socket, &to), TCP);
            let key = watari_abi::AffinityKey {
                client,
                service: number,
            };
            let affinity = node.services.affinity(&key).unwrap();
            let backend = node.services.backends[&affinity.backend];
            assert_eq!(backend.address, peer.address);
            for _ in 0..20 {
                let mut socket = node.open(netns);
                assert_eq!(given(node.connect(&mut socket, &to), TCP), peer);
            }
        }
    }
}

#[test]
fn without_a_backend_the_node_is_told_and_a_pods_packet_goes_on() {
    let mut node = Node::new();
    node.services.put_set(1, &[]);
    for protocol in [TCP, UDP] {
        let to = call(v4(1), 80, protocol);
        for (netns, answer) in [
            (POD, Answer::Untouched),
            (STRANGER, Answer::Untouched),
            (HOST, Answer::Refused(Refusal::NoEndpoint)),
        ] {
            let mut socket = node.open(netns);
            assert_eq!(node.connect(&mut socket, &to), answer);
        }
    }
    node.change(|frontend| frontend.flags = frontend_flags::INSIDE_DROPS);
    let mut socket = node.open(HOST);
    let answer = node.connect(&mut socket, &call(v4(1), 80, TCP));
    assert_eq!(answer, Answer::Refused(Refusal::Dropped));
}

#[test]
fn a_service_with_source_ranges_takes_only_its_clients() {
    let mut node = Node::new();
    node.change(|frontend| frontend.flags = frontend_flags::SOURCE_RANGES);
    let allow = |node: &mut Node, address: Address, length: u32| {
        node.services.source_ranges = std::vec![watari_abi::SourceRangeKey {
            length: 32 + length,
            service: u32::from(TCP),
            address,
        }];
    };
    let to = call(v4(1), 80, TCP);
    allow(&mut node, v4(20), 128);
    for (netns, answer) in [
        (STRANGER, Answer::Untouched),
        (HOST, Answer::Refused(Refusal::Dropped)),
    ] {
        let mut socket = node.open(netns);
        assert_eq!(node.connect(&mut socket, &to), answer);
    }
    let mut socket = node.open(POD);
    given(node.connect(&mut socket, &to), TCP);
    allow(&mut node, v4(240), 96 + 28);
    let mut socket = node.open(POD);
    assert_eq!(node.connect(&mut socket, &to), Answer::Untouched);
    let mut socket = node.open(HOST);
    given(node.connect(&mut socket, &to), TCP);
}

#[test]
fn the_node_is_nobody_while_it_has_no_address() {
    let nobody = Client::default();
    assert!(!is_nodes(&nobody, &Config::default()));
}

#[test]
fn a_port_of_a_range_goes_to_the_backends_same_port() {
    let mut node = Node::new();
    let address = FrontendKey {
        address: v4(1),
        ..FrontendKey::default()
    };
    let entry = Frontend {
        flags: frontend_flags::HAS_RANGES,
        ..Frontend::default()
    };
    node.services.frontends.insert(address, entry);
    let range = PortRangeKey {
        length: 136,
        address: v4(1),
        protocol: TCP,
        ..PortRangeKey::default()
    };
    let frontend = Frontend {
        flags: frontend_flags::KEEPS_PORT,
        ..frontend(40, 1)
    };
    node.services.port_ranges.insert(range, frontend);
    let mut socket = node.open(POD);
    let to = call(v4(1), 5000, TCP);
    assert_eq!(node.connect(&mut socket, &to), Answer::Untouched);
    node.config.flags |= config_flags::PORT_RANGES;
    let peer = given(node.connect(&mut socket, &to), TCP);
    assert_eq!(peer.port, to.port);
    let seen = node.seen(&mut socket, &peer);
    assert_eq!(seen, Some((to.address, to.port)));
}

#[test]
fn connections_are_counted_while_they_last() {
    let mut node = Node::new();
    node.change(|frontend| frontend.flags = frontend_flags::LEAST_CONNECTIONS);
    for protocol in [TCP, UDP] {
        let to = call(v4(1), 80, protocol);
        let mut sockets = std::vec::Vec::new();
        for _ in 0..300 {
            let mut socket = node.open(POD);
            given(node.connect(&mut socket, &to), protocol);
            // Once more on the same one.
            given(node.connect(&mut socket, &to), protocol);
            sockets.push(socket);
        }
        let loads = [1, 2, 3].map(|number| node.services.load_of(number));
        assert_eq!(loads.iter().sum::<u64>(), 300, "{loads:?}");
        assert!(loads.iter().all(|load| *load > 80), "{loads:?}");
        // What the Service is from now on changes nothing of what was counted.
        node.change(|frontend| frontend.flags = 0);
        for mut socket in sockets {
            node.release(&mut socket, protocol);
        }
        let loads = [1, 2, 3].map(|number| node.services.load_of(number));
        assert_eq!(loads, [0; 3]);
        node.change(|frontend| frontend.flags = frontend_flags::LEAST_CONNECTIONS);
    }
}

#[test]
fn a_packet_tells_what_its_socket_asked_for() {
    let mut node = Node::new();
    for protocol in [TCP, UDP] {
        let mut socket = node.open(POD);
        let to = call(v4(1), 80, protocol);
        let peer = given(node.connect(&mut socket, &to), protocol);
        let packet = Tuple {
            source: v4(20),
            destination: peer.address,
            source_port: 1,
            destination_port: peer.port,
            protocol,
            pad: [0; 3],
        };
        let found = asked(&node.services, socket.cookie, &packet).unwrap();
        assert_eq!((found.address, found.port), (to.address, to.port));
        assert_eq!(found.service, u32::from(protocol));
        assert_eq!(asked(&node.services, 99, &packet), None);
        let elsewhere = Tuple {
            destination: v4(60),
            ..packet
        };
        assert_eq!(asked(&node.services, socket.cookie, &elsewhere), None);
    }
    assert_eq!(SocketKey::default().pad, [0; 5]);
}
