//! Services for pods of this node.

use watari_abi::{
    Affinity, AffinityKey, Hook, PortRangeKey, SocketKey, SocketService, State, flags,
    frontend_flags,
};
use watari_datapath::desk::Input;
use watari_datapath::{Route, Table, Verdict};

use super::{ACK, CLIENT, FIN, RST, SCTP, SERVER, SYN, TCP, UDP, body};
use crate::packets::{Body, Packet};
use crate::scene::{Case, Out, Scene, TRANSLATED};
use crate::world::{Net, Place, Who};

use Hook::{FromPod, FromUplink, ToPod};
use Who::{A, B, Far, Node, Service, World};

/// The backends' port.
const BACKEND: u16 = 8080;
const SECOND: u64 = 1_000_000_000;

pub fn add(all: &mut Vec<Case>, place: &Place, net: Net) {
    all.extend([
        through_a_handshake(place, net),
        ended(place, net),
        reused(place, net),
        by_datagrams(place, net),
        by_sctp(place, net),
        elsewhere(place, net),
        outside_the_cluster(place, net),
        to_itself(place, net),
        beside_another(place, net),
        exhausted(place, net),
        kept_with_its_backend(place, net),
        no_longer_kept(place, net),
        range_of_ports(place, net),
        in_fragments(place, net),
        many_segments(place, net),
        chosen_at_the_socket(place, net),
        services_off(place, net),
    ]);
}

fn scene(place: &Place, net: Net, name: &str) -> Scene {
    Scene::new(place, net, name).with_services()
}

/// A packet between two with that body, as it is seen at the hook, with something in it.
fn sent(scene: &Scene, hook: Hook, from: Who, to: Who, body: Body) -> Packet {
    scene.packet(hook, from, to, body).carrying([0x5a; 21])
}

/// The same packet with other ends.
fn turned(packet: &Packet, scene: &Scene, from: Who, to: Who, body: Body) -> Packet {
    let mut other = packet.clone();
    (other.source, other.destination) = (scene.net.of(from), scene.net.of(to));
    other.body = body;
    other
}

/// As it enters a pod: one hop less, the MACs of its link.
fn into(pod: Who, packet: &Packet) -> Out {
    let hops = packet.hops - 1;
    Out::Packet(Box::new(
        packet.clone().hops(hops).macs(pod.host_mac(), pod.mac()),
    ))
}

impl Scene {
    /// Pod A sends to the Service, and pod B gets it.
    fn asks(self, protocol: u8, control: u8) -> Self {
        let packet = sent(
            &self,
            FromPod,
            A,
            Service,
            body(protocol, CLIENT, SERVER, control),
        );
        let seen = turned(
            &packet,
            &self,
            A,
            B,
            body(protocol, CLIENT, BACKEND, control),
        );
        let to_b = self.deliver(B);
        self.shot_packet(FromPod, A, Service, &packet, to_b, &into(B, &seen))
    }

    /// Pod B answers, and pod A gets it from the Service.
    fn answers(self, protocol: u8, control: u8) -> Self {
        let packet = sent(
            &self,
            FromPod,
            B,
            A,
            body(protocol, BACKEND, CLIENT, control),
        );
        let seen = turned(
            &packet,
            &self,
            Service,
            A,
            body(protocol, SERVER, CLIENT, control),
        );
        let to_a = self.deliver(A);
        self.shot_packet(FromPod, B, A, &packet, to_a, &into(A, &seen))
    }
}

/// The alias follows its connection among the established, and both sides go on.
fn through_a_handshake(place: &Place, net: Net) -> Case {
    let far = net.tuple((A, CLIENT), (B, BACKEND), TCP);
    let near = net.tuple((A, CLIENT), (Service, SERVER), TCP);
    scene(place, net, "service")
        .serving((Service, SERVER, TCP), &[(B, BACKEND)], |_| {})
        .asks(TCP, SYN)
        .kept(&far, Table::Transient, State::New, 0, [1, 0])
        .kept(&near, Table::Transient, State::New, flags::ALIAS, [0, 0])
        .answers(TCP, SYN | ACK)
        .kept(&far, Table::Transient, State::Replied, 0, [1, 1])
        .asks(TCP, ACK)
        .kept(&far, Table::Established, State::Established, 0, [2, 1])
        .kept(&near, Table::Established, State::New, flags::ALIAS, [0, 0])
        .asks(TCP, ACK)
        .answers(TCP, ACK)
        .kept(&far, Table::Established, State::Established, 0, [3, 2])
        .done()
}

fn ended(place: &Place, net: Net) -> Case {
    let far = net.tuple((A, CLIENT), (B, BACKEND), TCP);
    let near = net.tuple((A, CLIENT), (Service, SERVER), TCP);
    scene(place, net, "service-ended")
        .serving((Service, SERVER, TCP), &[(B, BACKEND)], |_| {})
        .asks(TCP, SYN)
        .answers(TCP, SYN | ACK)
        .asks(TCP, ACK)
        .asks(TCP, FIN | ACK)
        .kept(&far, Table::Established, State::Closing, 0, [3, 1])
        .answers(TCP, FIN | ACK)
        .kept(&far, Table::Transient, State::TimeWait, 0, [3, 2])
        .kept(&near, Table::Transient, State::New, flags::ALIAS, [0, 0])
        .asks(TCP, ACK)
        .kept(&far, Table::Transient, State::TimeWait, 0, [4, 2])
        .done()
}

/// A port that is used again begins another connection.
fn reused(place: &Place, net: Net) -> Case {
    let far = net.tuple((A, CLIENT), (B, BACKEND), TCP);
    scene(place, net, "service-port-reused")
        .serving((Service, SERVER, TCP), &[(B, BACKEND)], |_| {})
        .asks(TCP, SYN)
        .answers(TCP, SYN | ACK)
        .asks(TCP, ACK)
        .answers(TCP, RST)
        .kept(&far, Table::Transient, State::Closed, 0, [2, 2])
        .asks(TCP, SYN)
        .kept(&far, Table::Transient, State::New, 0, [1, 0])
        .answers(TCP, SYN | ACK)
        .done()
}

fn by_datagrams(place: &Place, net: Net) -> Case {
    let far = net.tuple((A, CLIENT), (B, BACKEND), UDP);
    scene(place, net, "service-udp")
        .serving((Service, SERVER, UDP), &[(B, BACKEND)], |_| {})
        .asks(UDP, 0)
        .kept(&far, Table::Transient, State::New, 0, [1, 0])
        .answers(UDP, 0)
        .asks(UDP, 0)
        .kept(&far, Table::Transient, State::Established, 0, [2, 1])
        .done()
}

/// The checksum over all of the packet follows its ports.
fn by_sctp(place: &Place, net: Net) -> Case {
    let far = net.tuple((A, CLIENT), (B, BACKEND), SCTP);
    scene(place, net, "service-sctp")
        .serving((Service, SERVER, SCTP), &[(B, BACKEND)], |_| {})
        .asks(SCTP, 1)
        .answers(SCTP, 2)
        .asks(SCTP, 10)
        .kept(&far, Table::Established, State::Established, 0, [2, 1])
        .done()
}

/// The backend is on another node, which answers the pod itself.
fn elsewhere(place: &Place, net: Net) -> Case {
    let (ifindex, next_hop) = (place.uplink, net.of(Who::OtherNode).into());
    let scene = scene(place, net, "service-on-another-node")
        .serving((Service, SERVER, UDP), &[(Far, BACKEND)], |_| {})
        .with_route(Route::Via { ifindex, next_hop });
    let packet = sent(&scene, FromPod, A, Service, body(UDP, CLIENT, SERVER, 0));
    let seen = turned(&packet, &scene, A, Far, body(UDP, CLIENT, BACKEND, 0));
    let answer = sent(&scene, FromUplink, Far, A, body(UDP, BACKEND, CLIENT, 0));
    let told = turned(&answer, &scene, Service, A, body(UDP, SERVER, CLIENT, 0));
    let to_a = scene.deliver(A);
    let out = Out::Packet(Box::new(seen.hops(63)));
    scene
        .shot_packet(
            FromPod,
            A,
            Service,
            &packet,
            Verdict::Forward { ifindex, next_hop },
            &out,
        )
        .shot_packet(FromUplink, Far, A, &answer, to_a, &into(A, &told))
        .done()
}

/// The backend is no pod: the stack takes the packet there, and brings the answer.
fn outside_the_cluster(place: &Place, net: Net) -> Case {
    let scene = scene(place, net, "service-outside").serving(
        (Service, SERVER, TCP),
        &[(World, BACKEND)],
        |_| {},
    );
    let packet = sent(&scene, FromPod, A, Service, body(TCP, CLIENT, SERVER, SYN));
    let seen = turned(&packet, &scene, A, World, body(TCP, CLIENT, BACKEND, SYN));
    let answer = body(TCP, BACKEND, CLIENT, SYN | ACK);
    let answer = sent(&scene, ToPod, World, A, answer);
    let told = body(TCP, SERVER, CLIENT, SYN | ACK);
    let told = turned(&answer, &scene, Service, A, told);
    let far = net.tuple((A, CLIENT), (World, BACKEND), TCP);
    scene
        .shot_packet(
            FromPod,
            A,
            Service,
            &packet,
            Verdict::Stack,
            &Out::Packet(Box::new(seen)),
        )
        .shot_packet(
            ToPod,
            World,
            A,
            &answer,
            Verdict::Pass,
            &Out::Packet(Box::new(told)),
        )
        .kept(&far, Table::Transient, State::Replied, 0, [1, 1])
        .done()
}

/// A pod gets itself: it sees the node, or it would answer itself past the node.
fn to_itself(place: &Place, net: Net) -> Case {
    let scene = scene(place, net, "service-hairpin").serving(
        (Service, SERVER, TCP),
        &[(A, BACKEND)],
        |_| {},
    );
    let packet = sent(&scene, FromPod, A, Service, body(TCP, CLIENT, SERVER, SYN));
    let seen = body(TCP, TRANSLATED, BACKEND, SYN);
    let seen = turned(&packet, &scene, Node, A, seen);
    let answer = body(TCP, BACKEND, TRANSLATED, SYN | ACK);
    let answer = sent(&scene, FromPod, A, Node, answer);
    let told = body(TCP, SERVER, CLIENT, SYN | ACK);
    let told = turned(&answer, &scene, Service, A, told);
    let to_a = scene.deliver(A);
    scene
        .shot_packet(FromPod, A, Service, &packet, to_a, &into(A, &seen))
        .shot_packet(FromPod, A, Node, &answer, to_a, &into(A, &told))
        .done()
}

/// The client talks to the backend itself with the same port: through the Service it has another.
fn beside_another(place: &Place, net: Net) -> Case {
    let direct = net.tuple((A, CLIENT), (B, BACKEND), UDP);
    let scene = scene(place, net, "service-collision").serving(
        (Service, SERVER, UDP),
        &[(B, BACKEND)],
        |_| {},
    );
    let before = scene.connection(State::Established, 0);
    let packet = sent(&scene, FromPod, A, Service, body(UDP, CLIENT, SERVER, 0));
    let seen = turned(&packet, &scene, A, B, body(UDP, TRANSLATED, BACKEND, 0));
    let answer = sent(&scene, FromPod, B, A, body(UDP, BACKEND, TRANSLATED, 0));
    let told = turned(&answer, &scene, Service, A, body(UDP, SERVER, CLIENT, 0));
    let (to_a, to_b) = (scene.deliver(A), scene.deliver(B));
    scene
        .with(Table::Transient, &direct, before)
        .shot_packet(FromPod, A, Service, &packet, to_b, &into(B, &seen))
        .kept(&direct, Table::Transient, State::Established, 0, [0, 0])
        .shot_packet(FromPod, B, A, &answer, to_a, &into(A, &told))
        .done()
}

fn exhausted(place: &Place, net: Net) -> Case {
    let scene = scene(place, net, "service-ports-exhausted").serving(
        (Service, SERVER, TCP),
        &[(A, BACKEND)],
        |_| {},
    );
    let taken = net.tuple((Node, TRANSLATED), (A, BACKEND), TCP);
    let before = scene.connection(State::Established, 0);
    scene
        .with(Table::Established, &taken, before)
        .shot(
            FromPod,
            A,
            Service,
            body(TCP, CLIENT, SERVER, SYN),
            Verdict::Drop(watari_abi::Reason::SourcePortsExhausted),
        )
        .done()
}

/// A remembered client, whose backend is the second of two.
fn remembered(mut scene: Scene, seconds_ago: u64, backend: u32) -> Scene {
    let key = AffinityKey {
        client: scene.net.of(A).into(),
        service: 7,
    };
    let affinity = Affinity {
        seen: scene.place.now - seconds_ago * SECOND,
        backend,
        pad: 0,
    };
    scene.case.world.services.affinities.push((key, affinity));
    scene
}

fn kept_with_its_backend(place: &Place, net: Net) -> Case {
    let scene = scene(place, net, "service-affinity")
        // Another set's backend, which nobody would choose here.
        .serving((Service, 9999, TCP), &[(B, BACKEND)], |_| {})
        .serving((Service, SERVER, TCP), &[(Far, BACKEND)], |frontend| {
            frontend.affinity = 100;
        });
    // A kernel that runs it may have begun just now.
    remembered(scene, 0, 1).asks(TCP, SYN).done()
}

fn no_longer_kept(place: &Place, net: Net) -> Case {
    let scene = scene(place, net, "service-affinity-expired")
        .serving((Service, 9999, TCP), &[(Far, BACKEND)], |_| {})
        .serving((Service, SERVER, TCP), &[(B, BACKEND)], |frontend| {
            frontend.affinity = 1;
        });
    remembered(scene, 2, 1).asks(TCP, SYN).done()
}

/// A Service of all ports: the backend is asked at the port that the client asked.
fn range_of_ports(place: &Place, net: Net) -> Case {
    let mut scene = scene(place, net, "service-port-range")
        .serving((Service, 0, 0), &[], |entry| {
            entry.flags = frontend_flags::HAS_RANGES | frontend_flags::REFUSES_OTHERS;
        })
        .serving((Service, 1, 255), &[(B, 0)], |_| {});
    let services = &mut scene.case.world.services;
    let (_, mut range) = services.frontends.pop().expect("the last one");
    range.flags = frontend_flags::KEEPS_PORT;
    let key = PortRangeKey {
        length: 128 + 8 + 8,
        address: net.of(Service).into(),
        protocol: UDP,
        port: [0x1f, 0],
        pad: 0,
    };
    services.port_ranges.push((key, range));
    let packet = sent(&scene, FromPod, A, Service, body(UDP, CLIENT, 0x1f77, 0));
    let seen = turned(&packet, &scene, A, B, body(UDP, CLIENT, 0x1f77, 0));
    let to_b = scene.deliver(B);
    scene
        .shot_packet(FromPod, A, Service, &packet, to_b, &into(B, &seen))
        .done()
}

/// All parts of a datagram get the backend's address; the first has the ports.
fn in_fragments(place: &Place, net: Net) -> Case {
    let mut scene = scene(place, net, "service-fragments").serving(
        (Service, SERVER, UDP),
        &[(B, BACKEND)],
        |_| {},
    );
    let whole = |scene: &Scene, to, port| {
        let packet = scene.packet(FromPod, A, to, body(UDP, CLIENT, port, 0));
        packet.carrying([7; 40]).fragments(77, 16)
    };
    let to_b = scene.deliver(B);
    let parts = whole(&scene, Service, SERVER);
    let seen = whole(&scene, B, BACKEND);
    for (part, seen) in parts.iter().zip(seen) {
        let seen = seen.hops(63).macs(B.host_mac(), B.mac());
        let out = Out::Packet(Box::new(seen));
        scene = scene.shot_packet(FromPod, A, Service, part, to_b, &out);
    }
    scene.done()
}

/// Many segments at once are one packet to translate.
fn many_segments(place: &Place, net: Net) -> Case {
    let scene = scene(place, net, "service-segments")
        .serving((Service, SERVER, TCP), &[(B, BACKEND)], |_| {})
        .asks(TCP, SYN)
        .answers(TCP, SYN | ACK);
    let of = |scene: &Scene, to, port| {
        let packet = scene.packet(FromPod, A, to, body(TCP, CLIENT, port, ACK));
        packet.carrying(vec![9; 4000])
    };
    let mut input = Input::new(place.link_a, of(&scene, Service, SERVER).bytes());
    input.segment = 1400;
    let seen = of(&scene, B, BACKEND).hops(63);
    let seen = seen.macs(B.host_mac(), B.mac()).bytes();
    let to_b = scene.deliver(B);
    scene.shot_bytes(FromPod, input, to_b, seen).done()
}

/// The socket was given the backend: the packet is as it shall be, and the connection says why.
fn chosen_at_the_socket(place: &Place, net: Net) -> Case {
    let mut scene = scene(place, net, "service-at-the-socket");
    let key = SocketKey {
        cookie: 99,
        address: net.of(B).into(),
        port: BACKEND.to_be(),
        protocol: UDP,
        pad: [0; 5],
    };
    let socket = SocketService {
        address: net.of(Service).into(),
        port: SERVER.to_be(),
        flags: 0,
        service: 7,
        backend: 1,
    };
    scene.case.world.services.sockets.push((key, socket));
    let packet = scene.packet(FromPod, A, B, body(UDP, CLIENT, BACKEND, 0));
    let mut input = Input::new(place.link_a, packet.bytes());
    input.cookie = 99;
    let seen = packet.hops(63).macs(B.host_mac(), B.mac()).bytes();
    let to_b = scene.deliver(B);
    scene.shot_bytes(FromPod, input, to_b, seen).done()
}

/// Without Services nobody asks for them.
fn services_off(place: &Place, net: Net) -> Case {
    let mut scene =
        scene(place, net, "services-off").serving((Service, SERVER, TCP), &[(B, BACKEND)], |_| {});
    scene.case.world.config.flags = 0;
    scene
        .shot(
            FromPod,
            A,
            Service,
            body(TCP, CLIENT, SERVER, SYN),
            Verdict::Stack,
        )
        .done()
}
