//! `watari cni` as people and scripts call it, over the reference plugins.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use watari_testkit::Netns;

/// A node with a configuration directory and a cache of its own.
struct Node {
    ns: Netns,
}

struct Said {
    status: i32,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

impl Node {
    fn new() -> Self {
        let node = Self {
            ns: Netns::new("node"),
        };
        fs::create_dir(node.ns.dir().join("net.d")).expect("the directory");
        node
    }

    fn conf(&self, name: &str, conf: &Value) {
        let file = self.ns.dir().join("net.d").join(name);
        fs::write(file, conf.to_string()).expect("the configuration");
    }

    fn cni(&self, words: &[&str]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_watari"));
        command
            .arg("cni")
            .args(words)
            .env("NETCONFPATH", self.ns.dir().join("net.d"))
            .env("CNI_PATH", "/usr/lib/cni")
            .arg("--cache-dir")
            .arg(self.ns.dir().join("cache"));
        let output = self.ns.enter(|| command.output().expect("run watari"));
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Said {
            status: output.status.code().expect("an exit status"),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

fn ptp(node: &Node) -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "ptp", "ipam": {
        "type": "host-local", "dataDir": node.ns.dir().join("leases"),
        "subnet": "10.77.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}}]})
}

#[test]
fn a_namespace_is_attached_checked_and_detached() {
    let (node, pod) = (Node::new(), Netns::new("pod"));
    node.conf("10-net.conflist", &ptp(&node));
    let netns = pod.path().to_str().expect("text");
    let added = node.cni(&["add", "net", netns]);
    assert_eq!(added.status, 0, "{}", added.err);
    assert_eq!(added.json()["ips"][0]["address"], "10.77.0.2/24");
    pod.run(&["ping", "-c1", "-W5", "10.77.0.1"]);
    assert_eq!(node.cni(&["check", "net", netns]).status, 0);
    let twice = node.cni(&["add", "net", netns]);
    assert_eq!(twice.status, 1);
    assert!(twice.err.contains("already"), "{}", twice.err);

    pod.run(&["ip", "addr", "flush", "dev", "eth0"]);
    let wrong = node.cni(&["check", "net", netns]);
    assert_eq!(wrong.status, 1);
    assert!(wrong.json()["code"].is_u64() && wrong.err.contains("ptp failed CHECK"));

    for _ in 0..2 {
        let deleted = node.cni(&["del", "net", netns]);
        assert_eq!((deleted.status, deleted.out.as_str()), (0, ""));
    }
    assert!(!pod.run(&["ip", "-o", "link"]).contains("eth0"));
    let gone = node.cni(&["check", "net", netns]);
    assert_eq!(gone.status, 1);
    assert!(gone.err.contains("is not attached to net"), "{}", gone.err);
}

#[test]
fn gc_keeps_what_it_is_told() {
    let (node, one, two) = (Node::new(), Netns::new("one"), Netns::new("two"));
    node.conf("10-net.conflist", &ptp(&node));
    for (id, pod) in [("one", &one), ("two", &two)] {
        let netns = pod.path().to_str().expect("text");
        let added = node.cni(&["add", "net", netns, "--container-id", id]);
        assert_eq!(added.status, 0, "{}", added.err);
    }
    let swept = node.cni(&["gc", "net", "--valid", "two/eth0"]);
    assert_eq!(swept.status, 0, "{}", swept.err);
    assert!(!one.run(&["ip", "-o", "link"]).contains("eth0"));
    two.run(&["ping", "-c1", "-W5", "10.77.0.1"]);
    assert_eq!(node.cni(&["del", "net", "--container-id", "two"]).status, 0);
    assert_eq!(node.cni(&["gc", "net"]).status, 0);
}

#[test]
fn what_cannot_be_asked_is_told_apart() {
    let node = Node::new();
    assert_eq!(node.cni(&["list"]).status, 1, "nothing there");
    node.conf("10-net.conflist", &ptp(&node));
    node.conf(
        "20-new.conflist",
        &json!({"cniVersion": "1.1.0", "name": "new",
        "plugins": [{"type": "no-such-plugin"}]}),
    );
    let listed = node.cni(&["list"]);
    assert_eq!(listed.status, 0);
    assert!(
        listed.out.starts_with("net\t1.0.0\tptp\t"),
        "{}",
        listed.out
    );
    let lines = node.cni(&["list", "--json"]);
    let first: Value = serde_json::from_str(lines.out.lines().next().unwrap_or("")).expect("JSON");
    assert_eq!(
        (&first["schema"], &first["name"]),
        (&json!(1), &json!("net"))
    );
    let versions = node.cni(&["version", "net", "--json"]);
    let spoken = versions.json();
    assert!(
        spoken["supportedVersions"]
            .as_array()
            .is_some_and(|all| all.contains(&json!("1.0.0")))
    );

    for (words, says) in [
        (
            &["add", "other", "/x"][..],
            "no network configuration named \"other\"",
        ),
        (
            &["add", "new", "/x"],
            "\"no-such-plugin\" is not in /usr/lib/cni",
        ),
        (&["status", "net"], "STATUS is not part of CNI 1.0.0"),
        (&["del", "net"], "--container-id"),
        (&["add", "net", "/x", "--cap", "[]"], "--cap (CAP_ARGS)"),
        (&["add", "net", "/x", "--args", "K"], "KEY=VALUE"),
        (&["add", "net", "/x", "--ifname", "a/b"], "interface name"),
        (&["list", "--conf-dir", "/nonexistent"], "/nonexistent"),
    ] {
        let said = node.cni(words);
        assert_eq!(said.status, 2, "{words:?}: {}", said.err);
        assert!(said.err.contains(says), "{words:?}: {}", said.err);
    }
    let status = node.cni(&["status", "new"]);
    assert_eq!(status.status, 2);
    assert_eq!(status.json()["cniVersion"], "1.1.0");
    node.conf("30-bad.conf", &json!({"name": "bad"}));
    let listed = node.cni(&["list"]);
    assert_eq!(listed.status, 1);
    assert!(listed.err.contains("30-bad.conf"), "{}", listed.err);
}
