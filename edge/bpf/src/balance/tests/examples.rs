use std::collections::HashMap;

use watari_abi::{Affinity, AffinityKey};

use super::*;

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
}

#[test]
fn a_table_of_maglev_that_finds_no_room_is_told_and_the_service_works_without() {
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

/// Remembers that a client is a backend's.
fn remember(memory: &Memory, service: u32, client: u8, backend: u32) {
    let table = memory.table(maps::AFFINITIES).unwrap();
    let client = Address::from(IpAddr::from([10, 1, 1, client]));
    let with = Affinity {
        seen: 1,
        backend,
        pad: 0,
    };
    table
        .set(&[(AffinityKey { client, service }, with)])
        .unwrap();
}

#[test]
fn clients_of_who_left_are_not_remembered() {
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
    let remember = |service, client, backend| remember(&memory, service, client, backend);
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

/// A program that read a frontend before it was written looks into the set that it had: nobody is in there
/// who is behind neither of its choices.
#[test]
fn a_set_that_somebody_leaves_gets_no_new_members() {
    let memory = Memory::default();
    let mut balancer = Balancer::open(&memory).unwrap();
    let before = Shape {
        kinds: 2,
        ..plain([1])
    };
    reach(&mut balancer, &one(&before), 0);
    memory.take_journal();
    // Clients outside are left nobody, and those inside another one.
    let after = Shape {
        external_local: true,
        kinds: 2,
        ..plain([2])
    };
    reach(&mut balancer, &one(&after), 0);
    let set = u32::to_ne_bytes(1).to_vec();
    let touched = |(table, key, _): &Write| *table == maps::SETS && *key == set;
    assert!(!memory.take_journal().iter().any(touched));
}
