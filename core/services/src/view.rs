//! What is asked of the compiler beside tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use watari_model::{PodName, Protocol, ServiceName, ServiceType};
use watari_tables::{BalancerName, Frontend, FrontendKind};

use crate::balancer::{Behind, Policies};
use crate::choose::{Unused, local};
use crate::claims::Id;
use crate::compiler::{Compiler, Entry};
use crate::names::Symbol;
use crate::slices::{Candidate, Endpoint};
use crate::spec::{Part, Programmed, Spec};

/// A Service as this node sees it.
#[expect(
    clippy::struct_excessive_bools,
    reason = "fields of the API, as it has them"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceView {
    /// Which one.
    pub name: ServiceName,
    /// Its type.
    pub kind: ServiceType,
    /// Whether it is programmed; without, it has no parts.
    pub programmed: Programmed,
    /// `internalTrafficPolicy` is `Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy` is `Local`.
    pub external_local: bool,
    /// `ClientIP` affinity, in seconds.
    pub affinity: Option<u32>,
    /// Of two backends that with fewer connections.
    pub least_connections: bool,
    /// Backends answer clients outside by themselves.
    pub direct_return: bool,
    /// Its ports in each family.
    pub parts: Vec<PartView>,
}

/// A port of a Service in one family, or its ranges of ports of one protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartView {
    /// As the tables call it.
    pub name: BalancerName,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it is reached, or would be.
    pub frontends: Vec<FrontendView>,
    /// All its endpoints by address, used or not.
    pub backends: Vec<BackendView>,
}

/// Where a Service is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendView {
    /// Address and port.
    pub at: Frontend,
    /// Of which kind.
    pub kind: FrontendKind,
    /// Another Service, older, that has it.
    pub taken_by: Option<ServiceName>,
}

/// An endpoint of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendView {
    /// Address and port; port zero for ranges of ports.
    pub at: SocketAddr,
    /// Its pod, if it is one.
    pub pod: Option<PodName>,
    /// Its node, if known.
    pub node: Option<Arc<str>>,
    /// Its zone, if known.
    pub zone: Option<Arc<str>>,
    /// Its parts of the connections.
    pub weight: u8,
    /// What its conditions say.
    pub state: State,
    /// Whether clients of the cluster address get to it.
    pub inside: Result<(), Unused>,
    /// Whether clients inside of other addresses do.
    pub inside_external: Result<(), Unused>,
    /// Whether clients outside of other addresses do.
    pub outside: Result<(), Unused>,
}

/// The conditions of an endpoint in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// `ready`.
    Ready,
    /// `serving` and `terminating`.
    Draining,
    /// `terminating` alone.
    Terminating,
    /// None of them.
    NotReady,
}

/// What slices say of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
}

/// What a Service's health check port answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// Ready IPv4 endpoints on this node.
    pub local_v4: usize,
    /// Ready IPv6 endpoints on this node.
    pub local_v6: usize,
}

/// How many ports of Services drop because their policy is `Local` and all endpoints are elsewhere:
/// kube-proxy's `sync_proxy_rules_no_local_endpoints_total`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NoLocal {
    /// At their cluster address.
    pub internal: usize,
    /// At other addresses, from outside.
    pub external: usize,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Draining => "serving, terminating",
            Self::Terminating => "terminating",
            Self::NotReady => "not ready",
        })
    }
}

impl State {
    fn of(endpoint: &Endpoint) -> Self {
        if endpoint.ready() {
            Self::Ready
        } else if endpoint.draining() {
            Self::Draining
        } else if endpoint.terminating() {
            Self::Terminating
        } else {
            Self::NotReady
        }
    }
}

impl BackendView {
    /// Why it is not used, and for whom, in the fewest words; empty if it is used for all.
    pub fn why_not(&self) -> String {
        let all = [
            ("at the cluster address", self.inside),
            ("from inside at others", self.inside_external),
            ("from outside", self.outside),
        ];
        let unused = || {
            all.iter()
                .filter_map(|(who, used)| Some((who, used.err()?)))
        };
        let mut reasons: Vec<Unused> = unused().map(|(_, reason)| reason).collect();
        let count = reasons.len();
        reasons.dedup();
        match (count, &reasons[..]) {
            (3, [one]) => one.to_string(),
            _ => unused()
                .map(|(who, reason)| format!("{who}: {reason}"))
                .collect::<Vec<_>>()
                .join("; "),
        }
    }
}

impl Compiler {
    /// A Service as this node sees it, with every endpoint and why it is not used.
    pub fn view(&self, name: &ServiceName) -> Option<ServiceView> {
        let (id, entry) = self.find(name)?;
        let spec = entry.spec.as_ref()?;
        let parts = spec.parts();
        let parts = parts
            .into_iter()
            .map(|part| self.part(id, entry, spec, part));
        Some(ServiceView {
            name: name.clone(),
            kind: spec.kind,
            programmed: spec.programmed,
            internal_local: spec.internal_local,
            external_local: spec.external_local,
            affinity: spec.affinity,
            least_connections: spec.least_connections,
            direct_return: spec.direct_return,
            parts: parts.collect(),
        })
    }

    /// All Services that are known, by name.
    pub fn service_names(&self) -> impl Iterator<Item = &ServiceName> {
        let there = self.services().filter(|entry| entry.spec.is_some());
        there.map(|entry| &*entry.name)
    }

    /// What slices say of an endpoint, be it used or not; nothing: it is no endpoint any more.
    pub fn knows(&self, name: &BalancerName, endpoint: SocketAddr) -> Option<Known> {
        let (_, entry) = self.find(&name.service)?;
        let spec = entry.spec.as_ref()?;
        let mut parts = spec.parts().into_iter();
        let part = parts
            .find(|part| part.v6 == name.v6 && spec.name_of(*part, &self.names) == &*name.port)?;
        let behind = self.behind(entry, spec, part);
        let mut candidates = behind.candidates.iter();
        let found = candidates.find(|candidate| candidate.at == endpoint)?;
        Some(Known {
            ready: found.endpoint.ready(),
            serving: found.endpoint.serving(),
            terminating: found.endpoint.terminating(),
        })
    }

    /// The Services whose health check port is served, with what it answers.
    pub fn health_checks(&self) -> BTreeMap<ServiceName, HealthCheck> {
        let here = self.here();
        let count = |entry: &Entry, v6: bool| {
            let slices = entry.slices.iter().filter(|slice| slice.v6 == v6);
            let endpoints = slices.flat_map(|slice| &*slice.endpoints);
            let ready = endpoints.filter(|e| e.fit() && e.ready() && local(e, here));
            ready.map(|e| e.address).collect::<BTreeSet<_>>().len()
        };
        let all = self.checked().map(|(entry, port)| {
            let check = HealthCheck {
                port,
                local_v4: count(entry, false),
                local_v6: count(entry, true),
            };
            ((*entry.name).clone(), check)
        });
        all.collect()
    }

    /// How many ports of Services have no endpoint on this node where they need one.
    pub fn no_local(&self) -> NoLocal {
        let mut found = NoLocal::default();
        for built in self.services().flat_map(|entry| &entry.built) {
            let balancer = &built.balancer;
            let dry = |backends: &watari_tables::Backends| {
                backends.drops_when_empty && backends.members.is_empty()
            };
            let mut kinds = balancer.frontends.values();
            let external = kinds.any(|kind| *kind != FrontendKind::ClusterIp);
            found.internal += usize::from(dry(&balancer.inside));
            found.external += usize::from(external && dry(&balancer.outside));
        }
        found
    }

    fn part(&self, id: Id, entry: &Entry, spec: &Spec, part: Part) -> PartView {
        let rank = |id| self.rank(id);
        let claims = entry.claims.iter().filter(|claim| claim.part == part);
        let frontends = claims.map(|claim| {
            let taken = !self.claims.has(claim, id, rank);
            let owner = self.claims.owner(claim, rank).filter(|_| taken);
            let owner = owner.and_then(|(_, owner)| self.entry(owner));
            FrontendView {
                at: claim.frontend,
                kind: claim.kind,
                taken_by: owner.map(|owner| (*owner.name).clone()),
            }
        });
        let behind = self.behind(entry, spec, part);
        let policies = Policies::of(spec, &entry.claims, part);
        let backends = behind.candidates.iter();
        PartView {
            name: BalancerName {
                service: (*entry.name).clone(),
                port: spec.name_of(part, &self.names).into(),
                v6: part.v6,
            },
            protocol: spec.protocol_of(part),
            frontends: frontends.collect(),
            backends: backends
                .map(|candidate| self.backend(entry, &behind, policies, candidate))
                .collect(),
        }
    }

    fn backend(
        &self,
        entry: &Entry,
        behind: &Behind<'_>,
        policies: Policies,
        candidate: &Candidate<'_>,
    ) -> BackendView {
        let endpoint = candidate.endpoint;
        let text =
            |symbol: Symbol| (symbol != Symbol::NONE).then(|| self.names.text(symbol).clone());
        let pod = candidate.slice.pod(candidate.place);
        BackendView {
            at: candidate.at,
            pod: (!pod.is_empty()).then(|| PodName {
                namespace: entry.name.namespace.clone(),
                name: pod.to_owned(),
            }),
            node: text(endpoint.node),
            zone: text(endpoint.zone),
            weight: endpoint.weight,
            state: State::of(endpoint),
            inside: self.judge(behind, policies.inside, candidate),
            inside_external: self.judge(behind, policies.inside_external, candidate),
            outside: self.judge(behind, policies.outside, candidate),
        }
    }
}
