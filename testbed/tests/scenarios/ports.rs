//! Host ports: the stack's translation beside the datapath.

use std::net::{IpAddr, SocketAddr};

use watari_model::{NetworkName, Protocol};
use watari_nft::portmap::{HostPort, Mapping, Masquerade, Owner, PortMaps, Wanted};
use watari_testbed::echo::{Conversation, EchoServer, tcp, udp, udp_by, udp_from};
use watari_testbed::{Bed, Datapaths};
use watari_testkit::Netns;

use crate::{BOTH, FAMILIES, ROUTED, Stage};

const HOST_PORT: u16 = 8080;
const POD_PORT: u16 = 80;

/// Maps the host port of the second node to its first pod, as the plugin does, for both
/// families and both protocols.
fn map_ports(bed: &Bed) {
    let (node, pod) = (&bed.nodes[1], bed.pod(1, 0));
    let attachment = watari_model::Attachment {
        container: watari_model::ContainerId::new("pod-2-1").unwrap(),
        ifname: watari_model::IfName::new("eth0").unwrap(),
    };
    let mut mappings = std::collections::BTreeSet::new();
    for v6 in FAMILIES {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            mappings.insert(Mapping {
                host: HostPort {
                    protocol,
                    address: None,
                    port: HOST_PORT,
                },
                target: pod.address(v6),
                target_port: POD_PORT,
            });
        }
    }
    let wanted = Wanted {
        owner: Owner::new(&NetworkName::new("testbed").unwrap(), &attachment),
        mappings,
        masquerade: Masquerade::Local,
    };
    node.netns
        .enter(|| PortMaps::open().unwrap().add(&wanted).unwrap());
}

/// Who may ask for a host port of the second node.
fn askers(bed: &Bed) -> [(&'static str, &Netns); 5] {
    [
        ("somebody outside", bed.router.as_ref().unwrap()),
        ("a pod of another node", &bed.pod(0, 0).netns),
        ("another pod of the node", &bed.pod(1, 1).netns),
        ("the pod itself", &bed.pod(1, 0).netns),
        ("the other node", &bed.nodes[0].netns),
    ]
}

fn all_ask(bed: &Bed, address: IpAddr) {
    let port = SocketAddr::new(address, HOST_PORT);
    for (who, netns) in askers(bed) {
        netns.enter(|| {
            tcp(port, 3 << 20).unwrap_or_else(|error| panic!("{who}, {port}, TCP: {error:#}"));
            udp(port, &[10, 1200]).unwrap_or_else(|error| panic!("{who}, {port}, UDP: {error:#}"));
        });
    }
}

#[test]
fn host_ports_work_from_everywhere() {
    for attachment in BOTH {
        let layout = watari_testbed::Layout { pods: 2, ..ROUTED };
        let mut stage = Stage::routed(layout, attachment);
        map_ports(&stage.bed);
        for v6 in FAMILIES {
            let pod = stage.bed.pod(1, 0);
            let direct = EchoServer::start(&pod.netns, pod.address(v6), POD_PORT).unwrap();
            let node = stage.bed.nodes[1].addresses()[usize::from(v6)];
            all_ask(&stage.bed, node);
            // Pods go on talking to the same port of the pod directly, past the stack.
            for netns in [&stage.bed.pod(0, 0).netns, &stage.bed.pod(1, 1).netns] {
                netns.enter(|| tcp(direct.address, 1000).unwrap());
            }
        }
        stage.nothing_dropped();
    }
}

#[test]
fn connections_by_host_ports_survive_the_first_installation() {
    for attachment in BOTH {
        let layout = watari_testbed::Layout { pods: 2, ..ROUTED };
        let bed = Bed::new(layout).unwrap();
        map_ports(&bed);
        let mut live = Vec::new();
        let mut servers = Vec::new();
        for v6 in FAMILIES {
            let pod = bed.pod(1, 0);
            servers.push(EchoServer::start(&pod.netns, pod.address(v6), POD_PORT).unwrap());
            let node = bed.nodes[1].addresses()[usize::from(v6)];
            for (who, netns) in askers(&bed) {
                let port = SocketAddr::new(node, HOST_PORT);
                let mut talk = netns.enter(|| Conversation::open(port).unwrap());
                talk.exchange(1000).unwrap();
                live.push((who, talk));
            }
        }
        let datapaths = Datapaths::load(&bed, attachment.into()).unwrap();
        for (who, talk) in &mut live {
            for _ in 0..20 {
                let went = talk.exchange(1000);
                went.unwrap_or_else(|error| panic!("{who}: {error:#}"));
            }
            let went = talk.exchange(3 << 20);
            went.unwrap_or_else(|error| panic!("{who}: {error:#}"));
        }
        Stage { bed, datapaths }.nothing_dropped();
    }
}

/// One port towards a host port and towards the pod behind it: for the pod the two have one tuple,
/// and the stack alone can tell them apart.
#[test]
fn one_port_reaches_a_host_port_and_its_pod() {
    const ONE_PORT: u16 = 4000;
    for attachment in BOTH {
        let layout = watari_testbed::Layout { pods: 2, ..ROUTED };
        let mut stage = Stage::routed(layout, attachment);
        let bed = &stage.bed;
        map_ports(bed);
        for v6 in FAMILIES {
            let pod = bed.pod(1, 0);
            let _server = EchoServer::start(&pod.netns, pod.address(v6), POD_PORT).unwrap();
            let node = bed.nodes[1].addresses()[usize::from(v6)];
            let mapped = SocketAddr::new(node, HOST_PORT);
            let direct = SocketAddr::new(pod.address(v6), POD_PORT);
            let [_, elsewhere, beside, ..] = askers(bed);
            for (who, netns) in [elsewhere, beside] {
                netns.enter(|| {
                    both_ways_in(ONE_PORT, mapped, direct)
                        .unwrap_or_else(|error| panic!("{who}, {mapped}: {error:#}"));
                });
            }
        }
        stage.nothing_dropped();
    }
}

/// Speaks by both at once, in turns.
fn both_ways_in(port: u16, mapped: SocketAddr, direct: SocketAddr) -> anyhow::Result<()> {
    let mut first = Conversation::open_from(port, mapped)?;
    first.exchange(1000)?;
    let mut second = Conversation::open_from(port, direct)?;
    for length in [10, 100_000, 3 << 20] {
        second.exchange(length)?;
        first.exchange(length)?;
    }
    // By UDP in either order: here a port of its own, since the first pair is remembered.
    for (port, order) in [(port, [mapped, direct]), (port + 1, [direct, mapped])] {
        let [one, other] = [udp_from(port, order[0])?, udp_from(port, order[1])?];
        for _ in 0..3 {
            udp_by(&one, &[10, 1200])?;
            udp_by(&other, &[10, 1200])?;
        }
    }
    Ok(())
}
