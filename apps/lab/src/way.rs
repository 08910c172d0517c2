//! What an agent would keep on a node of a switch, laid once where no agent runs: routes to the
//! other nodes' pods, and the way out of the cluster.

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use watari_model::ClusterNode;
use watari_netlink::{Handle, Netns};
use watari_nft::masquerade::Masquerading;
use watari_routes::{MasqueradeConf, host_routes, masquerade};

use crate::fabric;
use crate::layout::{Lab, Node};

/// Lays both in a node's network namespace.
pub fn lay(netns: &Netns, lab: &Lab, node: &Node) -> Result<()> {
    let cluster: Vec<ClusterNode> = lab.nodes.iter().map(Node::in_cluster).collect();
    let own = node.name.as_str();
    let mut handle = Handle::open_in(netns)?;
    let eth0 = fabric::index_of(&mut handle, "eth0")?;
    let over = handle.routes(eth0)?;
    let on_link = over.iter().filter(|route| route.via.is_none());
    let on_link: Vec<IpNet> = on_link.map(|route| route.destination).collect();
    let ways = host_routes(&cluster, own, &on_link);
    let done = handle.set_own_routes(&ways.routes)?;
    if let Some((_, error)) = done.failed.into_iter().next() {
        return Err(error).context("lay a route to another node's pods");
    }
    if let Some(beyond) = ways.beyond.first() {
        bail!("no way to {}, pods of {}", beyond.destination, beyond.node);
    }
    let conf = MasqueradeConf {
        non_masquerade_cidrs: lab.non_masquerade_cidrs.clone(),
        ..MasqueradeConf::default()
    };
    let table = masquerade(&cluster, own, &conf);
    netns.within(|| -> Result<()> {
        let mut masquerading = Masquerading::open()?;
        masquerading.set(&table)?;
        masquerading.leave();
        Ok(())
    })?
}
