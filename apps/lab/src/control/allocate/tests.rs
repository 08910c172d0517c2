//! What is given, to whom, and what is refused.

use serde_json::{Value, json};

use super::*;

fn nets(all: &[&str]) -> Vec<IpNet> {
    all.iter().map(|net| net.parse().unwrap()).collect()
}

fn dual() -> Given {
    let pools = nets(&["10.100.0.0/24", "fd00:10:100::/112"]);
    Given::new(&nets(&["10.96.0.0/16", "fd00:10:96::/112"]), &pools)
}

fn single() -> Given {
    Given::new(&nets(&["10.96.0.0/16"]), &[])
}

fn done(spec: &Value, old: Option<&Service>, given: &mut Given) -> Result<Service, Refusal> {
    let value = json!({"metadata": {"namespace": "n", "name": "s"}, "spec": spec});
    complete(serde_json::from_value(value).unwrap(), old, given)
}

fn spec(service: &Service) -> Value {
    serde_json::to_value(service.spec.as_ref().unwrap()).unwrap()
}

#[test]
fn families_are_those_that_the_api_server_gives() {
    let free = json!({"clusterIP": "None"});
    let headless = json!({"clusterIP": "None", "selector": {"a": "b"}});
    let policy = |policy: &str| json!({"ports": [{"port": 80}], "ipFamilyPolicy": policy});
    let six = json!({"ports": [{"port": 80}], "ipFamilies": ["IPv6"], "ipFamilyPolicy": "PreferDualStack"});
    for (asked, dual_has, single_has) in [
        (json!({"ports": [{"port": 80}]}), "IPv4", "IPv4"),
        (policy("SingleStack"), "IPv4", "IPv4"),
        (policy("PreferDualStack"), "IPv4 IPv6", "IPv4"),
        (
            policy("RequireDualStack"),
            "IPv4 IPv6",
            "spec.ipFamilyPolicy",
        ),
        (six, "IPv6 IPv4", "spec.ipFamilies"),
        (free, "IPv4 IPv6", "IPv4 IPv6"),
        (headless, "IPv4", "IPv4"),
    ] {
        for (mut given, expected) in [(dual(), dual_has), (single(), single_has)] {
            let said = match done(&asked, None, &mut given) {
                Ok(service) => service.spec.unwrap().ip_families.unwrap().join(" "),
                Err((path, _)) => path,
            };
            assert_eq!(said, expected, "{asked}");
        }
    }
}

#[test]
fn addresses_come_of_the_name_are_free_and_leave_the_first_ones_alone() {
    let plain = json!({"ports": [{"port": 80}]});
    let ip = |given: &mut Given| -> IpAddr {
        let service = done(&plain, None, given).unwrap();
        service.spec.unwrap().cluster_ip.unwrap().parse().unwrap()
    };
    let (mut one, mut other) = (single(), single());
    let first = ip(&mut one);
    assert_eq!(first, ip(&mut other));
    assert_ne!(first, ip(&mut one));
    // A small range to its last address, and no further.
    let mut small = Given::new(&nets(&["10.0.0.0/28"]), &[]);
    let mut seen = BTreeSet::new();
    while let Ok(service) = done(&plain, None, &mut small) {
        seen.insert(service.spec.unwrap().cluster_ip.unwrap());
    }
    assert_eq!(seen.len(), 14, "{seen:?}");
    assert!(!seen.contains("10.0.0.0") && !seen.contains("10.0.0.15"));
}

#[test]
fn ports_of_nodes_are_one_for_all_protocols_of_a_port() {
    let ports = json!([{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}, {"name": "o", "port": 80}]);
    let mut given = single();
    let made = done(
        &json!({"type": "NodePort", "ports": ports}),
        None,
        &mut given,
    )
    .unwrap();
    let made = spec(&made);
    assert_eq!(made["ports"][0]["nodePort"], made["ports"][1]["nodePort"]);
    assert_ne!(made["ports"][0]["nodePort"], made["ports"][2]["nodePort"]);
    assert_eq!(made["externalTrafficPolicy"], "Cluster");
    // Without them, and with them in another Service.
    let none =
        json!({"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false});
    let made = spec(&done(&none, None, &mut given).unwrap());
    assert!(made["ports"][0]["nodePort"].is_null());
}

#[test]
fn what_was_given_is_kept_and_what_is_not_needed_is_let_go() {
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ipFamilyPolicy": "PreferDualStack",
        "ports": [{"port": 80}]});
    let first = done(&local, None, &mut dual()).unwrap();
    assert_eq!(done(&local, Some(&first), &mut dual()).unwrap(), first);
    let before = spec(&first);
    assert!(before["healthCheckNodePort"].is_i64());
    let cluster = json!({"ports": [{"port": 80}, {"name": "x", "port": 81}], "ipFamilyPolicy": "SingleStack"});
    let second = done(&cluster, Some(&first), &mut dual()).unwrap();
    let after = spec(&second);
    assert_eq!(after["clusterIPs"], json!([before["clusterIP"]]));
    assert_eq!(after["ipFamilies"], json!(["IPv4"]));
    assert!(after["healthCheckNodePort"].is_null() && after["ports"][0]["nodePort"].is_null());
    assert!(ingress_of(&second).is_empty());
    let name = json!({"type": "ExternalName", "externalName": "a.example"});
    let third = spec(&done(&name, Some(&first), &mut dual()).unwrap());
    assert!(
        third["clusterIP"].is_null() && third["ipFamilies"].is_null(),
        "{third}"
    );
}
