use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use watari_abi::{Counter, Reason};
use watari_nft::masquerade::Masquerading;
use watari_tables::Masquerade;
use watari_testbed::Node;
use watari_trace::{Decided, End, Packet, Place, Protocol, Stack, Trace};

use crate::catch::Catcher;
use crate::stage::{BOTH, CROSS_NODE, FAMILIES, ROUTED, SAME_NODE, Stage, packet, send, world};

/// How long something may take: far longer than on any machine.
const PATIENCE: Duration = Duration::from_secs(10);

fn verdicts(trace: &Trace) -> Vec<&Decided> {
    trace.way.hops.iter().map(|hop| &hop.verdict).collect()
}

#[test]
fn between_pods_of_one_node() {
    for attachment in BOTH {
        let mut stage = Stage::new(SAME_NODE, attachment);
        stage.bed.blackhole();
        for v6 in FAMILIES {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp] {
                let (from, to) = (stage.client().address(v6), stage.server().address(v6));
                let packet = packet(protocol, from, to);
                let traced = stage.trace(&packet, false);
                let index = stage.server().host_index;
                let [Decided::Deliver { ifindex, .. }] = verdicts(&traced)[..] else {
                    panic!("{traced:#?}");
                };
                assert_eq!(*ifindex, index);
                assert!(matches!(traced.way.end, End::Delivered { .. }));

                let before = stage.count(0, Counter::Delivered);
                let there = Catcher::new(&stage.server().netns);
                send(&stage.client().netns, &packet);
                let caught = there.wait(&packet);
                assert_eq!(caught, traced.way.hops[0].went, "{packet}");
                assert_eq!(caught.ttl, packet.ttl - 1);
                assert!(stage.count(0, Counter::Delivered) > before);
            }
        }
    }
}

#[test]
fn what_a_pod_sends_to_itself_stays_inside() {
    let mut stage = Stage::new(SAME_NODE, BOTH[0]);
    let sent = |stage: &mut Stage| stage.count(0, Counter::Delivered);
    for own in [stage.client().address(false), "127.0.0.1".parse().unwrap()] {
        let packet = packet(Protocol::Udp, stage.client().address(false), own);
        let traced = stage.trace(&packet, true);
        let reply = traced.reply.as_ref().unwrap();
        for way in [&traced.way, reply] {
            assert!(matches!(way.end, End::Loopback { .. }), "{traced:#?}");
            assert!(way.hops.is_empty(), "{traced:#?}");
        }
        assert!(traced.is_well());

        let before = sent(&mut stage);
        stage.client().netns.enter(|| {
            let there = UdpSocket::bind((own, 4444)).unwrap();
            there.set_read_timeout(Some(PATIENCE)).unwrap();
            let here = UdpSocket::bind((own, 0)).unwrap();
            here.send_to(b"inside", there.local_addr().unwrap())
                .unwrap();
            let mut room = [0; 16];
            assert_eq!(there.recv(&mut room).unwrap(), 6);
        });
        assert_eq!(sent(&mut stage), before, "a program saw it");
    }
}

#[test]
fn between_pods_of_two_nodes() {
    for attachment in BOTH {
        let mut stage = Stage::new(CROSS_NODE, attachment);
        for v6 in FAMILIES {
            let (from, to) = (stage.client().address(v6), stage.server().address(v6));
            let mut packet = packet(Protocol::Tcp, from, to);
            // The nodes learn each other's MACs by the first one, and it is then known.
            let there = Catcher::new(&stage.server().netns);
            send(&stage.client().netns, &packet);
            there.wait(&packet);

            packet.source_port += 1;
            let traced = stage.trace(&packet, false);
            let [
                Decided::Forward { next_hop, .. },
                Decided::Deliver { ifindex, .. },
            ] = verdicts(&traced)[..]
            else {
                panic!("{traced:#?}");
            };
            assert!(stage.bed.nodes[1].addresses().contains(next_hop));
            assert_eq!(*ifindex, stage.server().host_index);

            let forwarded = stage.count(0, Counter::Forwarded);
            let delivered = stage.count(1, Counter::Delivered);
            let between = Catcher::new(&stage.bed.nodes[1].netns);
            let there = Catcher::new(&stage.server().netns);
            send(&stage.client().netns, &packet);
            assert_eq!(between.wait(&packet), traced.way.hops[0].went);
            assert_eq!(there.wait(&packet), traced.way.hops[1].went);
            assert!(stage.count(0, Counter::Forwarded) > forwarded);
            assert!(stage.count(1, Counter::Delivered) > delivered);
        }
    }
}

#[test]
fn to_the_world_by_the_stack() {
    for attachment in BOTH {
        let mut stage = Stage::new(ROUTED, attachment);
        for v6 in FAMILIES {
            let from = stage.client().address(v6);
            let mut packet = packet(Protocol::Icmp, from, world(v6));
            let router = Catcher::new(stage.bed.router.as_ref().unwrap());
            send(&stage.client().netns, &packet);
            router.wait(&packet);

            packet.source_port += 1;
            packet.destination_port += 1;
            let traced = stage.trace(&packet, false);
            assert_eq!(verdicts(&traced), [&Decided::Stack], "{traced:#?}");
            let hop = &traced.way.hops[0];
            assert!(matches!(hop.stack, Some(Stack::Out { .. })), "{hop:#?}");
            assert!(matches!(traced.way.end, End::Left { .. }), "{traced:#?}");

            let before = stage.count(0, Counter::ToStack);
            send(&stage.client().netns, &packet);
            assert_eq!(router.wait(&packet), hop.went);
            assert!(stage.count(0, Counter::ToStack) > before);
        }
    }
}

#[test]
fn a_spoofed_source_is_dropped_for_the_same_reason() {
    for attachment in BOTH {
        let mut stage = Stage::new(SAME_NODE, attachment);
        let link = stage.client().host_name().to_owned();
        for v6 in FAMILIES {
            // The other pod's address, and nobody's.
            let nobody = if v6 { "fd50:0:0:1::99" } else { "10.250.1.99" };
            let to = stage.server().address(v6);
            for source in [to, nobody.parse().unwrap()] {
                let mut packet = packet(Protocol::Udp, source, to);
                if source == to {
                    packet.destination = stage.bed.nodes[0].addresses()[usize::from(v6)];
                }
                let traced = stage.trace(&packet, false);
                let End::Dropped { reason, .. } = &traced.way.end else {
                    panic!("{traced:#?}");
                };
                assert_eq!(reason, Reason::SpoofedAddress.name());

                let (_, before) = stage.dropped(0, Reason::SpoofedAddress, &link);
                send(&stage.client().netns, &packet);
                watari_testkit::wait_until(PATIENCE, "the drop to be counted", || {
                    stage.dropped(0, Reason::SpoofedAddress, &link).1 > before
                });
            }
        }
    }
}

/// Gives a node without an uplink its address.
fn own(node: &Node, address: IpAddr) {
    node.run(&format!("ip address replace {address} dev lo"));
    // IPv6's local route comes some time later.
    watari_testkit::wait_until(PATIENCE, "the address to be the node's", || {
        node.run(&format!("ip route get {address}"))
            .contains("local")
    });
}

/// What the node itself sends, the stack delivers, and the answer goes back by the stack.
#[test]
fn from_the_node_itself_and_back() {
    for attachment in BOTH {
        let mut stage = Stage::new(SAME_NODE, attachment);
        for v6 in FAMILIES {
            let from = stage.bed.nodes[0].addresses()[usize::from(v6)];
            own(&stage.bed.nodes[0], from);
            let to = stage.server().address(v6);
            let packet = packet(Protocol::Udp, from, to);
            let traced = stage.trace_from(Place::Node, &packet, true);
            assert_eq!(verdicts(&traced), [&Decided::Stack, &Decided::Pass]);
            assert!(matches!(traced.way.end, End::Delivered { .. }));
            let reply = traced.reply.as_ref().unwrap();
            assert!(matches!(reply.end, End::Node { .. }), "{reply:#?}");

            let there = Catcher::new(&stage.server().netns);
            let here = Catcher::new(&stage.bed.nodes[0].netns);
            converse(&stage.bed.nodes[0].netns, &stage.server().netns, &packet);
            assert_eq!(there.wait(&packet), traced.way.hops[1].went);
            assert_eq!(here.wait(&reply.packet), reply.hops[0].came);
        }
    }
}

/// One datagram, and one back.
fn converse(from: &watari_testkit::Netns, to: &watari_testkit::Netns, packet: &Packet) {
    let bind = |netns: &watari_testkit::Netns, address, port| {
        let socket = netns.enter(|| UdpSocket::bind((address, port)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let near = bind(from, packet.source, packet.source_port);
    let far = bind(to, packet.destination, packet.destination_port);
    let mut buffer = [0; 16];
    near.send_to(&[], (packet.destination, packet.destination_port))
        .unwrap();
    let (_, sender) = far.recv_from(&mut buffer).unwrap();
    far.send_to(&[], sender).unwrap();
    near.recv(&mut buffer).unwrap();
}

#[test]
fn the_answer_comes_back_as_it_is_traced() {
    for attachment in BOTH {
        let mut stage = Stage::new(CROSS_NODE, attachment);
        for v6 in FAMILIES {
            let (from, to) = (stage.client().address(v6), stage.server().address(v6));
            let mut packet = packet(Protocol::Udp, from, to);
            converse(&stage.client().netns, &stage.server().netns, &packet);

            packet.source_port += 1;
            let traced = stage.trace(&packet, true);
            let reply = traced.reply.as_ref().unwrap();
            let hops = reply.hops.iter().map(|hop| &hop.verdict);
            let hops: Vec<&Decided> = hops.collect();
            let [Decided::Forward { .. }, Decided::Deliver { ifindex, .. }] = hops[..] else {
                panic!("{reply:#?}");
            };
            assert_eq!(*ifindex, stage.client().host_index);
            // It is known on both nodes as what the first packet began.
            for hop in &reply.hops {
                let known = hop
                    .steps
                    .iter()
                    .any(|step| step.decided.contains("a reply of"));
                assert!(known, "{hop:#?}");
            }

            let here = Catcher::new(&stage.client().netns);
            converse(&stage.client().netns, &stage.server().netns, &packet);
            assert_eq!(here.wait(&reply.packet), reply.hops[1].went);
        }
    }
}

#[test]
fn who_is_masqueraded_leaves_with_the_nodes_address() {
    let mut stage = Stage::new(ROUTED, BOTH[0]);
    let pods = [stage.client().address(false), stage.client().address(true)];
    stage.bed.nodes[0].netns.enter(|| {
        let pods = pods.iter().map(|pod| (*pod, *pod)).collect();
        let rules = Masquerade {
            pods,
            exceptions: watari_tables::Ranges::default(),
        };
        Masquerading::open().unwrap().set(&rules).unwrap();
    });
    for v6 in FAMILIES {
        let from = stage.client().address(v6);
        let packet = packet(Protocol::Icmp, from, world(v6));
        let traced = stage.trace(&packet, true);
        let went = &traced.way.hops[0].went;
        assert_eq!(went.source, stage.bed.nodes[0].addresses()[usize::from(v6)]);
        let reply = traced.reply.as_ref().unwrap();
        assert!(matches!(reply.end, End::Delivered { .. }), "{reply:#?}");
        assert_eq!(reply.hops.last().unwrap().verdict, Decided::Pass);

        // The kernel draws the identifier, so it is not held.
        let router = stage.bed.router.as_ref().unwrap();
        let (there, back) = (Catcher::new(router), Catcher::new(&stage.client().netns));
        send(&stage.client().netns, &packet);
        let caught = there.wait_ends(went);
        assert_eq!((caught.ttl, caught.source), (went.ttl, went.source));
        let last = &reply.hops.last().unwrap().went;
        assert_eq!(back.wait(last).destination_mac, last.destination_mac);
    }
}

#[test]
fn without_a_datapath_the_ordinary_road_is_told() {
    let mut stage = Stage::without_datapath(SAME_NODE);
    for v6 in FAMILIES {
        let (from, to) = (stage.client().address(v6), stage.server().address(v6));
        let packet = packet(Protocol::Udp, from, to);
        // Nobody knows the pod where there is neither store nor datapath.
        let node = stage.bed.nodes[0].addresses()[usize::from(v6)];
        own(&stage.bed.nodes[0], node);
        let traced = stage.trace_from(Place::Uplink { address: node }, &packet, false);
        let hop = &traced.way.hops[0];
        assert!(!hop.attached && hop.notes[0].contains("no datapath is loaded"));
        let Some(Stack::Out { ifindex, .. }) = &hop.stack else {
            panic!("{hop:#?}");
        };
        assert_eq!(*ifindex, stage.server().host_index);

        let there = Catcher::new(&stage.server().netns);
        send(&stage.client().netns, &packet);
        assert_eq!(there.wait(&packet), hop.went);
    }
}

#[test]
fn what_ends_on_the_way_ends_where_the_trace_says() {
    for attachment in BOTH {
        let mut stage = Stage::new(CROSS_NODE, attachment);
        stage.bed.nodes[0].run("ip link set eth0 mtu 1400");
        for v6 in FAMILIES {
            let (from, to) = (stage.client().address(v6), stage.server().address(v6));
            let packet = packet(Protocol::Udp, from, to);
            for (ttl, data, counter) in [(1, 0, Counter::TtlExpired), (64, 1390, Counter::TooLong)]
            {
                let packet = Packet {
                    ttl,
                    data,
                    ..packet.clone()
                };
                let traced = stage.trace(&packet, false);
                assert_eq!(verdicts(&traced), [&Decided::Stack], "{traced:#?}");
                let stack = &traced.way.hops[0].stack;
                assert!(matches!(stack, Some(Stack::Refused { .. })), "{traced:#?}");

                let before = stage.count(0, counter);
                send(&stage.client().netns, &packet);
                watari_testkit::wait_until(PATIENCE, counter.name(), || {
                    stage.count(0, counter) > before
                });
            }
        }
    }
}
