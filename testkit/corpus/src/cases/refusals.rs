//! What nobody takes: answered, or dropped for a reason.

use watari_abi::{Hook, PrefixKey, Reason, SourceRangeKey, State, flags, frontend_flags};
use watari_datapath::{Table, Verdict};

use super::{ACK, CLIENT, FIN, RST, SERVER, SYN, TCP, UDP, body};
use crate::packets::{Body, Packet};
use crate::scene::{Case, Out, Scene};
use crate::world::{Net, Place, Who};

use Hook::{FromPod, FromUplink};
use Who::{A, B, Node, Service, World};

pub fn add(all: &mut Vec<Case>, place: &Place, net: Net) {
    all.extend([
        no_endpoint_tcp(place, net),
        no_endpoint_udp(place, net),
        long_datagram(place, net),
        undefined_port(place, net),
        mid_stream(place, net),
        of_a_reset(place, net),
        from_outside(place, net),
        no_local_endpoint(place, net),
        unallocated(place, net),
        source_range(place, net),
        orphaned_alias(place, net),
    ]);
}

fn scene(place: &Place, net: Net, name: &str) -> Scene {
    Scene::new(place, net, name)
        .with_services()
        .serving((Service, 0, 0), &[], |entry| {
            entry.flags = frontend_flags::REFUSES_OTHERS;
        })
}

/// The answer to what `packet` asked: back to where it came from.
fn back(packet: &Packet, body: Body) -> Packet {
    Packet::new(packet.destination, packet.source, body)
        .macs(packet.destination_mac, packet.source_mac)
}

/// A reset has no window, and its sequence is what the other acknowledged.
fn reset(packet: &Packet, sequence: u32, acknowledged: u32, bits: u8) -> Vec<u8> {
    let mut answer = back(packet, Body::Raw { protocol: TCP });
    let Body::Tcp {
        source,
        destination,
        ..
    } = packet.body
    else {
        panic!("no TCP");
    };
    let mut header = Vec::new();
    header.extend(destination.to_be_bytes());
    header.extend(source.to_be_bytes());
    header.extend(sequence.to_be_bytes());
    header.extend(acknowledged.to_be_bytes());
    header.extend([0x50, bits, 0, 0, 0, 0, 0, 0]);
    let sum = answer.pseudo_sum(&header);
    header[16..18].copy_from_slice(&sum);
    answer.payload = header;
    answer.bytes()
}

/// Sequence and acknowledgement of the corpus' TCP.
const SEQUENCE: u32 = 0x1000;
const ACKNOWLEDGED: u32 = 0x2000;

fn answered(scene: &Scene) -> Verdict {
    Verdict::Answer {
        ifindex: scene.place.link_a,
    }
}

fn refused_tcp(scene: Scene, bits: u8, port: u16, answer: (u32, u32, u8)) -> Scene {
    let packet = scene
        .packet(FromPod, A, Service, body(TCP, CLIENT, port, bits))
        .carrying([1; 11]);
    let (sequence, acknowledged, flags) = answer;
    let after = reset(&packet, sequence, acknowledged, flags);
    let verdict = answered(&scene);
    let input = watari_datapath::desk::Input::new(scene.place.link_a, packet.bytes());
    scene.shot_bytes(FromPod, input, verdict, after)
}

fn no_endpoint_tcp(place: &Place, net: Net) -> Case {
    let scene = scene(place, net, "refused-tcp").serving((Service, SERVER, TCP), &[], |_| {});
    refused_tcp(scene, SYN, SERVER, (0, SEQUENCE + 11 + 1, RST | ACK))
        .forgotten(&net.tuple((A, CLIENT), (Service, SERVER), TCP))
        .done()
}

fn undefined_port(place: &Place, net: Net) -> Case {
    let scene = scene(place, net, "refused-undefined-port");
    refused_tcp(scene, SYN, 81, (0, SEQUENCE + 12, RST | ACK)).done()
}

/// A connection that nobody knows is no connection.
fn mid_stream(place: &Place, net: Net) -> Case {
    let scene = scene(place, net, "refused-mid-stream").serving(
        (Service, SERVER, TCP),
        &[(B, SERVER)],
        |_| {},
    );
    let scene = refused_tcp(scene, ACK, SERVER, (ACKNOWLEDGED, 0, RST));
    refused_tcp(scene, FIN | ACK, SERVER, (ACKNOWLEDGED, 0, RST)).done()
}

fn of_a_reset(place: &Place, net: Net) -> Case {
    scene(place, net, "refused-reset")
        .shot(
            FromPod,
            A,
            Service,
            body(TCP, CLIENT, SERVER, RST),
            Verdict::Drop(Reason::RefusedSilently),
        )
        .done()
}

/// The error that nobody is at the port, about that packet.
fn unreachable(net: Net, packet: &Packet, quoted: usize) -> Packet {
    let (kind, code) = match net {
        Net::V4 => (3, 3),
        Net::V6 => (1, 4),
    };
    let mut quote = packet.network();
    quote.truncate(quoted);
    back(
        packet,
        Body::Icmp {
            kind,
            code,
            rest: [0; 4],
        },
    )
    .carrying(quote)
}

fn refused_udp(scene: Scene, payload: usize, quoted: usize) -> Case {
    let packet = scene
        .packet(FromPod, A, Service, body(UDP, CLIENT, SERVER, 0))
        .carrying(vec![3; payload]);
    let mut after = unreachable(scene.net, &packet, quoted).bytes();
    if scene.net == Net::V4 {
        unnumbered(&mut after);
    }
    let verdict = answered(&scene);
    let input = watari_datapath::desk::Input::new(scene.place.link_a, packet.bytes());
    scene.shot_bytes(FromPod, input, verdict, after).done()
}

/// The node's own packets have no identification, since they are never in parts.
fn unnumbered(bytes: &mut [u8]) {
    bytes[14 + 4..14 + 6].fill(0);
    bytes[14 + 10..14 + 12].fill(0);
    let sum = crate::checksum(&[&bytes[14..14 + 20]]);
    bytes[14 + 10..14 + 12].copy_from_slice(&sum);
}

fn no_endpoint_udp(place: &Place, net: Net) -> Case {
    let header = if net == Net::V4 { 28 } else { 48 };
    let scene = scene(place, net, "refused-udp").serving((Service, SERVER, UDP), &[], |_| {});
    // Whole words of it.
    refused_udp(scene, 9, header + 8)
}

fn long_datagram(place: &Place, net: Net) -> Case {
    refused_udp(scene(place, net, "refused-long-datagram"), 1000, 128)
}

/// At an uplink the answer leaves by it.
fn from_outside(place: &Place, net: Net) -> Case {
    let scene = scene(place, net, "refused-outside").serving((Node, 30_080, TCP), &[], |_| {});
    let packet = scene
        .packet(FromUplink, World, Node, body(TCP, CLIENT, 30_080, SYN))
        .carrying([1; 11]);
    let after = reset(&packet, 0, SEQUENCE + 12, RST | ACK);
    let verdict = Verdict::Answer {
        ifindex: place.uplink,
    };
    let input = watari_datapath::desk::Input::new(place.uplink, packet.bytes());
    scene.shot_bytes(FromUplink, input, verdict, after).done()
}

fn no_local_endpoint(place: &Place, net: Net) -> Case {
    let dropped = Verdict::Drop(Reason::NoLocalEndpoint);
    scene(place, net, "no-local-endpoint")
        .serving((Service, SERVER, TCP), &[], |frontend| {
            frontend.flags = frontend_flags::INSIDE_DROPS;
        })
        .serving((Node, 30_080, TCP), &[], |frontend| {
            frontend.flags = frontend_flags::OUTSIDE_DROPS;
        })
        .shot(FromPod, A, Service, body(TCP, CLIENT, SERVER, SYN), dropped)
        .shot(
            FromUplink,
            World,
            Node,
            body(TCP, CLIENT, 30_080, SYN),
            dropped,
        )
        .done()
}

fn unallocated(place: &Place, net: Net) -> Case {
    let mut scene = Scene::new(place, net, "unallocated-service").with_services();
    let cidr = PrefixKey {
        length: 96 + 24,
        address: net.of(Service).into(),
    };
    scene.case.world.services.service_cidrs.push(cidr);
    let dropped = Verdict::Drop(Reason::UnallocatedService);
    scene
        .shot(FromPod, A, Service, body(UDP, CLIENT, SERVER, 0), dropped)
        .shot(
            FromUplink,
            World,
            Service,
            body(TCP, CLIENT, SERVER, SYN),
            dropped,
        )
        .done()
}

/// Clients have to be in a source range, wherever they are.
fn source_range(place: &Place, net: Net) -> Case {
    let mut scene = scene(place, net, "source-range").serving(
        (Node, 30_080, UDP),
        &[(B, SERVER)],
        |frontend| frontend.flags = frontend_flags::SOURCE_RANGES,
    );
    let range = SourceRangeKey {
        length: 32 + 128,
        service: 7,
        address: net.of(Who::OtherNode).into(),
    };
    scene.case.world.services.source_ranges.push(range);
    let allowed = scene.packet(FromUplink, Who::OtherNode, Node, body(UDP, 9, 30_080, 0));
    let mut seen = allowed.clone();
    (seen.destination, seen.body) = (net.of(B), body(UDP, 9, SERVER, 0));
    let out = Out::Packet(Box::new(seen.hops(63).macs(B.host_mac(), B.mac())));
    let to_b = scene.deliver(B);
    scene
        .shot(
            FromUplink,
            World,
            Node,
            body(UDP, CLIENT, 30_080, 0),
            Verdict::Drop(Reason::SourceRange),
        )
        .shot(
            FromPod,
            A,
            Node,
            body(UDP, CLIENT, 30_080, 0),
            Verdict::Drop(Reason::SourceRange),
        )
        .shot_packet(FromUplink, Who::OtherNode, Node, &allowed, to_b, &out)
        .done()
}

/// The connection of a removed endpoint is forgotten: its client is told with the next packet.
fn orphaned_alias(place: &Place, net: Net) -> Case {
    let near = net.tuple((A, CLIENT), (Service, SERVER), TCP);
    let scene =
        scene(place, net, "refused-orphan").serving((Service, SERVER, TCP), &[(B, SERVER)], |_| {});
    let far = net.tuple((A, CLIENT), (B, 9999), TCP);
    let mut alias = scene.connection(State::New, flags::ALIAS);
    alias.translation = watari_abi::Translation {
        source: far.source,
        destination: far.destination,
        source_port: far.source_port,
        destination_port: far.destination_port,
        kind: watari_abi::translation::DESTINATION,
        pad: [0; 3],
        service: 7,
        backend: 1,
    };
    let scene = scene.with(Table::Established, &near, alias);
    refused_tcp(scene, ACK, SERVER, (ACKNOWLEDGED, 0, RST)).done()
}
