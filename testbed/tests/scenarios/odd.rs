//! Packets that are rare, or not to be believed.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use watari_abi::{DropEvent, Hook, Reason};
use watari_bpf::{Datapath as _, Event};
use watari_testbed::Pod;
use watari_testbed::echo::{PATIENCE, pattern, ping};
use watari_testbed::raw::{self, RawSocket};

use crate::{BOTH, CROSS_NODE, FAMILIES, SAME_NODE, Stage};

/// A pod's socket that waits for datagrams.
fn bound(pod: &Pod, v6: bool) -> UdpSocket {
    let socket = pod
        .netns
        .enter(|| UdpSocket::bind((pod.address(v6), 0)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends what `wrap` makes of a datagram, from the client to the server, and gets an answer.
fn reaches(stage: &Stage, v6: bool, wrap: impl Fn([IpAddr; 2], &[u8]) -> Vec<u8> + Sync) {
    let (client, server) = (stage.client(), stage.server());
    let (from, to) = (bound(client, v6), bound(server, v6));
    let (source, target) = (from.local_addr().unwrap(), to.local_addr().unwrap());
    let payload = pattern(200);
    let datagram = raw::udp(source, target, &payload);
    let packet = wrap([source.ip(), target.ip()], &datagram);
    client.netns.enter(|| {
        RawSocket::open(v6)
            .unwrap()
            .send(&packet, target.ip())
            .unwrap()
    });
    let mut buffer = [0; 2000];
    let (count, sender) = to.recv_from(&mut buffer).expect("the datagram arrives");
    assert_eq!((&buffer[..count], sender), (&payload[..], source));
    to.send_to(&payload, source).unwrap();
    let (count, sender) = from.recv_from(&mut buffer).expect("the answer arrives");
    assert_eq!((&buffer[..count], sender), (&payload[..], target));
}

fn v4_with(options: &[u8], [source, target]: [IpAddr; 2], datagram: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(target)) = (source, target) else {
        panic!("not IPv4");
    };
    raw::ipv4([source, target], raw::UDP, options, datagram)
}

fn v6_with(headers: &[(u8, &[u8])], [source, target]: [IpAddr; 2], datagram: &[u8]) -> Vec<u8> {
    let (IpAddr::V6(source), IpAddr::V6(target)) = (source, target) else {
        panic!("not IPv6");
    };
    raw::ipv6([source, target], headers, raw::UDP, datagram)
}

/// Options that say nothing: `PadN` over the whole of the shortest header (RFC 8200, 4.2).
const PADDING: &[u8] = &[1, 4, 0, 0, 0, 0];
/// The same over the next longer one.
const LONG_PADDING: &[u8] = &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn ipv4_options_pass() {
    for attachment in BOTH {
        for layout in [SAME_NODE, CROSS_NODE] {
            let mut stage = Stage::blackholed(layout, attachment);
            // No-operations, and as many as there can be.
            for options in [&[1, 1, 1, 0][..], &[1; 40]] {
                reaches(&stage, false, |ends, datagram| {
                    v4_with(options, ends, datagram)
                });
            }
            stage.nothing_dropped();
        }
    }
}

#[test]
fn ipv6_extension_headers_pass() {
    let chains: [&[(u8, &[u8])]; 4] = [
        &[(raw::HOP_BY_HOP, PADDING)],
        &[(raw::DESTINATION_OPTIONS, LONG_PADDING)],
        &[
            (raw::HOP_BY_HOP, PADDING),
            (raw::DESTINATION_OPTIONS, PADDING),
        ],
        &[
            (raw::HOP_BY_HOP, LONG_PADDING),
            (raw::DESTINATION_OPTIONS, PADDING),
            (raw::DESTINATION_OPTIONS, LONG_PADDING),
            (raw::DESTINATION_OPTIONS, PADDING),
        ],
    ];
    for attachment in BOTH {
        for layout in [SAME_NODE, CROSS_NODE] {
            let mut stage = Stage::blackholed(layout, attachment);
            for chain in chains {
                reaches(&stage, true, |ends, datagram| {
                    v6_with(chain, ends, datagram)
                });
            }
            stage.nothing_dropped();
        }
    }
}

/// Sends a packet from the client of which nothing may arrive, and holds that it is dropped for
/// this reason, counted for this pod and told of.
fn refused(stage: &mut Stage, v6: bool, reason: Reason, packet: &[u8], to: SocketAddr) {
    let link = stage.client().host_name().to_owned();
    let before = stage.dropped(0, reason, &link);
    let client = stage.client();
    let send = || RawSocket::open(v6).unwrap().send(packet, to.ip()).unwrap();
    client.netns.enter(send);
    holds_drop(stage, reason, &link, before, |event| {
        // From the Ethernet header on; the kernel has filled in what the sender left out.
        let (kind, addresses) = if v6 {
            ([0x86, 0xdd], 14 + 8..14 + 40)
        } else {
            ([0x08, 0x00], 14 + 12..14 + 20)
        };
        event.headers[12..14] == kind
            && event.headers[addresses.clone()] == packet[addresses.start - 14..addresses.end - 14]
    });
}

fn holds_drop(
    stage: &mut Stage,
    reason: Reason,
    link: &str,
    before: (u64, u64),
    is_it: impl Fn(&DropEvent) -> bool,
) {
    let index = stage.client().host_index;
    let deadline = Instant::now() + PATIENCE;
    let mut told = false;
    while !told {
        assert!(Instant::now() < deadline, "no event of {}", reason.name());
        let events = stage
            .datapaths
            .with(&stage.bed, 0, |node| node.events(1000))
            .unwrap();
        told = events.iter().any(|event| {
            let Event::Drop(event) = event else {
                return false;
            };
            event.reason == reason as u16
                && event.hook == Hook::FromPod as u8
                && event.ifindex == index
                && is_it(event)
        });
        std::thread::sleep(Duration::from_millis(2));
    }
    let after = stage.dropped(0, reason, link);
    assert!(after.0 > before.0, "not counted: {}", reason.name());
    assert!(
        after.1 > before.1,
        "not counted for its link: {}",
        reason.name()
    );
}

/// An address of no pod, and one of another pod.
fn others(stage: &Stage, v6: bool) -> [IpAddr; 2] {
    let stranger: IpAddr = if v6 {
        "fd50:0:0:9::9".parse().unwrap()
    } else {
        [10, 250, 9, 9].into()
    };
    [stranger, stage.server().address(v6)]
}

#[test]
fn a_pod_sends_from_its_own_address_only() {
    for attachment in BOTH {
        for layout in [SAME_NODE, CROSS_NODE] {
            // With the kernel's routes: what is not dropped would get there.
            let mut stage = Stage::routed(layout, attachment);
            for v6 in FAMILIES {
                let to = bound(stage.server(), v6);
                let target = to.local_addr().unwrap();
                for source in others(&stage, v6) {
                    let source = SocketAddr::new(source, 5353);
                    let datagram = raw::udp(source, target, b"spoofed");
                    let packet = raw::packet(source, target, raw::UDP, &datagram);
                    refused(&mut stage, v6, Reason::SpoofedAddress, &packet, target);
                }
                to.set_nonblocking(true).unwrap();
                assert!(
                    to.recv_from(&mut [0; 100]).is_err(),
                    "a spoofed packet arrived"
                );
            }
        }
    }
}

#[test]
fn a_pod_sends_from_its_own_mac_only() {
    for attachment in BOTH {
        let mut stage = Stage::routed(SAME_NODE, attachment);
        let link = stage.client().host_name().to_owned();
        let own = stage.client().tables.pod.mac.to_string();
        let false_mac = [2, 0x66, 0x66, 0, 0, 1];
        let set_mac = |stage: &Stage, mac: &str| {
            let words = ["ip", "link", "set", "eth0", "address", mac];
            stage.client().netns.run(&words);
        };
        for v6 in FAMILIES {
            let to = stage.server().address(v6);
            set_mac(&stage, "02:66:66:00:00:01");
            let before = stage.dropped(0, Reason::SpoofedMac, &link);
            let socket = bound(stage.client(), v6);
            socket.send_to(b"spoofed", (to, 9)).unwrap();
            holds_drop(&mut stage, Reason::SpoofedMac, &link, before, |event| {
                event.headers[6..12] == false_mac
            });
            set_mac(&stage, &own);
            stage.client().netns.enter(|| ping(to, &[56]).unwrap());
        }
    }
}

#[test]
fn forbidden_and_endless_headers_are_dropped() {
    for attachment in BOTH {
        let mut stage = Stage::routed(SAME_NODE, attachment);
        let to = bound(stage.server(), true);
        let target = to.local_addr().unwrap();
        let source = SocketAddr::new(stage.client().address(true), 5353);
        let datagram = raw::udp(source, target, b"odd");
        let ends = [source.ip(), target.ip()];
        // Type 0, no segments left, one address (RFC 5095).
        let mut routing = [0; 22];
        routing[2..6].copy_from_slice(&[0; 4]);
        let packet = v6_with(&[(raw::ROUTING, &routing)], ends, &datagram);
        refused(&mut stage, true, Reason::RoutingHeader, &packet, target);
        let many = [(raw::DESTINATION_OPTIONS, PADDING); 9];
        let packet = v6_with(&many, ends, &datagram);
        refused(&mut stage, true, Reason::TooManyHeaders, &packet, target);
        // An IPv4 address dressed as an IPv6 one.
        let mapped: IpAddr = "::ffff:10.250.1.1"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .into();
        let packet = v6_with(&[], [mapped, target.ip()], &datagram);
        refused(&mut stage, true, Reason::MappedAddress, &packet, target);
        to.set_nonblocking(true).unwrap();
        assert!(
            to.recv_from(&mut [0; 100]).is_err(),
            "a refused packet arrived"
        );
    }
}
