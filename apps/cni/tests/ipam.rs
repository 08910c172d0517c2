//! The IPAM plugins over a wire server on loopback, an Azure Stack file, ranges and Pod CIDRs.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use watari_cni::ipam;
use watari_cni_spec::{CniArgs, CniError, CniResult, Code, Command, NetConf, Request};
use watari_ipam::{Kind, Millis};
use watari_model::{ContainerId, IfName};
use watari_store::{Store, StoreError};

/// A wire server whose answer can be changed, and taken away.
struct WireServer {
    base: String,
    body: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl WireServer {
    fn start(body: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            base: format!("http://{}", listener.local_addr().unwrap()),
            body: Arc::new(Mutex::new(Some(body))),
            asked: Arc::default(),
        };
        let (body, asked) = (server.body.clone(), server.asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                asked.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 4096]);
                let body = body.lock().unwrap().clone();
                let _ = match body {
                    Some(body) => write!(
                        stream,
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                        body.len()
                    ),
                    None => write!(stream, "HTTP/1.1 503 Gone\r\nContent-Length: 0\r\n\r\n"),
                };
            }
        });
        server
    }

    fn say(&self, body: Option<String>) {
        *self.body.lock().unwrap() = body;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// A node with addresses .4 (its own) to `last`, in both families.
fn document(last: u8) -> String {
    let mut xml = String::from(r#"<Interfaces><Interface MacAddress="*" IsPrimary="true">"#);
    for (prefix, net) in [("10.240.0.", "0/16"), ("fd00::", "/64")] {
        write!(xml, r#"<IPSubnet Prefix="{prefix}{net}">"#).unwrap();
        for at in 4..=last {
            let own = at == 4;
            write!(
                xml,
                r#"<IPAddress Address="{prefix}{at}" IsPrimary="{own}"/>"#
            )
            .unwrap();
        }
        xml.push_str("</IPSubnet>");
    }
    xml + "</Interface></Interfaces>"
}

fn request(command: Command, container: &str, args: CniArgs) -> Request {
    Request {
        command,
        container: Some(ContainerId::new(container).unwrap()),
        ifname: Some(IfName::new("eth0").unwrap()),
        netns: None,
        args,
        path: Vec::new(),
    }
}

fn conf(dir: &Path, mut ipam: Value) -> NetConf {
    ipam["dataDir"] = json!(dir);
    let conf = json!({"cniVersion": "1.1.0", "name": "azure", "type": "azure-vnet", "ipam": ipam});
    NetConf::parse(conf.to_string().as_bytes()).unwrap()
}

fn add(conf: &NetConf, kind: Kind, container: &str) -> Result<CniResult, CniError> {
    ipam::add(
        &request(Command::Add, container, CniArgs::new()),
        conf,
        kind,
    )
}

fn del(conf: &NetConf, container: &str) {
    ipam::del(&request(Command::Del, container, CniArgs::new()), conf).unwrap();
}

fn check(conf: &NetConf, kind: Kind, container: &str) -> Result<(), CniError> {
    ipam::check(
        &request(Command::Check, container, CniArgs::new()),
        conf,
        kind,
    )
}

fn addresses(result: &CniResult) -> Vec<String> {
    result.ips.iter().map(|ip| ip.address.to_string()).collect()
}

#[test]
fn each_plugin_serves_its_families_from_the_wire_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = WireServer::start(document(9));
    let conf = conf(dir.path(), json!({"wireServer": server.base}));
    let result = add(&conf, Kind::AzureV4, "a").unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&result.to_json(conf.cni_version)).unwrap(),
        json!({
            "cniVersion": "1.1.0",
            "dns": {},
            "ips": [{"address": "10.240.0.5/16", "gateway": "10.240.0.1"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.240.0.1"}],
        })
    );
    assert_eq!(
        addresses(&add(&conf, Kind::AzureV6, "a").unwrap()),
        ["fd00::5/64"]
    );
    let both = add(&conf, Kind::Watari, "b").unwrap();
    assert_eq!(addresses(&both), ["10.240.0.6/16", "fd00::6/64"]);
    assert_eq!(both.routes.len(), 2);
    assert_eq!(server.asked(), 1, "the answer is cached");
    check(&conf, Kind::Watari, "b").unwrap();
    del(&conf, "b");
    let error = check(&conf, Kind::Watari, "b").unwrap_err();
    assert_eq!(error.code, Code::CHECK_FAILED);
    del(&conf, "b");
}

#[test]
fn an_exhausted_pool_is_an_error_of_its_own_and_asks_the_source_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = WireServer::start(document(6));
    let conf = conf(dir.path(), json!({"wireServer": server.base}));
    ipam::status(&conf, Kind::AzureV4).unwrap();
    for container in ["a", "b"] {
        add(&conf, Kind::AzureV4, container).unwrap();
    }
    del(&conf, "a");
    let error = add(&conf, Kind::AzureV4, "c").unwrap_err();
    assert_eq!(error.code, Code::POOL_EXHAUSTED);
    let says = error.to_string();
    assert!(
        says.contains("1 leased, 1 cooling down; the next is free in "),
        "{says}"
    );
    let status = ipam::status(&conf, Kind::AzureV4).unwrap_err();
    assert_eq!(status.code, Code::NOT_AVAILABLE);
    assert!(status.to_string().contains("no free address"), "{status}");
    // The document is younger than 10 s, so nobody was asked again.
    assert_eq!(server.asked(), 1);
}

#[test]
fn an_exhausted_pool_grows_with_its_source() {
    let dir = tempfile::tempdir().unwrap();
    let server = WireServer::start(document(5));
    let conf = conf(dir.path(), json!({"wireServer": server.base}));
    add(&conf, Kind::AzureV4, "a").unwrap();
    age_document(dir.path(), &server);
    // Still the same: refused, and the fresh answer is kept.
    assert_eq!(
        add(&conf, Kind::AzureV4, "b").unwrap_err().code,
        Code::POOL_EXHAUSTED
    );
    assert_eq!(
        add(&conf, Kind::AzureV4, "b").unwrap_err().code,
        Code::POOL_EXHAUSTED
    );
    assert_eq!(server.asked(), 2);
    server.say(Some(document(7)));
    age_document(dir.path(), &server);
    assert_eq!(
        addresses(&add(&conf, Kind::AzureV4, "b").unwrap()),
        ["10.240.0.6/16"]
    );
    assert_eq!(server.asked(), 3);
}

#[test]
fn a_silent_source_is_replaced_by_its_older_answer_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let server = WireServer::start(document(9));
    let conf = conf(
        dir.path(),
        json!({"wireServer": server.base, "queryInterval": "10"}),
    );
    add(&conf, Kind::AzureV4, "a").unwrap();
    server.say(None);
    age_document(dir.path(), &server);
    add(&conf, Kind::AzureV4, "b").unwrap();
    assert_eq!(server.asked(), 4, "three tries");
    add(&conf, Kind::AzureV4, "c").unwrap();
    assert_eq!(server.asked(), 4, "left alone");
}

#[test]
fn without_any_answer_there_is_no_address() {
    let dir = tempfile::tempdir().unwrap();
    let server = WireServer::start(String::new());
    server.say(None);
    let conf = conf(dir.path(), json!({"wireServer": server.base}));
    let error = add(&conf, Kind::AzureV4, "a").unwrap_err();
    assert_eq!(error.code, Code::NO_SOURCE);
    assert!(error.to_string().contains("503"), "{error}");
    assert_eq!(
        ipam::status(&conf, Kind::AzureV4).unwrap_err().code,
        Code::NOT_AVAILABLE
    );
}

/// Makes the cached document of a server 11 s older, in place of waiting: older than the shortest
/// interval at which a source is asked again.
fn age_document(dir: &Path, server: &WireServer) {
    let store = Store::open(dir).unwrap();
    let key = format!("{} primary", server.base);
    store
        .write(|tx| {
            let (body, at) = tx.document(&key)?.expect("a cached document");
            tx.put_document(&key, &body, Millis(at.0 - 11_000))?;
            Ok::<_, StoreError>(())
        })
        .unwrap();
}

#[test]
fn ranges_give_one_address_of_each_set_under_any_name() {
    let dir = tempfile::tempdir().unwrap();
    let resolv = dir.path().join("resolv.conf");
    std::fs::write(&resolv, "nameserver 10.0.0.10\nsearch a.b\n").unwrap();
    let conf = conf(
        dir.path(),
        json!({
            "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64", "gateway": "fe80::1"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.0.9"}],
            "resolvConf": resolv,
        }),
    );
    for (kind, last) in [(Kind::AzureV4, 2), (Kind::AzureV6, 3), (Kind::Watari, 4)] {
        let result = add(&conf, kind, &format!("c{last}")).unwrap();
        assert_eq!(
            addresses(&result),
            [
                format!("10.1.0.{last}/24"),
                format!("fd00::{}/64", last - 1)
            ]
        );
        assert_eq!(result.ips[1].gateway, Some("fe80::1".parse().unwrap()));
        assert_eq!(result.routes.len(), 2);
        assert_eq!(result.dns.nameservers, ["10.0.0.10"]);
    }
}

#[test]
fn requested_addresses_find_their_pools() {
    let dir = tempfile::tempdir().unwrap();
    let ranges = json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]});
    let conf = conf(dir.path(), ranges);
    let ask = |container: &str, ips: &str| {
        let args = CniArgs::from([("IP".to_owned(), ips.to_owned())]);
        ipam::add(&request(Command::Add, container, args), &conf, Kind::Watari)
    };
    let got = ask("a", "fd00::77,10.1.0.77").unwrap();
    assert_eq!(addresses(&got), ["10.1.0.77/24", "fd00::77/64"]);
    assert_eq!(
        addresses(&ask("b", "10.1.0.78").unwrap()),
        ["10.1.0.78/24", "fd00::2/64"]
    );
    for (ips, says) in [
        ("10.1.0.77", "leased to a/eth0 (network azure)"),
        ("10.1.0.1", "reserved"),
        (
            "10.2.0.1",
            "not one of the addresses of 10.1.0.0/24, fd00::/64",
        ),
        ("10.1.0.80,10.1.0.81", "10.1.0.81 is not"),
    ] {
        let error = ask("c", ips).unwrap_err();
        assert_eq!(error.code, Code::ADDRESS_UNAVAILABLE);
        assert!(error.to_string().contains(says), "{error}");
    }
    // A refused ADD leaves nothing, not even the address of the other family.
    assert_eq!(
        addresses(&add(&conf, Kind::Watari, "d").unwrap()),
        ["10.1.0.2/24", "fd00::3/64"]
    );
}

#[test]
fn the_stack_file_and_pod_cidrs_are_sources_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("interfaces.json");
    std::fs::write(
        &file,
        r#"{"Interfaces":[{"MacAddress":"*","IPSubnets":[{"Prefix":"10.5.0.0/24",
           "IPAddresses":[{"Address":"10.5.0.4","IsPrimary":true},{"Address":"10.5.0.9"}]}]}]}"#,
    )
    .unwrap();
    let stack = conf(
        dir.path(),
        json!({"environment": "mas", "interfacesFile": file}),
    );
    assert_eq!(
        addresses(&add(&stack, Kind::AzureV4, "a").unwrap()),
        ["10.5.0.9/24"]
    );
    let error = add(&stack, Kind::AzureV6, "a").unwrap_err();
    assert_eq!(error.code, Code::NO_SOURCE);

    let node = dir.path().join("node.json");
    std::fs::write(&node, r#"{"podCIDRs":["10.244.1.0/24","fd00:1::/64"]}"#).unwrap();
    let six = conf(
        dir.path(),
        json!({"environment": "ipv6NodeIpam", "nodeFile": node}),
    );
    assert_eq!(
        addresses(&add(&six, Kind::AzureV6, "b").unwrap()),
        ["fd00:1::2/120"]
    );
    let all = conf(dir.path(), json!({"environment": "node", "nodeFile": node}));
    let both = add(&all, Kind::Watari, "c").unwrap();
    let first: IpAddr = "10.244.1.2".parse().unwrap();
    assert_eq!(both.ips[0].address.addr(), first);
    // The same address never twice, though these are two pools of one node.
    assert_eq!(addresses(&both)[1], "fd00:1::3/64");
    let error = add(
        &conf(
            dir.path(),
            json!({"environment": "node", "nodeFile": "/none"}),
        ),
        Kind::Watari,
        "d",
    );
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("the agent writes it")
    );
}

#[test]
fn collecting_ends_what_is_not_valid() {
    let dir = tempfile::tempdir().unwrap();
    let ranges = json!({"ranges": [[{"subnet": "10.1.0.0/24"}]]});
    let mut conf = conf(dir.path(), ranges);
    for container in ["a", "b", "c"] {
        add(&conf, Kind::Watari, container).unwrap();
    }
    conf.valid_attachments = Some(vec![
        request(Command::Gc, "b", CniArgs::new())
            .attachment()
            .unwrap(),
    ]);
    let gone = ipam::gc(&conf).unwrap();
    assert_eq!(
        gone.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["a/eth0", "c/eth0"]
    );
    check(&conf, Kind::Watari, "b").unwrap();
    assert_eq!(ipam::gc(&conf).unwrap().len(), 0);
}

#[test]
fn deleting_works_under_a_configuration_that_adding_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let good = conf(dir.path(), json!({"ranges": [[{"subnet": "10.1.0.0/24"}]]}));
    add(&good, Kind::Watari, "a").unwrap();
    let bad = conf(dir.path(), json!({"environment": "nonsense"}));
    assert_eq!(
        add(&bad, Kind::Watari, "b").unwrap_err().code,
        Code::INVALID_CONFIG
    );
    del(&bad, "a");
    assert_eq!(Store::open(dir.path()).unwrap().leases().unwrap(), []);
}
