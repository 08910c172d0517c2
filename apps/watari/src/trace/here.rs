//! This node, and nothing beyond it.

use std::net::IpAddr;

use anyhow::bail;
use watari_trace::{Answer, Ask, Cluster, Here, Kind, Node, Site};

use super::{Known, Names};
use crate::trace::parse::Who;

/// The node on which this runs.
pub struct ThisNode {
    site: Site,
    here: Here,
}

impl ThisNode {
    /// Looks around.
    pub fn open(site: Site) -> anyhow::Result<Self> {
        let here = Node::open(&site)?.here().clone();
        Ok(Self { site, here })
    }

    fn of_address(&self, address: IpAddr) -> Known {
        let node = Some(self.here.name.clone());
        if let Some(pod) = self.here.pod_with(address) {
            return Known {
                kind: Kind::Pod,
                name: pod.name.clone(),
                addresses: vec![address],
                node,
            };
        }
        if self.here.link_with(address).is_some() {
            return Known {
                kind: Kind::Node,
                name: node.clone(),
                addresses: vec![address],
                node,
            };
        }
        Known::outside(address)
    }
}

impl Cluster for ThisNode {
    fn ask(&mut self, _: &str, ask: &Ask) -> anyhow::Result<Answer> {
        watari_trace::answer(&self.site, ask)
    }

    fn owner(&self, address: IpAddr) -> Option<String> {
        self.of_address(address).node
    }

    fn address(&self, _: &str, like: IpAddr) -> Option<IpAddr> {
        let own = self.here.addresses.iter().filter(|(address, index)| {
            let link = self.here.links.get(index);
            let is_usual = link.is_some_and(|link| !link.loopback)
                && !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            is_usual && address.is_ipv4() == like.is_ipv4()
        });
        own.map(|(address, _)| *address).next()
    }

    fn routers(&self) -> u8 {
        0
    }
}

impl Names for ThisNode {
    fn find(&self, namespace: &str, who: &Who) -> anyhow::Result<Known> {
        let name = match who {
            Who::Address(address) => return Ok(self.of_address(*address)),
            Who::Name(name) => name,
        };
        let full = if name.contains('/') {
            name.clone()
        } else {
            format!("{namespace}/{name}")
        };
        let pods = self.here.pods.iter();
        // The newest, where an older sandbox is not gone yet.
        let mut found = pods.filter(|pod| pod.name.as_ref() == Some(&full));
        if let Some(pod) = found.next_back() {
            return Ok(Known {
                kind: Kind::Pod,
                name: Some(full),
                addresses: pod.addresses.clone(),
                node: Some(self.here.name.clone()),
            });
        }
        let mut known: Vec<&str> = self
            .here
            .pods
            .iter()
            .filter_map(|pod| pod.name.as_deref())
            .collect();
        known.sort_unstable();
        bail!(
            "node {} has no pod {full} ({}); pods elsewhere are named by their addresses",
            self.here.name,
            if known.is_empty() {
                "its store knows none by name".to_owned()
            } else {
                format!("there are: {}", known.join(", "))
            }
        )
    }
}
