//! The program against the words of the specification: names, environment, versions, shapes.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use watari_cni::Plugin;

use crate::world::{Node, Pod};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// One execution, as the specification describes it.
struct Call<'a> {
    node: &'a Node,
    name: &'a str,
    env: Vec<(&'a str, String)>,
    input: String,
}

impl<'a> Call<'a> {
    fn new(node: &'a Node, name: &'a str, command: &str, input: &Value) -> Self {
        let path = node.runtime.path[0].display().to_string();
        let env = vec![("CNI_COMMAND", command.to_owned()), ("CNI_PATH", path)];
        Self {
            node,
            name,
            env,
            input: input.to_string(),
        }
    }

    fn of(mut self, pod: &Pod) -> Self {
        self.env
            .push(("CNI_CONTAINERID", pod.attachment.container.to_string()));
        self.env
            .push(("CNI_IFNAME", pod.attachment.ifname.to_string()));
        self.env
            .push(("CNI_NETNS", pod.netns.path().display().to_string()));
        self
    }

    fn with(mut self, name: &'a str, value: &str) -> Self {
        self.env.retain(|(key, _)| *key != name);
        self.env.push((name, value.to_owned()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.env.retain(|(key, _)| *key != name);
        self
    }

    fn run(&self) -> Output {
        self.node.netns.enter(|| {
            let program = self.node.runtime.path[0].join(self.name);
            let mut child = Command::new(program)
                .env_clear()
                .envs(self.env.iter().map(|(key, value)| (key, value)))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            // A plugin that refuses its environment need not read its input.
            drop(child.stdin.take().unwrap().write_all(self.input.as_bytes()));
            child.wait_with_output().unwrap()
        })
    }

    fn succeed(&self) -> Value {
        let output = self.run();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{} {:?}: {text}",
            self.name,
            self.env
        );
        if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap()
        }
    }

    /// The error object: its code, and its words in one line.
    fn fail(&self) -> (u64, String) {
        let output = self.run();
        assert!(!output.status.success());
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        let words = format!("{} {}", error["msg"].as_str().unwrap(), error["details"]);
        assert!(error["cniVersion"].is_string(), "{error}");
        (error["code"].as_u64().unwrap(), words)
    }
}

fn conf(node: &Node, version: &str) -> Value {
    json!({
        "cniVersion": version, "name": "azure", "type": "azure-vnet", "mode": "transparent",
        "ipam": {
            "type": "azure-vnet-ipam", "dataDir": node.data_dir(),
            "ranges": [[{"subnet": "10.240.0.0/16", "rangeStart": "10.240.0.10"}],
                       [{"subnet": "fd00::/64", "rangeStart": "fd00::10"}]],
        },
    })
}

#[test]
fn version_is_answered_under_every_name_in_the_version_asked() {
    let node = Node::new();
    for name in Plugin::NAMES {
        for version in VERSIONS {
            let call = Call::new(&node, name, "VERSION", &json!({"cniVersion": version}));
            let reply = call.succeed();
            assert_eq!(reply["cniVersion"], version, "{name}");
            assert_eq!(reply["supportedVersions"], json!(VERSIONS), "{name}");
        }
    }
}

#[test]
fn a_result_has_the_shape_of_its_version() {
    let node = Node::new();
    for version in VERSIONS {
        let (conf, pod) = (conf(&node, version), Pod::new("c1"));
        let call = |command| Call::new(&node, "azure-vnet", command, &conf).of(&pod);
        let result = call("ADD").succeed();
        assert_eq!(result["cniVersion"], version);
        let families = [&result["ips"][0]["version"], &result["ips"][1]["version"]];
        match version {
            "1.0.0" | "1.1.0" => assert_eq!(families, [&Value::Null, &Value::Null]),
            _ => assert_eq!(families, [&json!("4"), &json!("6")]),
        }
        let mtu = &result["interfaces"][1]["mtu"];
        assert_eq!(mtu.is_null(), version != "1.1.0", "{version}: {mtu}");
        assert_eq!(result["ips"][0]["interface"], 1);
        assert_eq!(call("DEL").succeed(), Value::Null);
        node.assert_clean();
    }
}

#[test]
fn a_command_that_the_version_does_not_know_is_refused() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    for (command, first) in [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")] {
        for version in VERSIONS.iter().filter(|version| **version < first) {
            let conf = conf(&node, version);
            let (code, words) = Call::new(&node, "azure-vnet", command, &conf)
                .of(&pod)
                .fail();
            assert_eq!(code, 1, "{command} {version}: {words}");
            assert!(words.contains(first), "{command} {version}: {words}");
        }
    }
}

#[test]
fn a_missing_or_malformed_variable_is_named() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let conf = conf(&node, "1.1.0");
    for name in ["azure-vnet", "azure-vnet-ipam", "portmap", "loopback"] {
        for variable in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
            let call = Call::new(&node, name, "ADD", &conf)
                .of(&pod)
                .without(variable);
            let (code, words) = call.fail();
            assert_eq!(code, 4, "{name} {variable}: {words}");
            assert!(words.contains(variable), "{name}: {words}");
        }
    }
    for (variable, value) in [
        ("CNI_COMMAND", "BURN"),
        ("CNI_CONTAINERID", "../../etc"),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "abcdefghijklmnop"),
        ("CNI_ARGS", "no equals sign"),
    ] {
        let call = Call::new(&node, "azure-vnet", "ADD", &conf)
            .of(&pod)
            .with(variable, value);
        let (code, words) = call.fail();
        assert_eq!(code, 4, "{variable}={value}: {words}");
        assert!(words.contains(variable), "{variable}={value}: {words}");
    }
    assert_eq!(node.links(), 0);
}

#[test]
fn a_configuration_that_cannot_be_used_has_its_code() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let mut call = Call::new(&node, "azure-vnet", "ADD", &Value::Null).of(&pod);
    let good = conf(&node, "1.1.0").to_string();
    for (input, code) in [
        (String::new(), 6),
        ("{".to_owned(), 6),
        ("[]".to_owned(), 6),
        (good.replace("1.1.0", "0.2.0"), 1),
        (good.replace("1.1.0", "9.9.9"), 1),
        (good.replace("transparent", "bridge"), 2),
        (good.replace("\"azure\"", "\"../azure\""), 7),
        (good.replace("azure-vnet-ipam", "no/such"), 7),
        (good.replace("azure-vnet-ipam", "no-such-plugin"), 107),
        (good.replace("10.240.0.0/16", "10.240.0.0/99"), 7),
        (good.clone() + &" ".repeat(2 << 20), 6),
    ] {
        call.input = input;
        let (found, words) = call.fail();
        assert_eq!(found, code, "{words}: {:.300}", call.input);
        assert_eq!(node.links(), 0);
    }
    // A namespace that is not there: nothing to clean up, says code 3.
    call.input = good;
    let call = call.with("CNI_NETNS", "/no/such/namespace");
    assert_eq!(call.fail().0, 3);
}

#[test]
fn the_type_selects_where_the_name_does_not() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let mut conf = conf(&node, "1.0.0");
    let call = Call::new(&node, "watari-cni", "ADD", &conf).of(&pod);
    assert_eq!(call.succeed()["interfaces"][1]["name"], "eth0");
    Call::new(&node, "watari-cni", "DEL", &conf)
        .of(&pod)
        .succeed();
    // As the IPAM plugin of somebody else's interface plugin.
    conf["type"] = json!("macvlan");
    conf["ipam"]["type"] = json!("watari-cni");
    let result = Call::new(&node, "watari-cni", "ADD", &conf)
        .of(&pod)
        .succeed();
    assert_eq!(result["interfaces"], Value::Null);
    // .10 cools down.
    assert_eq!(result["ips"][0]["address"], "10.240.0.11/16");
    conf["ipam"]["type"] = json!("host-local");
    let (code, words) = Call::new(&node, "watari-cni", "ADD", &conf).of(&pod).fail();
    assert_eq!(code, 7);
    assert!(words.contains("macvlan"), "{words}");
}

#[test]
fn an_address_asked_for_in_cni_args_is_given() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let conf = conf(&node, "1.0.0");
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;IP=10.240.3.3";
    let call = Call::new(&node, "azure-vnet", "ADD", &conf)
        .of(&pod)
        .with("CNI_ARGS", args);
    assert_eq!(call.succeed()["ips"][0]["address"], "10.240.3.3/16");
    // And which pod it is, the node store knows.
    let store = watari_store::Store::open(&node.data_dir()).unwrap();
    let record = store.read(|tx| tx.endpoint(&pod.attachment)).unwrap();
    let named = record.unwrap().pod.unwrap();
    assert_eq!(named.to_string(), "shop/web");
}

#[test]
fn called_by_hand_it_says_what_it_is() {
    let node = Node::new();
    let call = Call::new(&node, "portmap", "", &Value::Null).without("CNI_COMMAND");
    let output = call.run();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("portmap: host ports") && text.contains("1.1.0"),
        "{text}"
    );
}

#[test]
fn the_node_is_no_pod() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let conf = conf(&node, "1.0.0");
    let own = node.netns.path().display().to_string();
    let call = Call::new(&node, "azure-vnet", "ADD", &conf)
        .of(&pod)
        .with("CNI_NETNS", &own);
    let (code, words) = call.fail();
    assert_eq!(code, 4);
    assert!(words.contains("the node's own namespace"), "{words}");
}

#[test]
fn an_add_over_a_living_pod_that_fails_frees_no_address_that_still_answers() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let conf = conf(&node, "1.1.0");
    let add = |conf: &Value| Call::new(&node, "azure-vnet", "ADD", conf).of(&pod);
    add(&conf).succeed();
    assert_eq!((node.links(), node.leases()), (1, 2));
    let failed = add(&conf).with("CNI_NETNS", "/proc/self/ns/uts").fail();
    assert!(failed.1.contains("cannot create"), "{failed:?}");
    node.assert_clean();
}

#[test]
fn what_is_null_counts_as_absent() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let mut conf = conf(&node, "1.1.0");
    // Go writes an empty list as null.
    for field in ["mode", "master", "ipsToRouteViaHost", "hostVethPrefix"] {
        conf[field] = Value::Null;
    }
    for field in ["mtu", "ipv6Mode", "multiTenancy"] {
        conf[field] = Value::Null;
    }
    for command in ["ADD", "DEL"] {
        Call::new(&node, "azure-vnet", command, &conf)
            .of(&pod)
            .succeed();
    }
    node.assert_clean();
}

#[test]
fn del_works_under_the_runtime_configuration_that_add_refuses() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let mut conf = conf(&node, "1.1.0");
    for bad in [
        json!({"mac": "01:00:5e:00:00:01"}),
        json!({"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}]}),
    ] {
        conf["runtimeConfig"] = bad;
        let call = |command| Call::new(&node, "azure-vnet", command, &conf).of(&pod);
        assert_eq!(call("ADD").fail().0, 7);
        call("DEL").succeed();
    }
    node.assert_clean();
}
