//! The harness held against plugins that are known to work: containerd in a node, pods by the
//! reference `ptp`, `host-local` and `portmap`. What fails here is the harness, or the machine.

use std::path::Path;
use std::time::Duration;

use watari_e2e::containerd::Containerd;
use watari_e2e::cri::PortMapping;
use watari_e2e::http;
use watari_e2e::node::OwnNode;
use watari_testkit::{Netns, wait_until};

const CONFLIST: &str = r#"{ "cniVersion": "1.0.0", "name": "reference", "plugins": [
  { "type": "ptp", "ipMasq": false, "ipam": { "type": "host-local", "dataDir": "DIR/leases",
    "ranges": [[{ "subnet": "10.66.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
  { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true } ] }"#;

#[test]
fn containerd_makes_pods_in_a_node() {
    let netns = Netns::new("node");
    let outside = Netns::new("outside");
    link(&netns, &outside);
    let node = OwnNode::new("reference", &netns);
    let conf = netns.dir().join("net.d");
    std::fs::create_dir(&conf).expect("make net.d");
    let text = CONFLIST.replace("DIR", &netns.dir().to_string_lossy());
    std::fs::write(conf.join("10-reference.conflist"), text).expect("write a conflist");
    let containerd = Containerd::start(node.place(), &conf, Path::new("/usr/lib/cni"));

    let port = PortMapping {
        protocol: 0,
        container_port: 80,
        host_port: 8080,
        host_ip: String::new(),
    };
    let serve = [
        "sh",
        "-c",
        "hostname > /tmp/index.html; exec httpd -f -p 80 -h /tmp",
    ];
    let server = containerd.run_pod("server", vec![port], &serve);
    let client = containerd.run_pod("client", Vec::new(), &["sleep", "86400"]);
    let url = format!("http://{}/", server.ips[0]);
    wait_until(
        Duration::from_secs(10),
        "the server to answer a pod",
        || {
            let answer = containerd.try_exec(&client, &["timeout", "2", "wget", "-qO-", &url]);
            answer.exit_code == 0 && answer.stdout == b"server\n"
        },
    );
    let server = "10.77.0.1:8080".parse().expect("an address");
    let answer = outside
        .enter(|| http::get(server))
        .expect("the host port, from outside the node");
    assert_eq!(answer, "server\n");

    containerd.remove_all();
    let links = netns.run(&["ip", "-o", "link"]);
    assert!(!links.contains("veth"), "links stay: {links}");
    assert!(containerd.sandboxes().is_empty());
}

/// Joins a node to what is outside of it: 10.77.0.1 and 10.77.0.2.
fn link(node: &Netns, outside: &Netns) {
    let outside_path = outside.path().to_string_lossy();
    node.run(&[
        "ip",
        "link",
        "add",
        "uplink",
        "type",
        "veth",
        "peer",
        "name",
        "uplink",
        "netns",
        &outside_path,
    ]);
    for (netns, address) in [(node, "10.77.0.1/24"), (outside, "10.77.0.2/24")] {
        netns.run(&["ip", "address", "add", address, "dev", "uplink"]);
        netns.run(&["ip", "link", "set", "uplink", "up"]);
    }
    node.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forward"));
}
