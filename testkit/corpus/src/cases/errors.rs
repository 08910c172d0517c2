use watari_abi::{Hook, State, flags};
use watari_datapath::{Table, Verdict};

use super::{ACK, CLIENT, SERVER, TCP, to_server};
use crate::packets::{Body, Packet};
use crate::scene::{Case, Out, Scene};
use crate::world::{Net, Place, Who};

use Hook::{FromPod, FromUplink, ToPod};
use Who::{A, B, Far, World};

pub fn add(all: &mut Vec<Case>, place: &Place, net: Net) {
    all.extend([
        about_a_connection(place, net),
        about_a_stack_connection(place, net),
        about_nothing(place, net),
        about_somebody_elses(place, net),
        cut_short(place, net),
    ]);
}

/// Every kind of error of the family.
fn kinds(net: Net) -> Vec<(u8, u8)> {
    match net {
        Net::V4 => vec![(3, 1), (3, 4), (4, 0), (11, 0), (12, 0)],
        Net::V6 => vec![(1, 0), (2, 0), (3, 0), (4, 0)],
    }
}

/// A packet of pod A that somebody complains of, as it is quoted.
fn complaint(scene: &Scene, hook: Hook, from: Who, kind: (u8, u8), quoted: &Packet) -> Packet {
    let body = Body::Icmp {
        kind: kind.0,
        code: kind.1,
        rest: [0, 0, 5, 0x78],
    };
    scene.packet(hook, from, A, body).carrying(quoted.network())
}

fn sent(scene: &Scene, to: Who) -> Packet {
    scene
        .packet(FromPod, A, to, to_server(ACK))
        .carrying([7; 100])
}

/// Path MTU discovery and its like reach whoever sent the packet.
fn about_a_connection(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "error");
    let tuple = net.tuple((A, CLIENT), (Far, SERVER), TCP);
    let before = scene.connection(State::Established, 0);
    let to_a = scene.deliver(A);
    let mut scene = scene.with(Table::Established, &tuple, before);
    for kind in kinds(net) {
        let quoted = sent(&scene, Far);
        let router = complaint(&scene, FromUplink, World, kind, &quoted);
        scene = scene
            .shot_packet(FromUplink, World, A, &router, to_a, &Out::Into(A))
            .kept(&tuple, Table::Established, State::Established, 0, [0, 0]);
    }
    scene.done()
}

fn about_a_stack_connection(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "error-stack");
    let tuple = net.tuple((A, CLIENT), (World, SERVER), TCP);
    let before = scene.connection(State::Established, flags::VIA_STACK);
    let quoted = sent(&scene, World);
    let router = complaint(&scene, FromUplink, World, kinds(net)[0], &quoted);
    scene
        .with(Table::Established, &tuple, before)
        .shot_packet(FromUplink, World, A, &router, Verdict::Stack, &Out::Same)
        .done()
}

fn about_nothing(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "error-unknown");
    let quoted = sent(&scene, B);
    let from_pod = complaint(&scene, FromPod, B, kinds(net)[0], &quoted);
    let from_uplink = complaint(&scene, FromUplink, World, kinds(net)[0], &quoted);
    let stack = Verdict::Stack;
    scene
        .shot_packet(FromPod, B, A, &from_pod, stack, &Out::Same)
        .shot_packet(FromUplink, World, A, &from_uplink, stack, &Out::Same)
        .shot_packet(ToPod, World, A, &from_uplink, Verdict::Pass, &Out::Same)
        .done()
}

/// The quoted packet was not sent by who gets the error.
fn about_somebody_elses(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "error-of-another");
    let tuple = net.tuple((B, CLIENT), (Far, SERVER), TCP);
    let before = scene.connection(State::Established, 0);
    let quoted = scene.packet(FromPod, B, Far, to_server(ACK));
    let router = complaint(&scene, FromUplink, World, kinds(net)[0], &quoted);
    scene
        .with(Table::Established, &tuple, before)
        .shot_packet(FromUplink, World, A, &router, Verdict::Stack, &Out::Same)
        .done()
}

/// Eight bytes behind the quoted header are enough; less, and the stack has it.
fn cut_short(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "error-cut-short");
    let tuple = net.tuple((A, CLIENT), (Far, SERVER), TCP);
    let before = scene.connection(State::Established, 0);
    let header = match net {
        Net::V4 => 20,
        Net::V6 => 40,
    };
    let quoted = sent(&scene, Far).network();
    let mut enough = complaint(&scene, FromUplink, World, kinds(net)[0], &sent(&scene, Far));
    enough.payload = quoted[..header + 8].to_vec();
    let mut less = enough.clone();
    less.payload.pop();
    let to_a = scene.deliver(A);
    scene
        .with(Table::Established, &tuple, before)
        .shot_packet(FromUplink, World, A, &enough, to_a, &Out::Into(A))
        .shot_packet(FromUplink, World, A, &less, Verdict::Stack, &Out::Same)
        .done()
}
