//! What holds for any packet, on the desk.

use proptest::prelude::*;
use watari_abi::{Hook, State, Translation, TranslationKind};
use watari_corpus::{Body, Net, Packet, Place, Scene, Who, checksum, desk};
use watari_datapath::desk::Input;
use watari_datapath::{Route, Table, Verdict};

fn nets() -> impl Strategy<Value = Net> {
    prop_oneof![Just(Net::V4), Just(Net::V6)]
}

fn hooks() -> impl Strategy<Value = Hook> {
    prop_oneof![
        Just(Hook::FromPod),
        Just(Hook::ToPod),
        Just(Hook::FromUplink)
    ]
}

fn bodies() -> impl Strategy<Value = Body> {
    prop_oneof![
        (1..u16::MAX, 1..u16::MAX, any::<u8>()).prop_map(|(source, destination, flags)| {
            Body::Tcp {
                source,
                destination,
                flags,
            }
        }),
        (1..u16::MAX, 1..u16::MAX, any::<bool>()).prop_map(|(source, destination, checksum)| {
            Body::Udp {
                source,
                destination,
                checksum,
            }
        }),
        (1..u16::MAX, 1..u16::MAX, 0..16_u8).prop_map(|(source, destination, chunk)| Body::Sctp {
            source,
            destination,
            chunk
        }),
        (any::<bool>(), any::<u16>()).prop_map(|(request, id)| Body::Echo { request, id }),
    ]
}

fn payloads() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..200)
}

/// A packet that answers another of that body.
fn answer(body: &Body) -> Body {
    match *body {
        Body::Tcp {
            source,
            destination,
            ..
        } => Body::Tcp {
            source: destination,
            destination: source,
            flags: 0x12,
        },
        Body::Udp {
            source,
            destination,
            checksum,
        } => Body::Udp {
            source: destination,
            destination: source,
            checksum,
        },
        Body::Sctp {
            source,
            destination,
            ..
        } => Body::Sctp {
            source: destination,
            destination: source,
            chunk: 2,
        },
        Body::Echo { id, .. } => Body::Echo { request: false, id },
        ref other => other.clone(),
    }
}

/// A packet that opens a connection with that body's ends.
fn opening(body: &Body) -> Body {
    match body.clone() {
        Body::Tcp {
            source,
            destination,
            ..
        } => Body::Tcp {
            source,
            destination,
            flags: 2,
        },
        Body::Sctp {
            source,
            destination,
            ..
        } => Body::Sctp {
            source,
            destination,
            chunk: 1,
        },
        Body::Echo { id, .. } => Body::Echo { request: true, id },
        other => other,
    }
}

/// True when every checksum of the frame is what a computation over the whole gives.
fn sums_up(packet: &Packet, bytes: &[u8]) -> bool {
    packet.bytes() == bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any bytes at any hook: something is decided, and nothing is written past them.
    #[test]
    fn any_bytes_are_judged(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        hook in hooks(),
        tagged: bool,
        segment in 0..2000_u32,
    ) {
        let place = Place::default();
        let mut desk = desk::desk(&Scene::new(&place, Net::V4, "any").case.world, place.now);
        let length = bytes.len();
        let mut input = Input::new(place.link_a, bytes);
        (input.tagged, input.segment) = (tagged, segment);
        let output = desk.run(hook, input);
        prop_assert_eq!(output.bytes.len(), length);
    }

    /// A packet that was good until some of its bytes were changed, or its end was cut off.
    #[test]
    fn damaged_packets_are_judged(
        net in nets(),
        hook in hooks(),
        body in bodies(),
        payload in payloads(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let place = Place::default();
        let scene = Scene::new(&place, net, "damaged");
        let mut bytes = scene.packet(hook, Who::A, Who::B, body).carrying(payload).bytes();
        for (index, byte) in damage {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut.index(bytes.len()).min(40));
        let before = bytes.clone();
        let mut desk = desk::desk(&scene.case.world, place.now);
        let output = desk.run(hook, Input::new(place.link_a, bytes));
        if matches!(output.verdict, Verdict::Drop(_) | Verdict::Stack | Verdict::Pass) {
            prop_assert_eq!(output.bytes, before);
        }
    }

    /// Whatever opened a connection, the answer finds it and goes straight back.
    #[test]
    fn an_answer_finds_its_connection(net in nets(), body in bodies(), payload in payloads()) {
        let place = Place::default();
        let scene = Scene::new(&place, net, "answer");
        let mut desk = desk::desk(&scene.case.world, place.now);
        let out = scene.packet(Hook::FromPod, Who::A, Who::B, opening(&body)).carrying(payload);
        let back = scene.packet(Hook::FromPod, Who::B, Who::A, answer(&body));
        let first = desk.run(Hook::FromPod, Input::new(place.link_a, out.bytes()));
        prop_assert_eq!(first.verdict, scene.deliver(Who::B));
        let second = desk.run(Hook::FromPod, Input::new(place.link_b, back.bytes()));
        prop_assert_eq!(second.verdict, scene.deliver(Who::A));
        prop_assert_eq!(desk.transient.len() + desk.established.len(), 1);
        let kept = desk.transient.iter().chain(desk.established.iter()).map(|(_, kept)| kept.get());
        for connection in kept {
            prop_assert_eq!(connection.directions[0].packets, 1);
            prop_assert_eq!(connection.directions[1].packets, 1);
        }
    }

    /// What is delivered has one hop less, and every checksum as if it had been built so.
    #[test]
    fn a_delivery_sums_up(
        net in nets(),
        body in bodies(),
        payload in payloads(),
        hops in 2..=255_u8,
    ) {
        let place = Place::default();
        let scene = Scene::new(&place, net, "sums");
        let mut desk = desk::desk(&scene.case.world, place.now);
        let sent = scene.packet(Hook::FromPod, Who::A, Who::B, opening(&body)).carrying(payload).hops(hops);
        let output = desk.run(Hook::FromPod, Input::new(place.link_a, sent.bytes()));
        let seen = sent.hops(hops - 1).macs(Who::B.host_mac(), Who::B.mac());
        prop_assert!(sums_up(&seen, &output.bytes));
    }

    /// The same towards another node, whose way only takes the hop.
    #[test]
    fn a_forward_sums_up(net in nets(), body in bodies(), payload in payloads(), hops in 2..=255_u8) {
        let place = Place::default();
        let next_hop = net.of(Who::OtherNode).into();
        let ifindex = place.uplink;
        let scene = Scene::new(&place, net, "forward").with_route(Route::Via { ifindex, next_hop });
        let mut desk = desk::desk(&scene.case.world, place.now);
        let sent = scene.packet(Hook::FromPod, Who::A, Who::Far, opening(&body)).carrying(payload).hops(hops);
        let output = desk.run(Hook::FromPod, Input::new(place.link_a, sent.bytes()));
        prop_assert_eq!(output.verdict, Verdict::Forward { ifindex, next_hop });
        prop_assert!(sums_up(&sent.hops(hops - 1), &output.bytes));
    }

    /// A translation leaves every checksum as a whole computation gives it, and the mirror of it
    /// gives back the bytes that there were.
    #[test]
    fn a_translation_is_undone_by_its_mirror(
        net in nets(),
        client in 1..u16::MAX,
        real in 1..u16::MAX,
        port in 1..u16::MAX,
        tcp: bool,
        payload in payloads(),
    ) {
        let place = Place::default();
        let body = |source, destination| if tcp {
            Body::Tcp { source, destination, flags: 16 }
        } else {
            Body::Udp { source, destination, checksum: true }
        };
        // Pod B answers pod A as a Service.
        let sent = Packet::new(net.of(Who::B), net.of(Who::A), body(real, client)).carrying(payload);
        let out = translated(&place, net, &sent, (Who::A, client), (Who::B, real), (Who::Service, port));
        let mut seen = sent.clone().hops(63).macs(Who::A.host_mac(), Who::A.mac());
        seen.source = net.of(Who::Service);
        seen.body = body(port, client);
        prop_assert!(sums_up(&seen, &out));
        // And a Service that believes to be pod B's other name.
        let back = translated(&place, net, &seen, (Who::A, client), (Who::Service, port), (Who::B, real));
        prop_assert!(sums_up(&sent.hops(62).macs(Who::A.host_mac(), Who::A.mac()), &back));
    }

    /// The key is the same for both directions, and the two sides are told apart.
    #[test]
    fn a_key_is_the_connections(
        net in nets(),
        ports in (any::<u16>(), any::<u16>()),
        protocol: u8,
        same: bool,
    ) {
        let to = if same { Who::A } else { Who::B };
        let there = net.tuple((Who::A, ports.0), (to, ports.1), protocol);
        let back = there.reversed();
        let ((key, side), (mirror, other)) = (there.key(), back.key());
        prop_assert_eq!(key, mirror);
        prop_assert_eq!(key.tuple(side), there);
        prop_assert_eq!(key.tuple(other), back);
        if there != back {
            prop_assert_ne!(side, other);
        }
    }

    /// Two ways to compute a checksum agree.
    #[test]
    fn a_sum_is_a_sum(bytes in payloads()) {
        let sum = watari_wire::Sum::ZERO.plus_bytes(&bytes);
        prop_assert_eq!(sum.checksum().to_ne_bytes(), checksum(&[&bytes]));
    }
}

/// A packet as the reply of a connection between `opener` and `end`, whom the opener believes to be
/// `believed`.
fn translated(
    place: &Place,
    net: Net,
    packet: &Packet,
    opener: (Who, u16),
    end: (Who, u16),
    believed: (Who, u16),
) -> Vec<u8> {
    let mut scene = Scene::new(place, net, "translated");
    let tuple = net.tuple(opener, end, packet.protocol());
    let mut connection = scene.connection(State::Established, 0);
    connection.translation = Translation {
        address: net.of(believed.0).into(),
        port: believed.1.to_be(),
        kind: TranslationKind::Destination as u8,
        pad: 0,
        service: 1,
    };
    let table = if packet.protocol() == 6 {
        Table::Established
    } else {
        Table::Transient
    };
    scene = scene.with(table, &tuple, connection);
    let mut desk = desk::desk(&scene.case.world, place.now);
    desk.run(Hook::FromUplink, Input::new(place.uplink, packet.bytes()))
        .bytes
}

/// A flood of new connections displaces none that is established.
#[test]
fn a_flood_displaces_nothing_established() {
    let place = Place::default();
    let net = Net::V4;
    let mut scene = Scene::new(&place, net, "flood");
    let opened = net.tuple((Who::A, 1), (Who::B, 80), 6);
    let connection = scene.connection(State::Established, 0);
    scene = scene.with(Table::Established, &opened, connection);
    let mut desk = desk::desk(&scene.case.world, place.now);
    desk.transient = watari_datapath::desk::Lru::evicting(100);
    for port in 2..1002 {
        let body = Body::Tcp {
            source: port,
            destination: 80,
            flags: 2,
        };
        let packet = scene.packet(Hook::FromPod, Who::A, Who::B, body);
        let output = desk.run(Hook::FromPod, Input::new(place.link_a, packet.bytes()));
        assert_eq!(output.verdict, scene.deliver(Who::B));
    }
    assert_eq!(desk.transient.len(), 100);
    let kept = desk.connection(&opened.key().0).map(|(table, _)| table);
    assert_eq!(kept, Some(Table::Established));
}
