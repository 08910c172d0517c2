//! The corpus of the desk, through the programs as the kernel has compiled them: the same
//! verdict, the same bytes, the same entries.

use std::fmt::Debug;
use std::io::ErrorKind;

use nix::time::{ClockId, clock_gettime};
use watari_abi::{
    Address, Config, Connection, ConnectionKey, Endpoint, FragmentKey, FragmentPorts, Hook, Link,
    PrefixKey, Remote, StackPort, maps,
};
use watari_bpf::sys::{Pinned, ProgramFd, TestInput};
use watari_bpf::{LoadOptions, Map, PinDir, Plain, load};
use watari_corpus::{Case, Entry, Place, Shot, cases};
use watari_datapath::{Route, Table, Verdict};
use watari_model::{IfName, MacAddr};

use crate::world::{World, words};

/// `TC_ACT_SHOT`, `TC_ACT_REDIRECT` and `TC_ACT_UNSPEC` of `linux/pkt_cls.h`.
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;
const NEXT: i32 = -1;

/// Where `ifindex` is in `struct __sk_buff`, and how many bytes of that are given.
const IFINDEX: usize = 40;
const CONTEXT: usize = 192;

struct Kernel {
    dir: PinDir,
    endpoints: Map<Address, Endpoint>,
    links: Map<u32, Link>,
    remotes: Map<PrefixKey, Remote>,
    established: Map<ConnectionKey, Connection>,
    transient: Map<ConnectionKey, Connection>,
    fragments: Map<FragmentKey, FragmentPorts>,
    stack_ports: Map<StackPort, u64>,
    config: Map<u32, Config>,
}

fn set<K: Plain, V: Plain>(map: &Map<K, V>, entries: &[(K, V)]) {
    let keys: Vec<K> = map
        .entries()
        .expect("read")
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    map.remove_all(&keys).expect("remove");
    map.insert_all(entries).expect("insert");
}

impl Kernel {
    fn open(dir: PinDir) -> Self {
        Self {
            endpoints: Map::open(&dir.map(maps::ENDPOINTS)).expect("open"),
            links: Map::open(&dir.map(maps::LINKS)).expect("open"),
            remotes: Map::open(&dir.map(maps::REMOTES)).expect("open"),
            established: Map::open(&dir.map(maps::ESTABLISHED)).expect("open"),
            transient: Map::open(&dir.map(maps::TRANSIENT)).expect("open"),
            fragments: Map::open(&dir.map(maps::FRAGMENTS)).expect("open"),
            stack_ports: Map::open(&dir.map(maps::STACK_PORTS)).expect("open"),
            config: Map::open(&dir.map(maps::CONFIG)).expect("open"),
            dir,
        }
    }

    /// The tables as a case begins.
    fn begin(&self, world: &watari_corpus::World) {
        set(&self.endpoints, &world.endpoints);
        set(&self.links, &world.links);
        set(&self.remotes, &world.remotes);
        set(&self.fragments, &[]);
        set(&self.stack_ports, &world.stack_ports);
        self.config.insert(&0, &world.config).expect("insert");
        let of = |wanted: Table| -> Vec<(ConnectionKey, Connection)> {
            let those = world.connections.iter();
            those
                .filter(|(table, ..)| *table == wanted)
                .map(|(_, key, connection)| (*key, *connection))
                .collect()
        };
        set(&self.established, &of(Table::Established));
        set(&self.transient, &of(Table::Transient));
    }

    fn entry(&self, key: &ConnectionKey) -> Option<Entry> {
        [
            (Table::Established, &self.established),
            (Table::Transient, &self.transient),
        ]
        .into_iter()
        .find_map(|(table, map)| {
            let connection = map.get(key).expect("look up")?;
            Some(Entry::of(table, &connection))
        })
    }

    /// What is otherwise than the shot says.
    fn fire(&self, shot: &Shot) -> Result<(), String> {
        let program = ProgramFd::open(&self.dir.program(shot.hook)).expect("open a program");
        let mut context = [0; CONTEXT];
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&shot.input.ifindex.to_ne_bytes());
        let input = TestInput {
            packet: &shot.input.bytes,
            context: &context,
            repeat: 1,
        };
        let output = match program.test_run(&input) {
            // Newer kernels run nothing over less than an IP header.
            Err(error) if error.kind() == ErrorKind::InvalidInput && is_cut(&shot.input.bytes) => {
                return Ok(());
            }
            other => other.map_err(|error| format!("cannot run: {error}"))?,
        };
        let verdict = match shot.verdict {
            Verdict::Stack | Verdict::Pass => NEXT,
            Verdict::Deliver { .. } | Verdict::Forward { .. } => REDIRECT,
            Verdict::Drop(_) => SHOT,
        };
        same("verdict", &output.verdict, &verdict)?;
        same("bytes", &output.packet, &shot.bytes)?;
        for (key, entry) in &shot.entries {
            same("connection", &self.entry(key), entry)?;
        }
        Ok(())
    }

    fn run(&self, case: &Case) -> Result<(), String> {
        self.begin(&case.world);
        for (number, shot) in case.shots.iter().enumerate() {
            self.fire(shot)
                .map_err(|why| format!("{}, packet {number}: {why}", case.name))?;
        }
        Ok(())
    }
}

/// Whether a frame ends within its IP header.
fn is_cut(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.len() < 14 + 20,
        Some([0x86, 0xdd]) => frame.len() < 14 + 40,
        _ => false,
    }
}

fn same<T: PartialEq + Debug>(what: &str, got: &T, want: &T) -> Result<(), String> {
    if got == want {
        Ok(())
    } else {
        Err(format!("{what}\n   got {got:02x?}\n  want {want:02x?}"))
    }
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the time");
    let (s, ns) = (
        time.tv_sec().cast_unsigned(),
        time.tv_nsec().cast_unsigned(),
    );
    s * 1_000_000_000 + ns
}

/// What every frame of the corpus is for: the MAC of both links.
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

/// A node whose uplink is not up, so that no route leads to the other node.
fn node() -> (World, Place) {
    let world = World::new();
    let mac = MacAddr(HOST_MAC);
    for line in [
        "ip link add up0 type veth peer name other".to_owned(),
        format!("ip link add link-a address {mac} type veth peer name pod-a"),
        format!("ip link add link-b address {mac} type veth peer name pod-b"),
    ] {
        world.node.run(&words(&line));
    }
    let index = |name: &str| {
        let name = IfName::new(name).expect("a name");
        let index = world.node.enter(|| watari_bpf::links::index_of(&name));
        index.expect("the index")
    };
    let place = Place {
        link_a: index("link-a"),
        link_b: index("link-b"),
        uplink: index("link-a"),
        host_mac: HOST_MAC,
        now: now(),
    };
    world
        .node
        .enter(|| load(&LoadOptions::at(&world.bpffs.root())).expect("load"));
    (world, place)
}

/// The routes that cases with a next hop need.
fn bring_up(world: &World) {
    for line in [
        "ip link set other up",
        "ip link set up0 up",
        "ip addr add 10.0.0.4/24 dev up0",
        "ip -6 addr add 2001:db8::aaaa:4/112 dev up0 nodad",
    ] {
        world.node.run(&words(line));
    }
}

/// The kernel has no such answer for a packet so small.
fn is_too_long(case: &Case) -> bool {
    let mut routes = case.world.routes.iter();
    routes.any(|(_, route)| matches!(route, Route::TooLong))
}

#[test]
fn the_kernel_decides_as_the_desk_does() {
    let (world, place) = node();
    let all = cases(&place);
    let (mut ran, mut wrong) = (0, Vec::new());
    for with_routes in [false, true] {
        if with_routes {
            bring_up(&world);
        }
        let chosen = all.iter().filter(|case| {
            !case.needs_desk() && !is_too_long(case) && case.needs_routes() == with_routes
        });
        world.node.enter(|| {
            let kernel = Kernel::open(PinDir::current(&world.bpffs.root()));
            for case in chosen {
                ran += 1;
                wrong.extend(kernel.run(case).err());
            }
        });
    }
    println!("{ran} of {} cases", all.len());
    assert!(
        wrong.is_empty(),
        "{} of {ran}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    // Those that need the desk are few.
    assert!(
        ran * 10 >= all.len() * 8,
        "{ran} of {} cases ran",
        all.len()
    );
}

/// A runner whose tables are wrong is noticed.
#[test]
fn a_case_fails_in_another_world() {
    let (world, place) = node();
    let mut noticed = 0;
    world.node.enter(|| {
        let kernel = Kernel::open(PinDir::current(&world.bpffs.root()));
        for mut case in cases(&place) {
            case.world.endpoints.clear();
            if !case.needs_desk() && case.shots.iter().any(|shot| shot.hook == Hook::FromPod) {
                noticed += usize::from(kernel.run(&case).is_err());
            }
        }
    });
    assert!(noticed > 40, "only {noticed} cases noticed");
}
