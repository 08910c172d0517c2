use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use watari_abi::{Connection, ConnectionKey, flags, maps};
use watari_bpf::balance::{Balancing, DescribedBackend};
use watari_bpf::{BpfError, Map, PinDir};
use watari_model::{ServiceName, ServiceType};
use watari_services::{BackendView, Compiler, PartView, Programmed, ServiceView, State};
use watari_tables::FrontendKind;

use crate::flows::SCHEMA;

/// Services that are looked up at once, so that the agent's other work waits for milliseconds at most.
pub const SHOWN_AT_ONCE: usize = 256;

/// A Service in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.type`.
    #[serde(rename = "type")]
    pub kind: ServiceType,
    /// Why it is not programmed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_programmed: Option<String>,
    /// Its cluster addresses.
    pub cluster_ips: BTreeSet<IpAddr>,
    /// Its ports: `80/tcp`, and its node ports: `80:30080/tcp`.
    pub ports: Vec<String>,
    /// Endpoints that are ready, by address.
    pub ready: usize,
    /// All its endpoints.
    pub total: usize,
}

/// A Service as a node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceDetail {
    /// What a list has of it.
    #[serde(flatten)]
    pub row: ServiceRow,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: String,
    /// The same.
    pub external_traffic_policy: String,
    /// `sessionAffinity: ClientIP`, in seconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub affinity_seconds: Option<u32>,
    /// Of two endpoints that with fewer connections is chosen.
    pub least_connections: bool,
    /// Endpoints answer clients outside by themselves.
    pub direct_return: bool,
    /// Its ports, in each family.
    #[serde(rename = "balancers")]
    pub parts: Vec<ServicePort>,
}

/// A port of a Service in one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// The port's name; `ranges/PROTOCOL` for its ranges.
    pub port: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// `tcp`, `udp`, `sctp`.
    pub protocol: String,
    /// The number that connections have of it; absent where the kernel has nothing of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub number: Option<u32>,
    /// Entries of its table of Maglev, for clients outside; zero for none.
    pub maglev: u32,
    /// Where it is reached.
    pub frontends: Vec<ServiceFrontend>,
    /// Who is behind.
    pub backends: Vec<ServiceBackend>,
}

/// Where a Service is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceFrontend {
    /// The address.
    pub address: IpAddr,
    /// The first port.
    pub first: u16,
    /// The last one.
    pub last: u16,
    /// What it is.
    pub kind: FrontendKind,
    /// The kernel has it.
    pub programmed: bool,
    /// Another Service, older, that has it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub taken_by: Option<String>,
}

/// An endpoint of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceBackend {
    /// Its address.
    pub address: IpAddr,
    /// Its port; zero: the one that the client chose.
    pub port: u16,
    /// `NAMESPACE/NAME` of its pod.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<String>,
    /// The node that it is on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<String>,
    /// Its zone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub zone: Option<String>,
    /// `ready`, `serving, terminating`, `terminating` or `not ready`.
    pub state: String,
    /// Its parts of the connections.
    pub weight: u8,
    /// Why it gets no connections, or not all kinds; absent if it gets all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unused: Option<String>,
    /// The number that connections have of it; absent where the kernel has nothing of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub number: Option<u32>,
    /// Connections of this node to it by this port that live now.
    pub connections: u64,
}

/// What is answered to who asks for Services.
#[derive(Debug, Clone)]
pub enum Shown {
    /// Some of them, and after which the next ones come; none at the end.
    Rows(Vec<ServiceRow>, Option<ServiceName>),
    /// The one that was asked for; connections are not counted.
    Detail(Option<Box<ServiceDetail>>),
}

impl Shown {
    /// The Services after one, or the first ones.
    pub fn rows(compiler: &Compiler, after: Option<&ServiceName>) -> Self {
        let is_told = |name: &&ServiceName| after.is_some_and(|after| *name <= after);
        let mut names = compiler.service_names().skip_while(is_told);
        let some: Vec<_> = names.by_ref().take(SHOWN_AT_ONCE).collect();
        let next = names.next().and(some.last()).map(|name| (**name).clone());
        let views = some.into_iter().filter_map(|name| compiler.view(name));
        Self::Rows(views.map(|view| row(&view)).collect(), next)
    }

    /// One Service.
    pub fn detail(compiler: &Compiler, balancing: &dyn Balancing, name: &ServiceName) -> Self {
        let view = compiler.view(name);
        Self::Detail(view.map(|view| Box::new(detail(&view, balancing))))
    }
}

fn row(view: &ServiceView) -> ServiceRow {
    let mut ready = BTreeSet::new();
    let mut total = BTreeSet::new();
    let mut cluster_ips = BTreeSet::new();
    let mut ports: BTreeMap<(u16, u16, String), BTreeSet<u16>> = BTreeMap::new();
    for part in &view.parts {
        let protocol = part.protocol.to_string();
        let shown = part.frontends.iter();
        let node_ports: BTreeSet<u16> = shown
            .filter(|frontend| frontend.kind == FrontendKind::NodePort)
            .map(|frontend| frontend.at.first)
            .collect();
        for frontend in &part.frontends {
            if frontend.kind == FrontendKind::ClusterIp {
                cluster_ips.insert(frontend.at.address);
            }
            if frontend.kind != FrontendKind::NodePort {
                let key = (frontend.at.first, frontend.at.last, protocol.clone());
                ports.entry(key).or_default().extend(&node_ports);
            }
        }
        for backend in &part.backends {
            total.insert(backend.at.ip());
            if backend.state == State::Ready {
                ready.insert(backend.at.ip());
            }
        }
    }
    let ports = ports.into_iter().map(|((first, last, protocol), nodes)| {
        let mut words = first.to_string();
        if first != last {
            words.push_str(&format!("-{last}"));
        }
        for node in nodes {
            words.push_str(&format!(":{node}"));
        }
        format!("{words}/{protocol}")
    });
    let not_programmed = (view.programmed != Programmed::Here).then(|| view.programmed.to_string());
    ServiceRow {
        schema: SCHEMA,
        namespace: view.name.namespace.clone(),
        name: view.name.name.clone(),
        kind: view.kind,
        not_programmed,
        cluster_ips,
        ports: ports.collect(),
        ready: ready.len(),
        total: total.len(),
    }
}

fn detail(view: &ServiceView, balancing: &dyn Balancing) -> ServiceDetail {
    let policy = |local: bool| if local { "Local" } else { "Cluster" }.to_owned();
    ServiceDetail {
        row: row(view),
        internal_traffic_policy: policy(view.internal_local),
        external_traffic_policy: policy(view.external_local),
        affinity_seconds: view.affinity,
        least_connections: view.least_connections,
        direct_return: view.direct_return,
        parts: view.parts.iter().map(|one| part(one, balancing)).collect(),
    }
}

fn part(view: &PartView, balancing: &dyn Balancing) -> ServicePort {
    let there = balancing.describe(&view.name);
    let frontends = view.frontends.iter().map(|frontend| {
        let mut programmed = there.iter().flat_map(|there| &there.frontends);
        ServiceFrontend {
            address: frontend.at.address,
            first: frontend.at.first,
            last: frontend.at.last,
            kind: frontend.kind,
            programmed: programmed.any(|there| there.at == frontend.at),
            taken_by: frontend.taken_by.as_ref().map(ToString::to_string),
        }
    });
    let members = there.iter().flat_map(|there| &there.backends);
    let members: HashMap<_, &DescribedBackend> =
        members.map(|member| (member.at, member)).collect();
    let backends = view.backends.iter().map(|backend| {
        let number = members.get(&backend.at).map(|member| member.number);
        shown(backend, number)
    });
    ServicePort {
        port: view.name.port.to_string(),
        family: if view.name.v6 { "IPv6" } else { "IPv4" }.to_owned(),
        protocol: view.protocol.to_string(),
        number: there.as_ref().map(|there| there.number),
        maglev: there.as_ref().map_or(0, |there| there.ring),
        frontends: frontends.collect(),
        backends: backends.collect(),
    }
}

fn shown(view: &BackendView, number: Option<u32>) -> ServiceBackend {
    ServiceBackend {
        address: view.at.ip(),
        port: view.at.port(),
        pod: view.pod.as_ref().map(ToString::to_string),
        node: view.node.as_deref().map(str::to_owned),
        zone: view.zone.as_deref().map(str::to_owned),
        state: view.state.to_string(),
        weight: view.weight,
        unused: Some(view.why_not()).filter(|why| !why.is_empty()),
        number,
        connections: 0,
    }
}

impl ServiceDetail {
    /// Fills in the connections that live now (`now` in ns of `CLOCK_MONOTONIC`). Those of one endpoint that
    /// has no number any more are found by its address.
    pub fn count(&mut self, root: &Path, now: u64) -> Result<(), BpfError> {
        let services: BTreeSet<u32> = self.parts.iter().filter_map(|part| part.number).collect();
        if services.is_empty() {
            return Ok(());
        }
        let mut counts: HashMap<(u32, IpAddr, u16), u64> = HashMap::new();
        let dir = PinDir::current(root);
        for table in [maps::ESTABLISHED, maps::TRANSIENT] {
            let map: Map<ConnectionKey, Connection> = Map::open(&dir.map(table))?;
            map.for_each(|key, connection| {
                let service = connection.translation.service;
                let lives = connection.expires > now && connection.flags & flags::ALIAS == 0;
                if lives && services.contains(&service) {
                    let (address, port) = backend_of(&key, &connection);
                    *counts.entry((service, address, port)).or_default() += 1;
                }
            })?;
        }
        for part in &mut self.parts {
            let Some(service) = part.number else { continue };
            for backend in &mut part.backends {
                let theirs = counts.iter().filter(|((of, address, port), _)| {
                    *of == service
                        && *address == backend.address
                        && (backend.port == 0 || *port == backend.port)
                });
                backend.connections = theirs.map(|(_, count)| count).sum();
            }
        }
        Ok(())
    }
}

/// The far end of a connection: whom its opener was given to.
fn backend_of(key: &ConnectionKey, connection: &Connection) -> (IpAddr, u16) {
    use watari_abi::{Flow, Side};
    let opener = if connection.flow(Side::Low) == Flow::Original {
        Side::Low
    } else {
        Side::High
    };
    let tuple = key.tuple(opener);
    (
        tuple.destination.into(),
        u16::from_be(tuple.destination_port),
    )
}
