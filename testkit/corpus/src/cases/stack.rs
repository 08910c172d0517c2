use watari_abi::{Hook, State, flags};
use watari_datapath::{Table, Verdict};

use super::{ACK, CLIENT, SERVER, SYN, TCP, UDP, to_client, to_server, udp};
use crate::scene::{Case, Scene};
use crate::world::{Net, Place, Who};

use Hook::{FromPod, FromUplink, ToPod};
use Who::{A, B, Far, Node, Service, World};

pub fn add(all: &mut Vec<Case>, place: &Place, net: Net) {
    all.extend([
        host_port(place, net),
        host_port_from_a_pod(place, net),
        host_port_and_pod_from_one_port(place, net),
        pod_and_host_port_from_one_port(place, net),
        service_elsewhere(place, net),
        from_the_node(place, net),
        to_outside(place, net),
    ]);
}

/// The stack translated the destination: answers go to the stack for good, however long it lasts.
fn host_port(place: &Place, net: Net) -> Case {
    let tuple = net.tuple((World, CLIENT), (A, SERVER), TCP);
    let via = flags::VIA_STACK | flags::FROM_STACK;
    let (kept, left) = (Table::Established, Table::Transient);
    Scene::new(place, net, "host-port")
        .shot(ToPod, World, A, to_server(SYN), Verdict::Pass)
        .kept(&tuple, left, State::New, via, [1, 0])
        .shot(FromPod, A, World, to_client(SYN | ACK), Verdict::Stack)
        .kept(&tuple, left, State::Replied, via, [1, 1])
        .shot(ToPod, World, A, to_server(ACK), Verdict::Pass)
        .kept(&tuple, kept, State::Established, via, [2, 1])
        .shot(FromPod, A, World, to_client(ACK), Verdict::Stack)
        .kept(&tuple, kept, State::Established, via, [2, 2])
        .shot(ToPod, World, A, to_server(ACK), Verdict::Pass)
        .kept(&tuple, kept, State::Established, via, [3, 2])
        .done()
}

/// Pod B asks for a host port that leads to pod A, without its source being translated. A's answers
/// are for a pod here, and prove nothing of the other direction.
fn host_port_from_a_pod(place: &Place, net: Net) -> Case {
    let asked = net.tuple((B, CLIENT), (Node, SERVER), TCP);
    let inner = net.tuple((B, CLIENT), (A, SERVER), TCP);
    let via = flags::VIA_STACK;
    let from = via | flags::FROM_STACK;
    let table = Table::Transient;
    Scene::new(place, net, "host-port-from-a-pod")
        .shot(FromPod, B, Node, to_server(SYN), Verdict::Stack)
        .kept(&asked, table, State::New, via, [1, 0])
        .shot(ToPod, B, A, to_server(SYN), Verdict::Pass)
        .kept(&inner, table, State::New, from, [1, 0])
        .shot(FromPod, A, B, to_client(SYN | ACK), Verdict::Stack)
        .kept(&inner, table, State::Replied, from, [1, 1])
        .shot(ToPod, Node, B, to_client(SYN | ACK), Verdict::Pass)
        .kept(&asked, table, State::Replied, via, [1, 1])
        .shot(FromPod, B, Node, to_server(ACK), Verdict::Stack)
        .kept(&asked, Table::Established, State::Established, via, [2, 1])
        .shot(ToPod, B, A, to_server(ACK), Verdict::Pass)
        .kept(&inner, Table::Established, State::Established, from, [2, 1])
        .shot(FromPod, A, B, to_client(ACK), Verdict::Stack)
        .done()
}

/// A pod elsewhere asks a host port of A's, and A itself, from one port: the tuples are the same
/// where each is seen. The stack tells the two apart; the programs leave both to it.
fn host_port_and_pod_from_one_port(place: &Place, net: Net) -> Case {
    let tuple = net.tuple((Far, CLIENT), (A, SERVER), TCP);
    let from = flags::VIA_STACK | flags::FROM_STACK;
    let (kept, left) = (Table::Established, Table::Transient);
    Scene::new(place, net, "host-port-and-pod-from-one-port")
        .shot(ToPod, Far, A, to_server(SYN), Verdict::Pass)
        .kept(&tuple, left, State::New, from, [1, 0])
        .shot(FromPod, A, Far, to_client(SYN | ACK), Verdict::Stack)
        .shot(ToPod, Far, A, to_server(ACK), Verdict::Pass)
        .kept(&tuple, kept, State::Established, from, [2, 1])
        .shot(FromUplink, Far, A, to_server(SYN), Verdict::Stack)
        .kept(&tuple, kept, State::Established, from, [2, 1])
        .shot(ToPod, Far, A, to_server(ACK), Verdict::Pass)
        .kept(&tuple, kept, State::Established, from, [3, 1])
        .shot(FromPod, A, Far, to_client(ACK), Verdict::Stack)
        .kept(&tuple, kept, State::Established, from, [3, 2])
        .done()
}

/// The other way round, by UDP: what was direct is the stack's once the stack delivers it.
fn pod_and_host_port_from_one_port(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "pod-and-host-port-from-one-port");
    let tuple = net.tuple((Far, 5000), (A, 53), UDP);
    let from = flags::VIA_STACK | flags::FROM_STACK;
    let to_a = scene.deliver(A);
    let table = Table::Transient;
    scene
        .shot(FromUplink, Far, A, udp(5000, 53), to_a)
        .kept(&tuple, table, State::New, 0, [1, 0])
        .shot(ToPod, Far, A, udp(5000, 53), Verdict::Pass)
        .kept(&tuple, table, State::New, from, [2, 0])
        .shot(FromPod, A, Far, udp(53, 5000), Verdict::Stack)
        .kept(&tuple, table, State::Established, from, [2, 1])
        .done()
}

/// The stack leads a Service to a pod elsewhere: the answer enters with a tuple that nobody here
/// opened, and the stack has it.
fn service_elsewhere(place: &Place, net: Net) -> Case {
    let asked = net.tuple((A, CLIENT), (Service, SERVER), TCP);
    let inner = net.tuple((A, CLIENT), (Far, SERVER), TCP);
    let via = flags::VIA_STACK;
    let found = via | flags::PICKED_UP | flags::REPLY_SEEN_AT_SOURCE;
    let table = Table::Transient;
    Scene::new(place, net, "service-elsewhere")
        .shot(FromPod, A, Service, to_server(SYN), Verdict::Stack)
        .kept(&asked, table, State::New, via, [1, 0])
        .shot(FromUplink, Far, A, to_client(SYN | ACK), Verdict::Stack)
        .kept(&inner, table, State::PickedUp, found, [0, 0])
        .shot(ToPod, Service, A, to_client(SYN | ACK), Verdict::Pass)
        .kept(&asked, table, State::Replied, via, [1, 1])
        .shot(FromPod, A, Service, to_server(ACK), Verdict::Stack)
        .kept(&asked, Table::Established, State::Established, via, [2, 1])
        .shot(FromUplink, Far, A, to_client(ACK), Verdict::Stack)
        .kept(&inner, table, State::PickedUp, found, [0, 0])
        .done()
}

/// A probe of the node's own.
fn from_the_node(place: &Place, net: Net) -> Case {
    let tuple = net.tuple((Node, CLIENT), (A, SERVER), TCP);
    let via = flags::VIA_STACK | flags::FROM_STACK;
    Scene::new(place, net, "from-the-node")
        .shot(ToPod, Node, A, to_server(SYN), Verdict::Pass)
        .kept(&tuple, Table::Transient, State::New, via, [1, 0])
        .shot(FromPod, A, Node, to_client(SYN | ACK), Verdict::Stack)
        .kept(&tuple, Table::Transient, State::Replied, via, [1, 1])
        .done()
}

/// To somebody outside, whose answer enters with the pod's own address: nobody translates it.
fn to_outside(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "tcp-to-outside");
    let tuple = net.tuple((A, CLIENT), (World, SERVER), TCP);
    let (via, seen) = (flags::VIA_STACK, flags::REPLY_SEEN_AT_SOURCE);
    let to_a = scene.deliver(A);
    let (kept, left) = (Table::Established, Table::Transient);
    scene
        .shot(FromPod, A, World, to_server(SYN), Verdict::Stack)
        .kept(&tuple, left, State::New, via, [1, 0])
        .shot(FromUplink, World, A, to_client(SYN | ACK), Verdict::Stack)
        .kept(&tuple, left, State::Replied, via | seen, [1, 0])
        .shot(ToPod, World, A, to_client(SYN | ACK), Verdict::Pass)
        .kept(&tuple, left, State::Replied, 0, [1, 1])
        .shot(FromPod, A, World, to_server(ACK), Verdict::Stack)
        .kept(&tuple, kept, State::Established, 0, [2, 1])
        .shot(FromUplink, World, A, to_client(ACK), to_a)
        .kept(&tuple, kept, State::Established, 0, [2, 2])
        .done()
}
