//! Kubernetes objects as the types of the house: what is read of a `Node`, and of the `ConfigMap`
//! of `ip-masq-agent`.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use watari_model::ClusterNode;
use watari_routes::MasqueradeConf;

use crate::document;
use crate::object::Refusal;

/// The addresses that a node owns beside its Pod CIDRs: `10.240.0.5-10.240.0.104,fd10::5`.
pub const OWNED_ADDRESSES: &str = "watari.io/owned-addresses";
/// Where `ip-masq-agent` has its configuration.
const MASQUERADE_NAMESPACE: &str = "kube-system";
const MASQUERADE_NAME: &str = "ip-masq-agent";
/// What the names of AKS' ones begin with: what AKS sets, and what the customer adds.
const MASQUERADE_AZURE: &str = "azure-ip-masq-agent-config";

/// What the other nodes need to know of a node. One that has no address or no range yet is
/// there all the same.
pub(crate) fn cluster_node(node: &Node) -> Result<ClusterNode, Refusal> {
    let spec = node.spec.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let mut addresses = Vec::new();
    for (at, given) in status.addresses.unwrap_or_default().iter().enumerate() {
        if given.type_ == "InternalIP" {
            let path = format!("status.addresses[{at}].address");
            addresses.push(address(&path, &given.address)?);
        }
    }
    let many = spec.pod_cidrs.unwrap_or_default();
    let cidrs: Vec<(String, String)> = if many.is_empty() {
        let one = spec.pod_cidr.filter(|text| !text.is_empty());
        one.map(|text| ("spec.podCIDR".to_owned(), text))
            .into_iter()
            .collect()
    } else {
        let numbered = many.into_iter().enumerate();
        numbered
            .map(|(at, text)| (format!("spec.podCIDRs[{at}]"), text))
            .collect()
    };
    let pod_cidrs = cidrs.iter().map(|(path, text)| cidr(path, text));
    let annotations = node.metadata.annotations.as_ref();
    let owned = annotations.and_then(|all| all.get(OWNED_ADDRESSES));
    Ok(ClusterNode {
        name: node.metadata.name.clone().unwrap_or_default(),
        addresses,
        pod_cidrs: pod_cidrs.collect::<Result<_, _>>()?,
        owned: owned.map_or(Ok(Vec::new()), |text| ranges(text))?,
    })
}

fn ranges(text: &str) -> Result<Vec<(IpAddr, IpAddr)>, Refusal> {
    let path = format!("metadata.annotations['{OWNED_ADDRESSES}']");
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (address(&path, first.trim())?, address(&path, last.trim())?);
            if first.is_ipv4() != last.is_ipv4() || first > last {
                let reason = format!("{} is no range: first-last", shown(part));
                return Err((path.clone(), reason));
            }
            Ok((first, last))
        })
        .collect()
}

fn address(path: &str, text: &str) -> Result<IpAddr, Refusal> {
    let parsed: Result<IpAddr, _> = text.parse();
    parsed
        .map(|address| address.to_canonical())
        .map_err(|_| (path.to_owned(), format!("{} is no IP address", shown(text))))
}

fn cidr(path: &str, text: &str) -> Result<IpNet, Refusal> {
    let parsed: Result<IpNet, _> = text.parse();
    parsed.map(|net| net.trunc()).map_err(|_| {
        let reason = format!("{} is no CIDR, as 10.244.1.0/24", shown(text));
        (path.to_owned(), reason)
    })
}

/// As much of a text as an error has room for.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(80).collect();
    format!("{start:?}")
}

/// Whether a `ConfigMap` says how to masquerade.
pub(crate) fn is_masquerade(namespace: &str, name: &str) -> bool {
    namespace == MASQUERADE_NAMESPACE
        && (name == MASQUERADE_NAME || name.starts_with(MASQUERADE_AZURE))
}

/// What a configuration of `ip-masq-agent` says, and the fields that nobody knows. Each entry of
/// `data` is a file that the agent reads, in YAML or JSON; together they hold.
pub(crate) fn masquerade(map: &ConfigMap) -> Result<(MasqueradeConf, Vec<String>), Refusal> {
    let mut conf = MasqueradeConf::default();
    let mut unknown = Vec::new();
    for (key, text) in map.data.iter().flatten() {
        let path = format!("data.{key}");
        let refuse = |reason: String| (path.clone(), reason);
        for document in document::split(text.as_bytes(), false) {
            let mut value = document.value.map_err(refuse)?;
            if let Some(fields) = value.as_object_mut() {
                // How often the file is looked at: the source knows that by itself.
                fields.remove("resyncInterval");
                fields.retain(|name, value| {
                    let known = KNOWN.contains(&name.as_str());
                    if !known {
                        unknown.push(format!("{path}: {name}"));
                    }
                    // Go reads `null` as nothing said.
                    known && !value.is_null()
                });
            }
            let read = serde_path_to_error::deserialize(&value);
            conf.merge(read.map_err(|error| {
                let inner = error.path().to_string();
                (format!("{path}: {inner}"), error.into_inner().to_string())
            })?);
        }
    }
    Ok((conf, unknown))
}

/// The fields of [`MasqueradeConf`].
const KNOWN: [&str; 3] = ["nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6"];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Manifests, parse};

    fn parsed(text: &str) -> Manifests {
        parse(Path::new("x.yaml"), text.as_bytes()).unique()
    }

    const NODE: &str = "apiVersion: v1
kind: Node
metadata:
  name: aks-1
  annotations:
    watari.io/owned-addresses: 10.240.0.5-10.240.0.104, fd10::5-fd10::68,10.240.9.9
spec:
  podCIDR: 10.244.1.0/24
  podCIDRs: [10.244.1.0/24, 'fd44:1::/64']
status:
  addresses:
  - {type: Hostname, address: aks-1}
  - {type: InternalIP, address: 10.240.0.4}
  - {type: InternalIP, address: 'fd10::4'}
  - {type: ExternalIP, address: 198.51.100.4}
";

    fn reason(text: &str) -> String {
        let found = parsed(text);
        assert!(found.objects.is_empty(), "{:?}", found.objects);
        found.errors[0].to_string()
    }

    #[test]
    fn a_node_is_its_addresses_and_ranges() {
        let found = parsed(NODE);
        assert_eq!((&found.errors[..], &found.notes[..]), (&[][..], &[][..]));
        assert_eq!(found.objects[0].id().to_string(), "Node aks-1");
        let nodes: Vec<_> = found.nodes().collect();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let expected = ClusterNode {
            name: "aks-1".to_owned(),
            addresses: vec![ip("10.240.0.4"), ip("fd10::4")],
            pod_cidrs: ["10.244.1.0/24", "fd44:1::/64"]
                .map(|net| net.parse().unwrap())
                .into(),
            owned: vec![
                (ip("10.240.0.5"), ip("10.240.0.104")),
                (ip("fd10::5"), ip("fd10::68")),
                (ip("10.240.9.9"), ip("10.240.9.9")),
            ],
        };
        assert_eq!(nodes, [&expected]);
    }

    #[test]
    fn a_node_that_has_only_a_name_or_one_pod_cidr_is_one() {
        let found = parsed(
            "{apiVersion: v1, kind: Node, metadata: {name: new}}\n---\n\
             {apiVersion: v1, kind: Node, metadata: {name: old}, spec: {podCIDR: 10.1.2.3/24}}\n",
        );
        let cidrs: Vec<_> = found.nodes().map(|node| node.pod_cidrs.clone()).collect();
        assert_eq!(cidrs, [vec![], vec!["10.1.2.0/24".parse().unwrap()]]);
    }

    #[test]
    fn what_cannot_be_is_told_with_its_path() {
        for (good, bad, told) in [
            (
                "10.240.0.4}",
                "10.240.0}",
                "status.addresses[1].address: \"10.240.0\" is no IP address",
            ),
            (
                "[10.244.1.0/24, ",
                "[10.244.1.0, ",
                "spec.podCIDRs[0]: \"10.244.1.0\" is no CIDR, as 10.244.1.0/24",
            ),
            (
                "fd10::5-fd10::68",
                "fd10::68-fd10::5",
                "metadata.annotations['watari.io/owned-addresses']: \"fd10::68-fd10::5\" is no range: first-last",
            ),
            (
                "10.240.0.5-10.240.0.104",
                "10.240.0.5-fd10::1",
                "metadata.annotations['watari.io/owned-addresses']: \"10.240.0.5-fd10::1\" is no range: first-last",
            ),
            (
                "{type: Hostname, address: aks-1}",
                "{type: Hostname, address: [1]}",
                "status.addresses[0].address: invalid type: sequence, expected a string",
            ),
            (
                "name: aks-1",
                "name: ../x",
                "metadata.name: \"../x\" is not a name",
            ),
        ] {
            assert!(NODE.contains(good), "{good}");
            let said = reason(&NODE.replacen(good, bad, 1));
            let place = "x.yaml: document 1 (from line 1): ";
            assert!(said.starts_with(&format!("{place}{told}")), "{said}");
        }
    }

    const MASQUERADE: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: ip-masq-agent, namespace: kube-system}
data:
  config: |
    nonMasqueradeCIDRs: [10.0.0.0/8, 'fd00::/8']
    masqLinkLocal: true
    resyncInterval: 60s
";

    #[test]
    fn the_configuration_of_ip_masq_agent_is_read_and_its_parts_put_together() {
        let azure = MASQUERADE
            .replace(
                "name: ip-masq-agent,",
                "name: azure-ip-masq-agent-config-reconciled,",
            )
            .replace("masqLinkLocal: true", "masqLinkLocalIPv6: true")
            .replace("10.0.0.0/8", "192.168.0.0/16")
            .replace("config: |", "ip-masq-agent-reconciled: |");
        let found = parsed(&format!("{MASQUERADE}---\n{azure}"));
        assert_eq!((&found.errors[..], &found.notes[..]), (&[][..], &[][..]));
        let conf = found.masquerade();
        assert!(conf.masq_link_local && conf.masq_link_local_ipv6);
        let cidrs: Vec<String> = conf
            .non_masquerade_cidrs
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            cidrs,
            ["10.0.0.0/8", "fd00::/8", "192.168.0.0/16", "fd00::/8"]
        );
    }

    #[test]
    fn its_mistakes_are_told_and_other_maps_are_left_alone() {
        let said = reason(&MASQUERADE.replace("10.0.0.0/8", "10.0.0.0"));
        assert!(
            said.contains("data.config: nonMasqueradeCIDRs[0]: invalid IP address syntax"),
            "{said}"
        );
        let said = reason(&MASQUERADE.replace("[10", "10"));
        assert!(said.contains("data.config: "), "{said}");
        let found = parsed(&MASQUERADE.replace("masqLinkLocal", "masqLinklocal"));
        assert_eq!(found.notes[0].path, "data.config: masqLinklocal");
        assert_eq!(found.masquerade().non_masquerade_cidrs.len(), 2);
        let other = parsed(&MASQUERADE.replace("kube-system", "mine"));
        assert_eq!(other.masquerade(), MasqueradeConf::default());
        assert_eq!(other.objects.len(), 1);
    }
}
