use watari_abi::{Hook, Reason, State};
use watari_datapath::desk::Input;
use watari_datapath::{Table, Verdict};

use super::{ACK, CLIENT, SERVER, SYN, TCP, UDP, to_server, udp};
use crate::packets::{Extension, Part};
use crate::scene::{Case, Out, Scene};
use crate::world::{Net, Place, Who};

use Hook::{FromPod, FromUplink};
use Who::{A, B, World};

pub fn add(all: &mut Vec<Case>, place: &Place, net: Net) {
    all.extend([
        last_hop(place, net),
        fragments(place, net),
        later_alone(place, net),
        tiny_first(place, net),
        padded(place, net),
        large(place, net),
    ]);
    match net {
        Net::V4 => all.push(options(place)),
        Net::V6 => all.extend([
            extensions(place),
            too_many(place),
            source_route(place),
            atomic_fragment(place),
        ]),
    }
}

/// The stack tells the sender that its packet went too far.
fn last_hop(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "hops-expired");
    let inside = scene.packet(FromPod, A, B, to_server(SYN)).hops(1);
    let outside = scene.packet(FromUplink, World, A, to_server(SYN)).hops(1);
    let two = scene.packet(FromPod, A, B, to_server(SYN)).hops(2);
    let (stack, to_b) = (Verdict::Stack, scene.deliver(B));
    scene
        .shot_packet(FromPod, A, B, &inside, stack, &Out::Same)
        .shot_packet(FromUplink, World, A, &outside, stack, &Out::Same)
        .shot_packet(FromPod, A, B, &two, to_b, &Out::Into(B))
        .done()
}

/// The first part tells the ports, the later ones follow it.
fn fragments(place: &Place, net: Net) -> Case {
    let mut scene = Scene::new(place, net, "fragments");
    let tuple = net.tuple((A, 5000), (B, 53), UDP);
    let whole = scene
        .packet(FromPod, A, B, udp(5000, 53))
        .carrying([1; 100]);
    let to_b = scene.deliver(B);
    for (part, packets) in whole.fragments(99, 40).iter().zip(1..) {
        scene = scene
            .shot_packet(FromPod, A, B, part, to_b, &Out::Into(B))
            .kept(&tuple, Table::Transient, State::New, 0, [packets, 0]);
    }
    scene.done()
}

/// Without the first part, a later one follows its addresses.
fn later_alone(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "fragment-alone");
    let part = |scene: &Scene, hook, from, to| {
        scene
            .packet(hook, from, to, udp(5000, 53))
            .carrying([1; 32])
            .fragment(Part {
                id: 7,
                offset: 64,
                more: false,
            })
    };
    let inside = part(&scene, FromPod, A, B);
    let outside = part(&scene, FromUplink, World, A);
    let leaving = part(&scene, FromPod, A, World);
    let (to_a, to_b) = (scene.deliver(A), scene.deliver(B));
    scene
        .shot_packet(FromPod, A, B, &inside, to_b, &Out::Into(B))
        .forgotten(&net.tuple((A, 0), (B, 0), UDP))
        .shot_packet(FromUplink, World, A, &outside, to_a, &Out::Into(A))
        .shot_packet(FromPod, A, World, &leaving, Verdict::Stack, &Out::Same)
        .done()
}

/// A first part that hides its flags in the next is refused (RFC 1858).
fn tiny_first(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "fragment-tiny");
    let part = scene.packet(FromPod, A, B, to_server(SYN)).fragments(5, 8);
    let refused = Verdict::Drop(Reason::Malformed);
    scene
        .shot_packet(FromPod, A, B, &part[0], refused, &Out::Same)
        .forgotten(&net.tuple((A, CLIENT), (B, SERVER), TCP))
        .done()
}

/// What pads a frame is no part of the packet.
fn padded(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "padded");
    let tuple = net.tuple((A, 5000), (B, 53), UDP);
    let packet = scene.packet(FromPod, A, B, udp(5000, 53));
    let pad = |mut bytes: Vec<u8>| {
        bytes.extend([0xee; 18]);
        bytes
    };
    let after = packet.clone().hops(63).macs(B.host_mac(), B.mac());
    let input = Input::new(place.link_a, pad(packet.bytes()));
    let to_b = scene.deliver(B);
    scene
        .shot_bytes(FromPod, input, to_b, pad(after.bytes()))
        .kept(&tuple, Table::Transient, State::New, 0, [1, 0])
        .done()
}

/// A jumbo frame.
fn large(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "large");
    // As much as `BPF_PROG_TEST_RUN` takes.
    let packet = scene
        .packet(FromPod, A, B, udp(5000, 53))
        .carrying(vec![0x5a; 3000]);
    let to_b = scene.deliver(B);
    scene
        .shot_packet(FromPod, A, B, &packet, to_b, &Out::Into(B))
        .done()
}

fn options(place: &Place) -> Case {
    let scene = Scene::new(place, Net::V4, "options");
    let tuple = Net::V4.tuple((A, CLIENT), (B, SERVER), TCP);
    let (to_b, mut scene) = (scene.deliver(B), scene);
    for (words, packets) in [1_usize, 10].into_iter().zip(1..) {
        let mut packet = scene.packet(FromPod, A, B, to_server(SYN));
        packet.options = vec![1; words * 4];
        scene = scene
            .shot_packet(FromPod, A, B, &packet, to_b, &Out::Into(B))
            .kept(&tuple, Table::Transient, State::New, 0, [packets, 0]);
    }
    scene.done()
}

fn extensions(place: &Place) -> Case {
    use Extension::{Authentication, Destination, HopByHop, Routing};
    let scene = Scene::new(place, Net::V6, "extension-headers");
    let tuple = Net::V6.tuple((A, CLIENT), (B, SERVER), TCP);
    let (to_b, mut scene) = (scene.deliver(B), scene);
    let chains = [
        vec![HopByHop],
        vec![HopByHop, Destination, Routing(4), Authentication],
        vec![Destination; 8],
    ];
    for (chain, packets) in chains.into_iter().zip(1..) {
        let mut packet = scene.packet(FromPod, A, B, to_server(SYN));
        packet.extensions = chain;
        scene = scene
            .shot_packet(FromPod, A, B, &packet, to_b, &Out::Into(B))
            .kept(&tuple, Table::Transient, State::New, 0, [packets, 0]);
    }
    scene.done()
}

fn too_many(place: &Place) -> Case {
    let scene = Scene::new(place, Net::V6, "too-many-headers");
    let mut packet = scene.packet(FromPod, A, B, to_server(SYN));
    packet.extensions = vec![Extension::Destination; 9];
    let refused = Verdict::Drop(Reason::TooManyHeaders);
    scene
        .shot_packet(FromPod, A, B, &packet, refused, &Out::Same)
        .done()
}

fn source_route(place: &Place) -> Case {
    let scene = Scene::new(place, Net::V6, "source-route");
    let mut packet = scene.packet(FromUplink, World, A, to_server(SYN));
    packet.extensions = vec![Extension::HopByHop, Extension::Routing(0)];
    let refused = Verdict::Drop(Reason::RoutingHeader);
    scene
        .shot_packet(FromUplink, World, A, &packet, refused, &Out::Same)
        .done()
}

/// A fragment header on a whole datagram means nothing (RFC 6946).
fn atomic_fragment(place: &Place) -> Case {
    let scene = Scene::new(place, Net::V6, "atomic-fragment");
    let tuple = Net::V6.tuple((A, CLIENT), (B, SERVER), TCP);
    let packet = scene.packet(FromPod, A, B, to_server(SYN));
    let whole = packet.fragments(3, 64).remove(0);
    let to_b = scene.deliver(B);
    scene
        .shot_packet(FromPod, A, B, &whole, to_b, &Out::Into(B))
        .kept(&tuple, Table::Transient, State::New, 0, [1, 0])
        .shot(FromPod, A, B, to_server(ACK), to_b)
        .kept(&tuple, Table::Transient, State::New, 0, [2, 0])
        .done()
}
