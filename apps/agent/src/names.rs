//! Whose an address or a link is, in words that people know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use watari_model::{ClusterNode, IfName};
use watari_plan::prefixes;
use watari_store::EndpointRecord;

use crate::book::Book;

/// Who has an address: a pod of this node by its name, another node or its pods by the node's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Who {
    /// `NAMESPACE/NAME` of a pod, or the container where the runtime named no pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The node that it is, or that it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// All names of a node's view of its cluster.
#[derive(Debug, Clone, Default)]
pub struct Names {
    own: String,
    pods: BTreeMap<IpAddr, String>,
    links: BTreeMap<IfName, String>,
    nodes: BTreeMap<IpAddr, String>,
    ranges: BTreeMap<IpNet, String>,
    /// The prefix lengths that occur in `ranges`, longest first.
    lengths: Vec<u8>,
}

/// How a record's pod is called.
pub fn pod_of(record: &EndpointRecord) -> String {
    match &record.pod {
        Some(pod) => pod.to_string(),
        None => record.attachment.container.to_string(),
    }
}

impl Names {
    /// From what a node knows.
    pub fn new(own: &str, records: &[EndpointRecord], nodes: &[ClusterNode]) -> Self {
        let mut names = Self {
            own: own.to_owned(),
            ..Self::default()
        };
        for record in records {
            let pod = pod_of(record);
            for net in &record.tables.pod.addresses {
                names.pods.insert(net.addr(), pod.clone());
            }
            names.links.insert(record.host_ifname.clone(), pod);
        }
        let mut lengths = BTreeSet::new();
        for node in nodes {
            for address in &node.addresses {
                names.nodes.insert(*address, node.name.clone());
            }
            let owned = node.owned.iter();
            let ranges = owned.flat_map(|&(first, last)| prefixes(first, last));
            for range in ranges.chain(node.pod_cidrs.iter().map(IpNet::trunc)) {
                lengths.insert(range.prefix_len());
                names.ranges.insert(range, node.name.clone());
            }
        }
        names.lengths = lengths.into_iter().rev().collect();
        names
    }

    /// From the node store alone, where no agent tells of the cluster; none if it cannot be read.
    pub fn of_store(data_dir: &Path) -> Self {
        let mut book = Book::new(data_dir);
        // Flows without names are better than none.
        let _ = book.poll();
        Self::new("", book.records(), &[])
    }

    /// Whose an address is.
    pub fn of(&self, address: IpAddr) -> Who {
        if let Some(pod) = self.pods.get(&address) {
            let node = (!self.own.is_empty()).then(|| self.own.clone());
            return Who {
                pod: Some(pod.clone()),
                node,
            };
        }
        let node = self.nodes.get(&address).or_else(|| {
            self.lengths.iter().find_map(|&length| {
                let range = IpNet::new(address, length).ok()?.trunc();
                self.ranges.get(&range)
            })
        });
        Who {
            pod: None,
            node: node.cloned(),
        }
    }

    /// The pod behind a host-side link.
    pub fn behind(&self, link: &IfName) -> Option<&str> {
        self.links.get(link).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_range_names_the_node() {
        let node = |name: &str, address: &str, cidr: &str| ClusterNode {
            name: name.to_owned(),
            addresses: vec![address.parse().unwrap()],
            pod_cidrs: vec![cidr.parse().unwrap()],
            owned: vec![],
        };
        let nodes = [
            node("a", "10.0.0.1", "10.244.0.0/16"),
            node("b", "10.0.0.2", "10.244.7.0/24"),
        ];
        let names = Names::new("a", &[], &nodes);
        let node = |text: &str| names.of(text.parse().unwrap()).node;
        assert_eq!(node("10.0.0.2").as_deref(), Some("b"));
        assert_eq!(node("10.244.7.9").as_deref(), Some("b"));
        assert_eq!(node("10.244.8.9").as_deref(), Some("a"));
        assert_eq!(node("192.0.2.1"), None);
        assert_eq!(node("::1"), None);
    }
}
