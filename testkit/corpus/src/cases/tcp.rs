use watari_abi::{Hook, State, flags};
use watari_datapath::{Route, Table, Verdict};

use super::{ACK, CLIENT, FIN, RST, SERVER, SYN, TCP, to_client, to_server};
use crate::scene::{Case, Scene};
use crate::world::{Net, Place, Who};

use Hook::{FromPod, FromUplink, ToPod};
use Who::{A, B, Far, World};

pub fn add(all: &mut Vec<Case>, place: &Place, net: Net) {
    all.extend([
        handshake(place, net),
        closing(place, net),
        reset(place, net),
        again_after(place, net, State::TimeWait),
        again_after(place, net, State::Closed),
        expired(place, net),
        full(place, net),
        from_outside(place, net),
        to_other_node(place, net),
        too_long(place, net),
        no_route(place, net),
        picked_up_here(place, net),
        picked_up_from_outside(place, net),
        stray_reset(place, net),
        one_sided(place, net),
    ]);
}

fn handshake(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "tcp-handshake");
    let tuple = net.tuple((A, CLIENT), (B, SERVER), TCP);
    let (to_a, to_b) = (scene.deliver(A), scene.deliver(B));
    scene
        .shot(FromPod, A, B, to_server(SYN), to_b)
        .kept(&tuple, Table::Transient, State::New, 0, [1, 0])
        .shot(FromPod, B, A, to_client(SYN | ACK), to_a)
        .kept(&tuple, Table::Transient, State::Replied, 0, [1, 1])
        .shot(FromPod, A, B, to_server(ACK), to_b)
        .kept(&tuple, Table::Established, State::Established, 0, [2, 1])
        .shot(FromPod, B, A, to_client(ACK), to_a)
        .kept(&tuple, Table::Established, State::Established, 0, [2, 2])
        .done()
}

fn closing(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "tcp-closing");
    let tuple = net.tuple((A, CLIENT), (B, SERVER), TCP);
    let (to_a, to_b) = (scene.deliver(A), scene.deliver(B));
    let before = scene.connection(State::Established, 0);
    scene
        .with(Table::Established, &tuple, before)
        .shot(FromPod, A, B, to_server(FIN | ACK), to_b)
        .kept(&tuple, Table::Established, State::Closing, 0, [1, 0])
        .shot(FromPod, B, A, to_client(ACK), to_a)
        .kept(&tuple, Table::Established, State::Closing, 0, [1, 1])
        .shot(FromPod, B, A, to_client(FIN | ACK), to_a)
        .kept(&tuple, Table::Transient, State::TimeWait, 0, [1, 2])
        .shot(FromPod, A, B, to_server(ACK), to_b)
        .kept(&tuple, Table::Transient, State::TimeWait, 0, [2, 2])
        .done()
}

fn reset(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "tcp-reset");
    let tuple = net.tuple((A, CLIENT), (B, SERVER), TCP);
    let to_a = scene.deliver(A);
    let before = scene.connection(State::Established, 0);
    scene
        .with(Table::Established, &tuple, before)
        .shot(FromPod, B, A, to_client(RST | ACK), to_a)
        .kept(&tuple, Table::Transient, State::Closed, 0, [0, 1])
        .shot(FromPod, B, A, to_client(RST), to_a)
        .kept(&tuple, Table::Transient, State::Closed, 0, [0, 2])
        .done()
}

/// A SYN on what is over begins anew, from whichever side.
fn again_after(place: &Place, net: Net, state: State) -> Case {
    let scene = Scene::new(place, net, &format!("tcp-again-after-{state:?}"));
    let old = net.tuple((A, CLIENT), (B, SERVER), TCP);
    let new = net.tuple((B, SERVER), (A, CLIENT), TCP);
    let to_a = scene.deliver(A);
    let before = scene.connection(state, 0);
    scene
        .with(Table::Transient, &old, before)
        .shot(FromPod, B, A, to_client(SYN), to_a)
        .kept(&new, Table::Transient, State::New, 0, [1, 0])
        .done()
}

/// An entry that expired is none, and leaves the table of the established.
fn expired(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "tcp-expired");
    let tuple = net.tuple((A, CLIENT), (B, SERVER), TCP);
    let to_b = scene.deliver(B);
    let mut before = scene.connection(State::Established, 0);
    before.expires = place.now;
    scene
        .with(Table::Established, &tuple, before)
        .shot(FromPod, A, B, to_server(SYN), to_b)
        .kept(&tuple, Table::Transient, State::New, 0, [1, 0])
        .done()
}

/// No room among the established: it stays where it may be evicted, and works.
fn full(place: &Place, net: Net) -> Case {
    let mut scene = Scene::new(place, net, "tcp-table-full");
    scene.case.world.established_full = true;
    let tuple = net.tuple((A, CLIENT), (B, SERVER), TCP);
    let (to_a, to_b) = (scene.deliver(A), scene.deliver(B));
    let bits = flags::NOT_PROMOTED;
    scene
        .shot(FromPod, A, B, to_server(SYN), to_b)
        .shot(FromPod, B, A, to_client(SYN | ACK), to_a)
        .shot(FromPod, A, B, to_server(ACK), to_b)
        .kept(&tuple, Table::Transient, State::Established, bits, [2, 1])
        .shot(FromPod, B, A, to_client(ACK), to_a)
        .kept(&tuple, Table::Transient, State::Established, bits, [2, 2])
        .done()
}

fn from_outside(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "tcp-from-outside");
    let tuple = net.tuple((World, CLIENT), (A, SERVER), TCP);
    let to_a = scene.deliver(A);
    scene
        .shot(FromUplink, World, A, to_server(SYN), to_a)
        .kept(&tuple, Table::Transient, State::New, 0, [1, 0])
        .shot(FromPod, A, World, to_client(SYN | ACK), Verdict::Stack)
        .kept(&tuple, Table::Transient, State::Replied, 0, [1, 1])
        .shot(FromUplink, World, A, to_server(ACK), to_a)
        .kept(&tuple, Table::Established, State::Established, 0, [2, 1])
        .done()
}

fn to_other_node(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "tcp-to-other-node");
    let tuple = net.tuple((A, CLIENT), (Far, SERVER), TCP);
    let next_hop = net.of(Who::OtherNode).into();
    let (ifindex, to_a) = (place.uplink, scene.deliver(A));
    scene
        .with_route(Route::Via { ifindex, next_hop })
        .shot(
            FromPod,
            A,
            Far,
            to_server(SYN),
            Verdict::Forward { ifindex, next_hop },
        )
        .kept(&tuple, Table::Transient, State::New, 0, [1, 0])
        .shot(FromUplink, Far, A, to_client(SYN | ACK), to_a)
        .kept(&tuple, Table::Transient, State::Replied, 0, [1, 1])
        .done()
}

/// The stack makes the ICMP error, or fragments.
fn too_long(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "tcp-too-long");
    let tuple = net.tuple((A, CLIENT), (Far, SERVER), TCP);
    scene
        .with_route(Route::TooLong)
        .shot(FromPod, A, Far, to_server(SYN), Verdict::Stack)
        .kept(&tuple, Table::Transient, State::New, 0, [1, 0])
        .done()
}

fn no_route(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "tcp-no-route");
    let tuple = net.tuple((A, CLIENT), (Far, SERVER), TCP);
    scene
        .shot(FromPod, A, Far, to_server(SYN), Verdict::Stack)
        .kept(&tuple, Table::Transient, State::New, 0, [1, 0])
        .done()
}

/// Found mid-stream between pods of this node: the stack has it until it is seen to translate
/// nothing, and then it is direct.
fn picked_up_here(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "tcp-picked-up-here");
    let tuple = net.tuple((A, CLIENT), (B, SERVER), TCP);
    let (to_a, to_b) = (scene.deliver(A), scene.deliver(B));
    let (via, seen) = (flags::VIA_STACK, flags::SEEN_AT_SOURCE);
    let picked = flags::PICKED_UP;
    let (table, state) = (Table::Transient, State::PickedUp);
    scene
        .shot(FromPod, A, B, to_server(ACK), Verdict::Stack)
        .kept(&tuple, table, state, picked | via | seen, [0, 0])
        .shot(ToPod, A, B, to_server(ACK), Verdict::Pass)
        .kept(&tuple, table, state, picked, [1, 0])
        .shot(FromPod, B, A, to_client(ACK), to_a)
        .kept(
            &tuple,
            Table::Established,
            State::Established,
            picked,
            [1, 1],
        )
        .shot(FromPod, A, B, to_server(ACK), to_b)
        .kept(
            &tuple,
            Table::Established,
            State::Established,
            picked,
            [2, 1],
        )
        .done()
}

fn picked_up_from_outside(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "tcp-picked-up-from-outside");
    let tuple = net.tuple((Far, CLIENT), (A, SERVER), TCP);
    let to_a = scene.deliver(A);
    let (via, seen) = (flags::VIA_STACK, flags::SEEN_AT_SOURCE);
    let picked = flags::PICKED_UP;
    let (table, state) = (Table::Transient, State::PickedUp);
    scene
        .shot(FromUplink, Far, A, to_server(ACK), Verdict::Stack)
        .kept(&tuple, table, state, picked | via | seen, [0, 0])
        .shot(ToPod, Far, A, to_server(ACK), Verdict::Pass)
        .kept(&tuple, table, state, picked, [1, 0])
        .shot(FromUplink, Far, A, to_server(ACK), to_a)
        .kept(&tuple, table, state, picked, [2, 0])
        .done()
}

/// A reset of nothing opens nothing.
fn stray_reset(place: &Place, net: Net) -> Case {
    let tuple = net.tuple((A, CLIENT), (B, SERVER), TCP);
    Scene::new(place, net, "tcp-stray-reset")
        .shot(FromPod, A, B, to_server(RST), Verdict::Stack)
        .forgotten(&tuple)
        .shot(FromPod, A, B, to_server(0), Verdict::Stack)
        .forgotten(&tuple)
        .done()
}

/// The answers take another way: it stays half open, and works.
fn one_sided(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "tcp-one-sided");
    let tuple = net.tuple((World, CLIENT), (A, SERVER), TCP);
    let to_a = scene.deliver(A);
    scene
        .shot(FromUplink, World, A, to_server(SYN), to_a)
        .shot(FromUplink, World, A, to_server(ACK), to_a)
        .kept(&tuple, Table::Transient, State::New, 0, [2, 0])
        .done()
}
