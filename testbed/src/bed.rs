//! Nodes, their pods, and what lies between them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use watari_model::{Attachment, ContainerId, HostPrefix, IfName, NetworkName};
use watari_netlink::{Handle, create};
use watari_plan::{Transparent, transparent};
use watari_tables::Endpoint;
use watari_testkit::Netns;

/// The name of every node's uplink.
pub const UPLINK: &str = "eth0";

/// What lies between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// A wire.
    Wire,
    /// A router; the link from it to the second node has this MTU in bytes.
    Router {
        /// Of the narrow link.
        mtu: u32,
    },
}

/// What to build. Everything has both families.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// One or two.
    pub nodes: u8,
    /// On each node.
    pub pods: u8,
    /// Of every link in bytes, but for a router's narrow one.
    pub mtu: u32,
    /// Between the nodes.
    pub between: Between,
}

/// Nodes with pods as the plugin attaches them: routes, permanent neighbours, proxy ARP. The
/// nodes forward and have no datapath.
#[derive(Debug)]
pub struct Bed {
    /// In the order of their numbers.
    pub nodes: Vec<Node>,
    /// What is [`Between`] them, if it is more than a wire. Outside of the cluster.
    pub router: Option<Netns>,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its namespace.
    pub netns: Netns,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// Its number: 1 or 2.
    pub number: u8,
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// Its namespace.
    pub netns: Netns,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its other address.
    pub v6: Ipv6Addr,
    /// Both sides of its link.
    pub tables: Endpoint,
    /// The index of the host side in the node.
    pub host_index: u32,
}

impl Bed {
    /// Builds it.
    pub fn new(layout: Layout) -> Result<Self> {
        let numbers = 1..=layout.nodes;
        let nodes = numbers.map(|number| Node::new(number, layout));
        let mut bed = Self {
            nodes: nodes.collect::<Result<_>>()?,
            router: None,
        };
        if let [first, second] = &bed.nodes[..] {
            match layout.between {
                Between::Wire => wire(first, second, layout.mtu),
                Between::Router { mtu } => bed.router = Some(route(first, second, layout.mtu, mtu)),
            }
        }
        Ok(bed)
    }

    /// Takes away every route of the nodes to pods: what still gets through went past the
    /// kernel's routing.
    pub fn blackhole(&self) {
        for node in &self.nodes {
            let others = self
                .nodes
                .iter()
                .filter(|other| other.number != node.number);
            node.blackhole(&others.collect::<Vec<_>>());
        }
    }

    /// A pod by the indices of node and pod.
    pub fn pod(&self, node: usize, pod: usize) -> &Pod {
        &self.nodes[node].pods[pod]
    }
}

impl Node {
    fn new(number: u8, layout: Layout) -> Result<Self> {
        let netns = Netns::new("node");
        netns.enter(forward)?;
        let pods = 1..=layout.pods;
        let pods = pods.map(|pod| Pod::new(&netns, number, pod, layout.mtu));
        Ok(Self {
            pods: pods.collect::<Result<_>>()?,
            netns,
            number,
        })
    }

    /// Its address.
    pub fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 20, self.number, 1)
    }

    /// Its other address.
    pub fn v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd20, 0, 0, self.number.into(), 0, 0, 0, 1)
    }

    /// Both.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4().into(), self.v6().into()]
    }

    /// The addresses of its pods, of each family.
    pub fn ranges(&self) -> [String; 2] {
        let number = self.number;
        [
            format!("10.250.{number}.0/24"),
            format!("fd50:0:0:{number}::/64"),
        ]
    }

    /// Takes its routes to pods away: its own, and those of these other nodes.
    pub fn blackhole(&self, others: &[&Self]) {
        let own = self.pods.iter();
        let own = own.flat_map(|pod| [format!("{}/32", pod.v4), format!("{}/128", pod.v6)]);
        let others = others.iter().flat_map(|other| other.ranges());
        for range in own.chain(others) {
            self.run(&format!("ip route del {range}"));
            self.run(&format!("ip route add blackhole {range}"));
        }
    }

    /// Runs a command of many words in it.
    pub fn run(&self, command: &str) -> String {
        self.netns.run(&command.split(' ').collect::<Vec<_>>())
    }

    fn configure(&self, gateways: [IpAddr; 2], other: &Self) {
        self.run("ip link set eth0 up");
        for (address, gateway) in self.addresses().into_iter().zip(gateways) {
            let (flags, length) = if address.is_ipv4() {
                ("", 32)
            } else {
                (" nodad", 128)
            };
            self.run(&format!(
                "ip address add {address}/{length} dev eth0{flags}"
            ));
            self.run(&format!("ip route add {gateway} dev eth0"));
        }
        let node = other.addresses().map(|address| address.to_string());
        let ranges = other.ranges();
        let reach = gateways.iter().zip(node.iter().zip(&ranges));
        for (gateway, (node, range)) in reach {
            if *node != gateway.to_string() {
                self.run(&format!("ip route add {node} via {gateway}"));
            }
            self.run(&format!("ip route add {range} via {gateway}"));
        }
    }
}

fn forward() -> Result<()> {
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let path = format!("/proc/sys/net/{key}");
        std::fs::write(&path, "1").with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

fn path(netns: &Netns) -> String {
    netns.path().display().to_string()
}

fn wire(first: &Node, second: &Node, mtu: u32) {
    let there = path(&second.netns);
    first.run(&format!(
        "ip link add eth0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {there}"
    ));
    first.configure(second.addresses(), second);
    second.configure(first.addresses(), first);
}

/// Forwards between the nodes, and answers pings and connections as somebody outside.
fn route(first: &Node, second: &Node, mtu: u32, narrow: u32) -> Netns {
    let router = Netns::new("router");
    let there = path(&router);
    let run = |command: &str| router.run(&command.split(' ').collect::<Vec<_>>());
    router.enter(forward).expect("forward in a router");
    for (node, mtu) in [(first, mtu), (second, narrow)] {
        let number = node.number;
        node.run(&format!(
            "ip link add eth0 mtu {mtu} type veth peer name to{number} mtu {mtu} netns {there}"
        ));
        let gateways: [IpAddr; 2] = [
            Ipv4Addr::new(172, 20, number, 254).into(),
            Ipv6Addr::new(0xfd20, 0, 0, number.into(), 0, 0, 0, 254).into(),
        ];
        run(&format!("ip link set to{number} up"));
        let pairs = gateways.iter().zip(node.addresses());
        for ((gateway, address), range) in pairs.zip(node.ranges()) {
            let (flags, length) = if gateway.is_ipv4() {
                ("", 32)
            } else {
                (" nodad", 128)
            };
            run(&format!(
                "ip address add {gateway}/{length} dev to{number}{flags}"
            ));
            run(&format!("ip route add {address} dev to{number}"));
            run(&format!("ip route add {range} via {address}"));
        }
        let other = if number == first.number {
            second
        } else {
            first
        };
        node.configure(gateways, other);
    }
    router
}

impl Pod {
    fn new(node: &Netns, node_number: u8, number: u8, mtu: u32) -> Result<Self> {
        let netns = Netns::new("pod");
        let v4 = Ipv4Addr::new(10, 250, node_number, number);
        let v6 = Ipv6Addr::new(0xfd50, 0, 0, node_number.into(), 0, 0, 0, number.into());
        let attachment = Attachment {
            container: ContainerId::new(format!("pod-{node_number}-{number}"))?,
            ifname: IfName::new("eth0")?,
        };
        let tables = transparent(&Transparent {
            network: &NetworkName::new("testbed")?,
            attachment: &attachment,
            prefix: &HostPrefix::default(),
            mtu,
            pod_mac: None,
            addresses: &[format!("{v4}/24").parse()?, format!("{v6}/64").parse()?],
            destinations: &[],
            ipv6: true,
        });
        let inside = watari_netlink::Netns::open(netns.path())?;
        let created =
            node.enter(|| -> Result<_> { Ok(create(&tables, &mut Handle::open()?, &inside)?) })?;
        Ok(Self {
            netns,
            v4,
            v6,
            tables,
            host_index: created.host_index,
        })
    }

    /// Its address of a family.
    pub fn address(&self, v6: bool) -> IpAddr {
        if v6 { self.v6.into() } else { self.v4.into() }
    }

    /// The name of its host-side link.
    pub fn host_name(&self) -> &str {
        self.tables.host.name.as_str()
    }
}
