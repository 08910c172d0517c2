use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use watari_model::{Attachment, ContainerId, IfName, NetworkName};
use watari_nft::portmap::{HostPort, Mapping, Masquerade, Owner, PortMaps, Wanted};
use watari_trace::{Decided, End, Place, Protocol};

use crate::catch::Catcher;
use crate::stage::{BOTH, FAMILIES, ROUTED, Stage, packet, world};

/// How long something may take: far longer than on any machine.
const PATIENCE: Duration = Duration::from_secs(10);

const HOST_PORT: u16 = 8053;
const POD_PORT: u16 = 5353;

/// A port of the node leads to the pod's, of these addresses.
fn map(pods: [IpAddr; 2]) {
    let attachment = Attachment {
        container: ContainerId::new("pod-1-1").unwrap(),
        ifname: IfName::new("eth0").unwrap(),
    };
    let host = HostPort {
        protocol: watari_model::Protocol::Udp,
        address: None,
        port: HOST_PORT,
    };
    let mapping = |target| Mapping {
        host,
        target,
        target_port: POD_PORT,
    };
    let wanted = Wanted {
        owner: Owner::new(&NetworkName::new("testbed").unwrap(), &attachment),
        mappings: BTreeSet::from(pods.map(mapping)),
        masquerade: Masquerade::Local,
    };
    PortMaps::open().unwrap().add(&wanted).unwrap();
}

/// From outside to a port of the node, into the pod, and back by the stack.
#[test]
fn a_host_port_leads_into_the_pod_and_its_answer_back() {
    for attachment in BOTH {
        let mut stage = Stage::new(ROUTED, attachment);
        let pods = FAMILIES.map(|v6| stage.client().address(v6));
        stage.bed.nodes[0].netns.enter(|| map(pods));
        for v6 in FAMILIES {
            let node = stage.bed.nodes[0].addresses()[usize::from(v6)];
            let mut packet = packet(Protocol::Udp, world(v6), node);
            packet.destination_port = HOST_PORT;
            let place = Place::Uplink { address: node };
            let traced = stage.trace_from(place, &packet, true);
            let verdicts = traced.way.hops.iter().map(|hop| &hop.verdict);
            let verdicts: Vec<&Decided> = verdicts.collect();
            assert_eq!(verdicts, [&Decided::Stack, &Decided::Pass], "{traced:#?}");
            let went = &traced.way.hops[1].went;
            assert_eq!(
                (went.destination, went.destination_port),
                (pods[usize::from(v6)], POD_PORT)
            );
            let reply = traced.reply.as_ref().unwrap();
            assert!(matches!(reply.end, End::Left { .. }), "{reply:#?}");
            let back = &reply.hops[0].went;
            assert_eq!((back.source, back.source_port), (node, HOST_PORT));

            let router = stage.bed.router.as_ref().unwrap();
            let bind = |netns: &watari_testkit::Netns, address: IpAddr, port: u16| {
                let socket = netns.enter(|| UdpSocket::bind((address, port)).unwrap());
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket
            };
            let near = bind(router, packet.source, packet.source_port);
            let far = bind(&stage.client().netns, pods[usize::from(v6)], POD_PORT);
            let there = Catcher::new(&stage.client().netns);
            let here = Catcher::new(router);
            let mut buffer = [0; 16];
            near.send_to(&[], (node, HOST_PORT)).unwrap();
            let (_, sender) = far.recv_from(&mut buffer).unwrap();
            far.send_to(&[], sender).unwrap();
            near.recv(&mut buffer).unwrap();
            assert_eq!(there.wait(went), *went);
            // Its neighbour may have been unknown before.
            let caught = here.wait(back);
            assert_eq!((caught.ttl, caught.source_mac), (back.ttl, back.source_mac));
        }
    }
}
