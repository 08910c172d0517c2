//! A real runtime in a lab: containerd makes pods on a node.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use watari_e2e::containerd::{Containerd, Pod};
use watari_e2e::cri::PortMapping;
use watari_e2e::holdings::Holdings;
use watari_e2e::http;
use watari_e2e::lab::TestLab;
use watari_testkit::wait_until;

const PATIENCE: Duration = Duration::from_secs(15);

const REFERENCE: &str = r#"{ "cniVersion": "1.0.0", "name": "reference", "plugins": [
  { "type": "ptp", "ipMasq": false, "ipam": { "type": "host-local", "dataDir": "/run/leases",
    "ranges": [[{ "subnet": "10.66.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
  { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true } ] }"#;

/// Pods on one node: they reach each other, a host port works from the next node, and nothing of
/// them stays.
fn pods_come_and_go(hint: &str, conf: &Path, bin: &Path) {
    let dir = tempfile::tempdir().expect("make a folder");
    let lab = TestLab::up(hint, 2, dir.path());
    let node = lab.node("node1");
    let containerd = Containerd::start(&node, conf, bin);
    // Chains and folders that the first pod brings for all may stay.
    let warm = containerd.run_pod("warm", vec![port(80, 8080)], &["sleep", "86400"]);
    containerd.stop(&warm.sandbox);
    containerd.remove(&warm.sandbox);
    let before = Holdings::of_node(&node);
    let server = containerd.run_pod("server", vec![port(80, 8080)], &serve());
    let client = containerd.run_pod("client", Vec::new(), &["sleep", "86400"]);
    reaches(&containerd, &client, &server.ips[0], "server");
    let host_port = SocketAddr::new(lab.address("node1"), 8080);
    let answer = lab.node("node2").enter(|| http::get(host_port));
    assert_eq!(
        answer.expect("the host port, from the next node"),
        "server\n"
    );

    containerd.remove_all();
    let left = Holdings::of_network(&node).beyond(&before);
    assert!(left.is_empty(), "{left:#?}");
    let mut left = Vec::new();
    wait_until(PATIENCE, "removed pods to leave nothing", || {
        left = Holdings::of_node(&node).beyond(&before);
        left.is_empty()
    });
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

fn reaches(containerd: &Containerd, from: &Pod, server: &str, name: &str) {
    let url = format!("http://{server}/");
    let expected = format!("{name}\n");
    wait_until(PATIENCE, &format!("{url} to answer a pod"), || {
        let answer = containerd.try_exec(from, &["timeout", "2", "wget", "-qO-", &url]);
        answer.exit_code == 0 && answer.stdout == expected.as_bytes()
    });
}

/// The harness held against plugins that are known to work: what fails here is the harness, or the
/// machine.
#[test]
fn the_reference_plugins_pass() {
    let dir = tempfile::tempdir().expect("make a folder");
    std::fs::write(dir.path().join("10-reference.conflist"), REFERENCE).expect("write a conflist");
    pods_come_and_go("reference", dir.path(), Path::new("/usr/lib/cni"));
}

/// The conflist of an AKS node, as the lab installs it, with our plugins behind its names.
#[test]
fn an_aks_conflist_carries_pods() {
    pods_come_and_go(
        "aks",
        Path::new("/etc/cni/net.d"),
        Path::new("/opt/cni/bin"),
    );
}
