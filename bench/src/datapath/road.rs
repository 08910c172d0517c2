//! The roads that packets take: the kernel's own, the bare redirect, ours.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use watari_bpf::Attachment;
use watari_testbed::{Bed, Between, Datapaths, Ends, Layout, Loading, Node, UPLINK};

use super::bare::{Redirect, attach};

/// Bytes.
const MTU: u32 = 1500;
/// What a node has that lets the kernel do what the datapath does: it tracks connections, counts
/// them and their packets, and lets no pod use another's address. For IPv4 the latter is
/// `rp_filter`; the kernel has no such setting for IPv6, so it is a rule.
const RULES: &str = "table inet bench {
    chain origin {
        type filter hook prerouting priority raw; policy accept;
        meta nfproto ipv6 iifname azv* fib saddr . iif oif missing counter drop
    }
    chain forward {
        type filter hook forward priority filter; policy accept;
        ct state established,related counter accept
        ct state invalid counter drop
        ct state new counter accept
    }
}";

/// Whether both pods are on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// They are.
    SameNode,
    /// Each is on a node of its own; a wire joins the nodes.
    CrossNode,
}

impl Place {
    /// The first part of a case.
    pub fn name(self) -> &'static str {
        match self {
            Self::SameNode => "same-node",
            Self::CrossNode => "cross-node",
        }
    }

    /// What the datapath shall be faster than the kernel's road by.
    pub fn goal(self) -> f64 {
        match self {
            Self::SameNode => 1.10,
            Self::CrossNode => 1.05,
        }
    }
}

/// Two pods and what forwards between them.
pub struct Road {
    /// For messages.
    pub name: &'static str,
    bed: Bed,
    place: Place,
    // They stand as long as this.
    _programs: Vec<Ebpf>,
    _datapaths: Option<Datapaths>,
}

impl Road {
    /// The kernel's own: routes, connection tracking, origin checks, counters.
    pub fn kernel(place: Place) -> Result<Self> {
        let layout = match place {
            Place::SameNode => (1, 2),
            Place::CrossNode => (2, 1),
        };
        let bed = Bed::new(Layout {
            nodes: layout.0,
            pods: layout.1,
            mtu: MTU,
            between: Between::Wire,
        })?;
        for node in &bed.nodes {
            track(node)?;
        }
        settle_neighbours(&bed)?;
        Ok(Self {
            name: "of the kernel",
            bed,
            place,
            _programs: vec![],
            _datapaths: None,
        })
    }

    /// The same nodes, with the datapath.
    pub fn ours(place: Place, attachment: Attachment) -> Result<Self> {
        let road = Self::kernel(place)?;
        let datapaths = Datapaths::load(&road.bed, Loading::from(attachment))?;
        Ok(Self {
            name: "of the datapath",
            _datapaths: Some(datapaths),
            ..road
        })
    }

    /// The same nodes, with a program on each link that redirects whatever enters by it, to a next
    /// hop that it knows.
    pub fn bare(place: Place, v6: bool) -> Result<Self> {
        Self::redirect(place, v6, false)
    }

    /// The same between nodes, to the next hop that the kernel's routes say.
    pub fn routed(v6: bool) -> Result<Self> {
        Self::redirect(Place::CrossNode, v6, true)
    }

    fn redirect(place: Place, v6: bool, routed: bool) -> Result<Self> {
        let road = Self::kernel(place)?;
        let ends = road.ends(v6, [None; 2]);
        let (one, other) = (ends.client, ends.server);
        let mut programs = Vec::new();
        for (from, to) in [(one, other), (other, one)] {
            let node = road.node_of(from.v4.octets()[2]);
            let redirect = match place {
                Place::SameNode => Redirect::Peer(to.host_index),
                Place::CrossNode => {
                    let peer = Redirect::Peer(from.host_index);
                    programs.push(attach(&node.netns, UPLINK, peer)?);
                    let next = road.node_of(to.v4.octets()[2]).addresses();
                    let uplink = node.link(UPLINK)?.index;
                    if routed {
                        Redirect::Routed(uplink)
                    } else {
                        Redirect::Neighbour(uplink, next[usize::from(v6)])
                    }
                }
            };
            programs.push(attach(&node.netns, from.host_name(), redirect)?);
        }
        Ok(Self {
            name: "of the bare redirect",
            _programs: programs,
            ..road
        })
    }

    fn node_of(&self, number: u8) -> &Node {
        &self.bed.nodes[usize::from(number) - 1]
    }

    /// Its two pods.
    pub fn ends(&self, v6: bool, cpus: [Option<usize>; 2]) -> Ends<'_> {
        let server = match self.place {
            Place::SameNode => self.bed.pod(0, 1),
            Place::CrossNode => self.bed.pod(1, 0),
        };
        Ends {
            client: self.bed.pod(0, 0),
            server,
            v6,
            cpus,
        }
    }
}

fn track(node: &Node) -> Result<()> {
    node.netns.run(&["nft", RULES]);
    node.netns.enter(|| {
        for (key, value) in [
            ("ipv4/conf/all/rp_filter", "1"),
            ("netfilter/nf_conntrack_acct", "1"),
        ] {
            let path = format!("/proc/sys/net/{key}");
            std::fs::write(&path, value).with_context(|| format!("cannot write {path}"))?;
        }
        Ok(())
    })
}

/// Both nodes know each other's MAC for good: no answer is awaited while the clock runs.
fn settle_neighbours(bed: &Bed) -> Result<()> {
    let [first, second] = &bed.nodes[..] else {
        return Ok(());
    };
    for (node, other) in [(first, second), (second, first)] {
        let mac = other.link(UPLINK)?.mac.context("an uplink has no MAC")?;
        for address in other.addresses() {
            node.run(&format!(
                "ip neigh replace {address} dev {UPLINK} lladdr {mac} nud permanent"
            ));
        }
    }
    Ok(())
}
