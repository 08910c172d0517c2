use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use watari_model::MacAddr;

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
    /// Its primary address; the pods' follow it.
    pub primary: Ipv4Addr,
    /// Its primary IPv6 address, when the lab has IPv6.
    pub primary6: Option<Ipv6Addr>,
    /// Its IPv6 Pod CIDR, when the lab has IPv6: what the Azure IPv6 plugin gives out.
    pub pod_cidr6: Option<Ipv6Net>,
    /// How many secondary addresses of each family it owns.
    pub max_pods: u16,
}

impl Node {
    /// The secondary addresses, IPv4 then IPv6.
    pub fn secondaries(&self) -> Vec<IpAddr> {
        let four = (1..=u32::from(self.max_pods))
            .map(|at| IpAddr::V4(Ipv4Addr::from(u32::from(self.primary) + at)));
        let six = self.primary6.into_iter().flat_map(|primary| {
            (1..=u128::from(self.max_pods))
                .map(move |at| IpAddr::V6(Ipv6Addr::from(u128::from(primary) + at)))
        });
        four.chain(six).collect()
    }

    /// The primary addresses, IPv4 first.
    pub fn primaries(&self) -> Vec<IpAddr> {
        std::iter::once(IpAddr::V4(self.primary))
            .chain(self.primary6.map(IpAddr::V6))
            .collect()
    }

    /// The primary address of the family of `other`.
    pub fn primary_like(&self, other: IpAddr) -> Option<IpAddr> {
        match other {
            IpAddr::V4(_) => Some(IpAddr::V4(self.primary)),
            IpAddr::V6(_) => self.primary6.map(IpAddr::V6),
        }
    }
}

impl Lab {
    /// Gives every node its addresses: consecutive ranges, the primary first, as on AKS
    /// (.4, .105, .206 with 100 pods a node).
    pub fn new(name: Label, spec: &Spec) -> Result<Self, SpecError> {
        let subnet = spec.subnet.trunc();
        let gateway = check(spec)?;
        let stride = u32::from(spec.max_pods) + 1;
        let nodes = (0..spec.nodes)
            .map(|at| {
                let offset = RESERVED + u32::from(at) * stride;
                let primary = Ipv4Addr::from(u32::from(subnet.network()) + offset);
                Ok(Node {
                    name: node_name(&spec.node_prefix, at + 1)?,
                    port: format!("port{}", at + 1),
                    mac: node_mac(primary),
                    primary,
                    primary6: spec.ipv6.then(|| {
                        let network = u128::from(spec.ipv6_prefix.trunc().network());
                        Ipv6Addr::from(network + u128::from(offset))
                    }),
                    pod_cidr6: spec.ipv6.then(|| pod_cidr6(spec, at + 1)),
                    max_pods: spec.max_pods,
                })
            })
            .collect::<Result<_, SpecError>>()?;
        Ok(Self {
            schema: SCHEMA,
            name,
            fabric: spec.fabric,
            subnet,
            gateway,
            ipv6_prefix: spec.ipv6.then(|| spec.ipv6_prefix.trunc()),
            mtu: spec.mtu,
            cni_path: spec.cni_path.clone(),
            nodes,
        })
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

fn node_name(prefix: &str, number: u16) -> Result<Label, SpecError> {
    let bad = |reason: String| SpecError::Value {
        field: "nodePrefix",
        reason,
    };
    Label::new(format!("{prefix}{number}")).map_err(|error| bad(error.to_string()))
}

/// Beyond every address of the wire server's document, whose offsets have 32 bits at most.
fn pod_cidr6(spec: &Spec, number: u16) -> Ipv6Net {
    let network = u128::from(spec.ipv6_prefix.trunc().network());
    Ipv6Net::new_assert(Ipv6Addr::from(network + (u128::from(number) << 32)), 112)
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
    let subnet = spec.subnet.trunc();
    let need = u64::from(RESERVED) + u64::from(spec.nodes) * (u64::from(spec.max_pods) + 1) + 1;
    let size = 1_u64 << (32 - subnet.prefix_len());
    if need > size {
        let text = format!(
            "{subnet} has {size} addresses; {} nodes of {} pods need {need}",
            spec.nodes, spec.max_pods
        );
        return bad("subnet", text);
    }
    if spec.ipv6 && spec.ipv6_prefix.prefix_len() > 80 {
        return bad("ipv6Prefix", "want /80 or shorter".to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lab(text: &str) -> Result<Lab, SpecError> {
        Lab::new(Label::new("t").unwrap(), &Spec::parse(text).unwrap())
    }

    #[test]
    fn primaries_are_those_of_a_real_cluster() {
        let lab = lab("ipv6: true").unwrap();
        let primaries: Vec<_> = lab.nodes.iter().map(|n| n.primary.to_string()).collect();
        assert_eq!(primaries, ["10.240.0.4", "10.240.0.105", "10.240.0.206"]);
        let third = lab.node("node3").unwrap();
        let owned = third.secondaries();
        assert_eq!(owned.len(), 200);
        // The reference page: 10.240.1.50 belongs to node 3, 10.240.1.51 to nobody.
        assert!(owned.contains(&"10.240.1.50".parse().unwrap()));
        assert!(!owned.contains(&"10.240.1.51".parse().unwrap()));
        assert_eq!(third.primary6, Some("fd10:240::ce".parse().unwrap()));
        let cidr = third.pod_cidr6.unwrap().to_string();
        assert_eq!(cidr, "fd10:240::3:0:0/112");
        assert_eq!(third.mac.to_string(), "02:00:0a:f0:00:ce");
        assert_eq!(lab.gateway.to_string(), "10.240.0.1");
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
        ] {
            let error = lab(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{text}: {error}");
        }
        assert!(lab("{nodes: 1, maxPods: 250, subnet: 0.0.0.0/0}").is_ok());
    }
}
