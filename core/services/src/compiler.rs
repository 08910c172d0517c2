use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use watari_model::{ClusterNode, EndpointSlice, Service, ServiceName};
use watari_tables::{Balancer, BalancerName, Services, ServicesChange};

use crate::choose::Here;
use crate::claims::{Claims, Id};
use crate::names::{Names, Symbol};
use crate::slices::Slice;
use crate::spec::{Claim, Programmed, Spec, special};
use crate::steps::Steps;

/// What is said once about a node.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Its name, as endpoints have it in `nodeName`.
    pub node: String,
    /// kube-proxy's `nodePortAddresses`: of this node's addresses those in one of these have node
    /// ports. Empty: the first `InternalIP` of each family has. Loopback, link-local and multicast
    /// addresses never have.
    pub node_port_cidrs: Vec<IpNet>,
}

/// From Services, `EndpointSlices` and a node to the node's load-balancer tables. It is told what
/// there is ([`Compiler::set_service`] and so on), and says what came of that when it is asked
/// ([`Compiler::changes`]). What was told twice, or taken back before anybody asked, costs nothing.
#[derive(Debug)]
pub struct Compiler {
    pub(crate) names: Names,
    ids: BTreeMap<Arc<ServiceName>, Id>,
    entries: Vec<Option<Box<Entry>>>,
    free: Vec<Id>,
    /// Whose a slice is.
    slices: BTreeMap<ServiceName, Id>,
    pub(crate) claims: Claims,
    here: Own,
    cidrs: BTreeSet<IpNet>,
    cidrs_told: BTreeSet<IpNet>,
    dirty: BTreeSet<Id>,
    /// Those with a health check's port.
    checked: BTreeSet<Id>,
}

/// This node.
#[derive(Debug)]
struct Own {
    options: Options,
    at: Here,
    /// `InternalIP`s, in the order of the Node.
    internal: Vec<IpAddr>,
    /// Addresses of its interfaces.
    addresses: BTreeSet<IpAddr>,
    /// Those that have node ports.
    node_ports: Vec<IpAddr>,
}

/// A Service, or slices of one that is not there.
#[derive(Debug)]
pub(crate) struct Entry {
    pub name: Arc<ServiceName>,
    pub spec: Option<Spec>,
    pub claims: Box<[Claim]>,
    pub slices: Vec<Slice>,
    pub built: Vec<Built>,
}

/// A balancer as it was told.
#[derive(Debug)]
pub(crate) struct Built {
    pub port: Arc<str>,
    pub v6: bool,
    pub balancer: Arc<Balancer>,
}

impl Compiler {
    /// A compiler that knows of nothing yet.
    pub fn new(options: Options) -> Self {
        let mut names = Names::new();
        let node = names.take(&options.node);
        let zone = Symbol::NONE;
        Self {
            names,
            ids: BTreeMap::new(),
            entries: Vec::new(),
            free: Vec::new(),
            slices: BTreeMap::new(),
            claims: Claims::default(),
            here: Own {
                options,
                at: Here { node, zone },
                internal: Vec::new(),
                addresses: BTreeSet::new(),
                node_ports: Vec::new(),
            },
            cidrs: BTreeSet::new(),
            cidrs_told: BTreeSet::new(),
            dirty: BTreeSet::new(),
            checked: BTreeSet::new(),
        }
    }

    /// There is this Service, as it is now.
    pub fn set_service(&mut self, service: &Service) {
        let id = self.id(&service.name);
        let spec = Spec::new(service, &mut self.names);
        if self
            .entry(id)
            .is_some_and(|e| e.spec.as_ref() == Some(&spec))
        {
            spec.release(&mut self.names);
            return;
        }
        self.withdraw(id);
        self.set_spec(id, Some(spec));
        self.claim(id);
    }

    /// There is no such Service any more.
    pub fn remove_service(&mut self, name: &ServiceName) {
        if let Some(&id) = self.ids.get(name) {
            self.withdraw(id);
            self.set_spec(id, None);
        }
    }

    /// There is this `EndpointSlice`, as it is now.
    pub fn set_slice(&mut self, slice: &EndpointSlice) {
        let service = ServiceName {
            namespace: slice.name.namespace.clone(),
            name: slice.service.clone(),
        };
        let id = self.id(&service);
        if let Some(&before) = self.slices.get(&slice.name) {
            if before != id {
                self.take_slice(before, &slice.name.name);
                self.slices.insert(slice.name.clone(), id);
            }
        } else {
            self.slices.insert(slice.name.clone(), id);
        }
        let new = Slice::new(slice, &mut self.names);
        let Some(entry) = self.entries[id as usize].as_mut() else {
            return;
        };
        let held = entry.slices.iter_mut().find(|held| held.name == new.name);
        let old = match held {
            Some(held) if *held == new => {
                new.release(&mut self.names);
                return;
            }
            Some(held) => Some(std::mem::replace(held, new)),
            None => {
                entry.slices.push(new);
                entry.slices.shrink_to_fit();
                None
            }
        };
        if let Some(old) = old {
            old.release(&mut self.names);
        }
        self.dirty.insert(id);
    }

    /// There is no such `EndpointSlice` any more.
    pub fn remove_slice(&mut self, name: &ServiceName) {
        if let Some(id) = self.slices.remove(name) {
            self.take_slice(id, &name.name);
        }
    }

    /// There is this node; only this compiler's own says anything.
    pub fn set_node(&mut self, node: &ClusterNode) {
        if node.name == self.here.options.node {
            self.set_own(node.addresses.clone(), node.zone.as_deref().unwrap_or(""));
        }
    }

    /// There is no such node any more.
    pub fn remove_node(&mut self, name: &str) {
        if name == self.here.options.node {
            self.set_own(Vec::new(), "");
        }
    }

    /// These addresses are on this node's interfaces. They count only with
    /// [`Options::node_port_cidrs`].
    pub fn set_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        self.here.addresses = addresses;
        self.node_ports_anew();
    }

    /// Cluster addresses come from these ranges.
    pub fn set_cidrs(&mut self, cidrs: BTreeSet<IpNet>) {
        self.cidrs = cidrs;
    }

    /// There are these Services and slices, and no others.
    pub fn load<'a>(
        &mut self,
        services: impl IntoIterator<Item = &'a Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
    ) {
        let mut there = BTreeSet::new();
        for service in services {
            self.set_service(service);
            there.insert(&service.name);
        }
        let of_services = self.services().filter(|entry| entry.spec.is_some());
        let gone: Vec<_> = of_services
            .filter(|entry| !there.contains(&*entry.name))
            .map(|entry| entry.name.clone())
            .collect();
        there.clear();
        for slice in slices {
            self.set_slice(slice);
            there.insert(&slice.name);
        }
        let gone_slices = self.slices.keys().filter(|name| !there.contains(name));
        let gone_slices: Vec<_> = gone_slices.cloned().collect();
        for name in gone {
            self.remove_service(&name);
        }
        for name in gone_slices {
            self.remove_slice(&name);
        }
    }

    /// What changed in the tables since this was last asked. What is removed comes first, and of two
    /// Services the one that loses a frontend before the one that gets it; what says that something
    /// is refused or dropped comes last.
    pub fn changes(&mut self) -> Vec<ServicesChange> {
        let mut steps = Steps::default();
        for id in std::mem::take(&mut self.dirty) {
            self.rebuild(id, &mut steps);
        }
        let mut changes = steps.ordered();
        let addresses = self.claims.address_changes().into_iter();
        changes.extend(addresses.map(|(ip, others)| ServicesChange::Address(ip, others)));
        if self.cidrs != self.cidrs_told {
            self.cidrs_told.clone_from(&self.cidrs);
            changes.push(ServicesChange::Cidrs(self.cidrs.clone()));
        }
        changes
    }

    /// The whole tables, as all changes so far told them.
    pub fn tables(&self) -> Services {
        let mut tables = Services {
            addresses: self.claims.addresses().collect(),
            cidrs: self.cidrs_told.clone(),
            ..Services::default()
        };
        for entry in self.services() {
            for built in &entry.built {
                let name = entry.balancer_name(built);
                tables.balancers.insert(name, built.balancer.clone());
            }
        }
        tables
    }

    /// Services with a health check's port, and that.
    pub(crate) fn checked(&self) -> impl Iterator<Item = (&Entry, u16)> {
        let all = self.checked.iter().filter_map(|id| self.entry(*id));
        all.filter_map(|entry| Some((entry, entry.spec.as_ref()?.health_check_port?)))
    }

    pub(crate) fn here(&self) -> Here {
        self.here.at
    }

    /// All Services, and those of which there are only slices, by name.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Entry> {
        self.ids.values().filter_map(|id| self.entry(*id))
    }

    pub(crate) fn find(&self, name: &ServiceName) -> Option<(Id, &Entry)> {
        let id = *self.ids.get(name)?;
        Some((id, self.entry(id)?))
    }

    pub(crate) fn entry(&self, id: Id) -> Option<&Entry> {
        self.entries.get(id as usize)?.as_deref()
    }

    /// Who of two that want the same is first.
    pub(crate) fn rank(&self, id: Id) -> Option<(i64, &ServiceName)> {
        let entry = self.entry(id)?;
        Some((
            entry.spec.as_ref().map_or(0, |spec| spec.created),
            &entry.name,
        ))
    }

    /// The place of a Service, made if there is none.
    fn id(&mut self, name: &ServiceName) -> Id {
        if let Some(&id) = self.ids.get(name) {
            return id;
        }
        let name = Arc::new(name.clone());
        let entry = Some(Box::new(Entry {
            name: name.clone(),
            spec: None,
            claims: Box::default(),
            slices: Vec::new(),
            built: Vec::new(),
        }));
        let id = if let Some(id) = self.free.pop() {
            self.entries[id as usize] = entry;
            id
        } else {
            self.entries.push(entry);
            Id::try_from(self.entries.len() - 1).unwrap_or(Id::MAX)
        };
        self.ids.insert(name, id);
        id
    }

    fn set_spec(&mut self, id: Id, spec: Option<Spec>) {
        let Some(entry) = self.entries[id as usize].as_mut() else {
            return;
        };
        if spec
            .as_ref()
            .is_some_and(|spec| spec.health_check_port.is_some())
        {
            self.checked.insert(id);
        } else {
            self.checked.remove(&id);
        }
        if let Some(old) = std::mem::replace(&mut entry.spec, spec) {
            old.release(&mut self.names);
        }
        self.dirty.insert(id);
    }

    fn take_slice(&mut self, id: Id, name: &str) {
        let Some(entry) = self.entries[id as usize].as_mut() else {
            return;
        };
        if let Some(at) = entry.slices.iter().position(|held| &*held.name == name) {
            entry.slices.remove(at).release(&mut self.names);
            self.dirty.insert(id);
        }
    }

    /// Takes back what a Service claims.
    fn withdraw(&mut self, id: Id) {
        let Some(entry) = self.entries[id as usize].as_mut() else {
            return;
        };
        for claim in std::mem::take(&mut entry.claims) {
            self.dirty.extend(self.claims.remove(&claim, id));
        }
        for (address, others) in entry.spec.iter().flat_map(Spec::addresses) {
            self.claims.use_address(address, others, false);
        }
        self.dirty.insert(id);
    }

    /// Claims what a Service has to have.
    fn claim(&mut self, id: Id) {
        let Some(entry) = self.entries[id as usize].as_mut() else {
            return;
        };
        let Some(spec) = &entry.spec else {
            return;
        };
        let mut claims = spec.claims(&self.here.node_ports);
        claims.sort_by_key(|claim| (claim.frontend, claim.protocol));
        claims.dedup_by_key(|claim| (claim.frontend, claim.protocol));
        entry.claims = claims.into();
        for claim in &entry.claims {
            self.dirty.extend(self.claims.add(claim, id));
        }
        for (address, others) in spec.addresses() {
            self.claims.use_address(address, others, true);
        }
    }

    fn set_own(&mut self, internal: Vec<IpAddr>, zone: &str) {
        let zone = self.names.take(zone);
        let before = std::mem::replace(&mut self.here.at.zone, zone);
        self.names.release(before);
        if before != zone {
            let all = self.entries.iter().enumerate();
            let hinted = all.filter(|(_, entry)| {
                let entry = entry.as_ref();
                entry.is_some_and(|entry| entry.slices.iter().any(Slice::hinted))
            });
            let hinted = hinted.filter_map(|(at, _)| Id::try_from(at).ok());
            self.dirty.extend(hinted);
        }
        self.here.internal = internal;
        self.node_ports_anew();
    }

    /// Which addresses have node ports may have changed.
    fn node_ports_anew(&mut self) {
        let now = self.here.node_port_addresses();
        if now == self.here.node_ports {
            return;
        }
        self.here.node_ports = now;
        let ids: Vec<Id> = self.ids.values().copied().collect();
        for id in ids {
            let has = |spec: &Spec| {
                let mut ports = spec.ports.iter();
                spec.programmed == Programmed::Here && ports.any(|port| port.at_nodes.is_some())
            };
            let entry = self.entry(id);
            if entry.is_some_and(|entry| entry.spec.as_ref().is_some_and(has)) {
                self.withdraw(id);
                self.claim(id);
            }
        }
    }

    /// Makes a Service's balancers anew, and forgets it if nothing is left.
    fn rebuild(&mut self, id: Id, steps: &mut Steps) {
        let built = self.build(id);
        let Some(entry) = self.entries.get_mut(id as usize).and_then(Option::as_mut) else {
            return;
        };
        let old = std::mem::replace(&mut entry.built, built);
        for before in &old {
            let same = |now: &&Built| (&now.port, now.v6) == (&before.port, before.v6);
            if !entry.built.iter().any(|now| same(&now)) {
                steps.remove(entry.balancer_name(before));
            }
        }
        for now in &entry.built {
            let same = |old: &&Built| (&now.port, now.v6) == (&old.port, old.v6);
            let before = old.iter().find(same).map(|before| &before.balancer);
            if before.is_none_or(|before| !Arc::ptr_eq(before, &now.balancer)) {
                let name = entry.balancer_name(now);
                steps.set(name, before.cloned(), now.balancer.clone());
            }
        }
        if entry.spec.is_none() && entry.slices.is_empty() {
            self.ids.remove(&*entry.name);
            self.entries[id as usize] = None;
            self.free.push(id);
        }
    }
}

impl Entry {
    pub fn balancer_name(&self, built: &Built) -> BalancerName {
        BalancerName {
            service: (*self.name).clone(),
            port: built.port.clone(),
            v6: built.v6,
        }
    }
}

impl Own {
    fn node_port_addresses(&self) -> Vec<IpAddr> {
        let fit = |ip: &IpAddr| special(*ip).is_none();
        let internal = self.internal.iter().copied().filter(fit);
        let cidrs = &self.options.node_port_cidrs;
        if cidrs.is_empty() {
            let mut first: Vec<IpAddr> = Vec::new();
            for ip in internal {
                if !first.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
                    first.push(ip);
                }
            }
            first.sort_unstable();
            return first;
        }
        let all = self.addresses.iter().copied().filter(fit).chain(internal);
        let within = all.filter(|ip| cidrs.iter().any(|cidr| cidr.contains(ip)));
        within.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_held_of_what_is_gone() {
        let name = |name: &str| ServiceName {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        };
        let mut compiler = Compiler::new(Options {
            node: "node-a".to_owned(),
            node_port_cidrs: Vec::new(),
        });
        for round in 0..3 {
            for at in 0..5 {
                compiler.set_slice(&EndpointSlice {
                    name: name(&format!("slice-{at}")),
                    service: format!("service-{}", at % 2 + round),
                    v6: false,
                    ports: vec![watari_model::SlicePort {
                        name: format!("port-{at}"),
                        protocol: watari_model::Protocol::Tcp,
                        port: Some(80),
                    }],
                    endpoints: vec![watari_model::SliceEndpoint {
                        address: IpAddr::from([10, 1, 0, at]),
                        ready: true,
                        serving: true,
                        terminating: false,
                        node: Some(format!("node-{at}-{round}").into()),
                        zone: Some("z".into()),
                        for_zones: vec!["z".into(), "y".into()],
                        for_nodes: Vec::new(),
                        pod: None,
                        weight: 1,
                    }],
                });
            }
            compiler.changes();
            // The node's own name, five ports and nodes, a zone, and hints.
            assert_eq!(compiler.names.held(), 1 + 5 + 5 + 1 + 1);
            assert_eq!(compiler.ids.len(), 2);
            assert!(compiler.entries.len() <= 4);
        }
        for at in 0..5 {
            compiler.remove_slice(&name(&format!("slice-{at}")));
        }
        compiler.changes();
        assert_eq!(compiler.names.held(), 1);
        assert!(compiler.ids.is_empty() && compiler.slices.is_empty());
        assert!(compiler.entries.iter().all(Option::is_none));
    }
}
