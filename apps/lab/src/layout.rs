use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use watari_model::{ClusterNode, MacAddr};

use crate::names::Label;
use crate::spec::{FabricKind, Spec, SpecError};

/// The version of `lab.json` and of every `--json` output of the lab.
pub const SCHEMA: u32 = 1;

/// The MAC that the SDN answers with for every address beyond the node.
pub const SDN_MAC: MacAddr = MacAddr([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]);

/// The IPv6 default gateway of every node.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x1234, 0x5678, 0x9abc);

/// The wire server.
pub const WIRE_SERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// The instance metadata service.
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// The MAC of the gateway on the switch.
pub const GATEWAY_MAC: MacAddr = MacAddr([0x02, 0x00, 0x5e, 0x00, 0x00, 0x01]);

/// A host outside the cluster that the gateway leads to: it answers everybody whose address it
/// knows the way to, that is nodes, and no pod. From RFC 5737.
pub const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The same for IPv6, from RFC 3849.
pub const WORLD6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Azure keeps the first four addresses of a subnet: network, gateway, and two for its DNS.
const RESERVED: u32 = 4;

/// More nodes than this are refused: one machine carries no more with sense.
const MAX_NODES: u16 = 100;

/// A lab with every address decided: the contents of `lab.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lab {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Its name.
    pub name: Label,
    /// What is around the nodes.
    pub fabric: FabricKind,
    /// Whether nodes and pods have IPv4 addresses.
    pub ipv4: bool,
    /// The nodes' subnet.
    pub subnet: Ipv4Net,
    /// The gateway of the subnet.
    pub gateway: Ipv4Addr,
    /// The IPv6 prefix, when the lab has IPv6.
    pub ipv6_prefix: Option<Ipv6Net>,
    /// Of every primary interface, in bytes.
    pub mtu: u32,
    /// Directories of plugins after the node's own.
    pub cni_path: Vec<PathBuf>,
    /// Destinations outside the cluster that see the pods' own addresses.
    pub non_masquerade_cidrs: Vec<IpNet>,
    /// Whether an agent runs in each node.
    pub agent: bool,
    /// The nodes, in order.
    pub nodes: Vec<Node>,
}

/// One node of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its name: host name, cgroup, directory.
    pub name: Label,
    /// The fabric's end of its link.
    pub port: String,
    /// The MAC of its `eth0`.
    pub mac: MacAddr,
    /// Its primary address, when the lab has IPv4; on `azure` its pods' follow it.
    pub primary: Option<Ipv4Addr>,
    /// Its primary IPv6 address, when the lab has IPv6.
    pub primary6: Option<Ipv6Addr>,
    /// Its Pod CIDRs: on `l2` one of each family, on `azure` what the IPv6 plugin gives out.
    pub pod_cidrs: Vec<IpNet>,
    /// How many pods it can have.
    pub max_pods: u16,
    /// How many secondary addresses of each family it owns.
    pub owns: u16,
}

impl Node {
    /// The secondary addresses that follow each primary one, first and last; IPv4 first.
    pub fn owned(&self) -> Vec<(IpAddr, IpAddr)> {
        let primaries = if self.owns > 0 {
            self.primaries()
        } else {
            Vec::new()
        };
        let owned = |primary| (nth_after(primary, 1), nth_after(primary, self.owns));
        primaries.into_iter().map(owned).collect()
    }

    /// The secondary addresses, IPv4 then IPv6.
    pub fn secondaries(&self) -> Vec<IpAddr> {
        let follow = |primary| (1..=self.owns).map(move |at| nth_after(primary, at));
        self.primaries().into_iter().flat_map(follow).collect()
    }

    /// The primary addresses, IPv4 first.
    pub fn primaries(&self) -> Vec<IpAddr> {
        let four = self.primary.map(IpAddr::V4);
        four.into_iter()
            .chain(self.primary6.map(IpAddr::V6))
            .collect()
    }

    /// The primary address of the family of `other`.
    pub fn primary_like(&self, other: IpAddr) -> Option<IpAddr> {
        self.primaries()
            .into_iter()
            .find(|primary| primary.is_ipv4() == other.is_ipv4())
    }

    /// As the other nodes know it.
    pub fn in_cluster(&self) -> ClusterNode {
        ClusterNode {
            name: self.name.to_string(),
            addresses: self.primaries(),
            pod_cidrs: self.pod_cidrs.clone(),
            owned: self.owned(),
        }
    }
}

impl Lab {
    /// Gives every node its addresses. On `azure` consecutive ranges, the primary first, as on AKS
    /// (.4, .105, .206 with 100 pods a node); on `l2` consecutive ones, and to each its Pod CIDRs.
    pub fn new(name: Label, spec: &Spec) -> Result<Self, SpecError> {
        let gateway = check(spec)?;
        let nodes = (0..spec.nodes).map(|at| node(spec, at));
        Ok(Self {
            schema: SCHEMA,
            name,
            fabric: spec.fabric,
            ipv4: spec.ipv4,
            subnet: spec.subnet.trunc(),
            gateway,
            ipv6_prefix: spec.ipv6.then(|| spec.ipv6_prefix.trunc()),
            mtu: spec.mtu,
            cni_path: spec.cni_path.clone(),
            non_masquerade_cidrs: spec.non_masquerade_cidrs.clone(),
            agent: spec.agent,
            nodes: nodes.collect::<Result<_, SpecError>>()?,
        })
    }

    /// Who would answer questions of names, if the lab had a DNS.
    pub fn nameserver(&self) -> IpAddr {
        match self.fabric {
            FabricKind::Azure => IpAddr::V4(WIRE_SERVER),
            FabricKind::L2 if self.ipv4 => IpAddr::V4(self.gateway),
            FabricKind::L2 => IpAddr::V6(WORLD6),
        }
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name.as_str() == name)
    }

    /// The node whose primary address it is.
    pub fn node_at(&self, address: IpAddr) -> Option<&Node> {
        self.nodes
            .iter()
            .find(|node| node.primaries().contains(&address.to_canonical()))
    }

    /// The subnets that nodes' addresses are from, with the length that `eth0` gets.
    pub fn subnet_like(&self, address: IpAddr) -> Option<IpNet> {
        match address {
            IpAddr::V4(_) => Some(IpNet::V4(self.subnet)),
            IpAddr::V6(_) => self.ipv6_prefix.map(IpNet::V6),
        }
    }
}

/// How many addresses of each family a node owns after its primary ones.
fn owns(spec: &Spec) -> u16 {
    match spec.fabric {
        FabricKind::Azure => spec.max_pods,
        FabricKind::L2 => 0,
    }
}

fn node(spec: &Spec, at: u16) -> Result<Node, SpecError> {
    let stride = u32::from(owns(spec)) + 1;
    let offset = RESERVED + u32::from(at) * stride;
    let four = Ipv4Addr::from(u32::from(spec.subnet.network()) + offset);
    let six = || Ipv6Addr::from(u128::from(spec.ipv6_prefix.network()) + u128::from(offset));
    Ok(Node {
        name: node_name(&spec.node_prefix, at + 1)?,
        port: format!("port{}", at + 1),
        mac: node_mac(four),
        primary: spec.ipv4.then_some(four),
        primary6: spec.ipv6.then(six),
        pod_cidrs: pod_cidrs(spec, at + 1),
        max_pods: spec.max_pods,
        owns: owns(spec),
    })
}

fn node_name(prefix: &str, number: u16) -> Result<Label, SpecError> {
    let bad = |reason: String| SpecError::Value {
        field: "nodePrefix",
        reason,
    };
    Label::new(format!("{prefix}{number}")).map_err(|error| bad(error.to_string()))
}

/// The Pod CIDRs of the node of a number, from 1.
fn pod_cidrs(spec: &Spec, number: u16) -> Vec<IpNet> {
    let mut cidrs = Vec::new();
    if spec.ipv4 && spec.fabric == FabricKind::L2 {
        let length = node_mask(spec.max_pods);
        let network = u32::from(spec.pod_cidr.network()) + (u32::from(number) << (32 - length));
        cidrs.push(IpNet::V4(Ipv4Net::new_assert(network.into(), length)));
    }
    if spec.ipv6 {
        cidrs.push(IpNet::V6(match spec.fabric {
            FabricKind::Azure => azure_cidr6(spec, number),
            FabricKind::L2 => {
                let network = u128::from(spec.ipv6_pod_cidr.network());
                Ipv6Net::new_assert((network + (u128::from(number) << 64)).into(), 64)
            }
        }));
    }
    cidrs
}

/// The length of a node's IPv4 Pod CIDR: 24, or as much shorter as `max_pods` pods need beside
/// its first and its last address.
fn node_mask(max_pods: u16) -> u8 {
    let addresses = (u32::from(max_pods) + 3).next_power_of_two();
    let host_bits = u8::try_from(addresses.trailing_zeros()).unwrap_or(8);
    24.min(32 - host_bits)
}

/// Beyond every address of the wire server's document, whose offsets have 32 bits at most.
fn azure_cidr6(spec: &Spec, number: u16) -> Ipv6Net {
    let network = u128::from(spec.ipv6_prefix.network());
    Ipv6Net::new_assert(Ipv6Addr::from(network + (u128::from(number) << 32)), 112)
}

/// The address so many after this one; the layout has been checked to stay inside the family.
fn nth_after(address: IpAddr, n: u16) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(u32::from(v4).saturating_add(n.into()).into()),
        IpAddr::V6(v6) => IpAddr::V6(u128::from(v6).saturating_add(n.into()).into()),
    }
}

/// Locally administered, and the address can be read in it.
fn node_mac(primary: Ipv4Addr) -> MacAddr {
    let [a, b, c, d] = primary.octets();
    MacAddr([0x02, 0x00, a, b, c, d])
}

/// Checks what a type cannot say; answers the gateway.
fn check(spec: &Spec) -> Result<Ipv4Addr, SpecError> {
    let bad = |field, reason: String| Err(SpecError::Value { field, reason });
    if !(1..=MAX_NODES).contains(&spec.nodes) {
        return bad(
            "nodes",
            format!("want 1 to {MAX_NODES}, not {}", spec.nodes),
        );
    }
    if !(1..=1000).contains(&spec.max_pods) {
        return bad("maxPods", format!("want 1 to 1000, not {}", spec.max_pods));
    }
    if !(1280..=65535).contains(&spec.mtu) {
        return bad("mtu", format!("want 1280 to 65535 bytes, not {}", spec.mtu));
    }
    check_families(spec)?;
    let subnet = spec.subnet.trunc();
    let need = u64::from(RESERVED) + u64::from(spec.nodes) * (u64::from(owns(spec)) + 1) + 1;
    let size = 1_u64 << (32 - subnet.prefix_len());
    if need > size {
        let text = format!(
            "{subnet} has {size} addresses; {} nodes and their pods need {need}",
            spec.nodes
        );
        return bad("subnet", text);
    }
    let first = Ipv4Addr::from(u32::from(subnet.network()) + 1);
    let gateway = spec.gateway.unwrap_or(first);
    let place = u32::from(gateway).wrapping_sub(u32::from(subnet.network()));
    if !(1..RESERVED).contains(&place) {
        let text = format!("{gateway} is not among the first {RESERVED} addresses of {subnet}");
        return bad("gateway", text);
    }
    Ok(gateway)
}

/// Checks what belongs to one family, or to the fabrics that have Pod CIDRs.
fn check_families(spec: &Spec) -> Result<(), SpecError> {
    let bad = |field, reason: String| Err(SpecError::Value { field, reason });
    if !spec.ipv4 && (spec.fabric == FabricKind::Azure || !spec.ipv6) {
        let reason = "without it a lab needs `fabric: l2` and `ipv6: true`";
        return bad("ipv4", reason.to_owned());
    }
    if spec.ipv6 && spec.ipv6_prefix.prefix_len() > 80 {
        return bad("ipv6Prefix", "want /80 or shorter".to_owned());
    }
    if spec.fabric == FabricKind::Azure {
        return Ok(());
    }
    let length = node_mask(spec.max_pods);
    let has = 1_u64 << length.saturating_sub(spec.pod_cidr.prefix_len());
    // The first is left out, so that a node's number can be read in its pods' addresses.
    let need = u64::from(spec.nodes) + 1;
    if spec.ipv4 && need > has {
        let net = spec.pod_cidr;
        let text = format!(
            "{net} has {has} parts of /{length}; {} nodes need {need}",
            spec.nodes
        );
        return bad("podCIDR", text);
    }
    let net = spec.ipv6_pod_cidr;
    let has = 1_u64 << 64_u8.saturating_sub(net.prefix_len()).min(63);
    if spec.ipv6 && need > has {
        let text = format!(
            "{net} has {has} parts of /64; {} nodes need {need}",
            spec.nodes
        );
        return bad("ipv6PodCIDR", text);
    }
    let meets = |one: IpNet, other: IpNet| one.contains(&other) || other.contains(&one);
    if spec.ipv4 && meets(spec.subnet.into(), spec.pod_cidr.into()) {
        return bad(
            "podCIDR",
            format!("{} and {} meet", spec.pod_cidr, spec.subnet),
        );
    }
    if spec.ipv6 && meets(spec.ipv6_prefix.into(), net.into()) {
        return bad(
            "ipv6PodCIDR",
            format!("{net} and {} meet", spec.ipv6_prefix),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab(text: &str) -> Result<Lab, SpecError> {
        Lab::new(Label::new("t").unwrap(), &Spec::parse(text).unwrap())
    }

    #[test]
    fn primaries_are_those_of_a_real_cluster() {
        let lab = lab("ipv6: true").unwrap();
        let primaries: Vec<_> = lab
            .nodes
            .iter()
            .map(|n| n.primaries()[0].to_string())
            .collect();
        assert_eq!(primaries, ["10.240.0.4", "10.240.0.105", "10.240.0.206"]);
        let third = lab.node("node3").unwrap();
        let owned = third.secondaries();
        assert_eq!(owned.len(), 200);
        // The reference page: 10.240.1.50 belongs to node 3, 10.240.1.51 to nobody.
        assert!(owned.contains(&"10.240.1.50".parse().unwrap()));
        assert!(!owned.contains(&"10.240.1.51".parse().unwrap()));
        assert_eq!(third.primary6, Some("fd10:240::ce".parse().unwrap()));
        assert_eq!(third.pod_cidrs.len(), 1);
        assert_eq!(third.pod_cidrs[0].to_string(), "fd10:240::3:0:0/112");
        let ends: Vec<String> = third
            .owned()
            .iter()
            .map(|(a, z)| format!("{a} {z}"))
            .collect();
        assert_eq!(
            ends,
            ["10.240.0.207 10.240.1.50", "fd10:240::cf fd10:240::132"]
        );
        assert_eq!(third.mac.to_string(), "02:00:0a:f0:00:ce");
        assert_eq!(lab.gateway.to_string(), "10.240.0.1");
    }

    #[test]
    fn on_a_switch_nodes_are_dense_and_each_has_pod_cidrs() {
        let texts = |lab: &Lab, at: usize| -> (Vec<String>, Vec<String>) {
            let node = lab.nodes[at].in_cluster();
            assert!(node.owned.is_empty() && lab.nodes[at].secondaries().is_empty());
            (
                node.addresses.iter().map(ToString::to_string).collect(),
                node.pod_cidrs.iter().map(ToString::to_string).collect(),
            )
        };
        let dual = lab("{fabric: l2, ipv6: true}").unwrap();
        let (addresses, cidrs) = texts(&dual, 1);
        assert_eq!(addresses, ["10.240.0.5", "fd10:240::5"]);
        assert_eq!(cidrs, ["10.244.2.0/24", "fd10:244:0:2::/64"]);
        let large = lab("{fabric: l2, maxPods: 300, podCIDR: 10.0.0.0/9}").unwrap();
        assert_eq!(texts(&large, 0).1, ["10.0.2.0/23"]);
        let six = lab("{fabric: l2, ipv4: false, ipv6: true, podCIDR: 10.240.0.0/16}").unwrap();
        let (addresses, cidrs) = texts(&six, 2);
        assert_eq!(addresses, ["fd10:240::6"]);
        assert_eq!(cidrs, ["fd10:244:0:3::/64"]);
        assert_eq!(six.nodes[2].mac.to_string(), "02:00:0a:f0:00:06");
    }

    #[test]
    fn sizes_that_cannot_be_are_refused_by_field() {
        for (text, field) in [
            ("nodes: 0", "nodes"),
            ("nodes: 101", "nodes"),
            ("maxPods: 0", "maxPods"),
            ("subnet: 10.0.0.0/24", "subnet"),
            ("gateway: 10.240.0.9", "gateway"),
            ("mtu: 100", "mtu"),
            ("nodePrefix: A", "nodePrefix"),
            ("{ipv6: true, ipv6Prefix: 'fd00::/120'}", "ipv6Prefix"),
            ("ipv4: false", "ipv4"),
            ("{ipv4: false, ipv6: true}", "ipv4"),
            ("{fabric: l2, ipv4: false}", "ipv4"),
            ("{fabric: l2, podCIDR: 10.244.0.0/23}", "podCIDR"),
            ("{fabric: l2, podCIDR: 10.0.0.0/8}", "podCIDR"),
            (
                "{fabric: l2, ipv6: true, ipv6PodCIDR: 'fd00::/63'}",
                "ipv6PodCIDR",
            ),
            (
                "{fabric: l2, ipv6: true, ipv6PodCIDR: 'fd10:240::/48'}",
                "ipv6PodCIDR",
            ),
        ] {
            let error = lab(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{text}: {error}");
        }
        assert!(lab("{nodes: 1, maxPods: 250, subnet: 0.0.0.0/0}").is_ok());
    }
}
