//! The tables of Services on the running kernel.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use watari_abi::{Connection, ConnectionKey, State, Translation, Tuple, flags, maps, translation};
use watari_bpf::balance::{Balancing, ServiceNames, difference};
use watari_bpf::sys::{MapFd, Pinned};
use watari_bpf::{Datapath, LoadOptions, Node, PinDir, load};
use watari_model::{Protocol, ServiceName};
use watari_tables::{Backends, Balancer, BalancerName, Frontend, FrontendKind, Others, Services};

use crate::world::World;

fn name(n: u32) -> BalancerName {
    BalancerName {
        service: ServiceName {
            namespace: "default".to_owned(),
            name: format!("s{n}"),
        },
        port: "http".into(),
        v6: false,
    }
}

fn member(n: u32, m: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0x0a20_0000 + n * 16 + m).into(), 8080)
}

fn balancer(n: u32, members: impl IntoIterator<Item = u32>, kind: FrontendKind) -> Arc<Balancer> {
    let members: BTreeMap<SocketAddr, u8> =
        members.into_iter().map(|m| (member(n, m), 1)).collect();
    let backends = Backends {
        members: Arc::new(members),
        drops_when_empty: false,
    };
    let at = Frontend {
        address: Ipv4Addr::from(0x0a60_0000 + n).into(),
        first: 80,
        last: 80,
        range: false,
    };
    Arc::new(Balancer {
        protocol: Protocol::Tcp,
        frontends: BTreeMap::from([(at, kind)]),
        inside: backends.clone(),
        inside_external: backends.clone(),
        outside: backends,
        keeps_source: false,
        affinity: None,
        source_ranges: None,
        least_connections: false,
        direct_return: false,
    })
}

fn services(count: u32, members: u32) -> Services {
    let mut services = Services::default();
    for n in 0..count {
        services
            .balancers
            .insert(name(n), balancer(n, 0..members, FrontendKind::ClusterIp));
        let address = IpAddr::from(Ipv4Addr::from(0x0a60_0000 + n));
        services.addresses.insert(address, Others::Refused);
    }
    services
        .cidrs
        .insert("10.96.0.0/12".parse().expect("a network"));
    services
}

fn cpu() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("ask for the time used");
    usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
}

/// What it does, how long it takes of the processor and in all, in ms.
fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let (before, start) = (cpu(), Instant::now());
    let result = run();
    let (used, took) = (cpu() - before, start.elapsed());
    eprintln!("{what}: {} us of CPU, {} us", used, took.as_micros());
    result
}

#[test]
fn services_are_reached_kept_over_a_restart_and_an_upgrade_and_removed() {
    let world = World::new();
    let (root, mut options) = (world.bpffs.root(), LoadOptions::at(&world.bpffs.root()));
    world.node.enter(|| {
        let attachment = load(&options).unwrap().attachment;
        let node = Node::open(&root, attachment).unwrap();
        let mut kernel = node.balancer().unwrap();
        let mut wanted = services(200, 10);
        let outside = balancer(7, 0..10, FrontendKind::NodePort);
        wanted.balancers.insert(name(7), outside);
        let applied = kernel.apply(&Services::default().steps_to(&wanted), 0);
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        let observed = kernel.observe().unwrap();
        assert_eq!(difference(&observed, &wanted), []);
        assert_eq!(observed.strays, [""; 0]);
        let described = kernel.describe(&name(7)).unwrap();
        assert_eq!((described.backends.len(), described.ring), (10, 1021));
        // Another process.
        let names = ServiceNames::open(&PinDir::current(&root)).unwrap();
        assert_eq!(
            names.get(described.number).unwrap().unwrap(),
            "default/s7:http"
        );
        assert_eq!(names.all().unwrap().len(), 200);
        let mut again = node.balancer().unwrap();
        let observed = again.observe().unwrap();
        assert_eq!(difference(&observed, &wanted), []);
        assert_eq!(
            again
                .apply(&Services::default().steps_to(&wanted), 1)
                .writes,
            0
        );
        // One endpoint goes.
        wanted
            .balancers
            .insert(name(3), balancer(3, 1..10, FrontendKind::ClusterIp));
        let observed = again.observe().unwrap();
        let applied = again.apply(&difference(&observed, &wanted), 1);
        assert_eq!((applied.writes, applied.departed.len()), (3, 1));
        assert_eq!(applied.departed[0].at, member(3, 0));
        // Another size of the slots: everything is there.
        options.slots = Some(1 << 16);
        let loaded = load(&options).unwrap();
        assert_eq!(loaded.replaced.len(), 1);
        let node = Node::open(&root, attachment).unwrap();
        let mut kernel = node.balancer().unwrap();
        let observed = kernel.observe().unwrap();
        assert_eq!(difference(&observed, &wanted), []);
        let applied = kernel.apply(&observed.services.steps_to(&Services::default()), 2);
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        assert_eq!(kernel.observe().unwrap().services, Services::default());
    });
}

/// Bytes of each map, as the kernel counts them.
fn memory(dir: &PinDir) -> Vec<(&'static str, u64)> {
    let bytes = |name: &str| {
        let map = MapFd::open(&dir.map(name)).expect("open a map");
        let path = format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd());
        let info = std::fs::read_to_string(path).expect("read what it takes");
        let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
        line.and_then(|bytes| bytes.trim().parse().ok())
            .unwrap_or(0)
    };
    maps::ALL.iter().map(|name| (*name, bytes(name))).collect()
}

#[test]
fn ten_thousand_services_with_ten_endpoints_take_little_time() {
    let world = World::new();
    let root = world.bpffs.root();
    world.node.enter(|| {
        let options = LoadOptions::at(&root);
        let attachment = timed("load", || load(&options).unwrap().attachment);
        timed("load again", || load(&options).unwrap());
        let node = Node::open(&root, attachment).unwrap();
        let empty = memory(&PinDir::current(&root));
        let wanted = services(10_000, 10);
        let mut kernel = timed("open, empty", || node.balancer().unwrap());
        let steps = Services::default().steps_to(&wanted);
        let applied = timed("apply 10,000 x 10", || kernel.apply(&steps, 0));
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        let observed = timed("observe", || kernel.observe().unwrap());
        assert_eq!(timed("difference", || difference(&observed, &wanted)), []);
        for ((name, empty), (_, full)) in empty.iter().zip(memory(&PinDir::current(&root))) {
            eprintln!("{name}: {empty} bytes empty, {full} with 10,000 x 10");
        }
        let one = balancer(77, 1..10, FrontendKind::ClusterIp);
        let change = [watari_tables::ServicesChange::Set(name(77), one)];
        let applied = timed("one endpoint", || kernel.apply(&change, 1));
        assert_eq!(applied.writes, 3);
        timed("open, full", || node.balancer().unwrap());
        timed("tidy", || kernel.tidy(2_000_000_000).unwrap());
    });
}

/// A connection to a backend of a Service, with its alias.
fn translated(
    client: u16,
    backend: SocketAddr,
    service: u32,
    now: u64,
) -> [(ConnectionKey, Connection); 2] {
    let far = Tuple {
        source: IpAddr::from([10, 9, 0, 1]).into(),
        destination: backend.ip().into(),
        source_port: client.to_be(),
        destination_port: backend.port().to_be(),
        protocol: 6,
        pad: [0; 3],
    };
    let near = Tuple {
        destination: IpAddr::from([10, 96, 0, 1]).into(),
        destination_port: 80_u16.to_be(),
        ..far
    };
    let of = |tuple: &Tuple, kind: u8| Translation {
        source: tuple.source,
        destination: tuple.destination,
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
        kind,
        pad: [0; 3],
        service,
        backend: 1,
    };
    let entry = |key: (ConnectionKey, watari_abi::Side), more: u16, translation| {
        let low = if key.1 == watari_abi::Side::Low {
            flags::LOW_IS_ORIGINATOR
        } else {
            0
        };
        let connection = Connection {
            created: 1,
            expires: now + 1000,
            state: State::Established as u8,
            flags: low | more,
            translation,
            ..Connection::default()
        };
        (key.0, connection)
    };
    [
        entry(far.key(), 0, of(&near, translation::DESTINATION)),
        entry(near.key(), flags::ALIAS, of(&far, translation::DESTINATION)),
    ]
}

#[test]
fn connections_to_who_left_end_and_an_alias_goes_with_its_connection() {
    let world = World::new();
    let root = world.bpffs.root();
    world.node.enter(|| {
        let attachment = load(&LoadOptions::at(&root)).unwrap().attachment;
        let mut node = Node::open(&root, attachment).unwrap();
        let now = 10_000_000_000;
        for client in 0..300_u16 {
            let backend = member(u32::from(client % 3), 0);
            let service = if client < 150 { 5 } else { 6 };
            let entries = translated(client + 1, backend, service, now);
            let table = if client % 2 == 0 {
                node.tables().established
            } else {
                node.tables().transient
            };
            table.insert_all(&entries).unwrap();
        }
        let mut listed = 0;
        node.flows(&mut |_| listed += 1).unwrap();
        assert_eq!(listed, 300, "aliases are no flows");
        let counts = node.connection_counts(now).unwrap();
        assert_eq!(
            (counts.get(&(5, 1)), counts.get(&(6, 1))),
            (Some(&150), Some(&150))
        );
        let departed = watari_bpf::balance::Departed {
            service: 5,
            backend: 1,
            at: member(1, 0),
            protocol: Protocol::Tcp,
            affinity: false,
        };
        let ended = node.end(&[departed]).unwrap();
        assert_eq!((ended.connections, ended.sockets.len()), (50, 0));
        let count = |node: &Node| {
            let tables = node.tables();
            tables.established.entries().unwrap().len() + tables.transient.entries().unwrap().len()
        };
        assert_eq!(count(&node), 500);
        let sweep = |node: &mut Node, now: u64| {
            let mut removed = 0;
            while {
                let swept = node.sweep(now, 10_000).unwrap();
                removed += swept.removed;
                !swept.at_end
            } {}
            removed
        };
        assert_eq!(sweep(&mut node, now), 0);
        // Connections go: their aliases with them, in this sweep or the next.
        let removed = sweep(&mut node, now + 2000) + sweep(&mut node, now + 2000);
        assert_eq!((removed, count(&node)), (500, 0));
    });
}
