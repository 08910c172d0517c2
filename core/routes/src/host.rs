use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use watari_model::ClusterNode;
use watari_tables::Route;

/// The routes of a node to the Pod CIDRs of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostRoutes {
    /// What the node's main table should hold: a Pod CIDR over its node's address.
    pub routes: BTreeSet<Route>,
    /// What it cannot hold, since nobody on the node's links is a next hop: the network itself
    /// (an SDN, a router) has to know the way.
    pub beyond: BTreeSet<Beyond>,
}

/// A Pod CIDR that no host route leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Beyond {
    /// The Pod CIDR.
    pub destination: IpNet,
    /// The node that it is of.
    pub node: String,
}

/// The routes from the node `own` to the Pod CIDRs of the others, over the address of each that is
/// of the CIDR's family and on one of the links (`on_link`: the prefixes that the node reaches
/// without a next hop). Addresses that a node owns by its annotation need none: who gave them
/// away carries them. A CIDR that two nodes claim is the first's by name.
pub fn host_routes<'a>(
    nodes: impl IntoIterator<Item = &'a ClusterNode>,
    own: &str,
    on_link: &[IpNet],
) -> HostRoutes {
    let mut owners: BTreeMap<IpNet, &ClusterNode> = BTreeMap::new();
    for node in nodes {
        for cidr in &node.pod_cidrs {
            let owner = owners.entry(cidr.trunc()).or_insert(node);
            if node.name < owner.name {
                *owner = node;
            }
        }
    }
    let mut found = HostRoutes::default();
    for (destination, node) in owners {
        if node.name == own {
            continue;
        }
        let like = |address: &&IpAddr| address.is_ipv4() == destination.addr().is_ipv4();
        let near = |address: &&IpAddr| on_link.iter().any(|net| net.contains(*address));
        if let Some(&via) = node.addresses.iter().filter(like).find(near) {
            let via = Some(via);
            found.routes.insert(Route { destination, via });
        } else {
            let node = node.name.clone();
            found.beyond.insert(Beyond { destination, node });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, addresses: &[&str], cidrs: &[&str]) -> ClusterNode {
        ClusterNode {
            name: name.to_owned(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            pod_cidrs: cidrs.iter().map(|text| text.parse().unwrap()).collect(),
            owned: vec![("10.240.0.5".parse().unwrap(), "10.240.0.9".parse().unwrap())],
        }
    }

    fn told(found: &HostRoutes) -> (Vec<String>, Vec<String>) {
        let route = |r: &Route| format!("{} via {}", r.destination, r.via.unwrap());
        let beyond = |b: &Beyond| format!("{} of {}", b.destination, b.node);
        (
            found.routes.iter().map(route).collect(),
            found.beyond.iter().map(beyond).collect(),
        )
    }

    fn links(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn each_other_node_is_the_next_hop_of_its_own_pods_in_both_families() {
        let nodes = [
            node(
                "a",
                &["10.1.0.4", "fd01::4"],
                &["10.244.1.0/24", "fd44:1::/64"],
            ),
            node(
                "b",
                &["10.1.0.5", "fd01::5"],
                &["10.244.2.0/24", "fd44:2::/64"],
            ),
            node("c", &["fd01::6", "10.1.0.6"], &["10.244.3.9/24"]),
        ];
        let found = host_routes(&nodes, "a", &links(&["10.1.0.4/16", "fd01::4/64"]));
        let (routes, beyond) = told(&found);
        assert_eq!(
            routes,
            [
                "10.244.2.0/24 via 10.1.0.5",
                "10.244.3.0/24 via 10.1.0.6",
                "fd44:2::/64 via fd01::5",
            ]
        );
        assert_eq!(beyond, [""; 0]);
    }

    #[test]
    fn without_a_next_hop_on_a_link_the_network_has_to_know_the_way() {
        let nodes = [
            node("a", &["10.1.0.4"], &["10.244.1.0/24"]),
            node("b", &["10.2.0.5"], &["10.244.2.0/24"]),
            node("c", &["10.1.0.6"], &["10.244.3.0/24", "fd44:3::/64"]),
            node("d", &[], &["10.244.4.0/24"]),
        ];
        let (routes, beyond) = told(&host_routes(&nodes, "a", &links(&["10.1.0.0/16"])));
        assert_eq!(routes, ["10.244.3.0/24 via 10.1.0.6"]);
        assert_eq!(
            beyond,
            [
                "10.244.2.0/24 of b",
                "10.244.4.0/24 of d",
                "fd44:3::/64 of c"
            ]
        );
    }

    #[test]
    fn a_cidr_of_two_nodes_is_the_first_ones_whatever_the_order() {
        let mut nodes = vec![
            node("c", &["10.1.0.6"], &["10.244.2.0/24"]),
            node("b", &["10.1.0.5"], &["10.244.2.0/24"]),
            node("a", &["10.1.0.4"], &[]),
        ];
        for _ in 0..2 {
            let (routes, _) = told(&host_routes(&nodes, "a", &links(&["10.1.0.0/16"])));
            assert_eq!(routes, ["10.244.2.0/24 via 10.1.0.5"]);
            nodes.reverse();
        }
        assert_eq!(
            told(&host_routes(&nodes, "b", &links(&["10.1.0.0/16"]))).0,
            [""; 0]
        );
    }
}
