//! Services for who comes by an uplink, and for the node's own processes.

use std::net::IpAddr;

use watari_abi::{Hook, State, frontend_flags};
use watari_datapath::{Route, Table, Verdict};

use super::{ACK, CLIENT, SERVER, SYN, TCP, UDP, body};
use crate::packets::{Body, Packet};
use crate::scene::{Case, Out, Scene, TRANSLATED};
use crate::world::{Net, Place, Who};

use Hook::{FromPod, FromUplink, ToUplink};
use Who::{B, Far, Node, OtherNode, Service, World};

const BACKEND: u16 = 8080;
const NODE_PORT: u16 = 30_080;

pub fn add(all: &mut Vec<Case>, place: &Place, net: Net) {
    all.extend([
        here(place, net),
        elsewhere(place, net),
        cluster_address(place, net),
        pod_of_another_node(place, net),
        by_ring(place, net),
        process_as_backend(place, net),
        process_of_the_node(place, net),
        error_about_an_answer(place, net),
        error_about_a_translated_source(place, net),
        for_the_node(place, net),
    ]);
}

fn scene(place: &Place, net: Net, name: &str, protocol: u8, backend: Who) -> Scene {
    Scene::new(place, net, name).with_services().serving(
        (Node, NODE_PORT, protocol),
        &[(backend, BACKEND)],
        |_| {},
    )
}

fn turned(packet: &Packet, net: Net, from: Who, to: Who, body: Body) -> Packet {
    let mut other = packet.clone();
    (other.source, other.destination) = (net.of(from), net.of(to));
    other.body = body;
    other
}

fn into_b(packet: Packet) -> Out {
    let hops = packet.hops - 1;
    Out::Packet(Box::new(packet.hops(hops).macs(B.host_mac(), B.mac())))
}

fn same(packet: Packet) -> Out {
    Out::Packet(Box::new(packet))
}

/// A backend here sees the client, and the answer leaves as the node port's. (No runner has a route
/// to the client, so the stack gets it.)
fn here(place: &Place, net: Net) -> Case {
    let scene = scene(place, net, "node-port-here", TCP, B);
    let packet = scene.packet(FromUplink, World, Node, body(TCP, CLIENT, NODE_PORT, SYN));
    let seen = turned(&packet, net, World, B, body(TCP, CLIENT, BACKEND, SYN));
    let answer = scene.packet(FromPod, B, World, body(TCP, BACKEND, CLIENT, SYN | ACK));
    let told = body(TCP, NODE_PORT, CLIENT, SYN | ACK);
    let told = turned(&answer, net, Node, World, told);
    let more = scene.packet(FromUplink, World, Node, body(TCP, CLIENT, NODE_PORT, ACK));
    let seen_more = turned(&more, net, World, B, body(TCP, CLIENT, BACKEND, ACK));
    let far = net.tuple((World, CLIENT), (B, BACKEND), TCP);
    let to_b = scene.deliver(B);
    scene
        .shot_packet(FromUplink, World, Node, &packet, to_b, &into_b(seen))
        .shot_packet(FromPod, B, World, &answer, Verdict::Stack, &same(told))
        .shot_packet(FromUplink, World, Node, &more, to_b, &into_b(seen_more))
        .kept(&far, Table::Established, State::Established, 0, [2, 1])
        .done()
}

/// A backend elsewhere sees this node, which gets the answer.
fn elsewhere(place: &Place, net: Net) -> Case {
    let (ifindex, next_hop) = (place.uplink, net.of(OtherNode).into());
    let scene = scene(place, net, "node-port-elsewhere", UDP, Far)
        .with_route(Route::Via { ifindex, next_hop });
    let packet = scene.packet(FromUplink, World, Node, body(UDP, CLIENT, NODE_PORT, 0));
    let seen = turned(&packet, net, Node, Far, body(UDP, TRANSLATED, BACKEND, 0));
    let answer = scene.packet(FromUplink, Far, Node, body(UDP, BACKEND, TRANSLATED, 0));
    let told = turned(&answer, net, Node, World, body(UDP, NODE_PORT, CLIENT, 0));
    let far = net.tuple((Node, TRANSLATED), (Far, BACKEND), UDP);
    scene
        .shot_packet(
            FromUplink,
            World,
            Node,
            &packet,
            Verdict::Forward { ifindex, next_hop },
            &same(seen.hops(63)),
        )
        .shot_packet(FromUplink, Far, Node, &answer, Verdict::Stack, &same(told))
        .kept(&far, Table::Transient, State::Established, 0, [1, 1])
        .done()
}

/// A cluster address from outside: the client is translated even where the backend is here.
fn cluster_address(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "cluster-address-from-outside")
        .with_services()
        .serving((Service, SERVER, UDP), &[(B, BACKEND)], |frontend| {
            frontend.flags = frontend_flags::CLUSTER_ADDRESS;
            frontend.outside = 0;
        });
    let packet = scene.packet(FromUplink, World, Service, body(UDP, CLIENT, SERVER, 0));
    let seen = turned(&packet, net, Node, B, body(UDP, TRANSLATED, BACKEND, 0));
    let answer = scene.packet(FromPod, B, Node, body(UDP, BACKEND, TRANSLATED, 0));
    let told = turned(&answer, net, Service, World, body(UDP, SERVER, CLIENT, 0));
    let to_b = scene.deliver(B);
    scene
        .shot_packet(FromUplink, World, Service, &packet, to_b, &into_b(seen))
        .shot_packet(FromPod, B, Node, &answer, Verdict::Stack, &same(told))
        .done()
}

/// A pod of another node is inside: it has the set of those, and keeps its source.
fn pod_of_another_node(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "node-port-of-a-pod")
        .with_services()
        .serving((Node, NODE_PORT, UDP), &[(B, BACKEND)], |frontend| {
            frontend.outside = 0;
        });
    let packet = scene.packet(FromUplink, Far, Node, body(UDP, CLIENT, NODE_PORT, 0));
    let seen = turned(&packet, net, Far, B, body(UDP, CLIENT, BACKEND, 0));
    let to_b = scene.deliver(B);
    scene
        .shot_packet(FromUplink, Far, Node, &packet, to_b, &into_b(seen))
        .done()
}

/// A ring gives the same backend to a connection that another node has begun.
fn by_ring(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "ring").with_services().serving(
        (Node, NODE_PORT, TCP),
        &[(B, BACKEND)],
        |frontend| {
            (frontend.ring, frontend.outside) = (frontend.outside, 0);
        },
    );
    let packet = scene.packet(FromUplink, World, Node, body(TCP, CLIENT, NODE_PORT, ACK));
    let seen = turned(&packet, net, World, B, body(TCP, CLIENT, BACKEND, ACK));
    let far = net.tuple((World, CLIENT), (B, BACKEND), TCP);
    let to_b = scene.deliver(B);
    scene
        .shot_packet(FromUplink, World, Node, &packet, to_b, &into_b(seen))
        .kept(
            &far,
            Table::Transient,
            State::PickedUp,
            watari_abi::flags::PICKED_UP,
            [1, 0],
        )
        .done()
}

/// The backend is a process of this node: the stack has it, and its answer is translated as it
/// leaves.
fn process_as_backend(place: &Place, net: Net) -> Case {
    let scene = scene(place, net, "node-port-of-a-process", TCP, Node);
    let packet = scene.packet(FromUplink, World, Node, body(TCP, CLIENT, NODE_PORT, SYN));
    let seen = turned(&packet, net, World, Node, body(TCP, CLIENT, BACKEND, SYN));
    let answer = scene.packet(ToUplink, Node, World, body(TCP, BACKEND, CLIENT, SYN | ACK));
    let told = body(TCP, NODE_PORT, CLIENT, SYN | ACK);
    let told = turned(&answer, net, Node, World, told);
    scene
        .shot_packet(
            FromUplink,
            World,
            Node,
            &packet,
            Verdict::Stack,
            &same(seen),
        )
        .shot_packet(ToUplink, Node, World, &answer, Verdict::Pass, &same(told))
        .done()
}

/// A process of the node that no program at its socket saw. Its port is translated.
fn process_of_the_node(place: &Place, net: Net) -> Case {
    let (ifindex, next_hop) = (place.uplink, net.of(OtherNode).into());
    let scene = Scene::new(place, net, "process-of-the-node")
        .with_services()
        .serving((Service, SERVER, TCP), &[(Far, BACKEND)], |_| {})
        .with_route(Route::Via { ifindex, next_hop });
    let packet = scene.packet(ToUplink, Node, Service, body(TCP, CLIENT, SERVER, SYN));
    let seen = body(TCP, TRANSLATED, BACKEND, SYN);
    let seen = turned(&packet, net, Node, Far, seen);
    let answer = body(TCP, BACKEND, TRANSLATED, SYN | ACK);
    let answer = scene.packet(FromUplink, Far, Node, answer);
    let told = body(TCP, SERVER, CLIENT, SYN | ACK);
    let told = turned(&answer, net, Service, Node, told);
    scene
        .shot_packet(
            ToUplink,
            Node,
            Service,
            &packet,
            Verdict::Forward { ifindex, next_hop },
            &same(seen.hops(63)),
        )
        .shot_packet(FromUplink, Far, Node, &answer, Verdict::Stack, &same(told))
        .shot(ToUplink, Node, World, body(TCP, 9, 443, SYN), Verdict::Pass)
        .done()
}

fn complaint(net: Net, from: Who, to: Who, about: &Packet) -> Packet {
    let (kind, code) = match net {
        Net::V4 => (3, 3),
        Net::V6 => (1, 4),
    };
    let body = Body::Icmp {
        kind,
        code,
        rest: [0; 4],
    };
    let from: IpAddr = net.of(from);
    Packet::new(from, net.of(to), body).carrying(about.network())
}

/// A client outside complains about what the Service sent it: the backend learns of it, about what
/// it sent itself.
fn error_about_an_answer(place: &Place, net: Net) -> Case {
    let scene = scene(place, net, "error-about-an-answer", UDP, B);
    let packet = scene.packet(FromUplink, World, Node, body(UDP, CLIENT, NODE_PORT, 0));
    let seen = turned(&packet, net, World, B, body(UDP, CLIENT, BACKEND, 0));
    let told = Packet::new(net.of(Node), net.of(World), body(UDP, NODE_PORT, CLIENT, 0));
    let sent = Packet::new(net.of(B), net.of(World), body(UDP, BACKEND, CLIENT, 0));
    let error = complaint(net, World, Node, &told).macs(World.mac(), place.host_mac);
    let learnt = complaint(net, World, B, &sent);
    let to_b = scene.deliver(B);
    scene
        .shot_packet(FromUplink, World, Node, &packet, to_b, &into_b(seen))
        .shot_packet(FromUplink, World, Node, &error, to_b, &into_b(learnt))
        .done()
}

/// The backend complains to this node about what it sent for a client, who learns of it.
fn error_about_a_translated_source(place: &Place, net: Net) -> Case {
    let (ifindex, next_hop) = (place.uplink, net.of(OtherNode).into());
    let scene = scene(place, net, "error-about-a-translated-source", UDP, Far)
        .with_route(Route::Via { ifindex, next_hop });
    let packet = scene.packet(FromUplink, World, Node, body(UDP, CLIENT, NODE_PORT, 0));
    let seen = turned(&packet, net, Node, Far, body(UDP, TRANSLATED, BACKEND, 0));
    let asked = Packet::new(net.of(World), net.of(Node), body(UDP, CLIENT, NODE_PORT, 0));
    let sent = Packet::new(net.of(Node), net.of(Far), body(UDP, TRANSLATED, BACKEND, 0));
    let error = complaint(net, Far, Node, &sent).macs(Far.mac(), place.host_mac);
    let learnt = complaint(net, Node, World, &asked).macs(Far.mac(), place.host_mac);
    scene
        .shot_packet(
            FromUplink,
            World,
            Node,
            &packet,
            Verdict::Forward { ifindex, next_hop },
            &same(seen.hops(63)),
        )
        .shot_packet(FromUplink, Far, Node, &error, Verdict::Stack, &same(learnt))
        .done()
}

/// What is for the node itself stays the stack's, whatever Services there are.
fn for_the_node(place: &Place, net: Net) -> Case {
    scene(place, net, "for-the-node", TCP, B)
        .shot(
            FromUplink,
            World,
            Node,
            body(TCP, CLIENT, 22, SYN),
            Verdict::Stack,
        )
        .shot(
            FromUplink,
            Far,
            Node,
            body(UDP, 9, TRANSLATED, 0),
            Verdict::Stack,
        )
        // No header of TCP: the stack says so.
        .shot(
            FromUplink,
            World,
            Node,
            Body::Raw { protocol: TCP },
            Verdict::Stack,
        )
        .shot(
            FromUplink,
            World,
            Node,
            Body::Echo {
                request: true,
                id: 4,
            },
            Verdict::Stack,
        )
        .done()
}
