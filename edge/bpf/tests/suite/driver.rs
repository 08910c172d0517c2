//! The program at an uplink's driver: the same bytes and entries as the program at the link, and real
//! connections that no other program sees.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use watari_abi::{
    Backend, Config, Connection, ConnectionKey, Counter, Frontend, FrontendKey, Hook, PrefixKey,
    Remote, Set, Tally, backend_flags, config_flags, maps,
};
use watari_bpf::sys::{DriverLink, DriverMode, Pinned, ProgramFd, TestInput, load_driver_program};
use watari_bpf::{Drivers, LoadOptions, Map, PerCpuMap, PinDir, Plain, load, load_driver};
use watari_corpus::{Body, Entry, Packet, Part};
use watari_datapath::Table;
use watari_model::IfName;
use watari_testkit::Netns;

use crate::world::{World, words};

/// Instructions that the verifier may look at.
const MOST_VERIFIED: u32 = 150_000;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;
const PATIENCE: Duration = Duration::from_secs(20);
/// `XDP_PASS` and `XDP_TX` of `linux/bpf.h`; `TC_ACT_REDIRECT` of `linux/pkt_cls.h`.
const PASS: i32 = 2;
const TX: i32 = 3;
const REDIRECT: i32 = 7;
/// `mov r0, XDP_PASS; exit`.
const PASSES: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

const NODE: [&str; 2] = ["10.0.0.1", "fd00:1::1"];
const OTHER: [&str; 2] = ["10.0.0.2", "fd00:1::2"];
const OUTSIDE: [&str; 2] = ["10.0.0.3", "fd00:1::3"];
const BACKEND: [&str; 2] = ["10.9.1.5", "fd00:9:1::5"];
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 3, 1];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 3, 2];
const OUTSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 3, 3];
const NODE_PORT: u16 = 30_080;
const CLIENT_PORT: u16 = 40_000;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// What has no MAC yet is the stack's.
fn know_neighbours(world: &World) {
    for (addresses, mac) in [(OTHER, OTHER_MAC), (OUTSIDE, OUTSIDE_MAC)] {
        for address in addresses {
            let line = format!("ip neigh add {address} lladdr {} dev up0", text(mac));
            world.node.run(&words(&line));
        }
    }
}

/// A node, another one that has the backend, and somebody outside, on one wire.
struct Stage {
    world: World,
    fabric: Netns,
    other: Netns,
    outside: Netns,
    uplink: u32,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        let (fabric, other, outside) = (
            Netns::new("fabric"),
            Netns::new("other"),
            Netns::new("outside"),
        );
        fabric.run(&words("ip link add br0 type bridge"));
        fabric.run(&words("ip link set br0 up"));
        let ends = [
            (&world.node, "up0", NODE_MAC, NODE),
            (&other, "eth0", OTHER_MAC, OTHER),
            (&outside, "eth0", OUTSIDE_MAC, OUTSIDE),
        ];
        for (number, (ns, dev, mac, addresses)) in (1..).zip(ends) {
            let mac = text(mac);
            let path = ns.path().to_str().expect("a path");
            for line in [
                format!(
                    "ip link add p{number} type veth peer name {dev} address {mac} netns {path}"
                ),
                format!("ip link set p{number} master br0 up"),
            ] {
                fabric.run(&words(&line));
            }
            let [v4, v6] = addresses;
            for line in [
                format!("ip link set {dev} up"),
                format!("ip addr add {v4}/24 dev {dev}"),
                format!("ip addr add {v6}/64 dev {dev} nodad"),
            ] {
                ns.run(&words(&line));
            }
        }
        for address in BACKEND {
            other.run(&words("ip link set lo up"));
            let length = if address.contains(':') { 128 } else { 32 };
            other.run(&words(&format!("ip addr add {address}/{length} dev lo")));
        }
        know_neighbours(&world);
        let root = world.bpffs.root();
        let name = IfName::new("up0").expect("a name");
        let uplink = world.node.enter(|| {
            let options = LoadOptions::at(&root);
            load(&options).expect("load");
            load_driver(&options).expect("load the driver's");
            watari_bpf::links::index_of(&name).expect("an index")
        });
        let stage = Self {
            world,
            fabric,
            other,
            outside,
            uplink,
        };
        stage.fill();
        stage
    }

    fn dir(&self) -> PinDir {
        PinDir::current(&self.world.bpffs.root())
    }

    fn map<K: Plain, V: Plain>(&self, name: &str) -> Map<K, V> {
        Map::open(&self.dir().map(name)).expect("open a map")
    }

    fn fill(&self) {
        for (number, at) in [(1_u32, 0), (2, 1)] {
            let backend = Backend {
                address: ip(BACKEND[at]).into(),
                port: 8080_u16.to_be(),
                flags: backend_flags::READY,
            };
            let set = Set {
                base: number,
                count: 1,
            };
            self.map(maps::BACKENDS)
                .insert(&number, &backend)
                .expect("insert");
            self.map(maps::SLOTS)
                .insert(&number, &number)
                .expect("insert");
            self.map(maps::SETS).insert(&number, &set).expect("insert");
            for protocol in [TCP, UDP] {
                let key = FrontendKey {
                    address: ip(NODE[at]).into(),
                    port: NODE_PORT.to_be(),
                    protocol,
                    pad: 0,
                };
                let frontend = Frontend {
                    service: number,
                    inside: number,
                    outside: number,
                    ..Frontend::default()
                };
                self.map(maps::FRONTENDS)
                    .insert(&key, &frontend)
                    .expect("insert");
            }
            let remote = Remote {
                next_hop: ip(OTHER[at]).into(),
                ..Remote::default()
            };
            let key = PrefixKey {
                length: 128,
                address: ip(BACKEND[at]).into(),
            };
            self.map(maps::REMOTES)
                .insert(&key, &remote)
                .expect("insert");
        }
        let config = Config {
            flags: config_flags::SERVICES,
            v4: ip(NODE[0]).into(),
            v6: ip(NODE[1]).into(),
            first_port: 61_000,
            last_port: u16::MAX,
            ..Config::default()
        };
        self.map(maps::CONFIG)
            .insert(&0_u32, &config)
            .expect("insert");
    }

    fn counter(&self, counter: Counter) -> Tally {
        let map = PerCpuMap::<u32>::open(&self.dir().map(maps::COUNTERS)).expect("open");
        map.sum(&(counter as u32)).expect("read")
    }

    /// One run of a program: its verdict and what it made of the frame.
    fn run(&self, at_driver: bool, frame: &[u8]) -> (i32, Vec<u8>) {
        let dir = self.dir();
        let (path, mut context) = if at_driver {
            (dir.driver_program(), vec![0; 24])
        } else {
            (dir.program(Hook::FromUplink), vec![0; 192])
        };
        if at_driver {
            let length = u32::try_from(frame.len()).expect("a short frame");
            context[4..8].copy_from_slice(&length.to_ne_bytes());
            context[12..16].copy_from_slice(&self.uplink.to_ne_bytes());
        } else {
            context[40..44].copy_from_slice(&self.uplink.to_ne_bytes());
        }
        let input = TestInput {
            packet: frame,
            context: &context,
            repeat: 1,
        };
        self.world.node.enter(|| {
            let program = ProgramFd::open(&path).expect("open a program");
            let output = program.test_run(&input).expect("run a program");
            (output.verdict, output.packet)
        })
    }

    fn entries(&self) -> Vec<(ConnectionKey, Entry)> {
        let mut all = Vec::new();
        for (table, name) in [
            (Table::Established, maps::ESTABLISHED),
            (Table::Transient, maps::TRANSIENT),
        ] {
            let map = self.map::<ConnectionKey, Connection>(name);
            let entries = map.entries().expect("read").into_iter();
            all.extend(entries.map(|(key, value)| (key, Entry::of(table, &value))));
        }
        all.sort_by_key(|(key, _)| *key);
        all
    }

    fn forget(&self) {
        for name in [maps::ESTABLISHED, maps::TRANSIENT] {
            let map = self.map::<ConnectionKey, Connection>(name);
            let keys: Vec<_> = map
                .entries()
                .expect("read")
                .into_iter()
                .map(|(key, _)| key)
                .collect();
            map.remove_all(&keys).expect("remove");
        }
    }

    fn counters(&self) -> Vec<u64> {
        let of = |counter: &Counter| self.counter(*counter).packets;
        Counter::ALL.iter().map(of).collect()
    }
}

fn text(mac: [u8; 6]) -> String {
    watari_model::MacAddr(mac).to_string()
}

fn body(protocol: u8, source: u16, destination: u16, flags: u8) -> Body {
    if protocol == TCP {
        Body::Tcp {
            source,
            destination,
            flags,
        }
    } else {
        Body::Udp {
            source,
            destination,
            checksum: true,
        }
    }
}

fn from_client(at: usize, protocol: u8, flags: u8) -> Packet {
    let body = body(protocol, CLIENT_PORT, NODE_PORT, flags);
    Packet::new(ip(OUTSIDE[at]), ip(NODE[at]), body)
        .macs(OUTSIDE_MAC, NODE_MAC)
        .carrying("a question")
}

fn from_backend(at: usize, protocol: u8, flags: u8, port: u16) -> Packet {
    Packet::new(
        ip(BACKEND[at]),
        ip(NODE[at]),
        body(protocol, 8080, port, flags),
    )
    .macs(OTHER_MAC, NODE_MAC)
    .carrying("an answer")
}

type Shown = (Vec<Vec<u8>>, Vec<(ConnectionKey, Entry)>, Vec<u64>);

/// A whole connection, each packet at the place that `at_driver` says.
fn talk(stage: &Stage, family: usize, protocol: u8, at_driver: impl Fn(usize) -> bool) -> Shown {
    stage.forget();
    let before = stage.counters();
    let offset = if family == 0 { 34 } else { 54 };
    let mut port = 0;
    let mut frames = Vec::new();
    let steps = [
        (true, SYN),
        (false, SYN | ACK),
        (true, ACK),
        (false, ACK),
        (true, ACK),
        (true, FIN | ACK),
        (false, FIN | ACK),
        (true, ACK),
    ];
    for (number, (asks, flags)) in steps.into_iter().enumerate() {
        let packet = if asks {
            from_client(family, protocol, flags)
        } else {
            from_backend(family, protocol, flags, port)
        };
        let driver = at_driver(number);
        let (verdict, mut bytes) = stage.run(driver, &packet.bytes());
        assert_eq!(
            verdict,
            if driver { TX } else { REDIRECT },
            "packet {number}, {family}, {protocol}"
        );
        if driver {
            let to = if asks { OTHER_MAC } else { OUTSIDE_MAC };
            assert_eq!(bytes[..12], [to, NODE_MAC].concat(), "packet {number}");
        }
        if number == 0 {
            port = u16::from_be_bytes([bytes[offset], bytes[offset + 1]]);
        }
        // At a link the kernel writes the MACs later.
        bytes.drain(..12);
        frames.push(bytes);
    }
    let counted = stage
        .counters()
        .into_iter()
        .zip(before)
        .map(|(now, then)| now - then);
    (frames, stage.entries(), counted.collect())
}

#[test]
fn the_driver_does_to_a_packet_what_the_link_does() {
    let stage = Stage::new();
    for family in [0, 1] {
        for protocol in [TCP, UDP] {
            let at_link = talk(&stage, family, protocol, |_| false);
            assert!(at_link.1.len() >= 2, "{:?}", at_link.1);
            let mixes: [&dyn Fn(usize) -> bool; 3] =
                [&|_| true, &|number| number % 2 == 0, &|number| {
                    number % 3 == 1
                }];
            for (mix, at_driver) in mixes.into_iter().enumerate() {
                let seen = talk(&stage, family, protocol, at_driver);
                assert_eq!(
                    seen, at_link,
                    "mix {mix} of family {family}, protocol {protocol}"
                );
            }
        }
    }
}

/// Loaded apart from the others, so counted apart.
#[test]
fn the_kernel_verifies_the_driver_s_program_in_a_moment() {
    let stage = Stage::new();
    let program = ProgramFd::open(&stage.dir().driver_program()).expect("open");
    let count = program.info().expect("ask").verified_instructions;
    println!("xdp_uplink: {count} instructions verified");
    assert!(count < MOST_VERIFIED, "{count} instructions are verified");
}

#[test]
fn the_driver_leaves_all_else_as_it_is() {
    let stage = Stage::new();
    let client = |protocol| from_client(0, protocol, SYN);
    let mut away = client(TCP);
    away.destination_mac = [2, 0, 0, 0, 3, 9];
    let nobodys =
        Packet::new(ip(OUTSIDE[0]), ip(NODE[0]), body(TCP, 1, 22, SYN)).macs(OUTSIDE_MAC, NODE_MAC);
    let reply = from_backend(0, TCP, SYN | ACK, 62_000);
    let mid_stream = from_client(0, TCP, ACK);
    let part = client(UDP).fragment(Part {
        id: 7,
        offset: 0,
        more: true,
    });
    let echo = Packet::new(
        ip(OUTSIDE[1]),
        ip(NODE[1]),
        Body::Echo {
            request: true,
            id: 1,
        },
    )
    .macs(OUTSIDE_MAC, NODE_MAC);
    let mut optional = client(TCP);
    optional.options = vec![1, 1, 1, 0];
    let packets = [
        ("its last hop", client(TCP).hops(1)),
        ("another MAC", away),
        ("no Service", nobodys),
        ("no connection", reply),
        ("no beginning", mid_stream),
        ("a fragment", part),
        ("an echo", echo),
        ("options", optional),
    ];
    for (what, packet) in packets {
        let frame = packet.bytes();
        let before = stage.counters();
        assert_eq!(stage.run(true, &frame), (PASS, frame.clone()), "{what}");
        assert_eq!(
            (stage.entries(), stage.counters()),
            (vec![], before),
            "{what}"
        );
    }
    // Nor what has no neighbour yet.
    stage
        .world
        .node
        .run(&words(&format!("ip neigh del {} dev up0", OTHER[0])));
    let frame = client(TCP).bytes();
    assert_eq!(stage.run(true, &frame), (PASS, frame.clone()));
    assert_eq!(stage.entries(), vec![]);
}

/// Lets who sends by that link compute checksums by itself, as a wire would carry them: a veth with a
/// program at its driver does not.
fn computes_checksums(ns: &Netns, link: &str) {
    // ETHTOOL_STXCSUM, and the request SIOCETHTOOL.
    let script = format!(
        "import array,fcntl,socket,struct\n\
         s=socket.socket()\n\
         d=array.array('B',struct.pack('II',0x17,0))\n\
         fcntl.ioctl(s,0x8946,struct.pack('16sP',b'{link}',d.buffer_info()[0]))"
    );
    ns.run(&["python3", "-c", &script]);
}

#[test]
fn connections_from_outside_never_leave_the_driver() {
    let stage = Stage::new();
    let up0 = IfName::new("up0").expect("a name");
    for ns in [&stage.other, &stage.outside] {
        computes_checksums(ns, "eth0");
    }
    // A veth takes from a driver only what a driver takes there.
    let _passes = stage.fabric.enter(|| {
        let port = IfName::new("p1").expect("a name");
        let program = load_driver_program("passes", &PASSES).expect("load");
        let index = watari_bpf::links::index_of(&port).expect("an index");
        DriverLink::create(&program, index, DriverMode::Native).expect("attach")
    });
    let drivers = Drivers::new(stage.dir());
    stage.world.node.enter(|| {
        drivers
            .attach(&up0, stage.uplink, DriverMode::Native)
            .expect("attach");
        // Again, as after an upgrade.
        load_driver(&LoadOptions::at(&stage.world.bpffs.root())).expect("load");
        drivers
            .attach(&up0, stage.uplink, DriverMode::Native)
            .expect("attach");
    });
    let list = drivers.list().expect("list");
    assert_eq!(
        (list.len(), &list[0].0[..], list[0].1),
        (1, "up0", stage.uplink)
    );
    for at in [0, 1] {
        let server = SocketAddr::new(ip(BACKEND[at]), 8080);
        let listener = stage
            .other
            .enter(|| TcpListener::bind(server).expect("listen"));
        let answering = std::thread::spawn(move || {
            for _ in 0..20 {
                let (mut stream, from) = listener.accept().expect("accept");
                stream
                    .write_all(from.ip().to_string().as_bytes())
                    .expect("write");
            }
        });
        let before = stage.counter(Counter::Forwarded).packets;
        for _ in 0..20 {
            let frontend = SocketAddr::new(ip(NODE[at]), NODE_PORT);
            let heard = stage.outside.enter(|| {
                let mut stream = TcpStream::connect_timeout(&frontend, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                let mut heard = String::new();
                stream.read_to_string(&mut heard)?;
                std::io::Result::Ok(heard)
            });
            // The source is the node's, so that the answer comes back to it.
            assert_eq!(heard.expect("an answer"), NODE[at]);
        }
        answering.join().expect("the server");
        let forwarded = stage.counter(Counter::Forwarded).packets - before;
        assert!(forwarded >= 20 * 7, "{forwarded} packets");
    }
    // Nobody else has seen them: no program is at the link.
    assert_eq!(stage.counter(Counter::ToStack).packets, 0);
    drivers.detach(&up0).expect("detach");
    assert_eq!(drivers.list().expect("list"), vec![]);
}
