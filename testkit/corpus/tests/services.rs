//! What holds for any packet of a Service, on the desk.

use proptest::prelude::*;
use watari_abi::{Hook, frontend_flags};
use watari_corpus::{Body, Net, Packet, Place, Scene, TRANSLATED, Who, desk};
use watari_datapath::desk::{Desk, Input};
use watari_datapath::{Step, Verdict};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

fn nets() -> impl Strategy<Value = Net> {
    prop_oneof![Just(Net::V4), Just(Net::V6)]
}

fn protocols() -> impl Strategy<Value = u8> {
    prop_oneof![Just(TCP), Just(UDP), Just(SCTP)]
}

fn payloads() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..200)
}

/// `first`: it opens a connection; else it answers.
fn body(protocol: u8, source: u16, destination: u16, first: bool) -> Body {
    match protocol {
        TCP => Body::Tcp {
            source,
            destination,
            flags: if first { 2 } else { 0x12 },
        },
        SCTP => Body::Sctp {
            source,
            destination,
            chunk: if first { 1 } else { 2 },
        },
        _ => Body::Udp {
            source,
            destination,
            checksum: true,
        },
    }
}

fn turned(packet: &Packet, net: Net, from: Who, to: Who, body: Body) -> Packet {
    let mut other = packet.clone();
    (other.source, other.destination) = (net.of(from), net.of(to));
    other.body = body;
    other
}

fn into(pod: Who, packet: &Packet) -> Vec<u8> {
    let hops = packet.hops - 1;
    packet
        .clone()
        .hops(hops)
        .macs(pod.host_mac(), pod.mac())
        .bytes()
}

fn run(desk: &mut Desk, hook: Hook, link: u32, packet: &Packet) -> (Verdict, Vec<u8>) {
    let output = desk.run(hook, Input::new(link, packet.bytes()));
    (output.verdict, output.bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// A packet to a Service is what it would be had it been built for the backend, and the answer
    /// what the Service itself would have sent: every checksum as over the whole.
    #[test]
    fn there_and_back(
        net in nets(),
        protocol in protocols(),
        client in 1..u16::MAX,
        port in 1..u16::MAX,
        backend in 1..u16::MAX,
        payload in payloads(),
    ) {
        let place = Place::default();
        let scene = Scene::new(&place, net, "there").with_services()
            .serving((Who::Service, port, protocol), &[(Who::B, backend)], |_| {});
        let mut desk = desk::desk(&scene.case.world, place.now);
        let sent = scene.packet(Hook::FromPod, Who::A, Who::Service, body(protocol, client, port, true));
        let sent = sent.carrying(payload.clone());
        let (verdict, bytes) = run(&mut desk, Hook::FromPod, place.link_a, &sent);
        prop_assert_eq!(verdict, scene.deliver(Who::B));
        let seen = turned(&sent, net, Who::A, Who::B, body(protocol, client, backend, true));
        prop_assert_eq!(bytes, into(Who::B, &seen));
        let answer = scene.packet(Hook::FromPod, Who::B, Who::A, body(protocol, backend, client, false));
        let answer = answer.carrying(payload);
        let (verdict, bytes) = run(&mut desk, Hook::FromPod, place.link_b, &answer);
        prop_assert_eq!(verdict, scene.deliver(Who::A));
        let told = turned(&answer, net, Who::Service, Who::A, body(protocol, port, client, false));
        prop_assert_eq!(bytes, into(Who::A, &told));
    }

    /// The same with the source translated too.
    #[test]
    fn there_and_back_by_the_node(
        net in nets(),
        protocol in protocols(),
        client in 1..TRANSLATED,
        backend in 1..u16::MAX,
        payload in payloads(),
    ) {
        let place = Place::default();
        let scene = Scene::new(&place, net, "hairpin").with_services()
            .serving((Who::Service, 80, protocol), &[(Who::A, backend)], |_| {});
        let mut desk = desk::desk(&scene.case.world, place.now);
        let sent = scene.packet(Hook::FromPod, Who::A, Who::Service, body(protocol, client, 80, true));
        let sent = sent.carrying(payload.clone());
        let (_, bytes) = run(&mut desk, Hook::FromPod, place.link_a, &sent);
        let seen = body(protocol, TRANSLATED, backend, true);
        prop_assert_eq!(bytes, into(Who::A, &turned(&sent, net, Who::Node, Who::A, seen)));
        let answer = body(protocol, backend, TRANSLATED, false);
        let answer = scene.packet(Hook::FromPod, Who::A, Who::Node, answer).carrying(payload);
        let (_, bytes) = run(&mut desk, Hook::FromPod, place.link_a, &answer);
        let told = body(protocol, 80, client, false);
        prop_assert_eq!(bytes, into(Who::A, &turned(&answer, net, Who::Service, Who::A, told)));
    }

    /// Any bytes at any hook, with Services: something is decided.
    #[test]
    fn any_bytes_are_judged(
        net in nets(),
        hook in prop::sample::select(Hook::ALL),
        protocol in protocols(),
        ports in (any::<u16>(), prop_oneof![Just(80), any::<u16>()]),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        to in prop::sample::select(vec![Who::Service, Who::Node, Who::A]),
        empty: bool,
        segment in 0..2000_u32,
    ) {
        let place = Place::default();
        let members: &[(Who, u16)] = if empty { &[] } else { &[(Who::B, 1), (Who::Far, 2), (Who::A, 3)] };
        let scene = Scene::new(&place, net, "any").with_services()
            .serving((Who::Service, 80, protocol), members, |_| {})
            .serving((Who::Node, 80, protocol), members, |_| {})
            .serving((Who::Service, 0, 0), &[], |entry| entry.flags = frontend_flags::REFUSES_OTHERS);
        let mut bytes = scene.packet(hook, Who::A, to, body(protocol, ports.0, ports.1, true)).carrying([0; 30]).bytes();
        for (index, byte) in damage {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut.index(bytes.len()).min(40));
        let mut desk = desk::desk(&scene.case.world, place.now);
        let mut input = Input::new(place.link_a, bytes.clone());
        input.segment = segment;
        let first = desk.run(hook, input);
        prop_assert!(first.bytes.len() <= bytes.len() + 48);
        desk.run(hook, Input::new(place.link_a, bytes));
    }

    /// A ring gives a connection the same backend on every node, at whichever node's address it is
    /// asked for; with affinity every connection of a client.
    #[test]
    fn a_ring_is_the_same_everywhere(
        net in nets(),
        client in 1..u16::MAX,
        other in 1..u16::MAX,
        affinity: bool,
        seeds in (1..u64::MAX, 1..u64::MAX),
    ) {
        let place = Place::default();
        let chosen = |node: Who, port: u16, seed: u64| {
            let members = [(Who::A, 1), (Who::B, 2), (Who::A, 3), (Who::B, 4), (Who::A, 5)];
            let scene = Scene::new(&place, net, "ring").with_services()
                .serving((node, 30_080, TCP), &members, |frontend| {
                    frontend.ring = frontend.outside;
                    frontend.affinity = u32::from(affinity) * 100;
                });
            let mut desk = desk::desk(&scene.case.world, place.now);
            desk.services.seed = seed;
            let packet = scene.packet(Hook::FromUplink, Who::World, node, body(TCP, port, 30_080, true));
            let output = desk.run(Hook::FromUplink, Input::new(place.uplink, packet.bytes()));
            output.steps.iter().find_map(|step| match step {
                Step::Backend { chosen, .. } => chosen.map(|chosen| chosen.number),
                _ => None,
            })
        };
        let first = chosen(Who::Node, client, seeds.0);
        prop_assert!(first.is_some());
        prop_assert_eq!(first, chosen(Who::OtherNode, client, seeds.1));
        if affinity {
            prop_assert_eq!(first, chosen(Who::OtherNode, other, seeds.1));
        }
    }
}

/// Connections of many clients get ports of their own, until there are no more.
#[test]
fn source_ports_are_never_shared() {
    let (place, net) = (Place::default(), Net::V4);
    let mut scene = Scene::new(&place, net, "ports").with_services().serving(
        (Who::Service, 80, UDP),
        &[(Who::A, 8080)],
        |_| {},
    );
    scene.case.world.config.last_port = TRANSLATED + 15;
    let mut desk = desk::desk(&scene.case.world, place.now);
    let mut seen = std::collections::BTreeSet::new();
    for client in 1..=16 {
        let packet = scene.packet(
            Hook::FromPod,
            Who::A,
            Who::Service,
            body(UDP, client, 80, true),
        );
        let (verdict, bytes) = run(&mut desk, Hook::FromPod, place.link_a, &packet);
        assert_eq!(verdict, scene.deliver(Who::A), "client {client}");
        assert!(seen.insert([bytes[34], bytes[35]]), "a port twice");
    }
    let packet = scene.packet(Hook::FromPod, Who::A, Who::Service, body(UDP, 17, 80, true));
    let (verdict, _) = run(&mut desk, Hook::FromPod, place.link_a, &packet);
    assert_eq!(
        verdict,
        Verdict::Drop(watari_abi::Reason::SourcePortsExhausted)
    );
    // An expired one is free again.
    desk.now += 61_000_000_000;
    let (verdict, _) = run(&mut desk, Hook::FromPod, place.link_a, &packet);
    assert_eq!(verdict, scene.deliver(Who::A));
}

/// The one with fewer connections gets the next, until both have as many.
#[test]
fn fewest_connections() {
    let (place, net) = (Place::default(), Net::V6);
    let scene = Scene::new(&place, net, "least").with_services().serving(
        (Who::Service, 80, TCP),
        &[(Who::B, 1), (Who::B, 2)],
        |frontend| frontend.flags = frontend_flags::LEAST_CONNECTIONS,
    );
    let mut desk = desk::desk(&scene.case.world, place.now);
    desk.services.backend_loads.insert(1, 50);
    for client in 1..=40 {
        let packet = scene.packet(
            Hook::FromPod,
            Who::A,
            Who::Service,
            body(TCP, client, 80, true),
        );
        run(&mut desk, Hook::FromPod, place.link_a, &packet);
    }
    // A connection in four draws the busy one twice.
    let busy = desk.services.backend_loads[&1] - 50;
    assert!(busy < 25, "{busy} of 40 went to the busy one");
    assert_eq!(desk.services.backend_loads[&2] + busy, 40);
}

/// So many refusals are answered; the rest is dropped, and counted so.
#[test]
fn refusals_are_bounded() {
    let (place, net) = (Place::default(), Net::V4);
    let scene = Scene::new(&place, net, "bounded").with_services().serving(
        (Who::Service, 80, TCP),
        &[],
        |_| {},
    );
    let mut desk = desk::desk(&scene.case.world, place.now);
    desk.refusals = 1;
    let packet = scene.packet(Hook::FromPod, Who::A, Who::Service, body(TCP, 9, 80, true));
    let ifindex = place.link_a;
    let (verdict, _) = run(&mut desk, Hook::FromPod, ifindex, &packet);
    assert_eq!(verdict, Verdict::Answer { ifindex });
    let (verdict, bytes) = run(&mut desk, Hook::FromPod, ifindex, &packet);
    assert_eq!(verdict, Verdict::Drop(watari_abi::Reason::RefusedSilently));
    assert_eq!(bytes, packet.bytes());
}

/// The connection of a socket that asked for a Service says so.
#[test]
fn a_socket_s_wish_is_told() {
    let place = Place::default();
    for case in watari_corpus::cases(&place) {
        if !case.name.starts_with("service-at-the-socket") {
            continue;
        }
        let desk = desk::run(&case, place.now).unwrap();
        let (_, kept) = desk.transient.iter().next().expect("a connection");
        let translation = kept.get().translation;
        assert_eq!(translation.kind, watari_abi::translation::AT_SOCKET);
        assert_eq!((translation.service, translation.backend), (7, 1));
        assert_eq!(translation.destination_port, 80_u16.to_be());
    }
}
