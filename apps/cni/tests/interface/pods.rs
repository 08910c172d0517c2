//! Pods that come, are checked, and go.

use serde_json::json;
use watari_cni_spec::Code;
use watari_runtime::NetworkList;

use crate::world::{Node, Pod, addresses, plugin_error};

#[test]
fn a_pod_comes_is_checked_and_goes() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let list = node.dual();
    let result = node.add(&list, &pod).unwrap();
    assert_eq!(addresses(&result), ["10.240.0.10/16", "fd00::10/64"]);
    assert_eq!(result.interfaces[1].mtu, Some(1400));
    assert_eq!(
        result.interfaces[1].sandbox.as_deref(),
        Some(pod.netns.path())
    );
    node.check(&list, &pod).unwrap();
    for address in ["10.240.0.4", "fd00::4"] {
        pod.netns.run(&["ping", "-c1", "-W1", address]);
    }
    node.del(&list, &pod, Some(pod.netns.path()));
    node.assert_clean();
    // Again, and without a namespace: still no error.
    node.del(&list, &pod, None);
}

#[test]
fn check_names_what_is_different() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let list = node.dual();
    node.add(&list, &pod).unwrap();
    pod.netns.run(&["ip", "route", "del", "default"]);
    node.netns
        .run(&["ip", "-6", "route", "del", "fd00::10/128"]);
    let error = node.check(&list, &pod).unwrap_err();
    let error = plugin_error(&error);
    assert_eq!(error.code, Code::CHECK_FAILED);
    let text = error.to_string();
    assert!(
        text.contains("pod eth0: route 0.0.0.0/0 via 169.254.1.1 is missing"),
        "{text}"
    );
    assert!(text.contains("route fd00::10/128 is missing"), "{text}");
    node.del(&list, &pod, Some(pod.netns.path()));
    node.assert_clean();
}

#[test]
fn a_repeated_add_keeps_the_addresses() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let list = node.dual();
    let first = node.add(&list, &pod).unwrap();
    // The runtime died before it knew: it has no result, and calls ADD again for a new sandbox.
    std::fs::remove_dir_all(&node.runtime.cache_dir).unwrap();
    let pod = pod.again();
    let second = node.add(&list, &pod).unwrap();
    assert_eq!(addresses(&first), addresses(&second));
    assert_eq!(node.links(), 1);
    pod.netns.run(&["ping", "-c1", "-W1", "10.240.0.4"]);
}

#[test]
fn what_the_runtime_asks_for_is_honoured() {
    let (node, pod, other) = (Node::new(), Pod::new("c1"), Pod::new("c2"));
    let list = node.dual();
    let wish = json!({"ips": ["10.240.7.7/16"], "mac": "02:00:5e:10:00:01"});
    let result = node.add_with(&list, &pod, &wish).unwrap();
    assert_eq!(addresses(&result), ["10.240.7.7/16", "fd00::10/64"]);
    assert!(
        pod.netns
            .run(&["ip", "link", "show", "eth0"])
            .contains("02:00:5e:10:00:01")
    );
    pod.netns.run(&["ping", "-c1", "-W1", "10.240.0.4"]);
    let error = node.add_with(&list, &other, &wish).unwrap_err();
    assert_eq!(plugin_error(&error).code, Code::ADDRESS_UNAVAILABLE);
    assert!(error.to_string().contains("c1"), "{error}");
    assert_eq!((node.links(), node.leases()), (1, 2));
}

#[test]
fn ipv6_mode_asks_for_an_address_of_the_nodes_pod_cidr_too() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let file = node.netns.dir().join("node.json");
    std::fs::write(&file, r#"{"podCIDRs":["10.244.0.0/24","fd0a::/64"]}"#).unwrap();
    let ipam =
        json!({"type": "static", "addresses": [{"address": "10.240.9.9/16"}], "nodeFile": file});
    let plugin = json!({"type": "azure-vnet", "ipv6Mode": "ipv6nat", "ipam": ipam});
    let list = node.network("1.0.0", plugin);
    let result = node.add(&list, &pod).unwrap();
    assert_eq!(addresses(&result)[0], "10.240.9.9/16");
    assert!(addresses(&result)[1].starts_with("fd0a::"), "{result:?}");
    for address in ["10.240.0.4", "fd00::4"] {
        pod.netns.run(&["ping", "-c1", "-W1", address]);
    }
    node.check(&list, &pod).unwrap();
    node.del(&list, &pod, None);
    node.assert_clean();
}

#[test]
fn an_exhausted_pool_is_an_error_of_its_own() {
    let (node, pod, other) = (Node::new(), Pod::new("c1"), Pod::new("c2"));
    let range =
        json!({"subnet": "10.240.0.0/16", "rangeStart": "10.240.0.9", "rangeEnd": "10.240.0.9"});
    let list = node.azure(&json!({"type": "azure-vnet-ipam", "ranges": [[range]]}));
    node.add(&list, &pod).unwrap();
    let error = node.add(&list, &other).unwrap_err();
    assert_eq!(plugin_error(&error).code, Code::POOL_EXHAUSTED);
    assert_eq!((node.links(), node.leases()), (1, 1));
}

#[test]
fn a_foreign_interface_of_the_name_fails_add_and_nothing_is_left() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    pod.netns
        .run(&["ip", "link", "add", "eth0", "type", "veth", "peer", "other"]);
    let error = node.add(&node.dual(), &pod).unwrap_err();
    assert!(
        error.to_string().contains("already has an interface eth0"),
        "{error}"
    );
    node.assert_clean();
    assert!(pod.netns.run(&["ip", "link"]).contains("eth0"));
}

#[test]
fn gc_removes_what_no_valid_attachment_has() {
    let (node, pod, other) = (Node::new(), Pod::new("c1"), Pod::new("c2"));
    let list = node.dual();
    node.add(&list, &pod).unwrap();
    node.add(&list, &other).unwrap();
    // The runtime forgot one, and the store a third.
    std::fs::remove_dir_all(&node.runtime.cache_dir).unwrap();
    node.netns
        .run(&["ip", "link", "add", "azv00000000000", "type", "veth"]);
    let alias = [
        "ip",
        "link",
        "set",
        "azv00000000000",
        "alias",
        "watari:azure/gone/eth0",
    ];
    node.netns.run(&alias);
    node.netns
        .run(&["ip", "link", "add", "azv0fforeign0", "type", "veth"]);
    let valid = [pod.attachment.clone()];
    node.netns.enter(|| node.runtime.gc(&list, &valid)).unwrap();
    let links = node.netns.run(&["ip", "-o", "link"]);
    assert!(
        !links.contains("azv00000000000") && links.contains("azv0fforeign0"),
        "{links}"
    );
    node.netns.run(&["ip", "link", "del", "azv0fforeign0"]);
    assert_eq!((node.links(), node.leases()), (1, 2));
    pod.netns.run(&["ping", "-c1", "-W1", "10.240.0.4"]);
}

#[test]
fn status_says_why_no_pod_can_be_taken() {
    let node = Node::new();
    let list = node.dual();
    let status = || node.netns.enter(|| node.runtime.status(&list));
    status().unwrap();
    node.netns.run(&["ip", "link", "set", "eth0", "down"]);
    let error = status().unwrap_err();
    assert_eq!(plugin_error(&error).code, Code::NOT_AVAILABLE);
    assert!(
        error.to_string().contains("no primary interface"),
        "{error}"
    );
}

#[test]
fn any_ipam_plugin_serves_the_interface_plugin() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let host_local = node.azure_over_reference(&json!({
        "type": "host-local",
        "ranges": [[{"subnet": "10.240.0.0/16"}], [{"subnet": "fd00::/64"}]],
        "routes": [{"dst": "10.0.0.0/8"}],
    }));
    let leased = || node.data_dir().join("azure").join("10.240.0.2").exists();
    let result = node.add(&host_local, &pod).unwrap();
    assert_eq!(addresses(&result), ["10.240.0.2/16", "fd00::2/64"]);
    assert!(leased());
    let routes = pod.netns.run(&["ip", "route"]);
    assert!(
        routes.contains("10.0.0.0/8 via 169.254.1.1") && !routes.contains("default"),
        "{routes}"
    );
    pod.netns.run(&["ping", "-c1", "-W1", "10.240.0.4"]);
    node.check(&host_local, &pod).unwrap();
    node.del(&host_local, &pod, Some(pod.netns.path()));
    assert!(!leased());
    node.assert_clean();

    let address = json!([{"address": "10.240.9.9/16"}]);
    let fixed = node.azure_over_reference(&json!({"type": "static", "addresses": address}));
    let result = node.add(&fixed, &pod).unwrap();
    assert_eq!(addresses(&result), ["10.240.9.9/16"]);
    pod.netns.run(&["ping", "-c1", "-W1", "10.240.0.4"]);
    node.check(&fixed, &pod).unwrap();
    node.del(&fixed, &pod, Some(pod.netns.path()));
    node.assert_clean();
}

#[test]
fn an_ipam_plugin_that_gave_addresses_takes_them_back_when_add_fails() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    pod.netns
        .run(&["ip", "link", "add", "eth0", "type", "veth", "peer", "other"]);
    let list = node.azure_over_reference(&json!({"type": "host-local", "subnet": "10.240.0.0/16"}));
    let error = node.add(&list, &pod).unwrap_err();
    assert!(
        error.to_string().contains("already has an interface eth0"),
        "{error}"
    );
    assert!(!node.data_dir().join("azure").join("10.240.0.2").exists());
    node.assert_clean();
}

#[test]
fn our_ipam_serves_the_reference_ptp() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    let ranges = json!([[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd09::/64"}]]);
    for kind in ["azure-vnet-ipam", "watari-cni"] {
        let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
        let ipam = json!({"type": kind, "ranges": ranges, "routes": routes, "coolDownSeconds": 0});
        let list = node.network("1.0.0", json!({"type": "ptp", "ipam": ipam}));
        let result = node.add(&list, &pod).unwrap();
        assert_eq!(addresses(&result), ["10.9.0.2/24", "fd09::2/64"], "{kind}");
        pod.netns.run(&["ping", "-c1", "-W1", "10.240.0.4"]);
        node.check(&list, &pod).unwrap();
        assert_eq!(node.leases(), 2);
        node.del(&list, &pod, Some(pod.netns.path()));
        assert_eq!(node.leases(), 0);
        std::fs::remove_dir_all(node.data_dir()).unwrap();
    }
}

#[test]
fn loopback_brings_lo_up() {
    let (node, pod) = (Node::new(), Pod::new("c1"));
    pod.netns.run(&["ip", "link", "set", "lo", "down"]);
    let file = node.netns.dir().join("lo.conflist");
    let list =
        json!({"cniVersion": "0.3.1", "name": "cni-loopback", "plugins": [{"type": "loopback"}]});
    std::fs::write(&file, list.to_string()).unwrap();
    let list = NetworkList::read(&file).unwrap();
    let result = node.add(&list, &pod).unwrap();
    assert_eq!(addresses(&result), ["127.0.0.1/8", "::1/128"]);
    pod.netns.run(&["ping", "-c1", "-W1", "127.0.0.1"]);
    node.del(&list, &pod, Some(pod.netns.path()));
}
