//! One Service's balancers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use watari_tables::{Backends, Balancer, Frontend, FrontendKind};

use crate::choose::{Rules, Unused};
use crate::claims::Id;
use crate::compiler::{Built, Compiler, Entry};
use crate::slices::{Candidate, Wanted, merged};
use crate::spec::{Claim, Item, Part, Spec};

/// Which traffic policy holds for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policies {
    /// It is reached at other than cluster addresses.
    pub external: bool,
    pub inside: Policy,
    pub inside_external: Policy,
    pub outside: Policy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Cluster,
    Local,
}

/// The endpoints of a part, with what is known of all of them together.
pub(crate) struct Behind<'a> {
    pub candidates: Vec<Candidate<'a>>,
    pub rules: Rules,
}

type Members = Arc<BTreeMap<SocketAddr, u8>>;

impl Policies {
    pub fn of(spec: &Spec, claims: &[Claim], part: Part) -> Self {
        let mut kinds = claims.iter().filter(|claim| claim.part == part);
        let external = kinds.any(|claim| claim.kind != FrontendKind::ClusterIp);
        let policy = |local: bool| {
            if local {
                Policy::Local
            } else {
                Policy::Cluster
            }
        };
        let inside = policy(spec.internal_local);
        Self {
            external,
            inside,
            // Whoever comes from inside to an external address is sent as if he had gone out and
            // come back by whatever node.
            inside_external: if external { Policy::Cluster } else { inside },
            outside: if external {
                policy(spec.external_local)
            } else {
                inside
            },
        }
    }
}

impl Compiler {
    /// What the balancers of a Service should be. What is as it was is the very same.
    pub(crate) fn build(&self, id: Id) -> Vec<Built> {
        let mut all: Vec<Built> = Vec::new();
        let Some(entry) = self.entry(id) else {
            return all;
        };
        let Some(spec) = &entry.spec else {
            return all;
        };
        for part in spec.parts() {
            let frontends = self.frontends(id, entry, part);
            let port = spec.name_of(part, &self.names);
            let known = |built: &&Built| &*built.port == port && built.v6 == part.v6;
            if frontends.is_empty() || all.iter().any(|built| known(&built)) {
                continue;
            }
            let before = entry.built.iter().find(known);
            let balancer = self.balancer(entry, spec, part, frontends, before);
            let held = before.filter(|before| *before.balancer == balancer);
            all.push(Built {
                port: self.port_name(spec, part),
                v6: part.v6,
                balancer: held.map_or_else(|| Arc::new(balancer), |held| held.balancer.clone()),
            });
        }
        all.shrink_to_fit();
        all
    }

    /// The name of a part, held once by all that have it.
    fn port_name(&self, spec: &Spec, part: Part) -> Arc<str> {
        match part.item {
            Item::Port(at) => self.names.text(spec.port(at).name).clone(),
            Item::Ranges(_) => spec.name_of(part, &self.names).into(),
        }
    }

    fn frontends(&self, id: Id, entry: &Entry, part: Part) -> BTreeMap<Frontend, FrontendKind> {
        let claims = entry.claims.iter().filter(|claim| claim.part == part);
        claims
            .filter(|claim| self.claims.has(claim, id, |id| self.rank(id)))
            .map(|claim| (claim.frontend, claim.kind))
            .collect()
    }

    pub(crate) fn behind<'a>(&self, entry: &'a Entry, spec: &Spec, part: Part) -> Behind<'a> {
        let wanted = match part.item {
            Item::Port(at) => {
                let wanted = spec.port(at);
                Wanted::Port(wanted.name, wanted.protocol)
            }
            Item::Ranges(_) => Wanted::Any,
        };
        let candidates = merged(&entry.slices, wanted, part.v6, self.here().node);
        let rules = Rules::of(&candidates, self.here(), &self.names);
        Behind { candidates, rules }
    }

    /// Whether an endpoint is among the backends where a policy holds.
    pub(crate) fn judge(
        &self,
        behind: &Behind<'_>,
        policy: Policy,
        candidate: &Candidate<'_>,
    ) -> Result<(), Unused> {
        match policy {
            Policy::Cluster => behind
                .rules
                .cluster(candidate.endpoint, self.here(), &self.names),
            Policy::Local => behind.rules.local(candidate.endpoint, self.here()),
        }
    }

    fn balancer(
        &self,
        entry: &Entry,
        spec: &Spec,
        part: Part,
        frontends: BTreeMap<Frontend, FrontendKind>,
        before: Option<&Built>,
    ) -> Balancer {
        let behind = self.behind(entry, spec, part);
        let policies = Policies::of(spec, &entry.claims, part);
        let mut held = Held::of(before);
        let mut backends = |policy: Policy| {
            let used = |c: &&Candidate<'_>| self.judge(&behind, policy, c).is_ok();
            let used = behind.candidates.iter().filter(used);
            Backends {
                members: held.share(used.map(|c| (c.at, c.endpoint.weight)).collect()),
                drops_when_empty: policy == Policy::Local && behind.rules.usable,
            }
        };
        let inside = backends(policies.inside);
        let mut other = |policy: Policy| {
            if policy == policies.inside {
                inside.clone()
            } else {
                backends(policy)
            }
        };
        let inside_external = other(policies.inside_external);
        let outside = other(policies.outside);
        let of_family = spec.source_ranges.iter().copied();
        let of_family = of_family.filter(|net| net.addr().is_ipv6() == part.v6);
        let guarded = frontends
            .values()
            .any(|kind| *kind == FrontendKind::LoadBalancer);
        Balancer {
            protocol: spec.protocol_of(part),
            frontends,
            inside,
            inside_external,
            outside,
            keeps_source: policies.external && spec.external_local,
            affinity: spec.affinity,
            // As upstream: a family without a range is open.
            source_ranges: Some(of_family.collect()).filter(|all| {
                let all: &std::collections::BTreeSet<_> = all;
                guarded && !all.is_empty()
            }),
            least_connections: spec.least_connections,
            direct_return: spec.direct_return,
        }
    }
}

/// Sets that are there already, so that an equal one is the same.
struct Held(Vec<Members>);

impl Held {
    fn of(before: Option<&Built>) -> Self {
        let sets = before.map(|built| {
            let balancer = &built.balancer;
            [
                &balancer.inside,
                &balancer.inside_external,
                &balancer.outside,
            ]
            .map(|backends| backends.members.clone())
        });
        Self(sets.into_iter().flatten().collect())
    }

    fn share(&mut self, members: Vec<(SocketAddr, u8)>) -> Members {
        let same = |held: &&Members| {
            held.len() == members.len()
                && held
                    .iter()
                    .map(|(at, weight)| (*at, *weight))
                    .eq(members.iter().copied())
        };
        if let Some(held) = self.0.iter().find(same) {
            return held.clone();
        }
        let new: Members = Arc::new(members.into_iter().collect());
        self.0.push(new.clone());
        new
    }
}
