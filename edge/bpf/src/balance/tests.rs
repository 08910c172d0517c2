//! The adapter over tables in memory, whose every write is seen.

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
    let port = if n % 5 == 0 {
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
    let sources = shape.sources.as_ref().map(|sources| {
        let net = |n: &u8| ipnet::IpNet::new(IpAddr::from([192, 168, *n, 0]), 24).unwrap();
        sources.iter().map(net).collect()
    });
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
        source_ranges: sources,
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
            (Step::Toggle(n), Some(shape)) => {
                if shape.members.remove(&n).is_none() {
                    shape.members.insert(n, 1);
                }
            }
            (Step::Local(n), Some(shape)) => {
                if !shape.local.remove(&n) {
                    shape.local.insert(n);
                }
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
                match side {
                    Some((_, members)) => {
                        expected.extend(&members[who]);
                        never_empty &= !members[who].is_empty();
                    }
                    None => {
                        expected.extend(everybody(services, name));
                        never_empty = false;
                    }
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

/// The tables that a journal has written to, in order.
fn tables_of(journal: &[Write]) -> Vec<&'static str> {
    journal.iter().map(|(table, ..)| *table).collect()
}

#[test]
fn one_endpoint_is_a_handful_of_writes() {
    let memory = Memory::default();
    let mut balancer = Balancer::open(&memory).unwrap();
    reach(&mut balancer, &one(&plain(1..=10)), 0);
    let there = tables_of(&memory.take_journal());
    assert_eq!(
        there.len(),
        1 + 10 + 10 + 1 + 1,
        "name, backends, slots, set, frontend"
    );
    for (members, writes) in [
        // One comes.
        (plain(1..=11), vec![maps::BACKENDS, maps::SLOTS, maps::SETS]),
        // One goes: its slot is another's, and it is ready no more.
        (plain(2..=11), vec![maps::SLOTS, maps::SETS, maps::BACKENDS]),
        // The last one goes.
        (plain(2..=10), vec![maps::SLOTS, maps::SETS, maps::BACKENDS]),
        // One takes another's place.
        (
            plain((3..=10).chain([12])),
            vec![maps::BACKENDS, maps::SLOTS, maps::BACKENDS],
        ),
        (plain((3..=10).chain([12])), vec![]),
    ] {
        memory.take_calls();
        let applied = reach(&mut balancer, &one(&members), SECOND);
        assert_eq!(tables_of(&memory.take_journal()), writes);
        assert_eq!(applied.writes, writes.len() as u64);
        assert_eq!(memory.take_calls(), writes.len());
    }
}

#[test]
fn growth_moves_a_set_and_frees_what_it_had_after_a_while() {
    let memory = Memory::default();
    let mut balancer = Balancer::open(&memory).unwrap();
    reach(&mut balancer, &one(&plain(1..=8)), 0);
    memory.take_journal();
    reach(&mut balancer, &one(&plain(1..=9)), 0);
    assert_eq!(memory.take_journal().len(), 1 + 9 + 1);
    let used = |balancer: &Balancer<Memory>| {
        balancer
            .usage()
            .iter()
            .find(|usage| usage.map == maps::SLOTS)
            .unwrap()
            .used
    };
    assert_eq!(used(&balancer), 8 + 16);
    balancer.tidy(SECOND / 2).unwrap();
    assert_eq!(used(&balancer), 8 + 16);
    balancer.tidy(SECOND).unwrap();
    assert_eq!(used(&balancer), 16);
}

#[test]
fn what_is_removed_is_forgotten_step_by_step() {
    let memory = Memory::default();
    let mut balancer = Balancer::open(&memory).unwrap();
    let shape = Shape {
        kinds: 15,
        range: Some((5, 700)),
        ..plain(1..=5)
    };
    let mut there = one(&shape);
    there.addresses.insert(address(1, 0), Others::Refused);
    there.cidrs.insert("10.96.0.0/16".parse().unwrap());
    reach(&mut balancer, &there, 0);
    let number = balancer.describe(&name(1)).unwrap().number;
    let applied = reach(&mut balancer, &Services::default(), 0);
    let departed: BTreeSet<_> = applied
        .departed
        .iter()
        .map(|departed| departed.at)
        .collect();
    assert_eq!(departed, (1..=5).map(|n| member(1, n)).collect());
    assert!(
        applied
            .departed
            .iter()
            .all(|departed| departed.service == number)
    );
    assert_eq!(balancer.names().get(&number), Some(&name(1)));
    assert!(balancer.tidy(SECOND).unwrap());
    assert!(memory.entries().keys().all(|(table, _)| {
        [
            maps::SLOTS,
            maps::BACKENDS,
            maps::SERVICE_NAMES,
            maps::CONFIG,
        ]
        .contains(table)
    }));
    assert!(!balancer.tidy(QUARANTINE).unwrap());
    let left: BTreeSet<_> = memory.entries().keys().map(|(table, _)| *table).collect();
    assert_eq!(left, BTreeSet::from([maps::SLOTS]));
    assert!(
        balancer.usage().iter().all(|usage| usage.used == 0),
        "{:?}",
        balancer.usage()
    );
    // The name's number is nobody's again.
    reach(&mut balancer, &there, QUARANTINE);
    assert_ne!(balancer.describe(&name(1)).unwrap().number, number);
}

/// The state after each of a journal's writes, that before them first.
fn states(before: &Entries, journal: &[Write]) -> Vec<Entries> {
    let mut states = vec![before.clone()];
    for step in journal {
        let mut next = states[states.len() - 1].clone();
        write(&mut next, step);
        states.push(next);
    }
    states
}

fn steps() -> impl Strategy<Value = Vec<(u8, Step)>> {
    prop::collection::vec((1_u8..9, step()), 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Whatever changes come: the tables are what is wanted, no two sets share a slot, and programs find the
    /// choice of before or of after at any time, whichever of their looks are before a write.
    #[test]
    fn any_changes_are_made_and_programs_never_see_half_of_one(steps in steps()) {
        let memory = Memory::default();
        let mut balancer = Balancer::open(&memory).unwrap();
        let mut model = Model::default();
        for (second, (service, step)) in (0..).zip(steps) {
            let before = model.services();
            model.take(service, step);
            let after = model.services();
            let entries = memory.entries();
            memory.take_journal();
            let changes = between(&before, &after);
            let applied = balancer.apply(&changes, second * SECOND);
            prop_assert!(applied.failed.is_empty(), "{:?}", applied.failed);
            let journal = memory.take_journal();
            prop_assert_eq!(applied.writes, journal.len() as u64);
            let states = states(&entries, &journal);
            for now in &states {
                assert_choice([now; 4], (&before, &after));
            }
            let step = states.len().div_ceil(5);
            for (at, first) in states.iter().enumerate().step_by(step) {
                for (at, second) in states.iter().enumerate().skip(at).step_by(step) {
                    for third in states.iter().skip(at).step_by(step) {
                        let last = &states[states.len() - 1];
                        assert_choice([first, second, third, last], (&before, &after));
                    }
                }
            }
            assert_there(&mut balancer, &after);
            assert_whole(&memory.entries());
            balancer.tidy(second * SECOND).unwrap();
            assert_there(&mut balancer, &after);
            prop_assert_eq!(memory.take_journal().iter().filter(|(table, ..)| *table == maps::FRONTENDS).count(), 0);
        }
        // In the end nothing is left.
        reach(&mut balancer, &Services::default(), 100 * SECOND);
        balancer.tidy(100 * SECOND).unwrap();
        balancer.tidy(200 * SECOND).unwrap();
        prop_assert!(balancer.usage().iter().all(|usage| usage.used == 0), "{:?}", balancer.usage());
        let left: BTreeSet<_> = memory.entries().keys().map(|(table, _)| *table).collect();
        prop_assert!(left.iter().all(|table| *table == maps::SLOTS), "{left:?}");
    }

    /// A shadow that goes on and one that is made of the tables plan the same.
    #[test]
    fn a_restart_changes_nothing(steps in steps()) {
        let memory = Memory::default();
        let mut balancer = Balancer::open(&memory).unwrap();
        let mut model = Model::default();
        for (service, step) in steps {
            let before = model.services();
            model.take(service, step);
            balancer.apply(&between(&before, &model.services()), 0);
        }
        memory.take_journal();
        let mut again = Balancer::open(&memory).unwrap();
        assert_there(&mut again, &model.services());
        let applied = again.apply(&[], SECOND);
        prop_assert_eq!((applied.writes, applied.departed.len()), (0, 0));
        // Not even where all is said anew.
        let all = Services::default().steps_to(&model.services());
        let applied = again.apply(&all, SECOND);
        prop_assert_eq!((applied.writes, applied.failed.len()), (0, 0));
        prop_assert_eq!(memory.take_journal(), []);
    }

    /// Killed after any write, the next one reaches what is wanted then, and nothing is left over.
    #[test]
    fn after_a_kill_at_any_write_all_is_put_right(
        steps in prop::collection::vec((1_u8..5, step()), 1..10),
        last in prop::collection::vec((1_u8..5, step()), 1..4),
        then in prop::collection::vec((1_u8..5, step()), 0..2),
    ) {
        let memory = Memory::default();
        let mut balancer = Balancer::open(&memory).unwrap();
        let mut model = Model::default();
        for (service, step) in steps {
            let before = model.services();
            model.take(service, step);
            balancer.apply(&between(&before, &model.services()), 0);
        }
        let before = model.services();
        last.into_iter().for_each(|(service, step)| model.take(service, step));
        let wanted = model.services();
        then.into_iter().for_each(|(service, step)| model.take(service, step));
        let now_wanted = model.services();
        let entries = memory.entries();
        memory.take_journal();
        balancer.apply(&between(&before, &wanted), 0);
        let states = states(&entries, &memory.take_journal());
        let step = states.len().div_ceil(24);
        for state in states.into_iter().step_by(step) {
            let memory = Memory::with(state);
            let mut next = Balancer::open(&memory).unwrap();
            let observed = next.observe().unwrap();
            let applied = next.apply(&difference(&observed, &now_wanted), SECOND);
            prop_assert!(applied.failed.is_empty(), "{:?}", applied.failed);
            next.tidy(SECOND).unwrap();
            assert_there(&mut next, &now_wanted);
            assert_whole(&memory.entries());
            next.tidy(10 * SECOND).unwrap();
            next.tidy(200 * SECOND).unwrap();
            assert_there(&mut next, &now_wanted);
            let entries = memory.entries();
            let count = |table| entries.keys().filter(|(of, _)| *of == table).count();
            let used = |table| next.usage().iter().find(|usage| usage.map == table).unwrap().used;
            prop_assert_eq!(count(maps::SERVICE_NAMES), used(maps::SERVICE_NAMES) as usize);
            prop_assert_eq!(count(maps::BACKENDS), used(maps::BACKENDS) as usize);
            let mut members = BTreeSet::new();
            for balancer in now_wanted.balancers.values().filter_map(|balancer| canonical(balancer)) {
                for of in [&balancer.inside, &balancer.inside_external, &balancer.outside] {
                    members.extend(of.members.keys().copied());
                }
            }
            prop_assert_eq!(count(maps::BACKENDS), members.len());
        }
    }

    /// A kernel that refuses some writes: what can be made is made, what cannot is told, and once it does not
    /// refuse any more all is made.
    #[test]
    fn refused_writes_are_told_and_made_later(
        steps in steps(),
        fail in 0_usize..40,
    ) {
        let memory = Memory::default();
        let mut balancer = Balancer::open(&memory).unwrap();
        let mut model = Model::default();
        steps.into_iter().for_each(|(service, step)| model.take(service, step));
        let wanted = model.services();
        memory.fail_after(Some(fail));
        let all = between(&Services::default(), &wanted);
        let applied = balancer.apply(&all, 0);
        prop_assert_eq!(applied.done + applied.failed.len(), all.len());
        memory.fail_after(None);
        let observed = balancer.observe().unwrap();
        let applied = balancer.apply(&difference(&observed, &wanted), SECOND);
        prop_assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        balancer.tidy(SECOND).unwrap();
        assert_there(&mut balancer, &wanted);
        assert_whole(&memory.entries());
    }
}

#[test]
fn a_change_writes_no_more_than_it_is_large() {
    let memory = Memory::default();
    let mut balancer = Balancer::open(&memory).unwrap();
    let shape = |members: &BTreeSet<u8>| Shape {
        kinds: 15,
        ..plain(members.iter().copied())
    };
    let mut members: BTreeSet<u8> = (1..=10).collect();
    reach(&mut balancer, &one(&shape(&members)), 0);
    let mut writes = 0;
    for round in 0..200_u8 {
        let n = 11 + round % 100;
        if !members.remove(&n) {
            members.insert(n);
        }
        memory.take_journal();
        let services = one(&Shape {
            least: true,
            ..shape(&members)
        });
        writes += reach(&mut balancer, &services, SECOND * u64::from(round)).writes;
        balancer.tidy(SECOND * u64::from(round)).unwrap();
    }
    // Moves to longer stretches and back among them.
    assert!(writes < 200 * 6, "{writes}");
}

#[test]
fn what_is_full_is_named_and_the_rest_goes_on() {
    let memory = Memory::default();
    memory.resize(maps::SLOTS, 64);
    memory.resize(maps::BACKENDS, 30);
    let mut balancer = Balancer::open(&memory).unwrap();
    let mut services = one(&plain(1..=10));
    services
        .balancers
        .insert(name(2), Arc::new(wanted(2, &plain(1..=23))));
    services
        .balancers
        .insert(name(4), Arc::new(wanted(4, &plain([1, 2]))));
    let steps = between(&Services::default(), &services);
    let applied = balancer.apply(&steps, 0);
    assert_eq!((applied.done, applied.failed.len()), (2, 1));
    let words = applied.failed[0].1.to_string();
    assert!(
        words.starts_with("the map backends is full: default/s2:http needs"),
        "{words}"
    );
    assert!(balancer.describe(&name(4)).is_some());
    memory.resize(maps::BACKENDS, 3000);
    let mut balancer = Balancer::open(&memory).unwrap();
    services
        .balancers
        .insert(name(5), Arc::new(wanted(5, &plain(1..=23))));
    let applied = balancer.apply(&between(&one(&plain([])), &services), 0);
    assert_eq!(applied.failed.len(), 1, "{:?}", applied.failed);
    let words = applied.failed[0].1.to_string();
    assert!(
        words.contains("the map slots is full") && words.contains("--service-slots"),
        "{words}"
    );
    // A table of Maglev that finds no room is told; the Service works without.
    let memory = Memory::default();
    memory.resize(maps::SLOTS, 64);
    let mut balancer = Balancer::open(&memory).unwrap();
    let shape = Shape {
        kinds: 2,
        ..plain(1..=3)
    };
    let applied = balancer.apply(&between(&Services::default(), &one(&shape)), 0);
    assert_eq!(applied.failed.len(), 1);
    let described = balancer.describe(&name(1)).unwrap();
    assert_eq!((described.backends.len(), described.ring), (3, 0));
}

#[test]
fn clients_of_who_left_are_not_remembered() {
    use watari_abi::{Affinity, AffinityKey};
    let memory = Memory::default();
    let mut balancer = Balancer::open(&memory).unwrap();
    let shape = |members: &[u8]| Shape {
        affinity: Some(60),
        ..plain(members.iter().copied())
    };
    let mut services = one(&shape(&[5, 10]));
    // Another Service has the same pod at the same port.
    services
        .balancers
        .insert(name(2), Arc::new(wanted(2, &shape(&[5]))));
    reach(&mut balancer, &services, 0);
    let described = balancer.describe(&name(1)).unwrap();
    let table = memory
        .table::<AffinityKey, Affinity>(maps::AFFINITIES)
        .unwrap();
    let remember = |number: u32, client: u8, backend: u32| {
        let client = Address::from(IpAddr::from([10, 1, 1, client]));
        let key = AffinityKey {
            client,
            service: number,
        };
        table
            .set(&[(
                key,
                Affinity {
                    seen: 1,
                    backend,
                    pad: 0,
                },
            )])
            .unwrap();
    };
    let number = |at: SocketAddr| {
        described
            .backends
            .iter()
            .find(|of| of.at == at)
            .unwrap()
            .number
    };
    let (five, ten) = (number(member(1, 5)), number(member(1, 10)));
    let second = balancer.describe(&name(2)).unwrap().number;
    remember(described.number, 1, five);
    remember(described.number, 2, ten);
    remember(second, 3, five);
    services
        .balancers
        .insert(name(1), Arc::new(wanted(1, &shape(&[10]))));
    let applied = reach(&mut balancer, &services, 0);
    assert_eq!(applied.departed.len(), 1);
    let count = || {
        memory
            .entries()
            .keys()
            .filter(|(of, _)| *of == maps::AFFINITIES)
            .count()
    };
    assert_eq!(count(), 2);
    // A program that had just looked remembers one once more.
    remember(described.number, 4, five);
    balancer.tidy(SECOND).unwrap();
    assert_eq!(count(), 2);
}

#[test]
fn numbers_with_connections_are_nobody_else_s() {
    let memory = Memory::default();
    let mut balancer = Balancer::open(&memory).unwrap();
    reach(&mut balancer, &one(&plain([1, 2])), 0);
    let described = balancer.describe(&name(1)).unwrap();
    let (service, backend) = (described.number, described.backends[0].number);
    reach(&mut balancer, &Services::default(), 0);
    let counts = HashMap::from([((service, backend), 3)]);
    balancer.recount(&counts, QUARANTINE - SECOND).unwrap();
    let loads = memory.array::<u64>(maps::BACKEND_LOADS).unwrap();
    assert_eq!(loads.stretch(backend, 1).unwrap(), [3]);
    balancer.tidy(QUARANTINE + SECOND).unwrap();
    assert!(balancer.names().contains_key(&service));
    let used = |table| {
        balancer
            .usage()
            .iter()
            .find(|usage| usage.map == table)
            .unwrap()
            .used
    };
    assert_eq!(used(maps::BACKENDS), 1);
    balancer.recount(&HashMap::new(), QUARANTINE).unwrap();
    assert_eq!(loads.stretch(backend, 1).unwrap(), [0]);
    balancer.tidy(3 * QUARANTINE).unwrap();
    assert!(balancer.names().is_empty());
}

#[test]
fn what_the_node_is_told_leaves_the_rest_as_it_is() {
    use watari_abi::{Config, config_flags};
    let memory = Memory::default();
    let config = memory.array::<Config>(maps::CONFIG).unwrap();
    let there = Config {
        revision: 7,
        flags: config_flags::QUIET,
        ..Config::default()
    };
    config.set(&[(0, there)]).unwrap();
    let mut balancer = Balancer::open(&memory).unwrap();
    let node = NodeConfig {
        services: true,
        v4: Some(IpAddr::from([192, 0, 2, 1])),
        v6: None,
        ports: (61000, 65535),
    };
    balancer.configure(&node).unwrap();
    let shape = Shape {
        range: Some((1, 9)),
        ..plain([1])
    };
    reach(&mut balancer, &one(&shape), 0);
    let now = config.stretch(0, 1).unwrap()[0];
    let flags = config_flags::QUIET | config_flags::SERVICES | config_flags::PORT_RANGES;
    assert_eq!((now.revision, now.flags, now.first_port), (7, flags, 61000));
    balancer
        .configure(&NodeConfig {
            services: false,
            ..node
        })
        .unwrap();
    reach(&mut balancer, &Services::default(), 0);
    assert_eq!(config.stretch(0, 1).unwrap()[0].flags, config_flags::QUIET);
}
