//! Ordinary traffic, short and long.

use watari_abi::{Connection, Counter, State, flags};
use watari_bpf::{Attachment, Datapath as _};
use watari_testbed::echo::{Conversation, EchoServer, LONGEST, ping, tcp, udp};
use watari_testbed::{Between, Datapaths, Layout};

use crate::{BOTH, CROSS_NODE, FAMILIES, ROUTED, SAME_NODE, Stage};

/// Enough for the window to open and segments to be joined (GSO): many of the longest packets.
const BULK: usize = 24 << 20;

/// Both pods talk to each other, by every protocol, a lot and a little.
fn all_kinds(layout: Layout, attachment: Attachment) -> Stage {
    let mut stage = Stage::blackholed(layout, attachment);
    for v6 in FAMILIES {
        let server = stage.echo(v6);
        let (client, to) = (stage.client(), stage.server().address(v6));
        client.netns.enter(|| {
            ping(to, &[0, 56]).unwrap();
            udp(server.address, &[1, 1000]).unwrap();
            tcp(server.address, 1).unwrap();
            tcp(server.address, BULK).unwrap();
        });
        // The other way round, too.
        let back = EchoServer::start(&client.netns, client.address(v6), 0).unwrap();
        let other = &stage.server().netns;
        other.enter(|| tcp(back.address, BULK).unwrap());
    }
    stage.nothing_dropped();
    stage
}

/// Of all connections none is the stack's. What a node's kernel sends to a pod of its own accord
/// (multicast of IPv6) belongs to none, and counts as `from-stack` at any time.
fn nothing_by_the_stack(stage: &mut Stage, node: usize) {
    let mut all = Vec::new();
    let mut keep = |flow: watari_bpf::Flow| all.push(flow.connection);
    let datapaths = &mut stage.datapaths;
    datapaths
        .with(&stage.bed, node, |node| node.flows(&mut keep))
        .unwrap();
    assert!(!all.is_empty(), "no connection was tracked");
    let by_stack = flags::VIA_STACK | flags::FROM_STACK;
    for connection in all {
        assert_eq!(connection.flags & by_stack, 0, "{connection:?}");
    }
}

#[test]
fn pods_of_one_node_talk_past_the_kernels_routes() {
    for attachment in BOTH {
        let mut stage = all_kinds(SAME_NODE, attachment);
        assert!(stage.count(0, Counter::Delivered) > 100);
        assert_eq!(stage.count(0, Counter::Forwarded), 0);
        nothing_by_the_stack(&mut stage, 0);
    }
}

#[test]
fn pods_of_two_nodes_talk_past_the_kernels_routes() {
    for attachment in BOTH {
        let mut stage = all_kinds(CROSS_NODE, attachment);
        for node in [0, 1] {
            assert!(stage.count(node, Counter::Delivered) > 100);
            assert!(stage.count(node, Counter::Forwarded) > 100);
            nothing_by_the_stack(&mut stage, node);
        }
    }
}

#[test]
fn the_owning_node_may_be_behind_a_router() {
    for attachment in BOTH {
        let mut stage = all_kinds(ROUTED, attachment);
        assert!(stage.count(0, Counter::Forwarded) > 100);
    }
}

#[test]
fn jumbo_frames_pass() {
    for (layout, attachment) in [
        (SAME_NODE, BOTH[0]),
        (CROSS_NODE, BOTH[0]),
        (CROSS_NODE, BOTH[1]),
    ] {
        let mtu = 9000;
        let mut stage = all_kinds(Layout { mtu, ..layout }, attachment);
        for v6 in FAMILIES {
            // One packet of exactly the MTU: no fragments.
            let headers = if v6 { 48 } else { 28 };
            let to = stage.server().address(v6);
            let client = stage.client();
            client
                .netns
                .enter(|| ping(to, &[mtu as usize - headers]).unwrap());
        }
        assert_eq!(stage.count(0, Counter::FragmentUntracked), 0);
    }
}

/// Every length where something changes, and some between; in a soak every length.
fn lengths() -> Vec<usize> {
    if std::env::var_os("WATARI_SOAK").is_some() {
        return (0..=LONGEST).collect();
    }
    // Around the places where another fragment begins, for both families.
    let edges = (1..5).flat_map(|n| [n * 1480 - 8, n * 1448 - 8]);
    let around = edges.flat_map(|edge| edge - 3..edge + 4);
    let some = (0..LONGEST).step_by(1499);
    let last = LONGEST - 3..=LONGEST;
    (0..64).chain(around).chain(some).chain(last).collect()
}

#[test]
fn pings_and_datagrams_of_every_length_pass_in_fragments() {
    for attachment in BOTH {
        for layout in [SAME_NODE, CROSS_NODE] {
            let mut stage = Stage::blackholed(layout, attachment);
            for v6 in FAMILIES {
                let server = stage.echo(v6);
                let (client, to) = (stage.client(), stage.server().address(v6));
                client.netns.enter(|| {
                    ping(to, &lengths()).unwrap();
                    udp(server.address, &lengths()).unwrap();
                });
            }
            stage.nothing_dropped();
            assert_eq!(stage.count(0, Counter::FragmentUntracked), 0);
        }
    }
}

#[test]
fn a_narrow_link_far_away_is_found_out() {
    for attachment in BOTH {
        let between = Between::Router { mtu: 1400 };
        let mut stage = Stage::routed(Layout { between, ..ROUTED }, attachment);
        // Node 2 has to make the errors for its own pod, and to route them; node 1 only hears of
        // those that the router makes.
        stage.bed.nodes[0].blackhole(&[&stage.bed.nodes[1]]);
        for v6 in FAMILIES {
            let server = stage.echo(v6);
            let (client, to) = (stage.client(), stage.server().address(v6));
            client.netns.enter(|| {
                tcp(server.address, BULK).unwrap();
                // Too long for the narrow link: the answer is, too.
                udp(server.address, &[1450, 3000]).unwrap();
            });
            let known = client.netns.run(&["ip", "route", "get", &to.to_string()]);
            assert!(known.contains("mtu 1400"), "{known}");
        }
        assert!(stage.count(1, Counter::TooLong) > 0);
        stage.nothing_dropped();
    }
}

/// How the datapath has a connection of the client's.
fn flow_of(stage: &mut Stage, port: u16) -> (Connection, bool) {
    let mut found = None;
    let port = port.to_be();
    let look = |flow: watari_bpf::Flow| {
        if [flow.key.low_port, flow.key.high_port].contains(&port) {
            found = Some((flow.connection, flow.established));
        }
    };
    let mut look = look;
    stage
        .datapaths
        .with(&stage.bed, 0, |node| node.flows(&mut look))
        .unwrap();
    found.expect("the connection is tracked")
}

#[test]
fn live_connections_survive_the_first_installation() {
    for attachment in BOTH {
        for layout in [SAME_NODE, CROSS_NODE] {
            let bed = watari_testbed::Bed::new(layout).unwrap();
            let server = bed.nodes.last().unwrap().pods.last().unwrap();
            let mut live = Vec::new();
            for v6 in FAMILIES {
                let echo = EchoServer::start(&server.netns, server.address(v6), 0).unwrap();
                let client = &bed.pod(0, 0).netns;
                let open = || Conversation::open(echo.address).unwrap();
                let mut talk = client.enter(open);
                talk.exchange(1000).unwrap();
                live.push((talk, echo));
            }
            let datapaths = Datapaths::load(&bed, attachment.into()).unwrap();
            let mut stage = Stage { bed, datapaths };
            for (talk, _) in &mut live {
                for _ in 0..20 {
                    talk.exchange(1000).unwrap();
                }
                let port = talk.local().unwrap().port();
                let (connection, established) = flow_of(&mut stage, port);
                let seen = flags::PICKED_UP | flags::VIA_STACK;
                assert_eq!(connection.flags & seen, flags::PICKED_UP, "{connection:?}");
                assert_eq!(connection.state, State::Established as u8);
                assert!(established);
            }
            // Proven to be nobody's but the pods': from now on it goes the fast way.
            stage.bed.blackhole();
            for (talk, _) in &mut live {
                talk.exchange(BULK).unwrap();
            }
            stage.nothing_dropped();
        }
    }
}
