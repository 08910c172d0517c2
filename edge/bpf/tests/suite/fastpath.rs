//! Real traffic past a stack that could not deliver it.

use std::net::IpAddr;
use std::time::Duration;

use watari_abi::{Counter, Hook, Reason, State};
use watari_bpf::{Datapath, Event, Flow, Node, PodHooks, load};
use watari_testkit::wait_until;

use crate::traffic::Traffic;
use crate::world::{Pod, World, kinds, words};

/// Both pods with programs at their links, and no route to them but by these.
fn fast(world: &World, attachment: watari_bpf::Attachment, pods: [&Pod; 2]) -> Node {
    let root = world.bpffs.root();
    let node = world.node.enter(|| {
        load(&world.options(attachment)).expect("load");
        let mut hooks = PodHooks::open(&root).expect("open").expect("a datapath");
        for pod in pods {
            hooks.add(&pod.as_link()).expect("attach");
        }
        let mut node = Node::open(&root, attachment).expect("open");
        node.promote(10).expect("promote");
        node
    });
    pods.into_iter().for_each(|pod| world.blackhole(pod));
    node
}

fn flows(node: &mut Node) -> Vec<Flow> {
    let mut flows = Vec::new();
    node.flows(&mut |flow| flows.push(flow))
        .expect("read flows");
    flows
}

#[test]
fn connections_pass_by_the_stack_and_are_tracked() {
    for attachment in kinds() {
        let world = World::new();
        let (one, two) = (world.pod(1), world.pod(2));
        let mut node = fast(&world, attachment, [&one, &two]);
        let traffic = Traffic::start(&one, &two);
        traffic.goes_on("past the stack");
        let connections = flows(&mut node);
        for protocol in [6, 17] {
            let of = |flow: &&Flow| flow.key.protocol == protocol;
            assert_eq!(connections.iter().filter(of).count(), 2, "{connections:?}");
        }
        for flow in &connections {
            assert_eq!(flow.connection.state, State::Established as u8);
            assert_eq!(flow.established, flow.key.protocol == 6);
            assert!(flow.connection.directions.iter().all(|way| way.packets > 3));
        }
        traffic.end();
        let counters = node.counters().unwrap();
        let of = |wanted| counters.iter().find(|(c, _)| *c == wanted).unwrap().1;
        assert!(of(Counter::Delivered).packets > 16);
        assert_eq!(of(Counter::EventsLost).packets, 0);
        let opened = of(Counter::Opened).packets;
        let events = node.events(1000).unwrap();
        let created = events.iter().filter(|event| match event {
            Event::Flow(event) => event.kind == watari_abi::FlowEventKind::Created as u32,
            Event::Drop(_) => false,
        });
        assert_eq!(created.count() as u64, opened);
    }
}

#[test]
fn what_a_pod_spoofs_is_dropped_counted_and_told() {
    for attachment in kinds() {
        let world = World::new();
        let (one, two) = (world.pod(1), world.pod(2));
        let mut node = fast(&world, attachment, [&one, &two]);
        one.ns.run(&words("ip addr add 10.9.0.77/32 dev eth0"));
        let to = two.addresses[0].to_string();
        let spoof = || {
            let ping = ["ping", "-c", "1", "-W", "0.1", "-I", "10.9.0.77", &to];
            let ping = one.ns.enter(|| {
                let mut command = std::process::Command::new(ping[0]);
                command.args(&ping[1..]).output().expect("start ping")
            });
            assert!(!ping.status.success(), "a spoofed ping was answered");
        };
        spoof();
        let drops = world.node.enter(|| node.drops().unwrap());
        let total = drops
            .totals
            .iter()
            .find(|(r, _)| *r == Reason::SpoofedAddress);
        assert_eq!(total.unwrap().1.packets, 1);
        let at = drops
            .by_link
            .iter()
            .find(|at| at.reason == Some(Reason::SpoofedAddress))
            .expect("the link it came from");
        assert_eq!(
            (at.link.as_ref(), at.hook),
            (Some(&one.link), Some(Hook::FromPod))
        );
        let mut told = None;
        wait_until(Duration::from_secs(5), "an event of the drop", || {
            let events = node.events(1000).unwrap();
            told = events.iter().find_map(|event| match event {
                Event::Drop(drop) => Some(*drop),
                Event::Flow(_) => None,
            });
            told.is_some()
        });
        let told = told.unwrap();
        assert_eq!(told.reason, Reason::SpoofedAddress as u16);
        // Behind the Ethernet header, IPv4: the source at byte 12.
        assert_eq!(told.headers[14 + 12..14 + 16], [10, 9, 0, 77]);
        assert!(
            !flows(&mut node)
                .iter()
                .any(|flow| { IpAddr::from(flow.key.low) == IpAddr::from([10, 9, 0, 77]) })
        );
    }
}
