//! The adapter over tables in memory, whose every write is seen.

mod examples;
mod properties;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proptest::prelude::*;
use watari_abi::{Address, Backend, Frontend as Entry, FrontendKey, PortRangeKey, Set, maps};
use watari_model::{Protocol, ServiceName};
use watari_tables::{
    Backends, Balancer as Wanted, BalancerName, Frontend, FrontendKind, Others, Services,
};
use zerocopy::{FromBytes, IntoBytes};

use super::memory::write;
use super::numbers::{QUARANTINE, place};
use super::words::is_address;
use super::*;

/// A second of the tests.
const SECOND: u64 = 1_000_000_000;

pub fn name(service: u8) -> BalancerName {
    BalancerName {
        service: ServiceName {
            namespace: "default".to_owned(),
            name: format!("s{service}"),
        },
        port: "http".into(),
        v6: service % 4 == 3,
    }
}

fn address(service: u8, kind: u8) -> IpAddr {
    if service % 4 == 3 {
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, kind.into(), service.into()])
    } else {
        IpAddr::from([10, 96, kind, service])
    }
}

fn member(service: u8, n: u8) -> SocketAddr {
    // Some pods are behind several Services.
    let port = if n.is_multiple_of(5) {
        80
    } else {
        8000 + u16::from(service)
    };
    SocketAddr::new(
        if service % 4 == 3 {
            IpAddr::from([0xfd01, 0, 0, 0, 0, 0, 0, n.into()])
        } else {
            IpAddr::from([10, 9, 0, n])
        },
        port,
    )
}

/// How a balancer of a test is described: bits and numbers that proptest chooses.
#[derive(Debug, Clone)]
struct Shape {
    members: BTreeMap<u8, u8>,
    local: BTreeSet<u8>,
    internal_local: bool,
    external_local: bool,
    kinds: u8,
    range: Option<(u16, u16)>,
    affinity: Option<u32>,
    sources: Option<BTreeSet<u8>>,
    least: bool,
}

fn backends(service: u8, members: BTreeMap<u8, u8>, drops_when_empty: bool) -> Backends {
    let members = members
        .into_iter()
        .map(|(n, weight)| (member(service, n), weight));
    Backends {
        members: Arc::new(members.collect()),
        drops_when_empty,
    }
}

fn networks(sources: &BTreeSet<u8>) -> BTreeSet<ipnet::IpNet> {
    let net = |n: &u8| ipnet::IpNet::new(IpAddr::from([192, 168, *n, 0]), 24).unwrap();
    sources.iter().map(net).collect()
}

fn wanted(service: u8, shape: &Shape) -> Wanted {
    let of = |local: bool| {
        let chosen = shape
            .members
            .iter()
            .filter(|(n, _)| !local || shape.local.contains(n));
        backends(
            service,
            chosen.map(|(n, weight)| (*n, *weight)).collect(),
            local,
        )
    };
    let kinds = [
        FrontendKind::ClusterIp,
        FrontendKind::NodePort,
        FrontendKind::ExternalIp,
        FrontendKind::LoadBalancer,
    ];
    let mut frontends = BTreeMap::new();
    for (bit, kind) in (0_u8..).zip(kinds) {
        if shape.kinds & 1 << bit == 0 {
            continue;
        }
        let address = address(service, bit);
        frontends.insert(
            Frontend {
                address,
                first: 80,
                last: 80,
                range: false,
            },
            kind,
        );
        if let Some((first, last)) = shape.range.filter(|_| kind != FrontendKind::NodePort) {
            frontends.insert(
                Frontend {
                    address,
                    first,
                    last,
                    range: true,
                },
                kind,
            );
        }
    }
    Wanted {
        protocol: if service % 3 == 2 {
            Protocol::Udp
        } else {
            Protocol::Tcp
        },
        frontends,
        inside: of(shape.internal_local),
        inside_external: of(false),
        outside: of(shape.external_local),
        keeps_source: shape.external_local,
        affinity: shape.affinity,
        source_ranges: shape.sources.as_ref().map(networks),
        least_connections: shape.least,
        direct_return: false,
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    (
        prop::collection::btree_map(1_u8..24, 1_u8..4, 0..12),
        prop::collection::btree_set(1_u8..24, 0..12),
        (
            prop::bool::weighted(0.2),
            prop::bool::weighted(0.3),
            1_u8..16,
        ),
        prop::option::weighted(0.2, (1_u16..100, 100_u16..)),
        prop::option::weighted(0.3, 1_u32..100),
        prop::option::weighted(0.3, prop::collection::btree_set(0_u8..5, 0..3)),
        prop::bool::weighted(0.2),
    )
        .prop_map(
            |(members, local, (internal, external, kinds), range, affinity, sources, least)| {
                Shape {
                    members,
                    local,
                    internal_local: internal,
                    external_local: external,
                    kinds,
                    range,
                    affinity,
                    sources,
                    least,
                }
            },
        )
}

/// A change to the tables, by a number of a Service.
#[derive(Debug, Clone)]
enum Step {
    Shape(Shape),
    Remove,
    /// A member comes or goes.
    Toggle(u8),
    Local(u8),
    Others(Option<bool>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => shape().prop_map(Step::Shape),
        1 => Just(Step::Remove),
        4 => (1_u8..24).prop_map(Step::Toggle),
        2 => (1_u8..24).prop_map(Step::Local),
        1 => any::<Option<bool>>().prop_map(Step::Others),
    ]
}

#[derive(Debug, Default)]
struct Model {
    shapes: BTreeMap<u8, Shape>,
    others: BTreeMap<u8, bool>,
}

impl Model {
    fn take(&mut self, service: u8, step: Step) {
        match (step, self.shapes.get_mut(&service)) {
            (Step::Shape(shape), _) => drop(self.shapes.insert(service, shape)),
            (Step::Remove, _) => drop(self.shapes.remove(&service)),
            (Step::Toggle(n), Some(shape)) => match shape.members.remove(&n) {
                Some(_) => {}
                None => shape.members.extend([(n, 1)]),
            },
            (Step::Local(n), Some(shape)) => {
                let was = shape.local.remove(&n);
                shape.local.extend(Some(n).filter(|_| !was));
            }
            (Step::Others(Some(refused)), _) => drop(self.others.insert(service, refused)),
            (Step::Others(None), _) => drop(self.others.remove(&service)),
            _ => {}
        }
    }

    fn services(&self) -> Services {
        let mut services = Services::default();
        for (service, shape) in &self.shapes {
            let wanted = Arc::new(wanted(*service, shape));
            services.balancers.insert(name(*service), wanted);
        }
        for (service, refused) in &self.others {
            let others = if *refused {
                Others::Refused
            } else {
                Others::Stack
            };
            services.addresses.insert(address(*service, 0), others);
        }
        services
    }
}

/// The tables of a moment, as a program looks at them.
struct Eyes<'a>(&'a Entries);

impl Eyes<'_> {
    fn get<V: FromBytes>(&self, table: &'static str, key: &[u8]) -> Option<V> {
        let value = self.0.get(&(table, key.to_vec()))?;
        V::read_from_bytes(value).ok()
    }

    fn members(&self, set: u32, slots: &Entries) -> Vec<u32> {
        let set: Set = self.get(maps::SETS, set.as_bytes()).unwrap_or_default();
        let slot = |at: u32| Eyes(slots).get(maps::SLOTS, at.as_bytes()).unwrap_or(0);
        (set.base..set.base + set.count).map(slot).collect()
    }

    fn backend(&self, number: u32) -> Option<SocketAddr> {
        let backend: Option<Backend> = self.get(maps::BACKENDS, number.as_bytes());
        backend
            .filter(|backend| *backend != Backend::default())
            .map(|backend| place(&backend))
    }
}

/// Every frontend's entry, ranges by their first port.
fn frontends(entries: &Entries) -> Vec<(Address, u16, u8, Entry)> {
    let mut all = Vec::new();
    for ((table, key), value) in entries {
        let Ok(entry) = Entry::read_from_bytes(value) else {
            continue;
        };
        if *table == maps::FRONTENDS {
            let key = FrontendKey::read_from_bytes(key).unwrap();
            if !is_address(&key) {
                all.push((key.address, u16::from_be(key.port), key.protocol, entry));
            }
        } else if *table == maps::PORT_RANGES {
            let key = PortRangeKey::read_from_bytes(key).unwrap();
            all.push((
                key.address,
                u16::from_be_bytes(key.port),
                key.protocol,
                entry,
            ));
        }
    }
    all
}

type Members = BTreeSet<SocketAddr>;

fn members(backends: &Backends) -> Members {
    backends.members.keys().copied().collect()
}

/// Whose frontend it is, and the members that it has: for clients inside, and outside.
fn allowed(services: &Services, at: (Address, u16, u8)) -> Option<(&BalancerName, [Members; 2])> {
    for (name, balancer) in &services.balancers {
        for (frontend, kind) in &balancer.frontends {
            let port = at.1.max(1);
            if Address::from(frontend.address) == at.0
                && (frontend.first..=frontend.last).contains(&port)
                && balancer.protocol.number() == at.2
            {
                let (inside, outside) = match kind {
                    FrontendKind::ClusterIp => (&balancer.inside, &balancer.inside),
                    _ => (&balancer.inside_external, &balancer.outside),
                };
                return Some((name, [members(inside), members(outside)]));
            }
        }
    }
    None
}

/// Everybody behind a balancer.
fn everybody(services: &Services, name: &BalancerName) -> Members {
    let Some(balancer) = services.balancers.get(name) else {
        return Members::new();
    };
    let all = [
        &balancer.inside,
        &balancer.inside_external,
        &balancer.outside,
    ];
    all.into_iter().flat_map(members).collect()
}

/// That what a program may find is a choice of before or of after: its entry of `first`, the set's header
/// of `second`, slots of `third`, backends of `last`. A frontend that comes or goes may lead to whoever is
/// behind its balancer before or after.
fn assert_choice(
    [first, second, third, last]: [&Entries; 4],
    (before, after): (&Services, &Services),
) {
    for (address, port, protocol, entry) in frontends(first) {
        let at = (address, port, protocol);
        let (old, new) = (allowed(before, at), allowed(after, at));
        let (name, _) = old
            .as_ref()
            .or(new.as_ref())
            .expect("a frontend of before or after");
        for (set, who) in [(entry.inside, 0), (entry.outside, 1), (entry.ring, 1)] {
            let found = Eyes(second).members(set, third);
            let mut expected = Members::new();
            let mut never_empty = set != 0 || entry.ring == 0;
            for (side, services) in [(&old, before), (&new, after)] {
                if let Some((_, members)) = side {
                    expected.extend(&members[who]);
                    never_empty &= !members[who].is_empty();
                } else {
                    expected.extend(everybody(services, name));
                    never_empty = false;
                }
            }
            let is_ring = who == 1 && set == entry.ring;
            assert!(
                !never_empty || is_ring || !found.is_empty(),
                "{at:?}: set {set} is empty"
            );
            for number in found {
                let backend = Eyes(last).backend(number);
                let known = backend.is_some_and(|backend| expected.contains(&backend));
                assert!(known, "{at:?}: set {set} leads to {number}, {backend:?}");
            }
        }
    }
}

/// That no two sets have a slot in common, and every one's backends are ready.
fn assert_whole(entries: &Entries) {
    let mut stretches = Vec::new();
    let mut sets = BTreeSet::new();
    for (.., entry) in frontends(entries) {
        sets.extend([entry.inside, entry.outside, entry.ring]);
    }
    for set in sets.into_iter().filter(|set| *set != 0) {
        let header: Set = Eyes(entries)
            .get(maps::SETS, set.as_bytes())
            .unwrap_or_default();
        stretches.push((header.base, header.base + header.count, set));
        for number in Eyes(entries).members(set, entries) {
            let backend: Backend = Eyes(entries)
                .get(maps::BACKENDS, number.as_bytes())
                .unwrap();
            assert_eq!(
                backend.flags,
                watari_abi::backend_flags::READY,
                "{backend:?}"
            );
        }
    }
    stretches.sort_unstable();
    for pair in stretches.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "{pair:?}");
    }
}

fn between(one: &Services, other: &Services) -> Vec<ServicesChange> {
    one.steps_to(other)
}

/// Brings the tables there, and holds that they are.
fn reach(balancer: &mut Balancer<Memory>, services: &Services, now: u64) -> Applied {
    let observed = balancer.observe().unwrap();
    let steps = difference(&observed, services);
    let applied = balancer.apply(&steps, now);
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    assert_there(balancer, services);
    applied
}

fn assert_there(balancer: &mut Balancer<Memory>, services: &Services) {
    assert_eq!(balancer.compare(services).unwrap(), Compared::default());
    let observed = balancer.observe().unwrap();
    let left = difference(&observed, services);
    assert!(left.is_empty(), "{left:?}\n{observed:?}");
    assert_eq!(observed.strays, [""; 0]);
}

fn one(shape: &Shape) -> Services {
    let mut services = Services::default();
    services
        .balancers
        .insert(name(1), Arc::new(wanted(1, shape)));
    services
}

fn plain(members: impl IntoIterator<Item = u8>) -> Shape {
    Shape {
        members: members.into_iter().map(|n| (n, 1)).collect(),
        local: BTreeSet::new(),
        internal_local: false,
        external_local: false,
        kinds: 1,
        range: None,
        affinity: None,
        sources: None,
        least: false,
    }
}
