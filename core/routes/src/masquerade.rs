use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use watari_model::ClusterNode;
use watari_tables::{Masquerade, Ranges};

/// RFC 3927.
const LINK_LOCAL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);
/// RFC 4291, section 2.5.6.
const LINK_LOCAL6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// What an operator says of the way out, in the words of `ip-masq-agent`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MasqueradeConf {
    /// Destinations outside the cluster that see pods' own addresses.
    #[serde(rename = "nonMasqueradeCIDRs")]
    pub non_masquerade_cidrs: Vec<IpNet>,
    /// Masquerade what goes to 169.254.0.0/16 as well.
    pub masq_link_local: bool,
    /// Masquerade what goes to `fe80::/10` as well.
    #[serde(rename = "masqLinkLocalIPv6")]
    pub masq_link_local_ipv6: bool,
}

impl MasqueradeConf {
    /// Both together: the exceptions of either, and link-local if one of them says so.
    pub fn merge(&mut self, other: Self) {
        self.non_masquerade_cidrs.extend(other.non_masquerade_cidrs);
        self.masq_link_local |= other.masq_link_local;
        self.masq_link_local_ipv6 |= other.masq_link_local_ipv6;
    }
}

/// Who is masqueraded on the node `own`: its pods, towards everything but pods and nodes of the
/// cluster, which know the way back, and what the configuration excepts. A host beside the nodes
/// does not know that way, so their subnet as a whole is no exception unless configured.
pub fn masquerade<'a>(
    nodes: impl IntoIterator<Item = &'a ClusterNode>,
    own: &str,
    conf: &MasqueradeConf,
) -> Masquerade {
    let ends = |net: &IpNet| (net.network(), net.broadcast());
    let (mut pods, mut exceptions) = (Vec::new(), Vec::new());
    for node in nodes {
        let ranges: Vec<(IpAddr, IpAddr)> = node
            .pod_cidrs
            .iter()
            .map(ends)
            .chain(node.owned.iter().copied())
            .collect();
        exceptions.extend(node.addresses.iter().map(|&address| (address, address)));
        exceptions.extend(ranges.iter().copied());
        if node.name == own {
            pods.extend(ranges);
        }
    }
    exceptions.extend(conf.non_masquerade_cidrs.iter().map(ends));
    if !conf.masq_link_local {
        exceptions.push(ends(&IpNet::V4(LINK_LOCAL)));
    }
    if !conf.masq_link_local_ipv6 {
        exceptions.push(ends(&IpNet::V6(LINK_LOCAL6)));
    }
    Masquerade {
        pods: pods.into_iter().collect::<Ranges>(),
        exceptions: exceptions.into_iter().collect::<Ranges>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> [ClusterNode; 2] {
        let node = |name: &str, host: u8| ClusterNode {
            name: name.to_owned(),
            addresses: vec![
                IpAddr::from([10, 240, 0, host]),
                format!("fd01::{host}").parse().unwrap(),
            ],
            pod_cidrs: vec![
                format!("10.244.{host}.0/24").parse().unwrap(),
                format!("fd44:{host}::/64").parse().unwrap(),
            ],
            owned: vec![(
                IpAddr::from([10, 240, 9, host * 10]),
                IpAddr::from([10, 240, 9, host * 10 + 9]),
            )],
        };
        [node("a", 4), node("b", 5)]
    }

    fn told(ranges: &Ranges) -> Vec<String> {
        ranges.iter().map(|(a, z)| format!("{a}-{z}")).collect()
    }

    #[test]
    fn own_pods_are_masqueraded_but_towards_the_cluster() {
        let table = masquerade(&nodes(), "a", &MasqueradeConf::default());
        assert_eq!(
            told(&table.pods),
            [
                "10.240.9.40-10.240.9.49",
                "10.244.4.0-10.244.4.255",
                "fd44:4::-fd44:4::ffff:ffff:ffff:ffff"
            ]
        );
        assert_eq!(
            told(&table.exceptions),
            [
                "10.240.0.4-10.240.0.5",
                "10.240.9.40-10.240.9.59",
                "10.244.4.0-10.244.5.255",
                "169.254.0.0-169.254.255.255",
                "fd01::4-fd01::5",
                "fd44:4::-fd44:4::ffff:ffff:ffff:ffff",
                "fd44:5::-fd44:5::ffff:ffff:ffff:ffff",
                "fe80::-febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ]
        );
    }

    #[test]
    fn an_operator_adds_exceptions_and_takes_link_local_away() {
        let mut conf = MasqueradeConf {
            non_masquerade_cidrs: vec!["10.0.0.0/8".parse().unwrap()],
            ..MasqueradeConf::default()
        };
        conf.merge(MasqueradeConf {
            non_masquerade_cidrs: vec!["198.51.100.7/24".parse().unwrap()],
            masq_link_local: true,
            masq_link_local_ipv6: true,
        });
        let table = masquerade(&nodes()[..1], "a", &conf);
        let exceptions = told(&table.exceptions);
        assert_eq!(
            exceptions[..2],
            ["10.0.0.0-10.255.255.255", "198.51.100.0-198.51.100.255"]
        );
        assert!(
            !exceptions
                .iter()
                .any(|range| range.starts_with("169.254") || range.starts_with("fe80"))
        );
    }

    #[test]
    fn a_node_without_pods_masquerades_nobody() {
        assert!(
            masquerade(&nodes(), "c", &MasqueradeConf::default())
                .pods
                .is_empty()
        );
    }
}
