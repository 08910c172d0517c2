use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use serde_json::{Value, json};
use watari_netlink::{Handle, Link, Netns, SeenNeighbour, SeenRoute, read_setting};

use crate::enter::Target;
use crate::fabric::FABRIC;
use crate::layout::SCHEMA;
use crate::node::HOLDER;
use crate::pod;
use crate::process::Namespaces;
use crate::state::OpenLab;

/// What the kernel holds in one network namespace of a lab.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    schema: u32,
    lab: String,
    what: String,
    links: Vec<LinkSeen>,
    routes: Vec<RouteSeen>,
    neighbours: Vec<NeighbourSeen>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LinkSeen {
    index: u32,
    name: String,
    kind: String,
    up: bool,
    mtu: u32,
    mac: Option<String>,
    alias: String,
    addresses: Vec<String>,
    /// The other end: whose namespace, which link.
    peer: Option<String>,
    proxy_arp: bool,
    /// Hundredths of a second.
    proxy_delay: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RouteSeen {
    destination: String,
    via: Option<String>,
    dev: Option<String>,
    kind: String,
    protocol: String,
    link_scope: bool,
    onlink: bool,
    source: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NeighbourSeen {
    address: String,
    dev: String,
    mac: Option<String>,
    state: String,
}

impl Page {
    /// One object.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_else(|_| json!({}))
    }
}

/// Looks at a node, a pod or the fabric, through netlink and procfs.
pub fn inspect(lab: &OpenLab, target: &Target) -> Result<Page> {
    let cgroup = target.cgroup(lab)?;
    let namespaces = lab.namespaces(&cgroup, &target.describe())?;
    let netns = Netns::open(Path::new(&namespaces.net_path()))?;
    let mut handle = Handle::open_in(&netns)?;
    let links = handle.links()?;
    let addresses = handle.all_addresses()?;
    let peers = peers(lab, target, &links)?;
    let names: BTreeMap<u32, String> = links
        .iter()
        .map(|link| (link.index, link.name.to_string()))
        .collect();
    let mut seen = Vec::new();
    for link in &links {
        let own = addresses.iter().filter(|seen| seen.index == link.index);
        let setting = |path: String| {
            let path = Path::new("/proc/sys/net/ipv4").join(path);
            netns.within(|| read_setting(&path)).and_then(|read| read)
        };
        seen.push(LinkSeen {
            index: link.index,
            name: link.name.to_string(),
            kind: link.kind.clone(),
            up: link.up,
            mtu: link.mtu,
            mac: link
                .mac
                .filter(|_| !link.loopback)
                .map(|mac| mac.to_string()),
            alias: link.alias.clone(),
            addresses: own.map(|seen| seen.net.to_string()).collect(),
            peer: peers.get(&link.index).cloned(),
            proxy_arp: setting(format!("conf/{}/proxy_arp", link.name))?.as_deref() == Some("1"),
            proxy_delay: setting(format!("neigh/{}/proxy_delay", link.name))?,
        });
    }
    let name_of = |index: u32| match names.get(&index) {
        Some(name) => name.clone(),
        None => format!("if{index}"),
    };
    Ok(Page {
        schema: SCHEMA,
        lab: lab.lab.name.to_string(),
        what: target.describe(),
        links: seen,
        routes: handle
            .all_routes()?
            .into_iter()
            .map(|route| route_seen(route, name_of))
            .collect(),
        neighbours: handle
            .all_neighbours()?
            .into_iter()
            .map(|neighbour| neighbour_seen(neighbour, name_of))
            .collect(),
    })
}

fn route_seen(route: SeenRoute, name_of: impl Fn(u32) -> String) -> RouteSeen {
    RouteSeen {
        destination: match route.destination {
            net if net.prefix_len() == 0 => "default".to_owned(),
            net if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
            net => net.to_string(),
        },
        via: route.via.map(|via| via.to_string()),
        dev: route.index.map(name_of),
        kind: route.kind,
        protocol: route.protocol,
        link_scope: route.link_scope,
        onlink: route.onlink,
        source: route.source.map(|source| source.to_string()),
    }
}

fn neighbour_seen(seen: SeenNeighbour, name_of: impl Fn(u32) -> String) -> NeighbourSeen {
    NeighbourSeen {
        address: seen.address.to_string(),
        dev: name_of(seen.index),
        mac: seen.mac.map(|mac| mac.to_string()),
        state: seen.state,
    }
}

/// The other end of each veth, by the link's index. Indexes alone could be those of any
/// namespace, so both ends must name each other.
fn peers(lab: &OpenLab, target: &Target, links: &[Link]) -> Result<BTreeMap<u32, String>> {
    let mut others: Vec<(String, Vec<Link>)> = Vec::new();
    let mut look = |what: String, holder: crate::cgroup::Cgroup| -> Result<()> {
        if let Some(namespaces) = Namespaces::of(&holder.child(HOLDER))? {
            let netns = Netns::open(Path::new(&namespaces.net_path()))?;
            others.push((what, Handle::open_in(&netns)?.links()?));
        }
        Ok(())
    };
    let group = lab.cgroup()?;
    match target {
        Target::Fabric => {
            for node in &lab.lab.nodes {
                look(
                    format!("node {}", node.name),
                    group.child(node.name.as_str()),
                )?;
            }
        }
        Target::Node(name) => {
            look(FABRIC.to_owned(), group.child(FABRIC))?;
            for pod in pod::list(lab)? {
                let own = pod.plan.as_ref().is_some_and(|plan| !plan.host_network);
                if own && pod.node.as_str() == name {
                    look(format!("pod {}", pod.key), pod.cgroup.clone())?;
                }
            }
        }
        Target::Pod(pod) => {
            let node = pod.node.as_str();
            look(format!("node {node}"), group.child(node))?;
        }
    }
    let mut found = BTreeMap::new();
    for link in links {
        for (what, theirs) in &others {
            let meets =
                |other: &&Link| link.peer == Some(other.index) && other.peer == Some(link.index);
            let fits = |other: &&Link| fits(target, what, link, other);
            if let Some(other) = theirs.iter().filter(meets).find(fits) {
                found.insert(link.index, format!("{what} {}", other.name));
            }
        }
    }
    Ok(found)
}

/// Two pairs can have the same two indexes. A node's `eth0` is its port's other end, and a pod's
/// `eth0` the host veth's.
fn fits(target: &Target, what: &str, link: &Link, other: &Link) -> bool {
    let uplink = |name: &str| name == "eth0";
    match target {
        Target::Fabric => uplink(other.name.as_str()),
        Target::Node(_) if what == FABRIC => uplink(link.name.as_str()),
        Target::Node(_) => uplink(other.name.as_str()) && !uplink(link.name.as_str()),
        Target::Pod(_) => uplink(link.name.as_str()) && !uplink(other.name.as_str()),
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (lab {})", self.what, self.lab)?;
        writeln!(f, "\nlinks and addresses")?;
        for link in &self.links {
            writeln!(f, "  {link}")?;
        }
        writeln!(f, "\nroutes")?;
        for route in &self.routes {
            writeln!(f, "  {route}")?;
        }
        writeln!(f, "\nneighbours")?;
        for neighbour in &self.neighbours {
            writeln!(f, "  {neighbour}")?;
        }
        if self.neighbours.is_empty() {
            writeln!(f, "  none")?;
        }
        Ok(())
    }
}

impl fmt::Display for LinkSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.index, self.name)?;
        if let Some(mac) = &self.mac {
            write!(f, " {mac}")?;
        }
        write!(f, " mtu {}", self.mtu)?;
        if !self.up {
            write!(f, " DOWN")?;
        }
        if self.proxy_arp {
            let delay = self.proxy_delay.as_deref().unwrap_or("?");
            write!(f, " proxy_arp=1 proxy_delay={delay}")?;
        }
        if let Some(peer) = &self.peer {
            write!(f, " (other end: {peer})")?;
        }
        if self.addresses.is_empty() {
            write!(f, "\n       no address")?;
        }
        for address in &self.addresses {
            write!(f, "\n       {address}")?;
        }
        Ok(())
    }
}

impl fmt::Display for RouteSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind != "unicast" {
            write!(f, "{} ", self.kind)?;
        }
        f.write_str(&self.destination)?;
        for (word, value) in [("via", &self.via), ("dev", &self.dev)] {
            if let Some(value) = value {
                write!(f, " {word} {value}")?;
            }
        }
        write!(f, " proto {}", self.protocol)?;
        if self.link_scope {
            write!(f, " scope link")?;
        }
        if let Some(source) = &self.source {
            write!(f, " src {source}")?;
        }
        if self.onlink {
            write!(f, " onlink")?;
        }
        Ok(())
    }
}

impl fmt::Display for NeighbourSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {}", self.address, self.dev)?;
        if let Some(mac) = &self.mac {
            write!(f, " lladdr {mac}")?;
        }
        write!(f, " {}", self.state)
    }
}
