use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::names::Label;

/// The longest `lab.yaml` that is read, in bytes.
pub const MAX_LAB_FILE: usize = 64 << 10;

/// `lab.yaml`: what `watari lab up` builds. Every field has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Spec {
    /// The lab's name when `--lab` gives none.
    pub name: Option<Label>,
    /// What the network around the nodes is like.
    pub fabric: FabricKind,
    /// How many nodes.
    pub nodes: u16,
    /// Node names are this and a number from 1.
    pub node_prefix: String,
    /// Pods a node can have: as many secondary addresses it is given on `azure`; on `l2` its Pod
    /// CIDR has room for them.
    pub max_pods: u16,
    /// The subnet of the nodes.
    pub subnet: Ipv4Net,
    /// The gateway; the first address of the subnet when absent.
    pub gateway: Option<Ipv4Addr>,
    /// Give nodes and pods IPv4 addresses. `azure` cannot do without.
    pub ipv4: bool,
    /// Give nodes and pods IPv6 addresses.
    pub ipv6: bool,
    /// Where the IPv6 addresses come from.
    pub ipv6_prefix: Ipv6Net,
    /// On `l2`: the pods' addresses, a part of it for each node.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Ipv4Net,
    /// On `l2`: the pods' IPv6 addresses, a /64 of it for each node.
    #[serde(rename = "ipv6PodCIDR")]
    pub ipv6_pod_cidr: Ipv6Net,
    /// Destinations outside the cluster that see the pods' own addresses, beside pods and nodes.
    #[serde(rename = "nonMasqueradeCIDRs")]
    pub non_masquerade_cidrs: Vec<IpNet>,
    /// Run an agent in each node.
    pub agent: bool,
    /// The MTU of each node's primary interface, in bytes.
    pub mtu: u32,
    /// A conflist for the nodes instead of the one of an AKS node, relative to `lab.yaml`.
    pub conflist: Option<PathBuf>,
    /// Directories searched for plugins after the node's `/opt/cni/bin`.
    pub cni_path: Vec<PathBuf>,
}

/// What carries frames between nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FabricKind {
    /// An SDN that knows which NIC owns each address.
    #[default]
    Azure,
    /// One switch: it learns MACs, owns nothing, and filters nothing.
    L2,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            name: None,
            fabric: FabricKind::Azure,
            nodes: 3,
            node_prefix: "node".to_owned(),
            max_pods: 100,
            subnet: Ipv4Net::new_assert(Ipv4Addr::new(10, 240, 0, 0), 16),
            gateway: None,
            ipv4: true,
            ipv6: false,
            ipv6_prefix: Ipv6Net::new_assert([0xfd10, 0x240, 0, 0, 0, 0, 0, 0].into(), 64),
            pod_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16),
            ipv6_pod_cidr: Ipv6Net::new_assert([0xfd10, 0x244, 0, 0, 0, 0, 0, 0].into(), 48),
            non_masquerade_cidrs: Vec::new(),
            agent: true,
            mtu: 1500,
            conflist: None,
            cni_path: Vec::new(),
        }
    }
}

/// A `lab.yaml` that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Longer than [`MAX_LAB_FILE`].
    #[error("it has more than {MAX_LAB_FILE} bytes")]
    TooLong,
    /// Not the YAML that was expected; the reader says where.
    #[error("{0}")]
    Syntax(String),
    /// A value that cannot be.
    #[error("{field}: {reason}")]
    Value {
        /// The field as written in the file.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
}

impl Spec {
    /// Reads `lab.yaml` (or the same as JSON). An empty text means every default.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        if text.len() > MAX_LAB_FILE {
            return Err(SpecError::TooLong);
        }
        let blank = |line: &str| {
            let line = line.trim();
            line.is_empty() || line.starts_with('#') || line == "---"
        };
        if text.lines().all(blank) {
            return Ok(Self::default());
        }
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| SpecError::Syntax(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_three_nodes_on_azure() {
        for text in ["", "# nothing\n", "---\n", "{}"] {
            assert_eq!(Spec::parse(text), Ok(Spec::default()), "{text:?}");
        }
    }

    #[test]
    fn fields_are_read() {
        let spec = Spec::parse(
            "name: two\nnodes: 2\nmaxPods: 30\nsubnet: 10.1.0.0/24\nipv6: true\nipv6Prefix: fd00::/64\n",
        )
        .unwrap();
        assert_eq!(spec.name.unwrap().as_str(), "two");
        assert_eq!((spec.nodes, spec.max_pods, spec.ipv6), (2, 30, true));
        assert_eq!(spec.subnet.to_string(), "10.1.0.0/24");
        let spec = Spec::parse(
            "{fabric: l2, ipv4: false, podCIDR: 10.9.0.0/16, ipv6PodCIDR: 'fd09::/48', nonMasqueradeCIDRs: [10.0.0.0/8], agent: false}",
        )
        .unwrap();
        assert_eq!(
            (spec.fabric, spec.ipv4, spec.agent),
            (FabricKind::L2, false, false)
        );
        assert_eq!(spec.pod_cidr.to_string(), "10.9.0.0/16");
        assert_eq!(spec.non_masquerade_cidrs.len(), 1);
    }

    #[test]
    fn unknown_fields_and_wrong_values_are_refused_by_name() {
        for (text, word) in [
            ("nodess: 2\n", "nodess"),
            ("fabric: l4\n", "l4"),
            ("nodes: many\n", "line 1, column 8"),
            ("subnet: 10.1.0.0\n", "line 1, column 9"),
            ("name: A\n", "not valid as a name"),
        ] {
            let error = Spec::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text:?}: {error}");
        }
        assert_eq!(
            Spec::parse(&" ".repeat(MAX_LAB_FILE + 1)),
            Err(SpecError::TooLong)
        );
    }
}
