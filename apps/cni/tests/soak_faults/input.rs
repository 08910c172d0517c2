//! Rubbish on standard input and in the environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use nix::sys::stat::Mode;
use serde_json::{Value, json};
use watari_cni_spec::MAX_INPUT;

use crate::node::{Node, ip};
use crate::refusal::{Target, error_code};

/// `Code::INVALID_ENVIRONMENT`.
const ENVIRONMENT: u64 = 4;
/// `Code::DECODE`.
const DECODE: u64 = 6;
/// `Code::INVALID_CONFIG`.
const CONFIG: u64 = 7;

fn with(conf: &Value, pointer: &str, value: Value) -> String {
    let mut conf = conf.clone();
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    conf.pointer_mut(parent).expect("a place")[key] = value;
    conf.to_string()
}

#[test]
fn every_beginning_of_a_configuration_is_refused() {
    let target = Target::new();
    let result = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{ "name": "azv1" }, { "name": "eth0", "sandbox": "/x" }],
        "ips": [{ "address": "10.244.0.9/16", "interface": 1 }]
    });
    let interface = target.node.interface().to_string();
    let ports = Node::ports_conf(&target.absent, &result).to_string();
    for (plugin, command, whole) in [
        ("azure-vnet", "ADD", &interface),
        ("azure-vnet", "DEL", &interface),
        ("watari-cni", "STATUS", &interface),
        ("portmap", "ADD", &ports),
        ("azure-vnet-ipam", "ADD", &interface),
    ] {
        for end in 0..whole.len() {
            let program = target.node.program(plugin, command, Some(&target.absent));
            let context = format!("{plugin} {command} of {end} bytes");
            let code = target.refuses(program, &whole.as_bytes()[..end], &context);
            assert_eq!(code, DECODE, "{context}");
        }
    }
    target.unharmed();
}

#[test]
fn standard_input_is_bounded() {
    let target = Target::new();
    let mut conf = target.node.interface();
    let pad = |length: usize| "x".repeat(length);
    conf["pad"] = "".into();
    let room = MAX_INPUT - conf.to_string().len();
    conf["pad"] = pad(room).into();
    let add = || {
        target
            .node
            .program("azure-vnet", "ADD", Some(&target.absent))
    };
    let whole = conf.to_string();
    assert_eq!(whole.len(), MAX_INPUT);
    target.node.run(add(), whole.as_bytes()).ok();
    target.node.del(&target.absent);
    conf["pad"] = pad(room + 1).into();
    for length in [1, 64 << 20] {
        let more = conf.to_string() + &" ".repeat(length);
        let ended = target.node.run(add(), more.as_bytes());
        assert_eq!(error_code(&ended, "too long"), DECODE);
    }
    target.node.gc(&[&target.pod]);
    target.unharmed();
}

/// What is no JSON object at all.
#[test]
fn what_is_not_json_is_refused() {
    let target = Target::new();
    let whole = target.node.interface().to_string();
    let deep = |open: &str, close: &str| {
        let inside = open.repeat(100_000) + &close.repeat(100_000);
        whole.replacen('{', &format!("{{\"x\":{inside},"), 1)
    };
    let inputs: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"\0".to_vec(),
        b" \n\t ".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"1e999".to_vec(),
        b"\"text\"".to_vec(),
        b"\xff\xfe{\0}\0".to_vec(),
        [b"\xef\xbb\xbf", whole.as_bytes()].concat(),
        [whole.as_bytes(), b"}"].concat(),
        [whole.as_bytes(), whole.as_bytes()].concat(),
        [whole.as_bytes(), b"\0"].concat(),
        whole.replace("faults", "\0").into_bytes(),
        whole.replace("faults", r"\ud800").into_bytes(),
        whole.replace("faults", r"\udc00\ud800").into_bytes(),
        [b"{\"name\":\"\xff\",", &whole.as_bytes()[1..]].concat(),
        deep("[", "]").into_bytes(),
        deep("{\"a\":", "}").into_bytes(),
        "[".repeat(MAX_INPUT).into_bytes(),
        "{\"a\":".repeat(MAX_INPUT / 5).into_bytes(),
    ];
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        for (at, input) in inputs.iter().enumerate() {
            for plugin in [
                "azure-vnet",
                "portmap",
                "loopback",
                "azure-vnet-ipam",
                "watari-cni",
            ] {
                let program = target.node.program(plugin, command, Some(&target.absent));
                let context = format!("{plugin} {command} of input {at}");
                let code = target.refuses(program, input, &context);
                assert_eq!(code, DECODE, "{context}");
            }
        }
    }
    target.unharmed();
}

/// Well-formed, with one field that is not.
#[test]
fn hostile_fields_are_refused() {
    let target = Target::new();
    let conf = target.node.interface();
    let mut fields: BTreeMap<String, Vec<Value>> =
        serde_json::from_str(include_str!("hostile-fields.json")).expect("a table of fields");
    let many = vec![json!([{ "subnet": "10.0.0.0/24" }]); 1000];
    fields
        .entry("/ipam/ranges".to_owned())
        .or_default()
        .push(many.into());
    let long = "a".repeat(5000).into();
    fields.entry("/name".to_owned()).or_default().push(long);
    for (pointer, values) in &fields {
        for value in values {
            let input = with(&conf, pointer, value.clone());
            let program = target
                .node
                .program("azure-vnet", "ADD", Some(&target.absent));
            let shown: String = value.to_string().chars().take(80).collect();
            target.refuses(program, input.as_bytes(), &format!("{pointer} = {shown}"));
            // The same for the others: they may not look at the field, but never stumble.
            for command in ["DEL", "CHECK", "STATUS", "GC"] {
                let program = target
                    .node
                    .program("watari-cni", command, Some(&target.absent));
                target.copes(
                    program,
                    input.as_bytes(),
                    &format!("{command} {pointer} = {shown}"),
                );
            }
        }
    }
    target.unharmed();
}

#[test]
fn hostile_port_mappings_are_refused() {
    let target = Target::new();
    let result = json!({ "cniVersion": "1.1.0", "ips": [{ "address": "10.244.9.9/16" }] });
    let conf = Node::ports_conf(&target.absent, &result);
    let mapping = |host: Value, inside: Value, protocol: Value| json!([{ "hostPort": host, "containerPort": inside, "protocol": protocol }]);
    let bound = |address: &str| json!([{ "hostPort": 9, "containerPort": 9, "hostIP": address }]);
    for mappings in [
        mapping(json!(65_536), json!(80), json!("tcp")),
        mapping(json!(-1), json!(80), json!("tcp")),
        mapping(json!(1e30), json!(80), json!("tcp")),
        mapping(json!(80.5), json!(80), json!("tcp")),
        mapping(json!("80"), json!(80), json!("tcp")),
        mapping(json!(80), json!(0), json!("tcp")),
        mapping(json!(80), json!(80), json!("icmp")),
        mapping(json!(80), json!(80), json!("tcp\0")),
        bound("300.1.1.1"),
        bound("::1/64"),
        bound("a\" ; flush ruleset"),
        json!([1]),
        json!({ "hostPort": 80 }),
    ] {
        let input = with(&conf, "/runtimeConfig/portMappings", mappings.clone());
        let program = target.node.program("portmap", "ADD", Some(&target.absent));
        let code = target.refuses(program, input.as_bytes(), &mappings.to_string());
        assert_eq!(code, CONFIG, "{mappings}");
    }
    for (pointer, value) in [
        (
            "/prevResult",
            json!({ "cniVersion": "1.1.0", "interfaces": [{ "name": "../../../tmp/x" }], "ips": [{ "address": "10.244.9.9/16" }] }),
        ),
        ("/prevResult", json!(null)),
        ("/prevResult", json!({ "cniVersion": "1.1.0" })),
        ("/snat", json!("yes")),
        ("/backend", json!("iptables")),
        ("/conditionsV4", json!(["-j", "ACCEPT"])),
    ] {
        let input = with(&conf, pointer, value.clone());
        let program = target.node.program("portmap", "ADD", Some(&target.absent));
        target.refuses(program, input.as_bytes(), &format!("{pointer} = {value}"));
    }
    target.unharmed();
}

fn bad_variables() -> Vec<(&'static str, OsString)> {
    let names = [
        b"../x".as_slice(),
        b"a/b",
        b".",
        b"..",
        b"a b",
        b"\xff",
        b"a\nb",
    ];
    let table: [(&str, &[&[u8]]); 6] = [
        ("CNI_COMMAND", &[b"add", b"ADD ", b"\xff", b"ADD;DEL"]),
        ("CNI_CONTAINERID", &names),
        ("CNI_IFNAME", &names),
        ("CNI_IFNAME", &[b"sixteen-letters-", b"a:b", b""]),
        (
            "CNI_NETNS",
            &[
                b"",
                b"/none",
                b"/",
                b"/dev/null",
                b"relative",
                b"/etc/passwd",
            ],
        ),
        (
            "CNI_ARGS",
            &[b"a", b"=", b"a=b;;c", b"\xff=\xff", b"IP=none"],
        ),
    ];
    let mut all = Vec::new();
    for (variable, values) in table {
        let values = values
            .iter()
            .map(|bytes| OsStr::from_bytes(bytes).to_owned());
        all.extend(values.map(|value| (variable, value)));
        all.push((variable, OsString::from("a".repeat(100_000))));
    }
    all
}

#[test]
fn a_hostile_environment_is_refused() {
    let target = Target::new();
    let fifo = target.node.ns.dir().join("fifo");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).expect("make a pipe");
    let mut cases = bad_variables();
    cases.push(("CNI_NETNS", fifo.into()));
    cases.push(("CNI_NETNS", target.node.ns.path().into()));
    let conf = target.node.interface().to_string();
    for (variable, value) in cases {
        let mut program = target
            .node
            .program("azure-vnet", "ADD", Some(&target.absent));
        program.env(variable, &value);
        let shown: String = value.to_string_lossy().chars().take(40).collect();
        let context = format!("{variable}={shown:?}");
        let code = target.refuses(program, conf.as_bytes(), &context);
        if !matches!(variable, "CNI_NETNS" | "CNI_ARGS") {
            assert_eq!(code, ENVIRONMENT, "{context}");
        }
    }
    for variable in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
        let mut program = target
            .node
            .program("azure-vnet", "ADD", Some(&target.absent));
        program.env_remove(variable);
        let code = target.refuses(program, conf.as_bytes(), &format!("no {variable}"));
        assert_eq!(code, ENVIRONMENT, "no {variable}");
    }
    target.unharmed();
}

/// What only the kernel can tell is refused with all undone; the address that was tried comes to
/// its turn again later.
#[test]
fn a_pod_that_cannot_be_connected_leaves_nothing() {
    let target = Target::new();
    let conf = target.node.interface().to_string();
    ip(&target.absent.ns, "link add eth0 type veth peer name other");
    for (variable, value) in [
        ("CNI_IFNAME", "eth0"),
        ("CNI_IFNAME", "lo"),
        ("CNI_NETNS", "/proc/self/ns/mnt"),
    ] {
        let mut program = target
            .node
            .program("azure-vnet", "ADD", Some(&target.absent));
        program.env(variable, value);
        let ended = target.node.run(program, conf.as_bytes());
        error_code(&ended, value);
        target.unharmed();
    }
    assert_eq!(target.absent.links().len(), 2);
}
