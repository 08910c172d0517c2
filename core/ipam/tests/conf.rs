//! The `ipam` section: every source, every field, every refusal.

#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use serde_json::{Value, json};
use watari_cni_spec::{CniArgs, CniError, Code, NetConf};
use watari_ipam::{IpamConf, Kind, Millis, Source, parse_node_file, parse_resolv_conf};

fn parse_as(kind: Kind, ipam: &Value, args: &CniArgs) -> Result<IpamConf, CniError> {
    let conf = json!({"cniVersion": "1.1.0", "name": "azure", "type": "azure-vnet", "ipam": ipam,
        "args": {"cni": {"ips": ["10.1.0.9"]}}, "runtimeConfig": {"ips": ["10.1.0.8/24", "fd00::8"]}});
    let conf = NetConf::parse(conf.to_string().as_bytes()).unwrap();
    IpamConf::parse(&conf, args, kind)
}

fn parse(ipam: &Value) -> Result<IpamConf, CniError> {
    parse_as(Kind::Watari, ipam, &CniArgs::new())
}

fn refused(ipam: &Value, says: &str) {
    let error = parse(ipam).unwrap_err();
    assert_eq!(error.code, Code::INVALID_CONFIG);
    assert!(error.to_string().contains(says), "{error}");
}

fn pools(ranges: &Value) -> Vec<String> {
    let conf = parse(&json!({"type": "watari-cni", "ranges": ranges})).unwrap();
    let Source::Ranges(pools) = conf.source else {
        panic!("{:?}", conf.source)
    };
    let show = |pool: &watari_ipam::Pool| {
        let spans = pool
            .spans()
            .map(|span| format!("{}-{}", span.first(), span.last()));
        format!("{}: {}", pool.id(), spans.collect::<Vec<_>>().join(" "))
    };
    pools.iter().map(show).collect()
}

#[test]
fn ranges_are_those_of_host_local() {
    assert_eq!(
        pools(&json!([
            [{"subnet": "10.1.0.0/24"}],
            [{"subnet": "10.2.0.0/24", "rangeStart": "10.2.0.10", "rangeEnd": "10.2.0.20",
              "gateway": "10.2.0.15"}, {"subnet": "10.3.0.0/30"}],
            [{"subnet": "fd00::/64", "rangeStart": "fd00::10", "rangeEnd": "fd00::1f"}],
            [{"subnet": "fd01::/64"}]
        ])),
        [
            "network/azure/0: 10.1.0.2-10.1.0.254",
            "network/azure/1: 10.2.0.10-10.2.0.14 10.2.0.16-10.2.0.20 10.3.0.2-10.3.0.2",
            "network/azure/2: fd00::10-fd00::1f",
            "network/azure/3: fd01::2-fd01::ffff:ffff:ffff:ffff",
        ]
    );
}

#[test]
fn ill_ranges_are_refused_with_their_place() {
    let one = |range: Value| json!({"type": "x", "ranges": [[range]]});
    refused(&json!({"ranges": []}), "ranges");
    refused(&json!({"ranges": [[]]}), "ranges[0]");
    refused(&json!({"ranges": {}}), "ranges");
    refused(
        &one(json!({})),
        "\"subnet\" is missing in ipam.ranges[0][0]",
    );
    refused(
        &one(json!({"subnet": "10.1.0.0"})),
        "ipam.ranges[0][0].subnet",
    );
    refused(
        &one(json!({"subnet": "10.1.0.5/24"})),
        "no host bits set, as in 10.1.0.0/24",
    );
    refused(
        &one(json!({"subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1"})),
        "ipam.ranges[0][0].rangeStart",
    );
    refused(
        &one(json!({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.8"})),
        "rangeStart 10.1.0.9 not behind rangeEnd 10.1.0.8",
    );
    refused(
        &one(json!({"subnet": "10.1.0.0/24", "gateway": "fd00::1"})),
        "a gateway of the family",
    );
    refused(
        &one(json!({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.1", "rangeEnd": "10.1.0.1"})),
        "no address is left",
    );
    refused(
        &json!({"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]]}),
        "of another family",
    );
    refused(
        &json!({"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "10.1.0.128/25"}]]}),
        "overlap",
    );
    refused(
        &json!({"ranges": [[{"subnet": "::ffff:10.1.0.0/120"}]]}),
        "written as IPv4",
    );
    refused(
        &json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.1.0.128/25"}]]}),
        "apart from those of range set 0",
    );
}

#[test]
fn the_environment_chooses_the_source() {
    let source = |ipam: Value| parse(&ipam).unwrap().source;
    let azure = Source::WireServer("http://168.63.129.16".to_owned());
    assert_eq!(source(json!({"type": "azure-vnet-ipam"})), azure);
    assert_eq!(source(json!({"environment": "azure"})), azure);
    assert_eq!(
        source(json!({"wireServer": "http://127.0.0.1:81/"})),
        Source::WireServer("http://127.0.0.1:81".to_owned())
    );
    for name in ["mas", "fileIpam"] {
        let file = Source::StackFile("/etc/kubernetes/interfaces.json".into());
        assert_eq!(source(json!({"environment": name})), file);
    }
    let Source::NodeCidrs { given, file, clamp } = source(json!({"environment": "ipv6NodeIpam"}))
    else {
        panic!("not the node")
    };
    assert_eq!(
        (given, file.to_str().unwrap(), clamp),
        (vec![], "/run/watari/node.json", true)
    );
    assert!(matches!(
        source(json!({"podCIDRs": ["10.244.1.0/24"]})),
        Source::NodeCidrs { clamp: false, .. }
    ));
    refused(&json!({"environment": "null"}), "environment");
    refused(&json!({"podCIDRs": ["x"]}), "ipam.podCIDRs[0]");
}

#[test]
fn pod_cidrs_are_clamped_where_azure_does() {
    let cidrs =
        parse_node_file(br#"{"podCIDRs":["10.244.1.0/24","fd00:1::/64"],"more":1}"#).unwrap();
    let text = |clamp| {
        Source::node_cidrs(&cidrs, clamp)
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(text(false), ["10.244.1.0/24", "fd00:1::/64"]);
    assert_eq!(text(true), ["fd00:1::/120"]);
    parse_node_file(b"[]").unwrap_err();
    parse_node_file(br#"{"podCIDRs":[1]}"#).unwrap_err();
}

#[test]
fn requested_addresses_come_from_four_places() {
    let args = CniArgs::from([("IP".to_owned(), "10.1.0.7".to_owned())]);
    let ipam = json!({"ipAddress": "10.1.0.6"});
    let requested = |kind| parse_as(kind, &ipam, &args).unwrap().requested;
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let v4 = ["10.1.0.8", "10.1.0.9", "10.1.0.7", "10.1.0.6"].map(ip);
    assert_eq!(requested(Kind::AzureV4), v4);
    assert_eq!(requested(Kind::AzureV6), [ip("fd00::8")]);
    assert_eq!(requested(Kind::Watari).len(), 5);
    refused(&json!({"ipAddress": "10.1.0.300"}), "10.1.0.300");
}

#[test]
fn times_have_defaults_and_bounds() {
    let conf = parse(&json!({})).unwrap();
    assert_eq!(
        (conf.cool_down, conf.refresh),
        (Millis(30_000), Millis(600_000))
    );
    let conf = parse(&json!({"coolDownSeconds": 0, "queryInterval": "1"})).unwrap();
    assert_eq!((conf.cool_down, conf.refresh), (Millis(0), Millis(10_000)));
    assert_eq!(
        parse(&json!({"queryInterval": 60})).unwrap().refresh,
        Millis(60_000)
    );
    refused(&json!({"coolDownSeconds": -1}), "coolDownSeconds");
    refused(&json!({"queryInterval": "soon"}), "queryInterval");
    refused(&json!({"dataDir": "relative"}), "an absolute path");
}

#[test]
fn resolv_conf_is_read_as_resolvers_do() {
    let dns = parse_resolv_conf(
        "# comment\nnameserver 10.0.0.10 ; here\nnameserver fd00::a\nsearch a.b c.d\nsearch e.f g.h\n\
         domain x.y\noptions ndots:5 rotate\nnonsense\nnameserver\n",
    );
    assert_eq!(dns.nameservers, ["10.0.0.10", "fd00::a"]);
    assert_eq!(dns.search, ["e.f", "g.h"]);
    assert_eq!(dns.domain.as_deref(), Some("x.y"));
    assert_eq!(dns.options, ["ndots:5", "rotate"]);
}
