//! Nodes with the datapath on them, that can be asked.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Result;
use watari_abi::{Counter, Reason};
use watari_bpf::{Attachment, Datapath as _};
use watari_testbed::raw::RawSocket;
use watari_testbed::{Bed, Between, Datapaths, Layout, Node, Pod};
use watari_testkit::Netns;
use watari_trace::{
    Answer, Ask, Cluster, HOPS, Kind, Packet, Party, Place, Protocol, Question, Site, Trace,
    answer, trace,
};

/// How often a trace is asked for until nobody else sent anything meanwhile.
const TRIES: usize = 20;

/// The kinds of attachment.
pub const BOTH: [Attachment; 2] = [Attachment::Tcx, Attachment::Clsact];
/// IPv4, IPv6.
pub const FAMILIES: [bool; 2] = [false, true];

/// Two pods on one node.
pub const SAME_NODE: Layout = Layout {
    nodes: 1,
    pods: 2,
    mtu: 1500,
    between: Between::Wire,
};
/// A pod on each of two nodes.
pub const CROSS_NODE: Layout = Layout {
    nodes: 2,
    pods: 1,
    ..SAME_NODE
};
/// The same with somebody outside between them.
pub const ROUTED: Layout = Layout {
    between: Between::Router { mtu: 1500 },
    ..CROSS_NODE
};

/// A bed, its datapaths if there are any, and which way the nodes are asked.
pub struct Stage {
    pub bed: Bed,
    pub datapaths: Option<Datapaths>,
}

impl Stage {
    pub fn new(layout: Layout, attachment: Attachment) -> Self {
        let bed = Bed::new(layout).unwrap();
        let datapaths = Some(Datapaths::load(&bed, attachment.into()).unwrap());
        Self { bed, datapaths }
    }

    pub fn without_datapath(layout: Layout) -> Self {
        let bed = Bed::new(layout).unwrap();
        Self {
            bed,
            datapaths: None,
        }
    }

    /// The first pod of the first node.
    pub fn client(&self) -> &Pod {
        self.bed.pod(0, 0)
    }

    /// The last pod of the last node.
    pub fn server(&self) -> &Pod {
        self.bed.nodes.last().unwrap().pods.last().unwrap()
    }

    /// Every connection, counter and drop of all nodes: what a trace must leave alone.
    pub fn state(&mut self) -> String {
        let Some(datapaths) = &mut self.datapaths else {
            return String::new();
        };
        let mut all = String::new();
        for node in 0..self.bed.nodes.len() {
            all += &datapaths.with(&self.bed, node, |node| {
                let mut flows = Vec::new();
                node.flows(&mut |flow| flows.push(format!("{flow:?}")))
                    .unwrap();
                flows.sort();
                let counters: Vec<_> = node.counters().unwrap();
                format!("{flows:?} {counters:?} {:?}", node.drops().unwrap())
            });
        }
        all
    }

    pub fn count(&mut self, node: usize, counter: Counter) -> u64 {
        let datapaths = self.datapaths.as_mut().unwrap();
        datapaths.counter(&self.bed, node, counter).unwrap().packets
    }

    pub fn dropped(&mut self, node: usize, reason: Reason, link: &str) -> (u64, u64) {
        let datapaths = self.datapaths.as_mut().unwrap();
        datapaths.dropped(&self.bed, node, reason, link).unwrap()
    }

    fn site(&self, node: usize) -> Site {
        let nowhere = PathBuf::from("/nonexistent");
        let datapaths = self.datapaths.as_ref();
        Site {
            name: Some(name(node)),
            bpf_root: datapaths.map_or_else(|| nowhere.clone(), |all| all.root(node).clone()),
            data_dir: nowhere,
        }
    }

    /// Traces a packet of the first pod, and holds that this changes nothing.
    pub fn trace(&mut self, packet: &Packet, reply: bool) -> Trace {
        let address = self.client().address(packet.source.is_ipv6());
        self.trace_from(Place::Pod { address }, packet, reply)
    }

    pub fn trace_from(&mut self, place: Place, packet: &Packet, reply: bool) -> Trace {
        let party = |address| Party {
            kind: Kind::Pod,
            name: None,
            address,
            node: None,
        };
        let question = Question {
            from: party(packet.source),
            to: party(packet.destination),
            packet: packet.clone(),
            node: name(0),
            place,
            reply,
        };
        // The kernels of nodes and pods send something of their own now and then (multicast of
        // IPv6): a trace that changes something does so each time.
        let mut states = (String::new(), String::new());
        for _ in 0..TRIES {
            let before = self.state();
            let traced = trace(self, &question).unwrap();
            states = (before, self.state());
            if states.0 == states.1 {
                return traced;
            }
        }
        panic!(
            "a trace changed something:\n{}\nafter:\n{}",
            states.0, states.1
        );
    }
}

fn name(node: usize) -> String {
    format!("node{}", node + 1)
}

impl Cluster for Stage {
    fn ask(&mut self, node: &str, ask: &Ask) -> Result<Answer> {
        // As it goes over to another process.
        let ask: Ask = serde_json::from_str(&serde_json::to_string(ask)?)?;
        let index = (0..self.bed.nodes.len()).find(|at| name(*at) == node);
        let index = index.unwrap();
        let site = self.site(index);
        let answer = self.bed.nodes[index].netns.enter(|| answer(&site, &ask))?;
        Ok(serde_json::from_str(&serde_json::to_string(&answer)?)?)
    }

    fn owner(&self, address: IpAddr) -> Option<String> {
        let owns = |node: &Node| {
            let pods = node.pods.iter();
            let mut pods = pods.flat_map(|pod| [IpAddr::from(pod.v4), pod.v6.into()]);
            node.addresses().contains(&address) || pods.any(|pod| pod == address)
        };
        let found = self.bed.nodes.iter().position(owns);
        found.map(name)
    }

    fn address(&self, node: &str, like: IpAddr) -> Option<IpAddr> {
        let found = (0..).zip(&self.bed.nodes).find(|(at, _)| name(*at) == node);
        let addresses = found?.1.addresses();
        addresses
            .into_iter()
            .find(|address| address.is_ipv4() == like.is_ipv4())
    }

    fn routers(&self) -> u8 {
        u8::from(self.bed.router.is_some())
    }
}

/// A packet between those.
pub fn packet(protocol: Protocol, source: IpAddr, destination: IpAddr) -> Packet {
    Packet {
        source_mac: None,
        destination_mac: None,
        source,
        destination,
        protocol,
        source_port: 40_001,
        destination_port: if protocol == Protocol::Icmp {
            40_001
        } else {
            4444
        },
        answer: false,
        ttl: HOPS,
        data: 0,
    }
}

/// Sends that very packet from a namespace, whose kernel makes the link header.
pub fn send(netns: &Netns, packet: &Packet) {
    let frame = packet.frame().unwrap();
    netns.enter(|| {
        let socket = RawSocket::open(packet.source.is_ipv6()).unwrap();
        socket
            .send(&frame[LINK_HEADER..], packet.destination)
            .unwrap();
    });
}

/// Bytes of an Ethernet header.
const LINK_HEADER: usize = 14;

/// An address that the router has.
pub fn world(v6: bool) -> IpAddr {
    let text = if v6 { "fd20:0:0:1::fe" } else { "172.20.1.254" };
    text.parse().unwrap()
}
