//! The cluster as a folder of manifests: what an agent is told.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net};
use watari_manifests::OWNED_ADDRESSES;

use crate::layout::{Lab, WIRE_SERVER};
use crate::paths;
use crate::spec::FabricKind;

/// Where a node finds the manifests of its cluster.
pub const CLUSTER: &str = "/run/watari/cluster";

/// Writes the manifests into this node's `/run`.
pub fn write(lab: &Lab) -> Result<()> {
    let folder = Path::new(CLUSTER);
    paths::create_dir(folder)?;
    paths::write_whole(&folder.join("nodes.yaml"), nodes(lab).as_bytes())?;
    let exceptions = exceptions(lab);
    if exceptions.is_empty() {
        return Ok(());
    }
    paths::write_whole(
        &folder.join("ip-masq-agent.yaml"),
        masquerade(&exceptions).as_bytes(),
    )
}

/// A `Node` for each.
fn nodes(lab: &Lab) -> String {
    let mut text = String::new();
    for node in lab.nodes.iter().map(crate::Node::in_cluster) {
        let name = &node.name;
        let _ = writeln!(
            text,
            "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {name}"
        );
        let owned: Vec<String> = node.owned.iter().map(|(a, z)| format!("{a}-{z}")).collect();
        if !owned.is_empty() {
            let owned = owned.join(",");
            let _ = writeln!(text, "  annotations:\n    {OWNED_ADDRESSES}: {owned}");
        }
        let quoted: Vec<String> = node
            .pod_cidrs
            .iter()
            .map(|net| format!("'{net}'"))
            .collect();
        if let Some(first) = quoted.first() {
            let all = quoted.join(", ");
            let _ = writeln!(text, "spec:\n  podCIDR: {first}\n  podCIDRs: [{all}]");
        }
        let _ = writeln!(
            text,
            "status:\n  addresses:\n  - {{type: Hostname, address: {name}}}"
        );
        for address in &node.addresses {
            let _ = writeln!(text, "  - {{type: InternalIP, address: '{address}'}}");
        }
    }
    text
}

/// What sees pods' own addresses beside pods and nodes. On Azure that is the whole virtual network,
/// as AKS sets it; and the wire server, which takes who calls from a node's address for the node.
fn exceptions(lab: &Lab) -> Vec<IpNet> {
    let mut nets = lab.non_masquerade_cidrs.clone();
    if lab.fabric == FabricKind::Azure {
        nets.push(lab.subnet.into());
        nets.extend(lab.ipv6_prefix.map(IpNet::V6));
        nets.push(IpNet::V4(Ipv4Net::from(WIRE_SERVER)));
    }
    nets
}

/// The configuration of `ip-masq-agent`.
fn masquerade(exceptions: &[IpNet]) -> String {
    let mut text = String::from(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: ip-masq-agent\n  namespace: kube-system\n\
         data:\n  config: |\n    nonMasqueradeCIDRs:\n",
    );
    for net in exceptions {
        let _ = writeln!(text, "    - '{net}'");
    }
    text
}

#[cfg(test)]
mod tests {
    use watari_manifests::parse;
    use watari_model::ClusterNode;

    use super::*;
    use crate::{Label, Spec};

    #[test]
    fn the_manifests_say_of_the_nodes_what_the_lab_knows() {
        for spec in [
            "{fabric: l2, ipv6: true}",
            "{fabric: l2, ipv4: false, ipv6: true, nodes: 1}",
            "ipv6: true",
            "nodes: 1",
        ] {
            let lab = Lab::new(Label::new("t").unwrap(), &Spec::parse(spec).unwrap()).unwrap();
            let found = parse(Path::new("nodes.yaml"), nodes(&lab).as_bytes()).unique();
            assert!(
                found.errors.is_empty() && found.notes.is_empty(),
                "{found:?}"
            );
            let read: Vec<ClusterNode> = found.nodes().cloned().collect();
            let known: Vec<ClusterNode> = lab.nodes.iter().map(crate::Node::in_cluster).collect();
            assert_eq!(read, known);
        }
    }

    #[test]
    fn the_exceptions_are_those_of_the_fabric_and_the_file() {
        for (spec, expected) in [
            ("fabric: l2", vec![]),
            (
                "{fabric: l2, nonMasqueradeCIDRs: [172.16.0.0/12]}",
                vec!["172.16.0.0/12"],
            ),
            (
                "{ipv6: true}",
                vec!["10.240.0.0/16", "fd10:240::/64", "168.63.129.16/32"],
            ),
        ] {
            let lab = Lab::new(Label::new("t").unwrap(), &Spec::parse(spec).unwrap()).unwrap();
            let text = masquerade(&exceptions(&lab));
            let found = parse(Path::new("masq.yaml"), text.as_bytes());
            assert!(
                found.errors.is_empty() && found.notes.is_empty(),
                "{found:?}"
            );
            let read = found.masquerade().non_masquerade_cidrs;
            let read: Vec<String> = read.iter().map(ToString::to_string).collect();
            assert_eq!(read, expected);
        }
    }
}
