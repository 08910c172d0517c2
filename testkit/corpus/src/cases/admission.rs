use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use watari_abi::{Hook, Reason};
use watari_datapath::Verdict;
use watari_datapath::desk::Input;

use super::{CLIENT, SERVER, SYN, TCP, to_server, udp};
use crate::packets::{Body, Packet, arp};
use crate::scene::{Case, Out, Scene};
use crate::world::{Net, Place, Who};

use Hook::{FromPod, FromUplink, ToPod};
use Who::{A, B};

pub fn add(all: &mut Vec<Case>, place: &Place, net: Net) {
    all.extend([
        foreign_address(place, net),
        foreign_mac(place, net),
        unknown_link(place, net),
        tagged(place, net),
        multicast(place, net),
        not_for_this_host(place, net),
        truncated(place, net),
        unknown_kind(place, net),
    ]);
    match net {
        Net::V4 => all.push(speaks_arp(place)),
        Net::V6 => all.extend([link_local(place), neighbours(place), mapped(place)]),
    }
}

fn drop(reason: Reason) -> Verdict {
    Verdict::Drop(reason)
}

/// Another pod's address, and one that is no pod's.
fn foreign_address(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "spoofed-address");
    let tuple = net.tuple((B, CLIENT), (A, SERVER), TCP);
    let refused = drop(Reason::SpoofedAddress);
    let of = |who| {
        Packet::new(net.of(who), net.of(Who::Far), to_server(SYN)).macs(A.mac(), place.host_mac)
    };
    let (pods, worlds) = (of(B), of(Who::World));
    scene
        .shot_packet(FromPod, A, A, &pods, refused, &Out::Same)
        .forgotten(&tuple)
        .shot_packet(FromPod, A, A, &worlds, refused, &Out::Same)
        .done()
}

fn foreign_mac(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "spoofed-mac");
    let packet = scene
        .packet(FromPod, A, B, to_server(SYN))
        .macs(B.mac(), place.host_mac);
    let nobodys = scene
        .packet(FromPod, Who::World, B, to_server(SYN))
        .macs(B.mac(), place.host_mac);
    scene
        .shot_packet(FromPod, A, B, &packet, drop(Reason::SpoofedMac), &Out::Same)
        .shot_packet(
            FromPod,
            A,
            B,
            &nobodys,
            drop(Reason::SpoofedMac),
            &Out::Same,
        )
        .done()
}

fn unknown_link(place: &Place, net: Net) -> Case {
    let mut scene = Scene::new(place, net, "unknown-link");
    scene.case.world.links.clear();
    scene.case.world.endpoints.clear();
    scene
        .shot(FromPod, A, B, to_server(SYN), drop(Reason::UnknownLink))
        .done()
}

fn tagged(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "tagged");
    let packet = scene.packet(FromPod, A, B, to_server(SYN));
    let mut case = scene;
    for tag in [[0x81, 0x00], [0x88, 0xa8]] {
        let mut bytes = packet.bytes();
        bytes.splice(12..12, [tag[0], tag[1], 0, 7]);
        let input = Input::new(place.link_a, bytes);
        case = case.shot_same(FromPod, input, drop(Reason::Tagged));
    }
    case.done()
}

/// The stack has what is for many, and no connection is made of it.
fn multicast(place: &Place, net: Net) -> Case {
    let group: IpAddr = match net {
        Net::V4 => Ipv4Addr::new(224, 0, 0, 251).into(),
        Net::V6 => "ff02::fb".parse::<Ipv6Addr>().expect("an address").into(),
    };
    let mut scene = Scene::new(place, net, "multicast");
    let groups = match net {
        Net::V4 => vec![group, Ipv4Addr::BROADCAST.into()],
        Net::V6 => vec![group],
    };
    for group in groups {
        let packet = Packet::new(net.of(A), group, udp(5353, 5353)).macs(A.mac(), place.host_mac);
        let mut tuple = net.tuple((A, 5353), (B, 5353), 17);
        tuple.destination = group.into();
        scene = scene
            .shot_packet(FromPod, A, A, &packet, Verdict::Stack, &Out::Same)
            .forgotten(&tuple)
            .shot_packet(FromUplink, A, A, &packet, Verdict::Stack, &Out::Same)
            .shot_packet(ToPod, A, A, &packet, Verdict::Pass, &Out::Same)
            .forgotten(&tuple);
    }
    scene.done()
}

/// A frame that a switch flooded, or that was sent to a foreign MAC.
fn not_for_this_host(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "not-for-this-host");
    let packet = scene.packet(FromUplink, Who::World, A, to_server(SYN));
    let mut input = Input::new(place.uplink, packet.bytes());
    input.for_this_host = false;
    let sent = scene.packet(FromPod, A, B, to_server(SYN));
    let mut other = Input::new(place.link_a, sent.bytes());
    other.for_this_host = false;
    scene
        .shot_same(FromUplink, input, Verdict::Stack)
        .forgotten(&net.tuple((Who::World, CLIENT), (A, SERVER), TCP))
        .shot_same(FromPod, other, Verdict::Stack)
        .forgotten(&net.tuple((A, CLIENT), (B, SERVER), TCP))
        .done()
}

/// Headers that say more than there is.
fn truncated(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "truncated");
    let header = match net {
        Net::V4 => 20,
        Net::V6 => 40,
    };
    let whole = scene.packet(FromPod, A, B, to_server(SYN)).bytes();
    let cut = |bytes: usize| Input::new(place.link_a, whole[..bytes].to_vec());
    let refused = drop(Reason::Malformed);
    let short = |body| {
        let mut packet = scene.packet(FromPod, A, B, Body::Raw { protocol: body });
        packet.payload = vec![0; 4];
        Input::new(place.link_a, packet.bytes())
    };
    let mut offset = whole.clone();
    offset[14 + header + 12] = 0x40;
    let inputs = [
        cut(14 + header - 1),
        cut(14 + header + 19),
        short(6),
        short(17),
        short(132),
        short(net.icmp()),
        Input::new(place.link_a, offset),
    ];
    inputs
        .into_iter()
        .fold(scene, |scene, input| {
            scene.shot_same(FromPod, input, refused)
        })
        .done()
}

/// What is no IP.
fn unknown_kind(place: &Place, net: Net) -> Case {
    let scene = Scene::new(place, net, "no-ip");
    let mut bytes = scene.packet(FromPod, A, B, to_server(SYN)).bytes();
    bytes[12] = 0x88;
    bytes[13] = 0xcc;
    scene
        .shot_same(
            FromPod,
            Input::new(place.link_a, bytes.clone()),
            Verdict::Stack,
        )
        .shot_same(
            FromUplink,
            Input::new(place.uplink, bytes.clone()),
            Verdict::Stack,
        )
        .shot_same(ToPod, Input::new(place.link_b, bytes), Verdict::Pass)
        .done()
}

fn speaks_arp(place: &Place) -> Case {
    let octets = |who| match Net::V4.of(who) {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => unreachable!("this is IPv4"),
    };
    let gateway = [169, 254, 1, 1];
    let frame = |ethernet, sender_mac, sender| {
        Input::new(place.link_a, arp(ethernet, sender_mac, sender, gateway))
    };
    let mut odd = arp(A.mac(), A.mac(), octets(A), gateway);
    odd[15] = 6;
    Scene::new(place, Net::V4, "arp")
        .shot_same(FromPod, frame(A.mac(), A.mac(), octets(A)), Verdict::Stack)
        .shot_same(FromPod, frame(A.mac(), A.mac(), [0; 4]), Verdict::Stack)
        .shot_same(
            FromPod,
            frame(A.mac(), A.mac(), octets(B)),
            drop(Reason::SpoofedAddress),
        )
        .shot_same(
            FromPod,
            frame(A.mac(), B.mac(), octets(A)),
            drop(Reason::SpoofedMac),
        )
        .shot_same(
            FromPod,
            frame(B.mac(), B.mac(), octets(A)),
            drop(Reason::SpoofedMac),
        )
        .shot_same(
            FromPod,
            Input::new(place.link_a, odd),
            drop(Reason::Malformed),
        )
        .shot_same(
            FromPod,
            Input::new(
                place.link_a,
                frame(A.mac(), A.mac(), octets(A)).bytes[..40].to_vec(),
            ),
            drop(Reason::Malformed),
        )
        .done()
}

/// A link's own addresses: the stack has them, if the MAC is right.
fn link_local(place: &Place) -> Case {
    let scene = Scene::new(place, Net::V6, "link-local");
    let own: IpAddr = "fe80::a".parse::<Ipv6Addr>().expect("an address").into();
    let host: IpAddr = "fe80::1".parse::<Ipv6Addr>().expect("an address").into();
    let none: IpAddr = Ipv6Addr::UNSPECIFIED.into();
    let packet = |source, destination, mac| {
        Packet::new(source, destination, udp(1000, 2000)).macs(mac, place.host_mac)
    };
    let spoofed = drop(Reason::SpoofedMac);
    let global = Net::V6.of(A);
    scene
        .shot_packet(
            FromPod,
            A,
            B,
            &packet(own, host, A.mac()),
            Verdict::Stack,
            &Out::Same,
        )
        .shot_packet(
            FromPod,
            A,
            B,
            &packet(none, host, A.mac()),
            Verdict::Stack,
            &Out::Same,
        )
        .shot_packet(
            FromPod,
            A,
            B,
            &packet(global, host, A.mac()),
            Verdict::Stack,
            &Out::Same,
        )
        .shot_packet(
            FromPod,
            A,
            B,
            &packet(own, host, B.mac()),
            spoofed,
            &Out::Same,
        )
        .shot_packet(
            ToPod,
            A,
            B,
            &packet(host, own, A.mac()),
            Verdict::Pass,
            &Out::Same,
        )
        .done()
}

/// Neighbour discovery is the link's, whatever addresses it has.
fn neighbours(place: &Place) -> Case {
    let solicitation = Body::Icmp {
        kind: 135,
        code: 0,
        rest: [0; 4],
    };
    let scene = Scene::new(place, Net::V6, "neighbour-discovery");
    let tuple = Net::V6.tuple((A, 135), (B, 0), 58);
    scene
        .shot(FromPod, A, B, solicitation.clone(), Verdict::Stack)
        .forgotten(&tuple)
        .shot(FromUplink, A, B, solicitation.clone(), Verdict::Stack)
        .shot(ToPod, A, B, solicitation, Verdict::Pass)
        .forgotten(&tuple)
        .done()
}

/// A real packet never carries a mapped address; it would be taken for the IPv4 pod.
fn mapped(place: &Place) -> Case {
    let scene = Scene::new(place, Net::V6, "mapped-address");
    let disguised = |who| match Net::V4.of(who) {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        IpAddr::V6(_) => unreachable!("this is IPv4"),
    };
    let packet = |source, destination| {
        Packet::new(source, destination, udp(1000, 2000)).macs(A.mac(), place.host_mac)
    };
    let refused = drop(Reason::MappedAddress);
    let global = Net::V6.of(A);
    let mut scene = scene;
    for hook in [FromPod, FromUplink, ToPod] {
        let from = packet(disguised(A), global);
        let to = packet(global, disguised(B));
        scene = scene
            .shot_packet(hook, A, A, &from, refused, &Out::Same)
            .shot_packet(hook, A, A, &to, refused, &Out::Same);
    }
    scene.done()
}
