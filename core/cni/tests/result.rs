//! Results in the form of each version, and properties over all of them.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use serde_json::json;
use watari_cni_spec::{
    CniError, CniResult, ConfList, Dns, Interface, IpConfig, NetConf, ResultRoute, Version,
    VersionReply,
};
use watari_model::MacAddr;

#[test]
fn each_version_has_its_own_form() {
    let result = CniResult {
        interfaces: vec![Interface {
            name: "eth0".into(),
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            mtu: Some(1500),
            sandbox: Some("/run/netns/x".into()),
            socket_path: Some("/run/s".into()),
            pci_id: Some("0000:00:1f.6".into()),
        }],
        ips: vec![IpConfig {
            address: "10.240.0.88/16".parse().unwrap(),
            gateway: Some("169.254.1.1".parse().unwrap()),
            interface: Some(0),
        }],
        routes: vec![ResultRoute {
            mtu: Some(1400),
            table: Some(0),
            ..ResultRoute::to("::/0".parse().unwrap())
        }],
        dns: Dns::default(),
    };
    assert_eq!(
        result.to_value(Version::V0_3_0),
        json!({
            "cniVersion": "0.3.0",
            "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"}],
            "ips": [{"version": "4", "address": "10.240.0.88/16", "gateway": "169.254.1.1", "interface": 0}],
            "routes": [{"dst": "::/0"}],
            "dns": {},
        })
    );
    assert!(
        result.to_value(Version::V1_0_0)["ips"][0]
            .get("version")
            .is_none()
    );
    let newest = result.to_value(Version::V1_1_0);
    assert_eq!(newest["interfaces"][0]["mtu"], 1500);
    assert_eq!(newest["interfaces"][0]["socketPath"], "/run/s");
    assert_eq!(newest["interfaces"][0]["pciID"], "0000:00:1f.6");
    assert_eq!(
        newest["routes"][0],
        json!({"dst": "::/0", "mtu": 1400, "table": 0})
    );
}

#[test]
fn what_libraries_write_for_nothing_is_nothing() {
    let read = CniResult::from_json(
        br#"{"cniVersion":"0.4.0","interfaces":null,"ips":[{"version":"4","address":"10.0.0.2/24",
            "gateway":"","interface":3}],"routes":[{"dst":"0.0.0.0/0","gw":null}],"dns":null,"x":1}"#,
    )
    .unwrap();
    assert_eq!(read.ips[0].interface, None, "no interfaces, no index");
    assert_eq!(read.ips[0].gateway, None);
    assert_eq!(read.routes[0].gw, None);
}

#[test]
fn a_result_that_points_nowhere_is_refused() {
    let error = CniResult::from_json(
        br#"{"interfaces":[{"name":"a"}],"ips":[{"address":"10.0.0.2/24","interface":1}]}"#,
    )
    .unwrap_err();
    assert!(
        error.to_string().contains(r#""ips[0].interface""#),
        "{error}"
    );
    assert!(CniResult::from_json(br#"{"cniVersion":"0.2.0","ip4":{}}"#).is_err());
}

#[test]
fn a_list_speaks_its_newest_known_version() {
    let parse = |text: &str| ConfList::parse(text.as_bytes());
    let list = parse(
        r#"{"cniVersion":"0.4.0","cniVersions":["1.0.0","1.1.0","9.0.0"],"name":"n",
            "disableCheck":"true","disableGC":true,"plugins":[{"type":"a","cni.dev/x":1,
            "capabilities":{"mac":true,"ips":false}}]}"#,
    )
    .unwrap();
    assert_eq!(list.version, Version::V1_1_0);
    assert!(list.disable_check && list.disable_gc && list.load_more);
    let told = json!({"mac": "m", "ips": ["i"], "portMappings": []});
    let request = list.request(&list.plugins[0], told.as_object().unwrap(), None);
    assert_eq!(
        serde_json::Value::Object(request),
        json!({"cniVersion": "1.1.0", "name": "n", "type": "a", "runtimeConfig": {"mac": "m"}})
    );
    let single = parse(r#"{"cniVersion":"0.3.1","name":"n","type":"a"}"#).unwrap();
    assert_eq!((single.plugins.len(), single.load_more), (1, false));
    assert!(parse(r#"{"cniVersion":"0.1.0","name":"n","type":"a"}"#).is_err());
    assert!(parse(r#"{"cniVersion":"1.1.0","name":"n","loadOnlyInlinedPlugins":true}"#).is_err());
}

#[test]
fn the_aks_conflist_is_read_as_it_is() {
    let list = ConfList::parse(
        br#"{ "cniVersion": "0.3.0", "name": "azure", "plugins": [
            { "type": "azure-vnet", "mode": "transparent",
              "ipsToRouteViaHost": ["169.254.20.10"], "ipam": { "type": "azure-vnet-ipam" } },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true } ] }"#,
    )
    .unwrap();
    assert_eq!(list.version, Version::V0_3_0);
    let kinds: Vec<_> = list.plugins.iter().map(|p| p.kind.as_str()).collect();
    assert_eq!(kinds, ["azure-vnet", "portmap"]);
    assert!(list.plugins[1].capabilities.contains("portMappings"));
}

#[test]
fn a_result_of_the_lists_version_passes_with_unknown_fields() {
    let list =
        ConfList::parse(br#"{"cniVersion":"0.4.0","name":"n","plugins":[{"type":"a"}]}"#).unwrap();
    let own = json!({"cniVersion": "0.4.0", "ips": [{"address": "10.0.0.2/24"}], "x": 1});
    assert_eq!(list.reshape(&own).unwrap(), own);
    let other = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}], "x": 1});
    assert_eq!(
        list.reshape(&other).unwrap(),
        json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.2/24"}], "dns": {}})
    );
}

fn ip() -> impl Strategy<Value = std::net::IpAddr> {
    any::<std::net::IpAddr>().prop_map(|ip| ip.to_canonical())
}

fn net() -> impl Strategy<Value = ipnet::IpNet> {
    (ip(), 0u8..=128).prop_map(|(ip, len)| {
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        ipnet::IpNet::new(ip, len.min(longest)).expect("a length that fits")
    })
}

fn text() -> impl Strategy<Value = String> {
    "[a-z0-9./:\u{e9}\"\\\\-]{1,12}"
}

fn interface() -> impl Strategy<Value = Interface> {
    (
        text(),
        of(any::<[u8; 6]>()),
        of(1u32..),
        of(text()),
        of(text()),
        of(text()),
    )
        .prop_map(|(name, mac, mtu, sandbox, socket_path, pci_id)| Interface {
            name,
            mac: mac.map(MacAddr),
            mtu,
            sandbox: sandbox.map(Into::into),
            socket_path,
            pci_id,
        })
}

fn result() -> impl Strategy<Value = CniResult> {
    let route = (
        net(),
        of(ip()),
        [of(1u32..), of(1u32..), of(1u32..)],
        of(any::<u32>()),
    )
        .prop_map(|(dst, gw, [mtu, advmss, priority], table)| ResultRoute {
            dst,
            gw,
            mtu,
            advmss,
            priority,
            table,
            scope: table,
        });
    let address = (net(), of(ip()), of(any::<usize>()));
    let dns = (vec(text(), 0..3), of(text()), vec(text(), 0..3));
    (
        vec(interface(), 0..4),
        vec(address, 0..4),
        vec(route, 0..4),
        dns,
    )
        .prop_map(
            |(interfaces, ips, routes, (nameservers, domain, search))| CniResult {
                ips: ips
                    .into_iter()
                    .map(|(address, gateway, at)| IpConfig {
                        address,
                        gateway,
                        interface: at
                            .filter(|_| !interfaces.is_empty())
                            .map(|at| at % interfaces.len()),
                    })
                    .collect(),
                interfaces,
                routes,
                dns: Dns {
                    nameservers,
                    domain,
                    search,
                    options: vec![],
                },
            },
        )
}

/// What a version before 1.1.0 cannot say.
fn without_news(mut result: CniResult) -> CniResult {
    for interface in &mut result.interfaces {
        (interface.mtu, interface.socket_path, interface.pci_id) = (None, None, None);
    }
    for route in &mut result.routes {
        *route = ResultRoute {
            gw: route.gw,
            ..ResultRoute::to(route.dst)
        };
    }
    result
}

/// Something like JSON: more of it gets past the first byte than of random bytes.
fn json_like() -> impl Strategy<Value = Vec<u8>> {
    const WORDS: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "null",
        "-1",
        "1e999",
        "\"cniVersion\"",
        "\"1.1.0\"",
        "\"0.3.0\"",
        "\"name\"",
        "\"type\"",
        "\"n\"",
        "\"prevResult\"",
        "\"ips\"",
        "\"address\"",
        "\"10.0.0.1/8\"",
        "\"interfaces\"",
        "\"interface\"",
        "\"runtimeConfig\"",
        "\"plugins\"",
        "\"portMappings\"",
        "\"cni.dev/valid-attachments\"",
        "\"\\ud800\"",
        "\"capabilities\"",
    ];
    vec(proptest::sample::select(WORDS), 0..40).prop_map(|words| words.concat().into_bytes())
}

proptest! {
    #[test]
    fn a_result_reads_as_it_was_written(result in result()) {
        for version in Version::ALL {
            let text = result.to_json(version);
            let read = CniResult::from_json(text.as_bytes()).unwrap();
            let want = if version < Version::V1_1_0 {
                without_news(result.clone())
            } else {
                result.clone()
            };
            prop_assert_eq!(&read, &want, "{} {}", version, text);
            prop_assert_eq!(CniResult::from_value(&result.to_value(version)).unwrap(), want);
        }
    }

    #[test]
    fn a_previous_result_reads_in_every_version(result in result()) {
        for version in Version::ALL {
            let conf = json!({"cniVersion": version, "name": "n", "type": "t",
                "prevResult": result.to_value(version)});
            let read = NetConf::parse(conf.to_string().as_bytes()).unwrap();
            let want = CniResult::from_json(result.to_json(version).as_bytes()).unwrap();
            prop_assert_eq!(read.prev_result, Some(want));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop_oneof![vec(any::<u8>(), 0..200), json_like()]) {
        let _ = NetConf::parse(&bytes);
        let _ = ConfList::parse(&bytes);
        let _ = CniResult::from_json(&bytes);
        let _ = CniError::from_json(&bytes);
        let _ = VersionReply::answer(&bytes);
        let _ = VersionReply::from_json(&bytes);
        let _ = Version::sniff(&bytes);
    }

    #[test]
    fn a_changed_byte_never_panics(result in result(), at in any::<usize>(), byte in any::<u8>()) {
        let conf = json!({"cniVersion": "1.1.0", "name": "n", "type": "t",
            "prevResult": result.to_value(Version::LATEST)});
        let mut bytes = conf.to_string().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = NetConf::parse(&bytes);
        bytes.truncate(at);
        prop_assert!(NetConf::parse(&bytes).is_err());
    }
}
