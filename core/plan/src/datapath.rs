use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use watari_model::{ClusterNode, IfName};
use watari_tables::{Datapath, Endpoint, Hook, HookAt, LocalEndpoint};

/// What a node's datapath is planned from.
#[derive(Debug, Clone, Copy)]
pub struct NodeView<'a> {
    /// What this node's pods were made from, in the order of their making.
    pub endpoints: &'a [&'a Endpoint],
    /// The nodes of the cluster, this one among them or not.
    pub nodes: &'a [ClusterNode],
    /// This node's name: its own ranges are no way to another node.
    pub own: &'a str,
    /// The links by which packets for pods enter the node.
    pub uplinks: &'a BTreeSet<IfName>,
}

/// What the plan had to leave out; the stack then does it, or nobody.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// A node has no address of the family of one of its ranges.
    NoNextHop {
        /// The node.
        node: String,
        /// The range.
        range: IpNet,
    },
    /// Two nodes say that the same range is theirs.
    Contested {
        /// The range.
        range: IpNet,
        /// Who has it in the plan: the first by name.
        kept: String,
        /// Who said so too.
        other: String,
    },
    /// A range ends before it starts, or its ends are of two families.
    NoRange {
        /// The node.
        node: String,
        /// How it starts.
        first: IpAddr,
        /// How it ends.
        last: IpAddr,
    },
    /// Two endpoints of this node have the same address; the later one has it in the plan.
    AddressTwice {
        /// The address.
        address: IpAddr,
        /// The link of the earlier one.
        earlier: IfName,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNextHop { node, range } => write!(
                f,
                "node {node} owns {range}, but has no InternalIP of that family: left to the stack"
            ),
            Self::Contested { range, kept, other } => write!(
                f,
                "{range} is claimed by the nodes {kept} and {other}: sent to {kept}"
            ),
            Self::NoRange { node, first, last } => {
                write!(f, "node {node}: {first}-{last} is no range of addresses")
            }
            Self::AddressTwice { address, earlier } => write!(
                f,
                "{address} belongs to two endpoints: the one at {earlier} is left out"
            ),
        }
    }
}

/// The tables of a node's datapath, and what could not be planned.
pub fn datapath(view: &NodeView<'_>) -> (Datapath, BTreeSet<Note>) {
    let mut tables = Datapath::default();
    let mut notes = BTreeSet::new();
    for endpoint in view.endpoints {
        place(&mut tables, &mut notes, endpoint);
    }
    let at = |link: &IfName, hook| HookAt {
        link: link.clone(),
        hook,
    };
    for link in view.uplinks {
        tables.hooks.insert(at(link, Hook::FromUplink));
    }
    tables.remotes = remotes(view, &mut notes);
    (tables, notes)
}

fn place(tables: &mut Datapath, notes: &mut BTreeSet<Note>, endpoint: &Endpoint) {
    let link = &endpoint.host.name;
    for net in &endpoint.pod.addresses {
        let local = LocalEndpoint {
            link: link.clone(),
            mac: endpoint.pod.mac,
            host_mac: endpoint.host.mac,
        };
        let earlier = tables.endpoints.insert(net.addr(), local);
        if let Some(earlier) = earlier.filter(|earlier| earlier.link != *link) {
            notes.insert(Note::AddressTwice {
                address: net.addr(),
                earlier: earlier.link,
            });
        }
    }
    for hook in [Hook::FromPod, Hook::ToPod] {
        tables.hooks.insert(HookAt {
            link: link.clone(),
            hook,
        });
    }
}

fn remotes(view: &NodeView<'_>, notes: &mut BTreeSet<Note>) -> BTreeMap<IpNet, IpAddr> {
    let mut others: Vec<&ClusterNode> = view
        .nodes
        .iter()
        .filter(|node| node.name != view.own)
        .collect();
    others.sort_by(|one, other| one.name.cmp(&other.name));
    let mut owners: BTreeMap<IpNet, (&str, IpAddr)> = BTreeMap::new();
    for node in others {
        for range in ranges(node, notes) {
            let same_family = |address: &&IpAddr| address.is_ipv4() == range.addr().is_ipv4();
            let Some(&next_hop) = node.addresses.iter().find(same_family) else {
                notes.insert(Note::NoNextHop {
                    node: node.name.clone(),
                    range,
                });
                continue;
            };
            if let Some((kept, _)) = owners.get(&range) {
                notes.insert(Note::Contested {
                    range,
                    kept: (*kept).to_owned(),
                    other: node.name.clone(),
                });
                continue;
            }
            owners.insert(range, (&node.name, next_hop));
        }
    }
    owners
        .into_iter()
        .map(|(range, (_, next_hop))| (range, next_hop))
        .collect()
}

/// All that a node owns, as the fewest prefixes.
fn ranges(node: &ClusterNode, notes: &mut BTreeSet<Note>) -> Vec<IpNet> {
    let mut all: Vec<IpNet> = node.pod_cidrs.iter().map(IpNet::trunc).collect();
    for &(first, last) in &node.owned {
        let prefixes = prefixes(first, last);
        if prefixes.is_empty() {
            notes.insert(Note::NoRange {
                node: node.name.clone(),
                first,
                last,
            });
        }
        all.extend(prefixes);
    }
    IpNet::aggregate(&all)
}

/// The fewest prefixes that hold the addresses from `first` to `last` and no other; none if that
/// is no range.
pub fn prefixes(first: IpAddr, last: IpAddr) -> Vec<IpNet> {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => {
            Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => {
            Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect()
        }
        _ => Vec::new(),
    }
}
