//! The reference plugins of Debian, driven in throw-away namespaces, with real traffic.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use watari_cni_spec::{Capabilities, CniArgs, CniResult};
use watari_model::Attachment;
use watari_runtime::{Error, NetworkList, Runtime};
use watari_testkit::{Netns, wait_until};

use crate::common::attachment;

/// A node in a namespace of its own, and a client beside it on a wire.
struct Node {
    ns: Netns,
    client: Netns,
    runtime: Runtime,
}

const NODE_IP: &str = "10.78.0.1";

impl Node {
    fn new() -> Self {
        let (ns, client) = (Netns::new("node"), Netns::new("client"));
        let peer = client.path().to_str().expect("a path of text").to_owned();
        ns.run(&[
            "ip", "link", "add", "uplink", "type", "veth", "peer", "name", "eth0",
        ]);
        ns.run(&["ip", "link", "set", "eth0", "netns", &peer]);
        ns.run(&[
            "ip",
            "addr",
            "add",
            &format!("{NODE_IP}/24"),
            "dev",
            "uplink",
        ]);
        ns.run(&["ip", "link", "set", "uplink", "up"]);
        client.run(&["ip", "addr", "add", "10.78.0.2/24", "dev", "eth0"]);
        client.run(&["ip", "link", "set", "eth0", "up"]);
        let runtime = Runtime {
            path: vec![PathBuf::from("/usr/lib/cni")],
            cache_dir: ns.dir().join("cache"),
            timeout: Duration::from_secs(30),
        };
        Self {
            ns,
            client,
            runtime,
        }
    }

    fn list(&self, conf: &Value) -> NetworkList {
        let dir = self.ns.dir().join("net.d");
        fs::create_dir_all(&dir).expect("the directory");
        fs::write(dir.join("10-net.conflist"), conf.to_string()).expect("the conflist");
        NetworkList::load(&dir, Some("net")).expect("the network")
    }

    fn leases(&self) -> PathBuf {
        self.ns.dir().join("leases")
    }

    fn add(&self, list: &NetworkList, pod: &Pod, cap: &Capabilities) -> Result<CniResult, Error> {
        let netns = pod.ns.path();
        self.ns.enter(|| {
            self.runtime
                .add(list, &pod.attachment, netns, &CniArgs::new(), cap)
        })
    }

    fn check(&self, list: &NetworkList, pod: &Pod) -> Result<(), Error> {
        let args = CniArgs::new();
        // Debian's portmap 1.1.1 looks for the IPv4 rules of a mapping in ip6tables and fails
        // every CHECK with mappings. So tell CHECK something else than those of ADD.
        let mut cap = Capabilities::new();
        cap.insert("nothing".into(), json!(true));
        self.ns.enter(|| {
            self.runtime
                .check(list, &pod.attachment, pod.ns.path(), &args, &cap)
        })
    }

    fn del(&self, list: &NetworkList, pod: &Pod) {
        let (args, cap) = (CniArgs::new(), Capabilities::new());
        let netns: &Path = pod.ns.path();
        let warning = self.ns.enter(|| {
            self.runtime
                .del(list, &pod.attachment, Some(netns), &args, &cap)
        });
        assert!(warning.expect("DEL").is_none());
    }
}

struct Pod {
    ns: Netns,
    attachment: Attachment,
}

impl Pod {
    fn new(name: &str) -> Self {
        Self {
            ns: Netns::new(name),
            attachment: attachment(name),
        }
    }
}

/// The names of the leased addresses.
fn leased(node: &Node) -> Vec<String> {
    let Ok(entries) = fs::read_dir(node.leases().join("net")) else {
        return Vec::new();
    };
    let names = entries.map(|entry| entry.expect("a lease").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with("10."))
        .collect()
}

fn ptp(node: &Node, version: &str) -> Value {
    json!({"cniVersion": version, "name": "net", "plugins": [
        {"type": "ptp", "mtu": 1400, "ipam": {"type": "host-local", "dataDir": node.leases(),
            "subnet": "10.77.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
}

#[test]
fn ptp_host_local_and_portmap_carry_a_ping_and_a_host_port() {
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let (node, pod) = (Node::new(), Pod::new("pod"));
        let list = node.list(&ptp(&node, version));
        let mut cap = Capabilities::new();
        let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        cap.insert("portMappings".into(), mapping);
        let result = node.add(&list, &pod, &cap).expect("ADD");
        let inner = result.ips[0].interface.expect("an interface");
        assert_eq!(
            result.interfaces[inner].sandbox.as_deref(),
            Some(pod.ns.path())
        );
        let address = result.ips[0].address.addr();
        pod.ns.run(&["ping", "-c1", "-W5", NODE_IP]);
        let listener = pod
            .ns
            .enter(|| TcpListener::bind((address, 80)).expect("bind in the pod"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().expect("accept");
                stream.write_all(b"from the pod").expect("answer");
            });
            let text = node.client.enter(|| {
                let node = format!("{NODE_IP}:8080").parse().expect("an address");
                let mut stream = TcpStream::connect_timeout(&node, Duration::from_secs(10))
                    .expect("connect to the host port");
                let mut text = String::new();
                stream.read_to_string(&mut text).expect("read");
                text
            });
            assert_eq!(text, "from the pod");
        });
        assert_eq!(leased(&node).len(), 1);
        if version != "0.3.1" {
            node.check(&list, &pod).expect("CHECK");
            pod.ns.run(&["ip", "route", "flush", "default"]);
            pod.ns.run(&["ip", "addr", "flush", "dev", "eth0"]);
            let error = node.check(&list, &pod).expect_err("the address is gone");
            assert!(error.to_string().contains("ptp failed CHECK"), "{error}");
        }
        node.del(&list, &pod);
        node.del(&list, &pod);
        assert!(leased(&node).is_empty());
        assert!(!pod.ns.run(&["ip", "-o", "link"]).contains("eth0"));
        let rules = node.ns.run(&["iptables", "-t", "nat", "-S"]);
        assert!(!rules.contains("10.77."), "{rules}");
    }
}

#[test]
fn gc_takes_the_stale_attachment_and_leaves_the_valid_one() {
    let node = Node::new();
    let (stays, goes) = (Pod::new("stays"), Pod::new("goes"));
    let list = node.list(&ptp(&node, "1.0.0"));
    for pod in [&stays, &goes] {
        node.add(&list, pod, &Capabilities::new()).expect("ADD");
    }
    assert_eq!(leased(&node).len(), 2);
    let valid = [stays.attachment.clone()];
    // The pod that goes has lost its namespace, as it has when a runtime crashed.
    drop(goes);
    node.ns
        .enter(|| node.runtime.gc(&list, &valid))
        .expect("GC");
    assert_eq!(leased(&node).len(), 1);
    node.check(&list, &stays).expect("CHECK");
    stays.ns.run(&["ping", "-c1", "-W5", NODE_IP]);
    node.del(&list, &stays);
    wait_until(Duration::from_secs(10), "both links to go", || {
        !node.ns.run(&["ip", "-o", "link"]).contains("veth")
    });
}

#[test]
fn a_reference_chain_that_fails_half_way_leaves_nothing() {
    let (node, pod) = (Node::new(), Pod::new("pod"));
    let mut conf = ptp(&node, "1.0.0");
    // The reference portmap refuses a mark that is out of range.
    conf["plugins"][1]["markMasqBit"] = json!(99);
    let list = node.list(&conf);
    let mut cap = Capabilities::new();
    let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    cap.insert("portMappings".into(), mapping);
    let error = node.add(&list, &pod, &cap).expect_err("portmap refuses");
    assert!(error.to_string().contains("portmap failed ADD"), "{error}");
    assert!(leased(&node).is_empty());
    assert!(!pod.ns.run(&["ip", "-o", "link"]).contains("eth0"));
    assert!(
        !node
            .runtime
            .cache()
            .file(&list.conf.name, &pod.attachment)
            .exists()
    );
}

#[test]
fn loopback_bridge_and_static_work_too() {
    let (node, pod) = (Node::new(), Pod::new("pod"));
    let list = node.list(&json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
        {"type": "bridge", "bridge": "br", "isGateway": true, "capabilities": {"mac": true},
            "ipam": {"type": "static", "addresses": [
                {"address": "10.79.0.2/24", "gateway": "10.79.0.1"}]}},
    ]}));
    let mut cap = Capabilities::new();
    cap.insert("mac".into(), json!("02:11:22:33:44:55"));
    let result = node.add(&list, &pod, &cap).expect("ADD");
    let macs: Vec<_> = result.interfaces.iter().filter_map(|i| i.mac).collect();
    assert!(
        macs.iter()
            .any(|mac| mac.to_string() == "02:11:22:33:44:55")
    );
    pod.ns.run(&["ping", "-c1", "-W5", "10.79.0.1"]);
    node.check(&list, &pod).expect("CHECK");
    node.del(&list, &pod);
    for plugin in ["bridge", "static", "loopback", "portmap"] {
        let reply = node.runtime.versions(plugin).expect("VERSION");
        assert!(reply.supported_versions.iter().any(|v| v == "1.0.0"));
    }
}
