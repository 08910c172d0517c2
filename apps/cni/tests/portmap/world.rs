//! A client, a node and pods in namespaces of their own, joined as transparent mode joins them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};
use watari_cni::portmap;
use watari_cni_spec::{CniError, CniResult, Command, NetConf, Request};
use watari_testkit::{Netns, wait_until};

/// The client's addresses.
pub const CLIENT: [&str; 2] = ["10.9.0.2", "fd09::2"];
/// The node's addresses; the last is its second one of IPv4.
pub const NODE: [&str; 3] = ["10.9.0.1", "fd09::1", "10.9.0.3"];
/// How long something that has to happen may take, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long is waited for something that must not happen.
pub const SHORT: Duration = Duration::from_millis(300);

/// One node, its client, and its pods.
pub struct World {
    pub client: Netns,
    pub node: Netns,
}

/// A pod: namespace, the link's name on the node, addresses, container id.
pub struct Pod {
    pub ns: Netns,
    pub link: String,
    pub addresses: [IpAddr; 2],
    pub container: String,
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Runs `ip` in a namespace, once for each line.
pub fn ip(ns: &Netns, lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        ns.run(&words(&format!("ip {line}")));
    }
}

/// Writes a setting below `/proc/sys/net` of a namespace.
pub fn set(ns: &Netns, name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    ns.enter(|| std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}")));
}

impl World {
    pub fn new() -> Self {
        let (client, node) = (Netns::new("client"), Netns::new("node"));
        let peer = client.path().display();
        ip(
            &node,
            &format!("link add up0 type veth peer name eth0 netns {peer}"),
        );
        let [v4, v6, second] = NODE;
        ip(
            &node,
            &format!(
                "addr add {v4}/24 dev up0
                 addr add {second}/24 dev up0
                 addr add {v6}/64 dev up0 nodad
                 link set up0 up"
            ),
        );
        let [v4, v6] = CLIENT;
        ip(
            &client,
            &format!(
                "addr add {v4}/24 dev eth0
                 addr add {v6}/64 dev eth0 nodad
                 link set eth0 up"
            ),
        );
        set(&node, "ipv4/ip_forward", "1");
        set(&node, "ipv6/conf/all/forwarding", "1");
        Self { client, node }
    }

    /// Starts the pod of a number, 1 to 250.
    pub fn pod(&self, number: u8) -> Pod {
        let ns = Netns::new("pod");
        let link = format!("azv{number}");
        let peer = ns.path().display();
        let addresses = [
            IpAddr::from([10, 244, 0, number]),
            format!("fd44::{number:x}").parse().expect("an address"),
        ];
        let [v4, v6] = addresses;
        ip(
            &self.node,
            &format!(
                "link add {link} type veth peer name eth0 netns {peer}
                 link set {link} address 02:00:00:00:00:01
                 addr add fe80::1/64 dev {link} nodad
                 link set {link} up
                 route add {v4} dev {link} proto static
                 route add {v6} dev {link} proto static
                 neigh add {v4} dev {link} lladdr 02:00:00:00:00:02 nud permanent
                 neigh add {v6} dev {link} lladdr 02:00:00:00:00:02 nud permanent"
            ),
        );
        ip(
            &ns,
            &format!(
                "link set eth0 address 02:00:00:00:00:02
                 link set eth0 up
                 addr add {v4}/32 dev eth0
                 addr add {v6}/128 dev eth0 nodad
                 route add 169.254.1.1 dev eth0
                 route add default via 169.254.1.1 dev eth0
                 neigh add 169.254.1.1 dev eth0 lladdr 02:00:00:00:00:01 nud permanent
                 route add default via fe80::1 dev eth0
                 neigh add fe80::1 dev eth0 lladdr 02:00:00:00:00:01 nud permanent"
            ),
        );
        Pod {
            ns,
            link,
            addresses,
            container: format!("pod{number}"),
        }
    }

    /// Executes a command of the plugin in the node's namespace.
    pub fn plugin<R: Send>(
        &self,
        pod: &Pod,
        command: Command,
        conf: &Value,
        run: impl FnOnce(&Request, &NetConf) -> Result<R, CniError> + Send,
    ) -> Result<R, CniError> {
        let mut conf = conf.clone();
        conf["cniVersion"] = json!("1.1.0");
        conf["name"] = json!("test-net");
        conf["type"] = json!("portmap");
        if matches!(command, Command::Add | Command::Check) {
            let [v4, v6] = pod.addresses;
            conf["prevResult"] = json!({
                "interfaces": [
                    { "name": pod.link },
                    { "name": "eth0", "sandbox": pod.ns.path() }
                ],
                "ips": [
                    { "address": format!("{v4}/16"), "interface": 1 },
                    { "address": format!("{v6}/64"), "interface": 1 }
                ]
            });
        }
        let conf = NetConf::parse(conf.to_string().as_bytes()).expect("a configuration");
        let request = Request {
            command,
            container: Some(pod.container.parse().expect("a container id")),
            ifname: Some("eth0".parse().expect("a name")),
            netns: Some(pod.ns.path().to_owned()),
            args: BTreeMap::new(),
            path: Vec::new(),
        };
        self.node.enter(|| run(&request, &conf))
    }

    pub fn try_add(&self, pod: &Pod, conf: &Value) -> Result<CniResult, CniError> {
        self.plugin(pod, Command::Add, conf, portmap::add)
    }

    #[track_caller]
    pub fn add(&self, pod: &Pod, conf: &Value) {
        let result = self.try_add(pod, conf).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(result.ips.len(), 2);
    }

    #[track_caller]
    pub fn del(&self, pod: &Pod, conf: &Value) {
        self.plugin(pod, Command::Del, conf, portmap::del)
            .unwrap_or_else(|e| panic!("{e}"));
    }

    pub fn check(&self, pod: &Pod, conf: &Value) -> Result<(), CniError> {
        self.plugin(pod, Command::Check, conf, portmap::check)
    }

    /// `nft list ruleset` of the node.
    pub fn ruleset(&self) -> String {
        self.node.run(&["nft", "list", "ruleset"])
    }

    /// How many elements all maps and sets have.
    pub fn elements(&self) -> usize {
        self.ruleset().matches("test-net/").count()
    }
}

/// A configuration with these port mappings: `(host port, container port, protocol)`.
pub fn conf(mappings: &[(u16, u16, &str)]) -> Value {
    let mappings: Vec<Value> = mappings
        .iter()
        .map(|(host, container, protocol)| {
            json!({ "hostPort": host, "containerPort": container, "protocol": protocol })
        })
        .collect();
    json!({ "runtimeConfig": { "portMappings": mappings } })
}

/// A TCP server in a namespace.
pub fn listen(ns: &Netns, to: &str) -> TcpListener {
    let listener = ns.enter(|| TcpListener::bind(to).expect("bind"));
    listener.set_nonblocking(true).expect("set");
    listener
}

/// Connects; none when nobody answers in time.
pub fn connect(ns: &Netns, to: &str, patience: Duration) -> Option<TcpStream> {
    let to: SocketAddr = to.parse().expect("an address");
    ns.enter(|| TcpStream::connect_timeout(&to, patience)).ok()
}

/// Connects to an address that leads to this server, and gives the address that the server saw.
#[track_caller]
pub fn reaches(ns: &Netns, to: &str, server: &TcpListener) -> IpAddr {
    let client = connect(ns, to, PATIENCE).unwrap_or_else(|| panic!("{to} does not answer"));
    let mut seen = None;
    wait_until(PATIENCE, "the connection to arrive", || {
        match server.accept() {
            Ok((stream, from)) => seen = Some((stream, from)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        seen.is_some()
    });
    let (_stream, from) = seen.expect("arrived");
    assert_eq!(
        client.peer_addr().expect("a peer"),
        to.parse().expect("an address")
    );
    from.ip()
}

/// A UDP socket in a namespace that does not wait forever.
pub fn udp(ns: &Netns, to: &str) -> UdpSocket {
    let socket = ns.enter(|| UdpSocket::bind(to).expect("bind"));
    socket.set_read_timeout(Some(SHORT)).expect("set");
    socket
}

/// Sends one datagram; true if this server gets it and its answer comes back from where the
/// datagram was sent to.
pub fn asks(client: &UdpSocket, to: &str, server: &UdpSocket) -> bool {
    let mut buffer = [0; 64];
    client.send_to(b"ask", to).expect("send");
    let Ok((_, from)) = server.recv_from(&mut buffer) else {
        return false;
    };
    server.send_to(b"answer", from).expect("send");
    client
        .recv_from(&mut buffer)
        .is_ok_and(|(_, from)| from == to.parse().expect("an address"))
}
