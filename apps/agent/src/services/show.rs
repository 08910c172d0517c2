use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use watari_bpf::balance::{Balancing, DescribedBackend};
use watari_model::{ServiceName, ServiceType};
use watari_services::{Compiler, PartView, Programmed, ServiceView, State};
use watari_tables::FrontendKind;

use super::keeper::Keeper;
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
    /// The one that was asked for.
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

    /// One Service; `counts` are the connections by the numbers of a Service's port and a backend.
    pub fn detail(
        keeper: &Keeper,
        balancing: &dyn Balancing,
        counts: &HashMap<(u32, u32), u64>,
        name: &ServiceName,
    ) -> Self {
        let view = keeper.compiler.view(name);
        let kernel = Kernel {
            keeper,
            balancing,
            counts,
        };
        Self::Detail(view.map(|view| Box::new(detail(&view, &kernel))))
    }
}

/// What the kernel has of Services.
struct Kernel<'a> {
    keeper: &'a Keeper,
    balancing: &'a dyn Balancing,
    counts: &'a HashMap<(u32, u32), u64>,
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
        // Writing to a string cannot fail.
        let mut words = first.to_string();
        if first != last {
            let _ = write!(words, "-{last}");
        }
        for node in nodes {
            let _ = write!(words, ":{node}");
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

fn detail(view: &ServiceView, kernel: &Kernel<'_>) -> ServiceDetail {
    let policy = |local: bool| if local { "Local" } else { "Cluster" }.to_owned();
    ServiceDetail {
        row: row(view),
        internal_traffic_policy: policy(view.internal_local),
        external_traffic_policy: policy(view.external_local),
        affinity_seconds: view.affinity,
        least_connections: view.least_connections,
        direct_return: view.direct_return,
        parts: view.parts.iter().map(|one| part(one, kernel)).collect(),
    }
}

fn part(view: &PartView, kernel: &Kernel<'_>) -> ServicePort {
    let there = kernel.balancing.describe(&view.name);
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
    let service = there.as_ref().map(|there| there.number);
    let backends = view.backends.iter().map(|backend| {
        let member = members.get(&backend.at).map(|member| member.number);
        let number = member.or_else(|| kernel.keeper.draining(&view.name, backend.at));
        let count = service
            .zip(number)
            .and_then(|numbers| kernel.counts.get(&numbers));
        ServiceBackend {
            address: backend.at.ip(),
            port: backend.at.port(),
            pod: backend.pod.as_ref().map(ToString::to_string),
            node: backend.node.as_deref().map(str::to_owned),
            zone: backend.zone.as_deref().map(str::to_owned),
            state: backend.state.to_string(),
            weight: backend.weight,
            unused: Some(backend.why_not()).filter(|why| !why.is_empty()),
            number,
            connections: count.copied().unwrap_or_default(),
        }
    });
    ServicePort {
        port: view.name.port.to_string(),
        family: if view.name.v6 { "IPv6" } else { "IPv4" }.to_owned(),
        protocol: view.protocol.to_string(),
        number: service,
        maglev: there.as_ref().map_or(0, |there| there.ring),
        frontends: frontends.collect(),
        backends: backends.collect(),
    }
}
