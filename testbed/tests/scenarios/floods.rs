//! Tables that are full, and who fills them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use watari_abi::{Counter, flags};
use watari_bpf::{Attachment, Datapath as _};
use watari_testbed::Loading;
use watari_testbed::echo::{Conversation, EchoServer};
use watari_testbed::raw::{self, RawSocket};

use crate::{BOTH, FAMILIES, ROUTED, SAME_NODE, Stage};

const ESTABLISHED: u32 = 64;
const TRANSIENT: u32 = 256;
/// SYN (RFC 9293, 3.1).
const SYN: u8 = 2;

fn small(attachment: Attachment) -> Loading {
    Loading {
        established: Some(ESTABLISHED),
        transient: Some(TRANSIENT),
        ..attachment.into()
    }
}

fn conversations(stage: &Stage, count: u32) -> (Vec<EchoServer>, Vec<Conversation>) {
    let servers: Vec<_> = FAMILIES.iter().map(|v6| stage.echo(*v6)).collect();
    let open = |number: u32| {
        let server = servers[number as usize % servers.len()].address;
        let client = &stage.client().netns;
        let mut talk = client.enter(|| Conversation::open(server).unwrap());
        talk.exchange(100).unwrap();
        talk
    };
    let talks = (0..count).map(open).collect();
    (servers, talks)
}

/// Ports of the connections that a node has in the table that evicts nothing.
fn established(stage: &mut Stage) -> Vec<(u16, u16)> {
    let mut ports = Vec::new();
    let mut look = |flow: watari_bpf::Flow| {
        if flow.established {
            ports.push((flow.key.low_port, flow.key.high_port));
        }
    };
    let looked = stage
        .datapaths
        .with(&stage.bed, 0, |node| node.flows(&mut look));
    looked.unwrap();
    ports
}

/// Sends so many packets to a pod of the first node, each of another connection.
fn flood(stage: &Stage, protocol: u8, v6: bool, from_outside: bool, count: u32) {
    let (netns, target) = if from_outside {
        (stage.bed.router.as_ref().unwrap(), stage.client())
    } else {
        (&stage.client().netns, stage.server())
    };
    let target = target.address(v6);
    netns.enter(|| {
        let socket = RawSocket::open(v6).unwrap();
        for number in 0..count {
            let [high, low] = u16::try_from(number % 60_000).unwrap().to_be_bytes();
            let source: IpAddr = match (from_outside, v6) {
                (false, _) => stage.client().address(v6),
                (true, false) => Ipv4Addr::new(198, 18, high, low).into(),
                (true, true) => {
                    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, high.into(), low.into()).into()
                }
            };
            let source = SocketAddr::new(source, 1024 + u16::try_from(number % 60_000).unwrap());
            let target = SocketAddr::new(target, 9);
            let segment = if protocol == raw::TCP {
                raw::tcp(source, target, number, SYN)
            } else {
                raw::udp(source, target, b"flood")
            };
            let packet = raw::packet(source, target, protocol, &segment);
            socket.send(&packet, target.ip()).unwrap();
        }
    });
}

#[test]
fn floods_displace_no_established_connection() {
    for attachment in BOTH {
        // From a pod of the node, and from outside by its uplink.
        for (layout, from_outside) in [(SAME_NODE, false), (ROUTED, true)] {
            let mut stage = Stage::blackholed(layout, small(attachment));
            let (_servers, mut talks) = conversations(&stage, ESTABLISHED / 2);
            let before = established(&mut stage);
            assert_eq!(before.len(), talks.len());
            for protocol in [raw::TCP, raw::UDP] {
                for v6 in FAMILIES {
                    let opened = stage.count(0, Counter::Opened);
                    let count = 10 * (ESTABLISHED + TRANSIENT);
                    flood(&stage, protocol, v6, from_outside, count);
                    let opened = stage.count(0, Counter::Opened) - opened;
                    assert!(
                        opened >= u64::from(count),
                        "{opened} of {count} were tracked"
                    );
                    for talk in &mut talks {
                        talk.exchange(1000).unwrap();
                    }
                }
            }
            let mut after = established(&mut stage);
            after.retain(|ports| before.contains(ports));
            assert_eq!(after.len(), before.len(), "displaced by a flood");
            stage.nothing_dropped();
        }
    }
}

#[test]
fn a_full_table_is_counted_and_stops_nobody() {
    for attachment in BOTH {
        let mut stage = Stage::blackholed(SAME_NODE, small(attachment));
        let more = 40;
        let (_servers, mut talks) = conversations(&stage, ESTABLISHED + more);
        assert_eq!(established(&mut stage).len(), ESTABLISHED as usize);
        assert!(stage.count(0, Counter::NotPromoted) >= u64::from(more));
        for talk in &mut talks {
            talk.exchange(10_000).unwrap();
        }
        let mut waiting = 0;
        let mut look = |flow: watari_bpf::Flow| {
            waiting += u32::from(flow.connection.flags & flags::NOT_PROMOTED != 0);
        };
        let looked = stage
            .datapaths
            .with(&stage.bed, 0, |node| node.flows(&mut look));
        looked.unwrap();
        assert_eq!(waiting, more);
        // When others end, there is room again.
        talks.truncate(8);
        drop(talks);
        let (_servers, mut talks) = conversations(&stage, 8);
        for talk in &mut talks {
            talk.exchange(1000).unwrap();
        }
        stage.nothing_dropped();
    }
}
