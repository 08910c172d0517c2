//! A real runtime in a lab: containerd makes pods on a node.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use watari_e2e::containerd::{Containerd, Pod};
use watari_e2e::cri::PortMapping;
use watari_e2e::holdings::Holdings;
use watari_e2e::http;
use watari_e2e::lab::TestLab;
use watari_e2e::node::Place;
use watari_testkit::wait_until;

const PATIENCE: Duration = Duration::from_secs(15);

const REFERENCE: &str = r#"{ "cniVersion": "1.0.0", "name": "reference", "plugins": [
  { "type": "ptp", "ipMasq": false, "ipam": { "type": "host-local", "dataDir": "/run/leases",
    "ranges": [[{ "subnet": "10.66.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
  { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true } ] }"#;

/// A lab of two nodes, a containerd on the first, and two pods of it.
struct Scene {
    containerd: Containerd,
    server: Pod,
    client: Pod,
    node: Place,
    before: Holdings,
    lab: TestLab,
}

impl Scene {
    fn on(lab: TestLab, conf: &Path, bin: &Path) -> Self {
        let node = lab.node("node1");
        let containerd = Containerd::start(&node, conf, bin);
        // Chains and folders that the first pod brings for all may stay.
        let warm = containerd.run_pod("warm", vec![port(80, 8080)], &["sleep", "86400"]);
        containerd.stop(&warm.sandbox);
        containerd.remove(&warm.sandbox);
        let before = Holdings::of_node(&node);
        let server = containerd.run_pod("server", vec![port(80, 8080)], &serve());
        let client = containerd.run_pod("client", Vec::new(), &["sleep", "86400"]);
        Self {
            containerd,
            server,
            client,
            node,
            before,
            lab,
        }
    }

    /// A pod asks for `url` and is answered by `name`.
    fn pod_reaches(&self, from: &Pod, address: &str, name: &str) {
        let url = format!("http://{address}/");
        wait_until(
            PATIENCE,
            &format!("{name} to answer a pod at {url}"),
            || {
                let answer = self
                    .containerd
                    .try_exec(from, &["timeout", "2", "wget", "-qO-", &url]);
                answer.exit_code == 0 && String::from_utf8_lossy(&answer.stdout).contains(name)
            },
        );
    }

    /// A node asks for `address` and is answered by the server.
    fn node_reaches(&self, from: &str, address: IpAddr, port: u16) {
        let address = SocketAddr::new(address, port);
        let answer = self.lab.node(from).enter(|| http::get(address));
        let answer = answer.unwrap_or_else(|e| panic!("{address}, asked from {from}: {e}"));
        assert_eq!(answer, "server\n", "{address}, asked from {from}");
    }

    /// Pods reach each other, and a host port works from the next node.
    fn carries_traffic(&self) {
        self.pod_reaches(&self.client, &self.server.ips[0], "server");
        self.node_reaches("node2", self.lab.address("node1"), 8080);
    }

    /// The pods are stopped and removed, and nothing of them stays: of the network at once, of the
    /// runtime's own as soon as it has tidied up.
    fn leaves_nothing(self) {
        for pod in [&self.server, &self.client] {
            self.containerd.stop(&pod.sandbox);
        }
        let left = Holdings::of_network(&self.node).beyond(&self.before);
        assert!(left.is_empty(), "after StopPodSandbox: {left:#?}");
        self.containerd.remove_all();
        let mut left = Vec::new();
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            left = Holdings::of_node(&self.node).beyond(&self.before);
            if left.is_empty() {
                return;
            }
        }
        panic!("after RemovePodSandbox: {left:#?}");
    }
}

fn serve() -> [&'static str; 3] {
    [
        "sh",
        "-c",
        "hostname > /tmp/index.html; exec httpd -f -p 80 -h /tmp",
    ]
}

fn port(container_port: i32, host_port: i32) -> PortMapping {
    PortMapping {
        protocol: 0,
        container_port,
        host_port,
        host_ip: String::new(),
    }
}

/// The harness held against plugins that are known to work: what fails here is the harness, or the
/// machine.
#[test]
fn the_reference_plugins_pass() {
    let dir = tempfile::tempdir().expect("make a folder");
    std::fs::write(dir.path().join("10-reference.conflist"), REFERENCE).expect("write a conflist");
    let lab = TestLab::up("reference", 2);
    let scene = Scene::on(lab, dir.path(), Path::new("/usr/lib/cni"));
    scene.carries_traffic();
    scene.leaves_nothing();
}

/// The conflist of an AKS node, as the lab installs it, with our plugins behind its names.
#[test]
fn an_aks_conflist_carries_pods() {
    let lab = TestLab::up("aks", 2);
    // What the first pod of a lab's own brings for all, too.
    lab.pod("first", "node1");
    lab.delete(&["first"]);
    let scene = Scene::on(lab, Path::new("/etc/cni/net.d"), Path::new("/opt/cni/bin"));
    scene.carries_traffic();
    looks_like_aks(&scene);
    host_port_from_everywhere(&scene);
    meets_pods_of_the_lab(&scene);
    scene.leaves_nothing();
}

/// The pod and its node show what an AKS node shows, value for value.
fn looks_like_aks(scene: &Scene) {
    let Scene {
        containerd,
        server,
        node,
        ..
    } = scene;
    let ip = &server.ips[0];
    let digest = Sha256::digest(format!("{}/eth0", server.sandbox));
    let digest = digest
        .iter()
        .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    let veth = format!("azv{}", &digest[..11]);
    let mac =
        node.enter(|| std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{veth}/proxy_arp")));
    assert_eq!(
        mac.expect("the host side of the pod").trim(),
        "1",
        "proxy_arp of {veth}"
    );
    let host = Holdings::of_network(node).beyond(&scene.before);
    assert!(
        host.contains(&format!("route: {ip} dev {veth} proto static")),
        "{host:#?}"
    );

    let addresses = containerd.exec(server, &["ip", "-4", "-o", "address", "show", "eth0"]);
    assert!(addresses.contains(&format!("inet {ip}/16 ")), "{addresses}");
    let routes = containerd.exec(server, &["ip", "route"]);
    let routes: Vec<&str> = routes.lines().map(str::trim).collect();
    let expected = [
        "default via 169.254.1.1 dev eth0",
        "169.254.1.1 dev eth0 scope link",
    ];
    assert_eq!(routes, expected);
    let neighbours = containerd.exec(server, &["ip", "neigh"]);
    let gateway = neighbours
        .lines()
        .find(|line| line.starts_with("169.254.1.1 "));
    assert!(
        gateway.is_some_and(|line| line.contains("PERMANENT")),
        "{neighbours}"
    );
}

/// The host port answers the node itself, also at 127.0.0.1, another pod of the node, and the
/// very pod that it leads to.
fn host_port_from_everywhere(scene: &Scene) {
    let node = scene.lab.address("node1");
    scene.node_reaches("node1", node, 8080);
    scene.node_reaches("node1", IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
    scene.pod_reaches(&scene.client, &format!("{node}:8080"), "server");
    scene.pod_reaches(&scene.server, &format!("{node}:8080"), "server");
}

/// Pods of containerd and pods of the lab reach each other, on one node and across nodes, and see
/// each other's own address.
fn meets_pods_of_the_lab(scene: &Scene) {
    let Scene {
        client,
        server,
        lab,
        ..
    } = scene;
    for (name, node) in [("resident", "node1"), ("neighbour", "node2")] {
        let address = lab.pod(name, node);
        scene.pod_reaches(client, &address, &format!("default/{name}"));
        let url = format!("http://{address}/");
        let answer = scene
            .containerd
            .exec(client, &["timeout", "2", "wget", "-qO-", &url]);
        let peer = format!("\"peer\":\"{}:", client.ips[0]);
        assert!(answer.contains(&peer), "{name} saw somebody else: {answer}");
        let host_port = format!("{}:8080", lab.address("node1"));
        for server in [&server.ips[0], &host_port] {
            let url = format!("http://{server}/");
            let wget = ["timeout", "5", "busybox", "wget", "-qO-", &url];
            let answer = lab.watari(&[&["lab", "exec", name, "--"], &wget[..]].concat());
            assert_eq!(answer, "server\n", "{url}, asked from {name}");
        }
    }
    lab.delete(&["resident", "neighbour"]);
}
