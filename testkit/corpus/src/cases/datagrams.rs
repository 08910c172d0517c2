use watari_abi::{Hook, StackPort, State, flags};
use watari_datapath::state::SECOND;
use watari_datapath::{Table, Verdict};

use super::{SCTP, UDP, udp};
use crate::packets::Body;
use crate::scene::{Case, Scene};
use crate::world::{Net, Place, Who};

use Hook::{FromPod, FromUplink, ToPod};
use Who::{A, B, World};

pub fn add(all: &mut Vec<Case>, place: &Place, net: Net) {
    all.extend([
        udp_here(place, net),
        udp_from_outside(place, net),
        udp_to_outside(place, net),
        udp_reply_of_the_stack(place, net),
        stale_stack_port(place, net),
        stack_port_of_another_tick(place, net),
        ping(place, net),
        unasked_reply(place, net),
        association(place, net),
        aborted(place, net),
        other_protocol(place, net),
    ]);
}

fn udp_here(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "udp");
    let tuple = net.tuple((A, 5000), (B, 53), UDP);
    let (to_a, to_b) = (scene.deliver(A), scene.deliver(B));
    scene
        .shot(FromPod, A, B, udp(5000, 53), to_b)
        .kept(&tuple, Table::Transient, State::New, 0, [1, 0])
        .shot(FromPod, A, B, udp(5000, 53), to_b)
        .kept(&tuple, Table::Transient, State::New, 0, [2, 0])
        .shot(FromPod, B, A, udp(53, 5000), to_a)
        .kept(&tuple, Table::Transient, State::Established, 0, [2, 1])
        .done()
}

fn udp_from_outside(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "udp-from-outside");
    let tuple = net.tuple((World, 5000), (A, 53), UDP);
    let to_a = scene.deliver(A);
    scene
        .shot(FromUplink, World, A, udp(5000, 53), to_a)
        .kept(&tuple, Table::Transient, State::New, 0, [1, 0])
        .shot(FromPod, A, World, udp(53, 5000), Verdict::Stack)
        .kept(&tuple, Table::Transient, State::Established, 0, [1, 1])
        .done()
}

/// The stack may translate it, so it has it; an answer that comes unchanged proves that it does not.
fn udp_to_outside(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "udp-to-outside");
    let tuple = net.tuple((A, 5000), (World, 53), UDP);
    let (via, seen) = (flags::VIA_STACK, flags::REPLY_SEEN_AT_SOURCE);
    let (table, established) = (Table::Transient, State::Established);
    let to_a = scene.deliver(A);
    scene
        .shot(FromPod, A, World, udp(5000, 53), Verdict::Stack)
        .kept(&tuple, table, State::New, via, [1, 0])
        .shot(FromUplink, World, A, udp(53, 5000), Verdict::Stack)
        .kept(&tuple, table, established, via | seen, [1, 0])
        .shot(ToPod, World, A, udp(53, 5000), Verdict::Pass)
        .kept(&tuple, table, established, 0, [1, 1])
        .shot(FromUplink, World, A, udp(53, 5000), to_a)
        .kept(&tuple, table, established, 0, [1, 2])
        .done()
}

/// To a Service that the stack translates: the backend's answer is unknown here, and the stack's.
fn udp_reply_of_the_stack(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "udp-reply-of-the-stack");
    let asked = net.tuple((A, 5000), (Who::Service, 53), UDP);
    let backend = net.tuple((Who::Far, 53), (A, 5000), UDP);
    let via = flags::VIA_STACK;
    scene
        .shot(FromPod, A, Who::Service, udp(5000, 53), Verdict::Stack)
        .kept(&asked, Table::Transient, State::New, via, [1, 0])
        .shot(FromUplink, Who::Far, A, udp(53, 5000), Verdict::Stack)
        .forgotten(&backend)
        .shot(ToPod, Who::Service, A, udp(53, 5000), Verdict::Pass)
        .kept(&asked, Table::Transient, State::Established, via, [1, 1])
        .done()
}

/// What the port was used for is long past.
fn stale_stack_port(place: &Place, net: Net) -> Case {
    // A machine that has just booted may not have been there then.
    let then = place.now.wrapping_sub(181 * SECOND);
    let scene = used(Scene::new(place, net, "udp-stale-stack-port"), net, then);
    let to_a = scene.deliver(A);
    let tuple = net.tuple((World, 53), (A, 5000), UDP);
    scene
        .shot(FromUplink, World, A, udp(53, 5000), to_a)
        .kept(&tuple, Table::Transient, State::New, 0, [1, 0])
        .done()
}

/// Another CPU, which is a tick ahead, has just sent from the port.
fn stack_port_of_another_tick(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "udp-stack-port-of-another-tick");
    used(scene, net, place.now + SECOND)
        .shot(FromUplink, World, A, udp(53, 5000), Verdict::Stack)
        .forgotten(&net.tuple((World, 53), (A, 5000), UDP))
        .done()
}

/// With a port of A's used towards somebody whom the stack may translate.
fn used(mut scene: Scene, net: Net, when: u64) -> Scene {
    let port = StackPort {
        address: net.of(A).into(),
        port: 5000_u16.to_be(),
        protocol: UDP,
        pad: 0,
    };
    scene.case.world.stack_ports.push((port, when));
    scene
}

fn ping(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "ping");
    let tuple = net.tuple((A, 77), (B, 77), net.icmp());
    let (to_a, to_b) = (scene.deliver(A), scene.deliver(B));
    let echo = |request| Body::Echo { request, id: 77 };
    scene
        .shot(FromPod, A, B, echo(true), to_b)
        .kept(&tuple, Table::Transient, State::New, 0, [1, 0])
        .shot(FromPod, B, A, echo(false), to_a)
        .kept(&tuple, Table::Transient, State::Established, 0, [1, 1])
        .done()
}

/// A reply to what was not seen being asked: who gets it asked.
fn unasked_reply(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "ping-unasked-reply");
    let tuple = net.tuple((A, 77), (World, 77), net.icmp());
    let (via, seen) = (flags::VIA_STACK, flags::REPLY_SEEN_AT_SOURCE);
    let reply = Body::Echo {
        request: false,
        id: 77,
    };
    scene
        .shot(FromUplink, World, A, reply, Verdict::Stack)
        .kept(&tuple, Table::Transient, State::New, via | seen, [0, 0])
        .done()
}

fn sctp(source: u16, destination: u16, chunk: u8) -> Body {
    Body::Sctp {
        source,
        destination,
        chunk,
    }
}

fn association(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "sctp");
    let tuple = net.tuple((A, 5000), (B, 9), SCTP);
    let (to_a, to_b) = (scene.deliver(A), scene.deliver(B));
    let (kept, left) = (Table::Established, Table::Transient);
    scene
        .shot(FromPod, A, B, sctp(5000, 9, 1), to_b)
        .kept(&tuple, left, State::New, 0, [1, 0])
        .shot(FromPod, B, A, sctp(9, 5000, 2), to_a)
        .kept(&tuple, left, State::Replied, 0, [1, 1])
        .shot(FromPod, A, B, sctp(5000, 9, 10), to_b)
        .kept(&tuple, kept, State::Established, 0, [2, 1])
        .shot(FromPod, B, A, sctp(9, 5000, 11), to_a)
        .shot(FromPod, A, B, sctp(5000, 9, 7), to_b)
        .kept(&tuple, kept, State::Closing, 0, [3, 2])
        .shot(FromPod, B, A, sctp(9, 5000, 8), to_a)
        .kept(&tuple, kept, State::Closing, 0, [3, 3])
        .shot(FromPod, A, B, sctp(5000, 9, 14), to_b)
        .kept(&tuple, left, State::Closed, 0, [4, 3])
        .done()
}

fn aborted(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "sctp-abort");
    let tuple = net.tuple((A, 5000), (B, 9), SCTP);
    let (to_a, to_b) = (scene.deliver(A), scene.deliver(B));
    let before = scene.connection(State::Established, 0);
    scene
        .with(Table::Established, &tuple, before)
        .shot(FromPod, B, A, sctp(9, 5000, 6), to_a)
        .kept(&tuple, Table::Transient, State::Closed, 0, [0, 1])
        .shot(FromPod, A, B, sctp(5000, 9, 1), to_b)
        .kept(&tuple, Table::Transient, State::New, 0, [1, 0])
        .done()
}

/// A protocol without ports is followed by its addresses.
fn other_protocol(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "other-protocol");
    let tuple = net.tuple((A, 0), (B, 0), 47);
    let (to_a, to_b) = (scene.deliver(A), scene.deliver(B));
    let gre = Body::Raw { protocol: 47 };
    scene
        .shot(FromPod, A, B, gre.clone(), to_b)
        .kept(&tuple, Table::Transient, State::New, 0, [1, 0])
        .shot(FromPod, B, A, gre, to_a)
        .kept(&tuple, Table::Transient, State::Established, 0, [1, 1])
        .done()
}
