//! The nodes of a lab: each is asked by this program, started again inside of it.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use watari_lab::{FabricKind, Label, Node, OpenLab, Target};
use watari_trace::{Answer, Ask, Cluster, Kind, Site};

use super::{Known, Names, as_text};
use crate::place::require_node;
use crate::trace::parse::Who;

/// This program, whatever mounts hide it.
const SELF: &str = "/proc/self/exe";

/// A lab, and where its nodes keep what is asked.
pub struct LabNodes {
    lab: OpenLab,
    site: Site,
    pods: Vec<Known>,
}

impl LabNodes {
    /// Opens it.
    pub fn open(name: Option<&Label>, site: Site) -> anyhow::Result<Self> {
        let lab = OpenLab::look(name)?;
        let mut pods = Vec::new();
        for pod in watari_lab::list_pods(&lab)? {
            let is_ordinary = pod.plan.as_ref().is_some_and(|plan| !plan.host_network);
            let Some(status) = pod.status.as_ref().filter(|_| is_ordinary) else {
                continue;
            };
            pods.push(Known {
                kind: Kind::Pod,
                name: Some(pod.key.to_string()),
                addresses: status
                    .pod_ips
                    .iter()
                    .filter_map(|text| text.parse().ok())
                    .collect(),
                node: Some(pod.node.to_string()),
            });
        }
        Ok(Self { lab, site, pods })
    }

    /// Refuses a node that the lab has not.
    pub fn require(&self, node: &Label) -> anyhow::Result<()> {
        require_node(&self.lab, node)
    }

    fn node(node: &Node) -> Known {
        Known {
            kind: Kind::Node,
            name: Some(node.name.to_string()),
            addresses: node.primaries(),
            node: Some(node.name.to_string()),
        }
    }

    fn of_address(&self, address: IpAddr) -> Known {
        let pod = self
            .pods
            .iter()
            .find(|pod| pod.addresses.contains(&address));
        if let Some(pod) = pod {
            return Known {
                addresses: vec![address],
                ..pod.clone()
            };
        }
        if let Some(node) = self.lab.lab.node_at(address) {
            return Known {
                addresses: vec![address],
                ..Self::node(node)
            };
        }
        Known::outside(address)
    }
}

impl Cluster for LabNodes {
    fn ask(&mut self, node: &str, ask: &Ask) -> anyhow::Result<Answer> {
        let what = || format!("ask node {node} of lab {}", self.lab.lab.name);
        let lab = self.lab.lab.name.to_string();
        let mut child = Command::new(SELF)
            .arg0("watari")
            .args(["lab", "--lab", &lab, "exec", "--node", node, "--", SELF])
            .args(["trace-node", "--bpf-root", as_text(&self.site.bpf_root)?])
            .args(["--data-dir", as_text(&self.site.data_dir)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(what)?;
        let question = serde_json::to_string(ask)?;
        // It reads all of it before it writes anything. What it has to say of a question that it
        // could not read stands in its answer.
        if let Some(mut input) = child.stdin.take() {
            let _ = input.write_all(question.as_bytes());
        }
        let output = child.wait_with_output().with_context(what)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim();
            bail!(
                "{}: {}",
                what(),
                said.strip_prefix("watari: ").unwrap_or(said)
            );
        }
        serde_json::from_slice(&output.stdout).with_context(what)
    }

    fn owner(&self, address: IpAddr) -> Option<String> {
        let owns = |node: &&Node| {
            let mut ranges = node.owned().into_iter();
            node.primaries().contains(&address)
                || ranges.any(|(first, last)| {
                    first.is_ipv4() == address.is_ipv4() && (first..=last).contains(&address)
                })
                || node.pod_cidrs.iter().any(|net| net.contains(&address))
        };
        let pod = self
            .pods
            .iter()
            .find(|pod| pod.addresses.contains(&address));
        if let Some(pod) = pod {
            return pod.node.clone();
        }
        let found = self.lab.lab.nodes.iter().find(owns);
        found.map(|node| node.name.to_string())
    }

    fn address(&self, node: &str, like: IpAddr) -> Option<IpAddr> {
        self.lab.lab.node(node)?.primary_like(like)
    }

    /// The SDN of a lab is a router, whatever the real one is.
    fn routers(&self) -> u8 {
        match self.lab.lab.fabric {
            FabricKind::Azure => 1,
            FabricKind::L2 => 0,
        }
    }
}

impl Names for LabNodes {
    fn find(&self, namespace: &str, who: &Who) -> anyhow::Result<Known> {
        let name = match who {
            Who::Address(address) => return Ok(self.of_address(*address)),
            Who::Name(name) => name,
        };
        let pod = match Target::find(&self.lab, namespace, name)? {
            Target::Fabric => bail!("the fabric sends nothing of its own: name an address"),
            Target::Node(name) => {
                let node = self.lab.lab.node(&name);
                return node
                    .map(Self::node)
                    .with_context(|| format!("no node {name}"));
            }
            Target::Pod(pod) => pod,
        };
        if pod.plan.as_ref().is_some_and(|plan| plan.host_network) {
            let node = self.lab.lab.node(pod.node.as_str());
            return node
                .map(Self::node)
                .with_context(|| format!("pod {} has no node", pod.key));
        }
        let key = pod.key.to_string();
        let known = self.pods.iter().find(|of| of.name.as_ref() == Some(&key));
        known
            .filter(|known| !known.addresses.is_empty())
            .cloned()
            .with_context(|| {
                let lab = &self.lab.lab.name;
                format!("pod {key} has no address: see watari lab get pods --lab {lab}")
            })
    }
}
