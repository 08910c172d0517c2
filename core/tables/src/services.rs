use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use watari_model::{Protocol, ServiceName};

/// What one node holds of all Services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// By the port of a Service and the family of its addresses.
    pub balancers: BTreeMap<BalancerName, Arc<Balancer>>,
    /// What becomes of the other ports of Services' addresses.
    pub addresses: BTreeMap<IpAddr, Others>,
    /// The ranges of cluster addresses: one that no Service has is dropped.
    pub cidrs: BTreeSet<IpNet>,
}

/// A port of a Service, for one family of addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BalancerName {
    /// The Service.
    pub service: ServiceName,
    /// The port's name; empty for the only one. `ranges/tcp` (no name that a port could have) for all
    /// ranges of a protocol.
    pub port: Arc<str>,
    /// IPv6; else IPv4.
    pub v6: bool,
}

impl fmt::Display for BalancerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

/// What becomes of the ports of a Service's address that no Service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Others {
    /// They are refused: a cluster address.
    Refused,
    /// They are the stack's: an external or load balancer's address.
    Stack,
}

/// One port of a Service: where it is reached, and what is behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balancer {
    /// Of all frontends and backends.
    pub protocol: Protocol,
    /// Where it is reached.
    pub frontends: BTreeMap<Frontend, FrontendKind>,
    /// Of cluster addresses, for everybody: what the internal traffic policy leaves.
    pub inside: Backends,
    /// Of all other frontends, for clients inside (pods, and processes of this node): no traffic
    /// policy holds for them, as if they went out to a load balancer and came back. The same as
    /// `inside` for most.
    pub inside_external: Backends,
    /// Of all other frontends, for clients outside: what the external traffic policy leaves. The
    /// same as `inside` for most.
    pub outside: Backends,
    /// Clients outside keep their source; `outside` are on this node alone.
    pub keeps_source: bool,
    /// `sessionAffinity: ClientIP`, in seconds.
    pub affinity: Option<u32>,
    /// Who may reach frontends of [`FrontendKind::LoadBalancer`] from outside; nothing for anybody.
    pub source_ranges: Option<BTreeSet<IpNet>>,
    /// Of two backends that with fewer connections is chosen.
    pub least_connections: bool,
    /// The backend answers clients outside by itself.
    pub direct_return: bool,
}

/// An address with a port, or with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Frontend {
    /// The address.
    pub address: IpAddr,
    /// The first port.
    pub first: u16,
    /// The last one: the first one, unless it is a range, in which each port goes to the backend's
    /// same.
    pub last: u16,
    /// It was asked for as a range, be it of one port.
    pub range: bool,
}

/// What kind of address it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FrontendKind {
    /// A cluster address.
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// A node port, at one of this node's addresses.
    NodePort,
    /// `externalIPs`.
    #[serde(rename = "ExternalIP")]
    ExternalIp,
    /// A load balancer's.
    LoadBalancer,
}

/// Backends, and what becomes of packets when there are none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backends {
    /// With how many parts of the connections each gets. Port zero where the frontends are ranges: the
    /// backend gets the port that the client chose. Sets that are equal are one wherever they can be.
    pub members: Arc<BTreeMap<SocketAddr, u8>>,
    /// Packets are dropped when there are none; else they are refused.
    pub drops_when_empty: bool,
}

/// One step from one [`Services`] to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServicesChange {
    /// A balancer is this from now on.
    Set(BalancerName, Arc<Balancer>),
    /// There is none any more.
    Remove(BalancerName),
    /// What becomes of an address' other ports; nothing: it is no Service's any more.
    Address(IpAddr, Option<Others>),
    /// The ranges of cluster addresses.
    Cidrs(BTreeSet<IpNet>),
}

impl Services {
    /// Takes a step.
    pub fn take(&mut self, change: ServicesChange) {
        match change {
            ServicesChange::Set(name, balancer) => {
                self.balancers.insert(name, balancer);
            }
            ServicesChange::Remove(name) => {
                self.balancers.remove(&name);
            }
            ServicesChange::Address(address, Some(others)) => {
                self.addresses.insert(address, others);
            }
            ServicesChange::Address(address, None) => {
                self.addresses.remove(&address);
            }
            ServicesChange::Cidrs(cidrs) => self.cidrs = cidrs,
        }
    }

    /// The fewest steps from here to there. What is removed comes first, so that a frontend that goes
    /// from one Service to another is never both; what says that something is refused or dropped last,
    /// so that nothing is that is only about to come.
    pub fn steps_to(&self, there: &Self) -> Vec<ServicesChange> {
        let mut steps = Vec::new();
        let gone = self.balancers.keys();
        steps.extend(
            gone.filter(|name| !there.balancers.contains_key(name))
                .map(|name| ServicesChange::Remove(name.clone())),
        );
        for (name, balancer) in &there.balancers {
            if self.balancers.get(name) != Some(balancer) {
                steps.push(ServicesChange::Set(name.clone(), balancer.clone()));
            }
        }
        for (address, others) in &there.addresses {
            if self.addresses.get(address) != Some(others) {
                steps.push(ServicesChange::Address(*address, Some(*others)));
            }
        }
        let gone = self.addresses.keys();
        steps.extend(
            gone.filter(|address| !there.addresses.contains_key(address))
                .map(|address| ServicesChange::Address(*address, None)),
        );
        if self.cidrs != there.cidrs {
            steps.push(ServicesChange::Cidrs(there.cidrs.clone()));
        }
        steps
    }
}
