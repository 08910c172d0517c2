//! What a node knows of itself: links, addresses, pods.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use watari_abi::{Address, Endpoint};
use watari_model::{IfName, MacAddr};
use watari_netlink::{Handle, Link, SeenNeighbour};
use watari_store::{EndpointRecord, FILE, Store};

/// A pod of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// `NAMESPACE/NAME`, where the runtime said it.
    pub name: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its host-side interface.
    pub link: IfName,
    /// The MAC of its own interface.
    pub mac: MacAddr,
    /// The MAC of the host-side one.
    pub host_mac: MacAddr,
}

/// The node of the calling thread's namespaces.
#[derive(Debug, Clone, Default)]
pub struct Here {
    /// Its host name.
    pub name: String,
    /// Its links, by index.
    pub links: BTreeMap<u32, Link>,
    /// Its addresses, with the index of their link.
    pub addresses: Vec<(IpAddr, u32)>,
    /// Its neighbours.
    pub neighbours: Vec<SeenNeighbour>,
    /// Its pods, as the node store knows them.
    pub pods: Vec<Pod>,
}

impl Here {
    /// Looks around. `data_dir` is where the node store is.
    pub fn look(handle: &mut Handle, data_dir: &Path) -> Result<Self> {
        let name = nix::unistd::gethostname().context("ask for the host name")?;
        let links = handle.links()?.into_iter();
        let addresses = handle.all_addresses()?.into_iter();
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            links: links.map(|link| (link.index, link)).collect(),
            addresses: addresses
                .map(|seen| (seen.net.addr(), seen.index))
                .collect(),
            neighbours: handle.all_neighbours()?,
            pods: pods(data_dir)?,
        })
    }

    /// The name of a link, or its number where there is none.
    pub fn link_name(&self, index: u32) -> String {
        let found = self.links.get(&index);
        found.map_or_else(|| format!("link {index}"), |link| link.name.to_string())
    }

    /// The index of a link.
    pub fn index_of(&self, name: &IfName) -> Option<u32> {
        let found = self.links.values().find(|link| link.name == *name);
        found.map(|link| link.index)
    }

    /// The link that has an address of the node.
    pub fn link_with(&self, address: IpAddr) -> Option<u32> {
        let found = self.addresses.iter().find(|(of, _)| *of == address);
        found.map(|(_, index)| *index)
    }

    /// The pod that has an address.
    pub fn pod_with(&self, address: IpAddr) -> Option<&Pod> {
        self.pods
            .iter()
            .find(|pod| pod.addresses.contains(&address))
    }

    /// The pod behind a host-side link.
    pub fn pod_behind(&self, index: u32) -> Option<&Pod> {
        let name = &self.links.get(&index)?.name;
        self.pods.iter().find(|pod| pod.link == *name)
    }

    /// Adds the pods that only the datapath knows.
    pub fn learn(&mut self, endpoints: &BTreeMap<Address, Endpoint>) {
        for (address, endpoint) in endpoints {
            let address = IpAddr::from(*address);
            let Some(link) = self.links.get(&endpoint.ifindex) else {
                continue;
            };
            if self.pod_with(address).is_some() {
                continue;
            }
            let name = &link.name;
            if let Some(pod) = self.pods.iter_mut().find(|pod| pod.link == *name) {
                pod.addresses.push(address);
                continue;
            }
            self.pods.push(Pod {
                name: None,
                addresses: vec![address],
                link: name.clone(),
                mac: MacAddr(endpoint.mac),
                host_mac: MacAddr(endpoint.host_mac),
            });
        }
    }

    /// The MAC that packets to a neighbour are sent to, if it is known.
    pub fn mac_of(&self, index: u32, neighbour: IpAddr) -> Option<MacAddr> {
        let found = self
            .neighbours
            .iter()
            .find(|seen| seen.index == index && seen.address == neighbour);
        found.and_then(|seen| seen.mac)
    }
}

/// The pods of the node store; none where there is no store.
fn pods(data_dir: &Path) -> Result<Vec<Pod>> {
    // Opening makes it, and a trace makes nothing.
    if !data_dir.join(FILE).exists() {
        return Ok(Vec::new());
    }
    let store = Store::open(data_dir)?;
    let records = store.read(|tx| tx.endpoints(None))?;
    Ok(records.into_iter().map(pod).collect())
}

fn pod(record: EndpointRecord) -> Pod {
    let inside = record.tables.pod;
    Pod {
        name: record.pod.map(|pod| pod.to_string()),
        addresses: inside.addresses.iter().map(IpNet::addr).collect(),
        link: record.host_ifname,
        mac: inside.mac,
        host_mac: record.tables.host.mac,
    }
}
