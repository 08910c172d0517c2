//! What ADD and DEL cannot go below: the same work without the plugins.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Result, anyhow};
use watari_ipam::{Holder, Pool, PoolId, Subnet, Wish};
use watari_model::{HostPrefix, NetworkName, Protocol};
use watari_netlink::{Handle, Netns, create, remove};
use watari_nft::portmap::{HostPort, Mapping, Masquerade, Owner, PortMaps, Wanted};
use watari_plan::{Transparent, transparent};
use watari_store::{EndpointRecord, Store, StoreError, now};
use watari_tables::Endpoint;

use super::clock::milliseconds;
use super::node::{MTU, NETWORK, Node, Pod};

/// The times of the parts of one floor, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// As many executions of a program that does nothing, through the same runtime.
    pub executions: f64,
    /// One transaction of the node store: a lease and an endpoint.
    pub commit: f64,
    /// One transaction of nftables: one element.
    pub nftables: f64,
    /// The netlink calls and settings of one pod.
    pub netlink: f64,
}

/// A pod's work with all that can be opened before opened.
pub struct Floor<'a> {
    node: &'a Node,
    pod: &'a Pod,
    netns: Netns,
    host: Handle,
    store: Store,
    maps: PortMaps,
    pool: Pool,
    holder: Holder,
    endpoint: Endpoint,
    wanted: Wanted,
}

impl<'a> Floor<'a> {
    /// Makes it ready on a thread that is in the node.
    pub fn ready(node: &'a Node, pod: &'a Pod) -> Result<Self> {
        let address = IpAddr::from([10, 242, (pod.port >> 8) as u8, (pod.port & 255) as u8]);
        let network = NetworkName::new(NETWORK)?;
        let mapping = Mapping {
            host: HostPort {
                protocol: Protocol::Tcp,
                address: None,
                port: pod.port,
            },
            target: address,
            target_port: 80,
        };
        let id = PoolId {
            scope: NETWORK.to_owned(),
            name: "floor".to_owned(),
        };
        Ok(Self {
            netns: Netns::open(pod.netns.path())?,
            host: Handle::open()?,
            store: Store::open(&node.dir("data"))?,
            maps: PortMaps::open()?,
            pool: Pool::new(id, vec![Subnet::whole("10.241.0.0/16".parse()?)?])?,
            endpoint: tables(pod, address)?,
            wanted: Wanted {
                owner: Owner::new(&network, &pod.attachment),
                mappings: [mapping].into(),
                masquerade: Masquerade::Nothing,
            },
            holder: Holder {
                network,
                attachment: pod.attachment.clone(),
            },
            node,
            pod,
        })
    }

    /// Does it.
    pub fn run(&mut self) -> Result<Parts> {
        let start = Instant::now();
        self.node.add(self.pod)?;
        let executed = Instant::now();
        self.commit()?;
        let committed = Instant::now();
        self.maps.add(&self.wanted)?;
        let mapped = Instant::now();
        create(&self.endpoint, &mut self.host, &self.netns)?;
        let end = Instant::now();
        Ok(Parts {
            executions: milliseconds(start, executed),
            commit: milliseconds(executed, committed),
            nftables: milliseconds(committed, mapped),
            netlink: milliseconds(mapped, end),
        })
    }

    fn commit(&self) -> Result<()> {
        let record = EndpointRecord {
            network: self.holder.network.clone(),
            attachment: self.pod.attachment.clone(),
            pod: None,
            netns: Some(self.netns.path().to_owned()),
            host_ifname: self.endpoint.host.name.clone(),
            tables: self.endpoint.clone(),
            ips_to_route_via_host: vec![],
            created: now(),
        };
        let wish = Wish {
            holder: &self.holder,
            address: None,
            now: now(),
            cool_down: watari_ipam::Millis(0),
        };
        let leased = self.store.write(|tx| {
            tx.put_endpoint(&record)?;
            Ok::<_, StoreError>(tx.lease(&self.pool, wish))
        })?;
        leased.map(drop).map_err(|error| anyhow!("{error}"))
    }

    /// Takes it all back.
    pub fn undo(&mut self) -> Result<()> {
        remove(&mut self.host, &self.endpoint.host.name)?;
        self.maps.remove_all(&self.wanted.owner)?;
        self.store.write(|tx| {
            tx.remove_endpoint(&self.pod.attachment)?;
            tx.release(&self.holder.network, &self.pod.attachment, now())
        })?;
        self.node.del(self.pod)
    }
}

/// A veth pair as ADD makes it, without the plugin.
pub struct Bare {
    host: Handle,
    netns: Netns,
    endpoint: Endpoint,
}

impl Bare {
    /// Makes it ready on a thread that is in the node.
    pub fn ready(pod: &Pod) -> Result<Self> {
        let address = IpAddr::from([10, 242, (pod.port >> 8) as u8, (pod.port & 255) as u8]);
        Ok(Self {
            host: Handle::open()?,
            netns: Netns::open(pod.netns.path())?,
            endpoint: tables(pod, address)?,
        })
    }

    /// Makes the pair.
    pub fn make(mut self) -> Result<Self> {
        create(&self.endpoint, &mut self.host, &self.netns)?;
        Ok(self)
    }

    /// Deletes it.
    pub fn delete(mut self) -> Result<()> {
        remove(&mut self.host, &self.endpoint.host.name)?;
        Ok(())
    }
}

fn tables(pod: &Pod, address: IpAddr) -> Result<Endpoint> {
    Ok(transparent(&Transparent {
        network: &NetworkName::new(NETWORK)?,
        attachment: &pod.attachment,
        prefix: &HostPrefix::default(),
        mtu: MTU,
        pod_mac: None,
        addresses: &[format!("{address}/16").parse()?],
        destinations: &[],
        ipv6: true,
    }))
}
