//! Services at the socket: processes in a cgroup of the test's own, in pods and on the node, real
//! connections, and what the processes see of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use watari_abi::{
    Address, Affinity, AffinityKey, Backend, Config, Frontend, FrontendKey, Set, SocketHook,
    SocketKey, SocketService, backend_flags, config_flags, frontend_flags, maps,
};
use watari_bpf::sys::{Pinned, ProgramFd};
use watari_bpf::{Clients, Datapath, Map, Node, PinDir, PodHooks, Stray, load, load_image};
use watari_tables::Datapath as Tables;
use watari_testkit::wait_until;

use crate::process::{Cgroup, Process, serve};
use crate::reuse::{changed, changed_object};
use crate::world::{Pod, World, kinds, words};

const TCP: u8 = 6;
const UDP: u8 = 17;
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the Service is.
const V4: &str = "10.96.0.1:80";
const V6: &str = "[fd00:96::1]:80";
/// The set of its backends of IPv4; that of IPv6 is the next.
const SET: u32 = 1;

/// A node with a client, three backends and one Service of them, TCP and UDP, of both families.
struct Stage {
    world: World,
    cgroup: Cgroup,
    client: Pod,
    backends: Vec<Pod>,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        let (client, backends) = (world.pod(1), [2, 3, 4].map(|number| world.pod(number)));
        for line in [
            "ip address add 10.9.0.250/32 dev lo",
            "ip -6 address add fd00:9::250/128 dev lo nodad",
            "ip route add unreachable 10.96.0.0/16",
            "ip -6 route add unreachable fd00:96::/64",
        ] {
            world.node.run(&words(line));
        }
        backends.iter().for_each(serve);
        let stage = Self {
            world,
            cgroup: Cgroup::new(),
            client,
            backends: backends.into(),
        };
        let options = stage.world.options(kinds()[0]);
        stage.world.node.enter(|| load(&options).expect("load"));
        stage.fill();
        stage.attach();
        stage
    }

    fn map<K: watari_bpf::Plain, V: watari_bpf::Plain>(&self, name: &str) -> Map<K, V> {
        let dir = PinDir::current(&self.world.bpffs.root());
        Map::open(&dir.map(name)).expect("open a map")
    }

    /// Writes the Service as the node's agent would.
    fn fill(&self) {
        let (backends, slots) = (self.map(maps::BACKENDS), self.map(maps::SLOTS));
        let sets = self.map(maps::SETS);
        for (family, set) in [(0, SET), (1, SET + 1)] {
            let base = set * 16;
            for (number, pod) in (base..).zip(&self.backends) {
                let backend = Backend {
                    address: Address::from(pod.addresses[family]),
                    port: 8080_u16.to_be(),
                    flags: backend_flags::READY,
                };
                backends.insert(&number, &backend).expect("a backend");
                slots.insert(&number, &number).expect("a slot");
            }
            let stretch = Set { base, count: 3 };
            sets.insert(&set, &stretch).expect("a set");
        }
        self.serve(|_| {});
        let config: Map<u32, Config> = self.map(maps::CONFIG);
        let entry = Config {
            flags: config_flags::SERVICES,
            v4: Address::from("10.9.0.250".parse::<IpAddr>().expect("an address")),
            v6: Address::from("fd00:9::250".parse::<IpAddr>().expect("an address")),
            ..Config::default()
        };
        config.insert(&0, &entry).expect("the configuration");
        let clients = Clients::open(&self.world.bpffs.root()).expect("open the clients");
        let pod = self.client.ns.enter(watari_bpf::netns_cookie);
        let node = self.world.node.enter(watari_bpf::netns_cookie);
        let own = ["10.9.0.250", "fd00:9::250"].map(|text| text.parse().expect("an address"));
        for (cookie, addresses) in [(pod, &self.client.addresses[..]), (node, &own[..])] {
            let cookie = cookie.expect("ask").expect("this kernel tells it");
            assert!(clients.set(cookie, addresses).expect("a client"));
            assert!(!clients.set(cookie, addresses).expect("a client"));
        }
    }

    /// Writes the Service's frontends, changed by `change`.
    fn serve(&self, change: impl Fn(&mut Frontend)) {
        let frontends = self.map(maps::FRONTENDS);
        for (at, set) in [(V4, SET), (V6, SET + 1)] {
            let at: SocketAddr = at.parse().expect("an address");
            for protocol in [TCP, UDP] {
                let key = FrontendKey {
                    address: Address::from(at.ip()),
                    port: at.port().to_be(),
                    protocol,
                    pad: 0,
                };
                let mut frontend = Frontend {
                    service: u32::from(protocol) + 100 * set,
                    inside: set,
                    outside: set,
                    ..Frontend::default()
                };
                change(&mut frontend);
                frontends.insert(&key, &frontend).expect("a frontend");
            }
        }
    }

    /// Leaves the Service no backend.
    fn empty(&self) {
        let sets: Map<u32, Set> = self.map(maps::SETS);
        for set in [SET, SET + 1] {
            sets.insert(&set, &Set::default()).expect("a set");
        }
    }

    fn node(&self) -> Node {
        let root = self.world.bpffs.root();
        let node = Node::open(&root, kinds()[0]).expect("open");
        node.with_cgroup(Some(self.cgroup.path().to_owned()))
    }

    fn desired(&self) -> Tables {
        Tables {
            sockets: Some(self.cgroup.path().to_owned()),
            ..Tables::default()
        }
    }

    fn attach(&self) {
        self.world
            .node
            .enter(|| reach(&mut self.node(), &self.desired()));
    }

    fn in_pod(&self) -> Process {
        Process::start(&self.client.ns, self.cgroup.path())
    }

    fn on_node(&self) -> Process {
        Process::start(&self.world.node, self.cgroup.path())
    }

    fn sockets(&self) -> Vec<(SocketKey, SocketService)> {
        self.map(maps::SOCKETS).entries().expect("read the sockets")
    }

    /// The backends' addresses of a family.
    fn all(&self, v4: bool) -> BTreeSet<IpAddr> {
        let family = usize::from(!v4);
        self.backends
            .iter()
            .map(|pod| pod.addresses[family])
            .collect()
    }
}

/// Brings the node there, and holds that nothing is left to do.
fn reach(node: &mut Node, tables: &Tables) {
    let observed = node.observe().expect("observe");
    let applied = node.apply(&observed, tables);
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    let observed = node.observe().expect("observe");
    assert_eq!((&observed.tables, &observed.strays), (tables, &Vec::new()));
    assert!(observed.unpinned.is_empty(), "{:?}", observed.unpinned);
}

fn ip(of: &str) -> IpAddr {
    of.parse::<SocketAddr>().expect("an address").ip()
}

#[test]
fn a_process_in_a_pod_and_one_of_the_node_reach_every_backend_and_see_the_service() {
    let stage = Stage::new();
    for (process, who) in [(stage.in_pod(), "pod"), (stage.on_node(), "node")] {
        for command in ["tcp", "udp", "send"] {
            for (service, v4) in [(V4, true), (V6, false)] {
                let mut met = BTreeSet::new();
                for _ in 0..200 {
                    let answer = process.ask(&format!("{command} {service}"));
                    let (peer, said) = answer.split_once(' ').unwrap_or_else(|| {
                        panic!("{who}: {command} {service}: {answer}");
                    });
                    assert_eq!(peer, service, "{who}: {command}");
                    met.insert(ip(said));
                    assert_eq!(said.parse::<SocketAddr>().expect(said).port(), 8080);
                    if met.len() == 3 {
                        break;
                    }
                }
                assert_eq!(met, stage.all(v4), "{who}: {command} {service}");
            }
        }
    }
}

#[test]
fn a_socket_of_ipv6_reaches_an_ipv4_service_by_its_mapped_address() {
    let stage = Stage::new();
    let process = stage.in_pod();
    let mapped = "[::ffff:10.96.0.1]:80";
    for command in ["tcp", "udp", "send"] {
        let answer = process.ask(&format!("{command} {mapped}"));
        let (peer, said) = answer.split_once(' ').expect(&answer);
        assert_eq!(peer, mapped, "{command}");
        assert!(stage.all(true).contains(&ip(said)), "{command}: {said}");
    }
}

#[test]
fn what_is_no_services_goes_where_it_was_sent() {
    let stage = Stage::new();
    let process = stage.in_pod();
    let straight = format!("{}:8080", stage.backends[0].addresses[0]);
    for command in ["tcp", "udp", "send"] {
        let answer = process.ask(&format!("{command} {straight}"));
        assert_eq!(answer, format!("{straight} {straight}"));
    }
    assert!(process.ask("tcp 10.96.0.1:81").starts_with("error"));
    assert!(process.ask("tcp 10.96.0.2:80").starts_with("error"));
    assert_eq!(stage.sockets(), []);
}

#[test]
fn an_unconnected_socket_stays_with_its_backend() {
    let stage = Stage::new();
    let process = stage.in_pod();
    let first = process.ask(&format!("open-send {V4}"));
    for _ in 0..30 {
        assert_eq!(process.ask(&format!("open-send {V4}")), first);
    }
    let entries = stage.sockets();
    assert_eq!(entries.len(), 1, "{entries:?}");
    // Its backend takes no more, and the agent has ended it.
    let (key, _) = entries[0];
    stage
        .map::<SocketKey, SocketService>(maps::SOCKETS)
        .remove(&key)
        .expect("remove");
    let mut met = BTreeSet::new();
    wait_until(PATIENCE, "another backend", || {
        met.insert(process.ask(&format!("open-send {V4}")));
        for (key, _) in stage.sockets() {
            stage
                .map::<SocketKey, SocketService>(maps::SOCKETS)
                .remove(&key)
                .expect("remove");
        }
        met.len() == 3
    });
}

#[test]
fn closed_sockets_leave_nothing_and_a_failed_connection_neither() {
    let stage = Stage::new();
    let process = stage.in_pod();
    process.ask(&format!("open-tcp {V4}"));
    process.ask(&format!("open-udp {V6}"));
    process.ask(&format!("open-send {V4}"));
    process.ask(&format!("open-send {V6}"));
    let entries = stage.sockets();
    assert_eq!(entries.len(), 4, "{entries:?}");
    for (_, entry) in &entries {
        let service = IpAddr::from(entry.address);
        assert!([ip(V4), ip(V6)].contains(&service), "{entry:?}");
        assert_eq!(u16::from_be(entry.port), 80);
    }
    process.ask("close");
    wait_until(PATIENCE, "no entry", || stage.sockets().is_empty());
    // Nobody listens at the backends' other port.
    let backends: Map<u32, Backend> = stage.map(maps::BACKENDS);
    for (number, mut backend) in backends.entries().expect("read the backends") {
        if backend.port != 0 {
            backend.port = 8081_u16.to_be();
            backends.insert(&number, &backend).expect("a backend");
        }
    }
    for _ in 0..10 {
        let answer = process.ask(&format!("tcp {V4}"));
        assert_eq!(answer, format!("error {}", libc::ECONNREFUSED));
    }
    wait_until(PATIENCE, "no entry", || stage.sockets().is_empty());
}

#[test]
fn a_client_with_affinity_stays_and_is_known_by_its_address() {
    let stage = Stage::new();
    stage.serve(|frontend| frontend.affinity = 3600);
    for (process, client) in [
        (stage.in_pod(), stage.client.addresses[0]),
        (stage.on_node(), "10.9.0.250".parse().expect("an address")),
    ] {
        let first = process.ask(&format!("tcp {V4}"));
        for _ in 0..20 {
            assert_eq!(process.ask(&format!("tcp {V4}")), first);
        }
        let key = AffinityKey {
            client: Address::from(client),
            service: u32::from(TCP) + 100 * SET,
        };
        let affinities: Map<AffinityKey, Affinity> = stage.map(maps::AFFINITIES);
        let affinity = affinities.get(&key).expect("read").expect("an affinity");
        let backends: Map<u32, Backend> = stage.map(maps::BACKENDS);
        let backend = backends.get(&affinity.backend).expect("read").expect("it");
        assert!(first.ends_with(&format!("{}:8080", IpAddr::from(backend.address))));
    }
}

#[test]
fn without_an_endpoint_the_nodes_process_is_refused() {
    let stage = Stage::new();
    stage.empty();
    let refused = format!("error {}", libc::ECONNREFUSED);
    let process = stage.on_node();
    for command in ["tcp", "udp", "send"] {
        for service in [V4, V6] {
            assert_eq!(process.ask(&format!("{command} {service}")), refused);
        }
    }
    stage.serve(|frontend| frontend.flags = frontend_flags::INSIDE_DROPS);
    let unreachable = format!("error {}", libc::EHOSTUNREACH);
    assert_eq!(process.ask(&format!("tcp {V4}")), unreachable);
    assert_eq!(stage.sockets(), []);
}

#[test]
fn connections_spread_over_the_backends_and_those_of_most_get_no_more() {
    let stage = Stage::new();
    let process = stage.in_pod();
    let spread = |process: &Process| {
        let answer = process.ask(&format!("many 1000 {V4}"));
        let counts: Vec<u32> = answer
            .split(' ')
            .map(|count| count.parse().unwrap_or_else(|_| panic!("{answer}")))
            .collect();
        assert_eq!(counts.iter().sum::<u32>(), 1000, "{answer}");
        counts
    };
    let counts = spread(&process);
    assert_eq!(counts.len(), 3);
    assert!(counts.iter().all(|count| *count > 233), "{counts:?}");
    stage.serve(|frontend| frontend.flags = frontend_flags::LEAST_CONNECTIONS);
    let loads: Map<u32, u64> = stage.map(maps::BACKEND_LOADS);
    let busy = SET * 16;
    loads.insert(&busy, &100_000).expect("a load");
    let mut counts = spread(&process);
    counts.sort_unstable();
    assert!((50..200).contains(&counts[0]), "a ninth: {counts:?}");
    // All were closed.
    wait_until(PATIENCE, "no load", || {
        [1, 2]
            .iter()
            .all(|other| loads.get(&(busy + other)).expect("read") == Some(0))
    });
    assert_eq!(loads.get(&busy).expect("read"), Some(100_000));
}

#[test]
fn an_upgrade_loses_no_connection() {
    let stage = Stage::new();
    let object = changed_object();
    let stop = AtomicBool::new(false);
    let (rounds, upgrades) = std::thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            let process = stage.in_pod();
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                for service in [V4, V6] {
                    let answer = process.ask(&format!("many 100 {service}"));
                    assert!(!answer.contains("error"), "{answer}");
                    let answer = process.ask(&format!("send {service}"));
                    assert!(answer.starts_with(service), "{answer}");
                }
                rounds += 1;
            }
            rounds
        });
        let mut upgrades = 0;
        for round in 0..4 {
            let image = if round % 2 == 0 {
                changed(&object)
            } else {
                watari_bpf::Image::own()
            };
            let options = stage.world.options(kinds()[0]);
            let loaded = stage
                .world
                .node
                .enter(|| load_image(&options, image).expect("load"));
            upgrades += loaded.swapped;
        }
        stop.store(true, Ordering::Relaxed);
        (connecting.join().expect("no connection is lost"), upgrades)
    });
    assert!(rounds > 0);
    assert_eq!(upgrades, 4 * SocketHook::ALL.len());
    stage.world.node.enter(|| {
        let observed = stage.node().observe().expect("observe");
        assert_eq!(
            (observed.tables, observed.strays),
            (stage.desired(), Vec::new())
        );
    });
}

#[test]
fn an_upgrade_to_another_layout_takes_the_sockets_along() {
    let stage = Stage::new();
    let process = stage.in_pod();
    let first = process.ask(&format!("open-send {V4}"));
    let mut options = stage.world.options(kinds()[0]);
    options.transient = Some(1000);
    let loaded = stage.world.node.enter(|| load(&options).expect("load"));
    assert_eq!(loaded.replaced.len(), 1, "{loaded:?}");
    assert_eq!(loaded.lost, Vec::<String>::new());
    assert_eq!(process.ask(&format!("open-send {V4}")), first);
    stage.world.node.enter(|| {
        let observed = stage.node().observe().expect("observe");
        assert_eq!(
            (observed.tables, observed.strays),
            (stage.desired(), Vec::new())
        );
    });
}

#[test]
fn what_somebody_detaches_is_attached_again_and_another_cgroup_is_moved_to() {
    let stage = Stage::new();
    let dir = PinDir::current(&stage.world.bpffs.root());
    stage.world.node.enter(|| {
        let mut node = stage.node();
        std::fs::remove_file(dir.socket_link(SocketHook::Connect4)).expect("unpin");
        let observed = node.observe().expect("observe");
        assert_eq!(observed.tables.sockets, None);
        assert!(
            matches!(&observed.strays[..], [Stray::Sockets(why)] if why.contains("connect4")),
            "{:?}",
            observed.strays
        );
        reach(&mut node, &stage.desired());
    });
    assert!(stage.in_pod().ask(&format!("tcp {V4}")).starts_with(V4));
    let other = Cgroup::new();
    let there = Tables {
        sockets: Some(other.path().to_owned()),
        ..Tables::default()
    };
    stage.world.node.enter(|| {
        let mut node = stage.node().with_cgroup(Some(other.path().to_owned()));
        reach(&mut node, &there);
    });
    assert!(
        stage
            .in_pod()
            .ask(&format!("tcp {V4}"))
            .starts_with("error")
    );
    let process = Process::start(&stage.client.ns, other.path());
    assert!(process.ask(&format!("tcp {V4}")).starts_with(V4));
    stage.world.node.enter(|| {
        let mut node = stage.node().with_cgroup(None);
        let observed = node.observe().expect("observe");
        assert!(matches!(&observed.strays[..], [Stray::Sockets(_)]));
        reach(&mut node, &Tables::default());
    });
    assert!(process.ask(&format!("tcp {V4}")).starts_with("error"));
}

#[test]
fn removal_takes_the_programs_off() {
    let stage = Stage::new();
    let root = stage.world.bpffs.root();
    stage
        .world
        .node
        .enter(|| watari_bpf::remove(&root).expect("remove"));
    assert!(!root.exists());
    assert!(
        stage
            .in_pod()
            .ask(&format!("tcp {V4}"))
            .starts_with("error")
    );
}

#[test]
fn a_pod_that_is_taken_out_is_no_client_any_more() {
    let stage = Stage::new();
    let root = stage.world.bpffs.root();
    let pod = &stage.backends[0];
    let cookie = pod
        .ns
        .enter(watari_bpf::netns_cookie)
        .expect("ask")
        .expect("a cookie");
    stage.world.node.enter(|| {
        let mut hooks = PodHooks::open(&root).expect("open").expect("a datapath");
        hooks.set_client(cookie, &pod.addresses).expect("a client");
        let clients = Clients::open(&root).expect("open");
        let known = clients.get(cookie).expect("read").expect("it is known");
        assert_eq!(known.v4, Address::from(pod.addresses[0]));
        hooks.remove(&pod.link, &pod.addresses).expect("remove");
        assert_eq!(clients.get(cookie).expect("read"), None);
    });
}

/// Not a limit: what the programs cost, for who reads the output.
#[test]
fn what_a_connect_costs() {
    let stage = Stage::new();
    let process = stage.in_pod();
    let straight = format!("{}:8080", stage.backends[0].addresses[0]);
    let outside = Process::start(&stage.client.ns, Path::new("/"));
    let mut nanos = BTreeMap::new();
    for (what, times) in [
        ("time-again", 20_000),
        ("time-new", 5_000),
        ("time-tcp", 500),
    ] {
        for (name, process, to) in [
            ("without the programs", &outside, straight.as_str()),
            ("no Service's address", &process, straight.as_str()),
            ("a Service's", &process, V4),
        ] {
            let answer = process.ask(&format!("{what} {times} {to}"));
            let each: u64 = answer.parse().unwrap_or_else(|_| panic!("{answer}"));
            println!("{what}, {name}: {each} ns");
            nanos.insert((what, name), each);
        }
    }
    for hook in SocketHook::ALL {
        let dir = PinDir::current(&stage.world.bpffs.root());
        let program = ProgramFd::open(&dir.socket_program(*hook)).expect("open");
        let info = program.info().expect("look at it");
        println!(
            "{}: {} instructions verified, {} bytes",
            hook.program(),
            info.verified_instructions,
            info.translated_length
        );
    }
    assert!(nanos.values().all(|each| *each < 5_000_000), "{nanos:?}");
}
