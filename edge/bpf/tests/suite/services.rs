//! Services per packet: processes that no program at their socket sees, real connections, and what
//! both ends see of them.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use watari_abi::{
    Address, Backend, Config, Frontend, FrontendKey, Set, SocketKey, SocketService, backend_flags,
    config_flags, flags, frontend_flags, maps, translation,
};
use watari_bpf::{Map, PinDir, Plain, PodHooks, load};
use watari_testkit::wait_until;

use crate::process::serve;
use crate::world::{Pod, World, kinds};

const TCP: u8 = 6;
const UDP: u8 = 17;
const PATIENCE: Duration = Duration::from_secs(20);
const SERVICES: [&str; 2] = ["10.96.0.1", "fd00:96::1"];

/// A node with a client, a backend, and a Service of it at port 80, TCP and UDP, of both families.
struct Stage {
    world: World,
    client: Pod,
    backend: Pod,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        let (client, backend) = (world.pod(1), world.pod(2));
        serve(&backend);
        world.node.enter(|| {
            load(&world.options(kinds()[0])).expect("load");
            let hooks = PodHooks::open(&world.bpffs.root());
            let mut hooks = hooks.expect("open").expect("a datapath");
            for pod in [&client, &backend] {
                hooks.add(&pod.as_link()).expect("attach");
            }
        });
        let stage = Self {
            world,
            client,
            backend,
        };
        stage.fill();
        stage
    }

    fn map<K: Plain, V: Plain>(&self, name: &str) -> Map<K, V> {
        let dir = PinDir::current(&self.world.bpffs.root());
        Map::open(&dir.map(name)).expect("open a map")
    }

    fn fill(&self) {
        let frontends = self.map::<FrontendKey, Frontend>(maps::FRONTENDS);
        for (number, service) in (1..).zip(SERVICES) {
            let backend = Backend {
                address: self.backend.addresses[number as usize - 1].into(),
                port: 8080_u16.to_be(),
                flags: backend_flags::READY,
            };
            let set = Set {
                base: number,
                count: 1,
            };
            self.map(maps::BACKENDS)
                .insert(&number, &backend)
                .expect("a backend");
            self.map(maps::SLOTS)
                .insert(&number, &number)
                .expect("a slot");
            self.map(maps::SETS).insert(&number, &set).expect("a set");
            let key = |port: u16, protocol| FrontendKey {
                address: address(service).into(),
                port: port.to_be(),
                protocol,
                pad: 0,
            };
            let frontend = Frontend {
                service: number,
                inside: number,
                ..Frontend::default()
            };
            let entry = Frontend {
                flags: frontend_flags::REFUSES_OTHERS,
                ..Frontend::default()
            };
            for (key, value) in [
                (key(80, TCP), frontend),
                (key(80, UDP), frontend),
                (key(0, 0), entry),
            ] {
                frontends.insert(&key, &value).expect("a frontend");
            }
        }
        let config = Config {
            flags: config_flags::SERVICES,
            v4: address("10.9.0.250").into(),
            v6: address("fd00:9::250").into(),
            first_port: 61_000,
            last_port: u16::MAX,
            ..Config::default()
        };
        self.map(maps::CONFIG)
            .insert(&0_u32, &config)
            .expect("the config");
    }
}

/// What a pod reads from the Service by TCP.
fn asks(pod: &Pod, service: &str) -> std::io::Result<String> {
    let at = SocketAddr::new(address(service), 80);
    pod.ns.enter(|| {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        assert_eq!(stream.peer_addr()?, at, "the socket knows the Service");
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn a_pod_reaches_a_backend_through_its_service() {
    let stage = Stage::new();
    for (service, backend) in SERVICES.iter().zip(&stage.backend.addresses) {
        let at = SocketAddr::new(*backend, 8080).to_string();
        assert_eq!(asks(&stage.client, service).expect("an answer"), at);
        // A pod that gets itself.
        assert_eq!(asks(&stage.backend, service).expect("an answer"), at);
        let answer = stage.client.ns.enter(|| {
            let any = if backend.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            let service = SocketAddr::new(address(service), 80);
            // In fragments, too.
            for size in [10, 4000] {
                socket.send_to(&vec![7; size], service)?;
                let mut buffer = [0; 64];
                let (length, from) = socket.recv_from(&mut buffer)?;
                assert_eq!(from, service);
                assert_eq!(String::from_utf8_lossy(&buffer[..length]), at);
            }
            std::io::Result::Ok(())
        });
        answer.expect("answers");
    }
}

/// A port that the Service has not is refused at once, by TCP and by UDP.
#[test]
fn what_nobody_takes_is_refused_at_once() {
    let stage = Stage::new();
    for service in SERVICES {
        let at = SocketAddr::new(address(service), 81);
        let begun = Instant::now();
        let error = stage
            .client
            .ns
            .enter(|| TcpStream::connect_timeout(&at, PATIENCE));
        let error = error.expect_err("nobody is there").kind();
        assert_eq!(error, ErrorKind::ConnectionRefused, "{service}");
        let error = stage.client.ns.enter(|| {
            let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(at)?;
            socket.send(&[1; 50])?;
            socket.recv(&mut [0; 8])
        });
        let error = error.expect_err("nobody is there").kind();
        assert_eq!(error, ErrorKind::ConnectionRefused, "{service} by UDP");
        assert!(begun.elapsed() < PATIENCE / 2, "only after a while");
    }
}

/// A packet has its socket still when it has left its pod, so the connection says for which Service
/// the socket was given the backend.
#[test]
fn a_connection_knows_what_its_socket_asked_for() {
    let stage = Stage::new();
    let backend = stage.backend.addresses[0];
    let socket = stage.client.ns.enter(|| UdpSocket::bind("0.0.0.0:0"));
    let socket = socket.expect("a socket");
    let key = SocketKey {
        cookie: cookie(&stage.client, &socket),
        address: backend.into(),
        port: 8080_u16.to_be(),
        protocol: UDP,
        pad: [0; 5],
    };
    let asked = SocketService {
        address: Address::from(address(SERVICES[0])),
        port: 80_u16.to_be(),
        flags: 0,
        service: 1,
        backend: 1,
    };
    stage
        .map(maps::SOCKETS)
        .insert(&key, &asked)
        .expect("an entry");
    socket.send_to(&[1], (backend, 8080)).expect("send");
    let transient = stage.map::<watari_abi::ConnectionKey, watari_abi::Connection>(maps::TRANSIENT);
    wait_until(PATIENCE, "the connection of the Service", || {
        let all = transient.entries().expect("read");
        all.iter().any(|(_, connection)| {
            let near = &connection.translation;
            near.kind == translation::AT_SOCKET
                && (near.service, near.destination) == (1, asked.address)
                && connection.flags & flags::ALIAS == 0
        })
    });
}

/// The kernel's cookie of a pod's socket, as `ss` tells it: `sk:` and a number in hexadecimal.
fn cookie(pod: &Pod, socket: &UdpSocket) -> u64 {
    let port = socket.local_addr().expect("an address").port();
    let output = pod.ns.enter(|| {
        let mut command = Command::new("ss");
        command.args(["-uanepH", "sport", "=", &port.to_string()]);
        command.output().expect("run ss")
    });
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("sk:"));
    u64::from_str_radix(told.expect("a cookie"), 16).expect("a number")
}
