use std::net::IpAddr;

use watari_abi::{Connection, Hook, State, Translation, TranslationKind, Tuple};
use watari_datapath::{Table, Verdict};

use super::{ACK, CLIENT, SERVER, TCP, UDP, to_client, to_server, udp};
use crate::packets::{Body, Packet};
use crate::scene::{Case, Out, Scene};
use crate::world::{Net, Place, Who};

use Hook::{FromPod, FromUplink};
use TranslationKind::{Destination, Source};
use Who::{A, B, Far, Node, Service, World};

pub fn add(all: &mut Vec<Case>, place: &Place, net: Net) {
    all.extend([
        reply_from_a_service(place, net),
        reply_by_udp(place, net),
        unsummed_udp(place, net),
        leaving_as_the_node(place, net),
        error_of_a_backend(place, net),
    ]);
}

fn translated(scene: &Scene, kind: TranslationKind, who: Who, port: u16) -> Connection {
    Connection {
        translation: Translation {
            address: scene.net.of(who).into(),
            port: port.to_be(),
            kind: kind as u8,
            pad: 0,
            service: 1,
        },
        ..scene.connection(State::Established, 0)
    }
}

/// The packet from a Service that pod A gets, where pod B answered.
fn as_service(scene: &Scene, body: Body, payload: &[u8]) -> Packet {
    Packet::new(scene.net.of(Service), scene.net.of(A), body)
        .macs(A.host_mac(), A.mac())
        .hops(63)
        .carrying(payload)
}

/// Pod A asked a Service, which pod B is: A gets the answer from the Service.
fn reply_from_a_service(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "service-reply");
    let opened = net.tuple((A, CLIENT), (B, 8080), TCP);
    let before = translated(&scene, Destination, Service, SERVER);
    let payload = [0x5a; 33];
    let real = scene
        .packet(
            FromPod,
            B,
            A,
            Body::Tcp {
                source: 8080,
                destination: CLIENT,
                flags: ACK,
            },
        )
        .carrying(payload);
    let seen = as_service(&scene, to_client(ACK), &payload);
    let to_a = scene.deliver(A);
    scene
        .with(Table::Established, &opened, before)
        .shot_packet(FromPod, B, A, &real, to_a, &Out::Packet(Box::new(seen)))
        .kept(&opened, Table::Established, State::Established, 0, [0, 1])
        .done()
}

fn reply_by_udp(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "service-reply-udp");
    let opened = net.tuple((A, 5000), (B, 5353), UDP);
    let before = translated(&scene, Destination, Service, 53);
    let real = scene.packet(FromPod, B, A, udp(5353, 5000)).carrying([3]);
    let seen = as_service(&scene, udp(53, 5000), &[3]);
    let to_a = scene.deliver(A);
    scene
        .with(Table::Transient, &opened, before)
        .shot_packet(FromPod, B, A, &real, to_a, &Out::Packet(Box::new(seen)))
        .done()
}

/// A datagram without a checksum gets none.
fn unsummed_udp(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "service-reply-without-checksum");
    let opened = net.tuple((A, 5000), (B, 5353), UDP);
    let before = translated(&scene, Destination, Service, 53);
    let unsummed = |source, destination| Body::Udp {
        source,
        destination,
        checksum: false,
    };
    let real = scene.packet(FromPod, B, A, unsummed(5353, 5000));
    let seen = as_service(&scene, unsummed(53, 5000), &[]);
    let to_a = scene.deliver(A);
    scene
        .with(Table::Transient, &opened, before)
        .shot_packet(FromPod, B, A, &real, to_a, &Out::Packet(Box::new(seen)))
        .done()
}

/// Pod A leaves with the node's address, and answers for that go back to it.
fn leaving_as_the_node(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "masqueraded");
    let opened: Tuple = net.tuple((A, CLIENT), (World, SERVER), TCP);
    let before = translated(&scene, Source, Node, 61_000);
    let real = scene.packet(FromPod, A, World, to_server(ACK));
    let mut seen = Packet::new(
        net.of(Node),
        net.of(World),
        Body::Tcp {
            source: 61_000,
            destination: SERVER,
            flags: ACK,
        },
    );
    seen = seen.macs(A.mac(), place.host_mac);
    scene
        .with(Table::Established, &opened, before)
        .shot_packet(
            FromPod,
            A,
            World,
            &real,
            Verdict::Stack,
            &Out::Packet(Box::new(seen)),
        )
        .done()
}

/// An error about a packet to the backend, which pod A believes to have sent to the Service.
fn error_of_a_backend(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "service-error");
    let opened = net.tuple((A, 5000), (Far, 5353), UDP);
    let before = translated(&scene, Destination, Service, 53);
    let (kind, code) = match net {
        Net::V4 => (3, 3),
        Net::V6 => (1, 4),
    };
    let complaint = |from: IpAddr, about: IpAddr, port| {
        let quoted = Packet::new(net.of(A), about, udp(5000, port)).carrying([9; 12]);
        let body = Body::Icmp {
            kind,
            code,
            rest: [0; 4],
        };
        Packet::new(from, net.of(A), body)
            .macs(Far.mac(), place.host_mac)
            .carrying(quoted.network())
    };
    let service = net.of(Service);
    let backend = complaint(net.of(Far), net.of(Far), 5353);
    let router = complaint(net.of(World), net.of(Far), 5353);
    let seen = |packet: Packet| Out::Packet(Box::new(packet.hops(63).macs(A.host_mac(), A.mac())));
    let (from_service, from_router) = (
        complaint(service, service, 53),
        complaint(net.of(World), service, 53),
    );
    let to_a = scene.deliver(A);
    scene
        .with(Table::Transient, &opened, before)
        .shot_packet(FromUplink, Far, A, &backend, to_a, &seen(from_service))
        .shot_packet(FromUplink, World, A, &router, to_a, &seen(from_router))
        .done()
}
