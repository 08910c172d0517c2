//! A table for each line of what kube-proxy does.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use watari_model::{Ingress, PortRange, Protocol, ServiceType, SliceEndpoint};

#[test]
fn a_cluster_address_has_all_ready_endpoints() {
    let text = tables(
        &[service("web", &["10.96.0.1"])],
        &[slice(
            "web",
            vec![
                endpoint("10.1.0.1", "node-a"),
                endpoint("10.1.1.1", "node-b"),
            ],
        )],
    );
    assert_eq!(
        text,
        "default/web:http v4 tcp
  ClusterIp 10.96.0.1 80
  inside: 10.1.0.1:8080 10.1.1.1:8080
10.96.0.1 Refused
"
    );
}

#[test]
fn without_endpoints_it_is_there_and_refuses() {
    let text = tables(&[service("web", &["10.96.0.1"])], &[]);
    assert_eq!(
        text,
        "default/web:http v4 tcp
  ClusterIp 10.96.0.1 80
  inside: none
10.96.0.1 Refused
"
    );
}

#[test]
fn each_kind_of_address_is_a_frontend() {
    let mut web = balanced("web", "10.96.0.1");
    web.external_ips.insert(ip("203.0.113.9"));
    web.load_balancer_class = Some("example.com/own".to_owned());
    let text = tables(
        &[web],
        &[slice("web", vec![endpoint("10.1.0.1", "node-a")])],
    );
    assert_eq!(
        text,
        "default/web:http v4 tcp
  ClusterIp 10.96.0.1 80
  NodePort 192.0.2.1 30080
  LoadBalancer 198.51.100.1 80
  ExternalIp 203.0.113.9 80
  inside: 10.1.0.1:8080
10.96.0.1 Refused
198.51.100.1 Stack
203.0.113.9 Stack
"
    );
}

#[test]
fn a_load_balancer_without_node_ports_has_none() {
    let mut web = balanced("web", "10.96.0.1");
    web.ports[0].node_port = None;
    let text = tables(&[web], &[]);
    assert!(!text.contains("NodePort"), "{text}");
    assert!(text.contains("LoadBalancer 198.51.100.1 80"), "{text}");
}

#[test]
fn a_load_balancer_that_is_a_proxy_is_no_frontend() {
    let mut web = balanced("web", "10.96.0.1");
    web.ingress = vec![
        Ingress {
            proxy: true,
            ..ingress("198.51.100.1")
        },
        ingress("198.51.100.2"),
    ];
    let text = tables(&[web], &[]);
    assert!(!text.contains("198.51.100.1"), "{text}");
    assert!(text.contains("LoadBalancer 198.51.100.2 80"), "{text}");
}

#[test]
fn what_is_not_ours_is_not_programmed() {
    let mut headless = service("headless", &[]);
    headless.headless = true;
    let mut name = service("name", &[]);
    name.kind = ServiceType::ExternalName;
    let unaddressed = service("new", &[]);
    let endpoints = || vec![endpoint("10.1.0.1", "node-a")];
    let slices = ["headless", "name", "new"].map(|name| slice(name, endpoints()));
    assert_eq!(tables(&[headless, name, unaddressed], &slices), "");
    // Another proxy's address is the stack's: where it is not known at all it would be dropped.
    let mut foreign = balanced("foreign", "10.96.0.9");
    foreign.proxy_name = Some("mine".to_owned());
    let text = tables(&[foreign], &[slice("foreign", endpoints())]);
    assert_eq!(text, "10.96.0.9 Stack\n");
}

#[test]
fn a_service_without_a_selector_is_like_any_other() {
    let mut web = service("web", &["10.96.0.1"]);
    web.selector.clear();
    let mut own = slice("web", vec![endpoint("10.9.9.9", "node-a")]);
    own.endpoints[0].node = None;
    own.endpoints[0].zone = None;
    let text = tables(&[web], &[own]);
    assert!(text.contains("inside: 10.9.9.9:8080"), "{text}");
}

#[test]
fn each_port_has_the_endpoints_of_its_name_and_protocol() {
    let mut dns = service("dns", &["10.96.0.10"]);
    dns.ports = vec![
        port("dns", Protocol::Udp, 53),
        port("dns-tcp", Protocol::Tcp, 53),
        port("sctp", Protocol::Sctp, 53),
        port("metrics", Protocol::Tcp, 9153),
    ];
    let mut one = slice("dns", vec![endpoint("10.1.0.1", "node-a")]);
    one.ports = vec![
        slice_port("dns", Protocol::Udp, 5353),
        slice_port("dns-tcp", Protocol::Tcp, 5353),
        slice_port("sctp", Protocol::Sctp, 5353),
        // Of another protocol than the Service's port: nobody's.
        slice_port("metrics", Protocol::Udp, 9153),
    ];
    let text = tables(&[dns], &[one]);
    assert_eq!(
        text,
        "default/dns:dns v4 udp
  ClusterIp 10.96.0.10 53
  inside: 10.1.0.1:5353
default/dns:dns-tcp v4 tcp
  ClusterIp 10.96.0.10 53
  inside: 10.1.0.1:5353
default/dns:metrics v4 tcp
  ClusterIp 10.96.0.10 9153
  inside: none
default/dns:sctp v4 sctp
  ClusterIp 10.96.0.10 53
  inside: 10.1.0.1:5353
10.96.0.10 Refused
"
    );
}

#[test]
fn pods_may_have_a_named_port_at_different_numbers() {
    let old = slice("web", vec![endpoint("10.1.0.1", "node-a")]);
    let mut new = slice("web", vec![endpoint("10.1.0.2", "node-a")]);
    new.name = named("web-2");
    new.ports = vec![slice_port("http", Protocol::Tcp, 9090)];
    let text = tables(&[service("web", &["10.96.0.1"])], &[old, new]);
    assert!(
        text.contains("inside: 10.1.0.1:8080 10.1.0.2:9090"),
        "{text}"
    );
}

#[test]
fn a_slice_port_without_a_number_is_none() {
    let mut any = slice("web", vec![endpoint("10.1.0.1", "node-a")]);
    any.ports[0].port = None;
    let text = tables(&[service("web", &["10.96.0.1"])], &[any]);
    assert!(text.contains("inside: none"), "{text}");
}

#[test]
fn slices_are_merged_and_the_ready_one_counts() {
    let old = slice(
        "web",
        vec![
            draining("10.1.0.1", "node-a"),
            endpoint("10.1.0.2", "node-a"),
        ],
    );
    let mut new = slice(
        "web",
        vec![
            endpoint("10.1.0.1", "node-a"),
            not_ready("10.1.0.2", "node-a"),
        ],
    );
    new.name = named("web-2");
    new.endpoints.push(endpoint("10.1.0.3", "node-b"));
    let text = tables(&[service("web", &["10.96.0.1"])], &[old, new]);
    assert!(
        text.contains("inside: 10.1.0.1:8080 10.1.0.2:8080 10.1.0.3:8080\n"),
        "{text}"
    );
}

#[test]
fn who_ends_is_used_only_if_nobody_is_ready() {
    let web = [service("web", &["10.96.0.1"])];
    let mut all = vec![
        draining("10.1.0.1", "node-a"),
        terminating("10.1.0.2", "node-a"),
        not_ready("10.1.0.3", "node-a"),
        endpoint("10.1.0.4", "node-b"),
    ];
    let text = tables(&web, &[slice("web", all.clone())]);
    assert!(text.contains("inside: 10.1.0.4:8080\n"), "{text}");
    all.pop();
    let text = tables(&web, &[slice("web", all.clone())]);
    assert!(text.contains("inside: 10.1.0.1:8080\n"), "{text}");
    all.remove(0);
    let text = tables(&web, &[slice("web", all)]);
    assert!(text.contains("inside: none\n"), "{text}");
}

#[test]
fn an_endpoint_that_is_published_not_ready_is_ready() {
    let published = SliceEndpoint {
        ready: true,
        ..terminating("10.1.0.1", "node-a")
    };
    let text = tables(
        &[service("web", &["10.96.0.1"])],
        &[slice(
            "web",
            vec![published, draining("10.1.0.2", "node-a")],
        )],
    );
    assert!(text.contains("inside: 10.1.0.1:8080\n"), "{text}");
}

#[test]
fn internal_local_keeps_to_this_node() {
    let mut web = balanced("web", "10.96.0.1");
    web.internal_local = true;
    let both = vec![
        endpoint("10.1.0.1", "node-a"),
        endpoint("10.1.1.1", "node-b"),
    ];
    let text = tables(&[web.clone()], &[slice("web", both.clone())]);
    // Whoever comes to another address than the cluster's keeps to no internal policy.
    assert!(
        text.contains(
            "  inside: 10.1.0.1:8080 (local)
  inside-external: 10.1.0.1:8080 10.1.1.1:8080
10."
        ),
        "{text}"
    );
    // Nobody here, but elsewhere: dropped.
    let text = tables(&[web.clone()], &[slice("web", both[1..].to_vec())]);
    assert!(text.contains("  inside: none (local)\n"), "{text}");
    // Nobody anywhere: refused.
    let text = tables(&[web], &[]);
    assert!(text.contains("  inside: none\n"), "{text}");
}

#[test]
fn external_local_keeps_the_source_and_to_this_node() {
    let mut web = balanced("web", "10.96.0.1");
    web.external_local = true;
    let both = vec![
        endpoint("10.1.0.1", "node-a"),
        endpoint("10.1.1.1", "node-b"),
    ];
    let text = tables(&[web.clone()], &[slice("web", both.clone())]);
    assert_eq!(
        text,
        "default/web:http v4 tcp keeps-source
  ClusterIp 10.96.0.1 80
  NodePort 192.0.2.1 30080
  LoadBalancer 198.51.100.1 80
  inside: 10.1.0.1:8080 10.1.1.1:8080
  outside: 10.1.0.1:8080 (local)
10.96.0.1 Refused
198.51.100.1 Stack
"
    );
    let text = tables(&[web.clone()], &[slice("web", both[1..].to_vec())]);
    assert!(
        text.contains("  inside: 10.1.1.1:8080\n  outside: none (local)\n"),
        "{text}"
    );
    let text = tables(&[web.clone()], &[]);
    assert!(text.contains("  inside: none\n10."), "{text}");
    // The field of a Service that nobody reaches from outside means nothing.
    web.kind = ServiceType::ClusterIp;
    web.ingress.clear();
    web.ports[0].node_port = None;
    let text = tables(&[web], &[slice("web", both)]);
    assert!(
        text.contains("v4 tcp\n") && !text.contains("outside"),
        "{text}"
    );
}

#[test]
fn both_policies_have_three_answers() {
    let mut web = balanced("web", "10.96.0.1");
    web.internal_local = true;
    web.external_local = true;
    let text = tables(
        &[web],
        &[slice(
            "web",
            vec![
                draining("10.1.0.1", "node-a"),
                endpoint("10.1.1.1", "node-b"),
            ],
        )],
    );
    // On this node all end: they are used by whom the policy leaves nobody else.
    assert!(
        text.contains(
            "  inside: 10.1.0.1:8080 (local)
  inside-external: 10.1.1.1:8080
  outside: 10.1.0.1:8080 (local)
"
        ),
        "{text}"
    );
}

#[test]
fn local_falls_back_to_who_ends_among_the_local_ones() {
    let mut web = balanced("web", "10.96.0.1");
    web.external_local = true;
    let here = draining("10.1.0.1", "node-a");
    let text = tables(
        &[web.clone()],
        &[slice(
            "web",
            vec![here.clone(), endpoint("10.1.0.2", "node-a")],
        )],
    );
    assert!(
        text.contains("inside: 10.1.0.2:8080\n  outside: 10.1.0.2:8080 (local)"),
        "{text}"
    );
    let text = tables(
        &[web],
        &[slice(
            "web",
            vec![
                here,
                terminating("10.1.0.3", "node-a"),
                endpoint("10.1.1.1", "node-b"),
            ],
        )],
    );
    assert!(
        text.contains("inside: 10.1.1.1:8080\n  outside: 10.1.0.1:8080 (local)"),
        "{text}"
    );
}

#[test]
fn affinity_and_wishes_are_told() {
    let mut web = service("web", &["10.96.0.1"]);
    web.affinity = Some(10_800);
    web.wishes.least_connections = true;
    web.wishes.direct_return = true;
    let text = tables(&[web], &[]);
    assert!(
        text.starts_with(
            "default/web:http v4 tcp least-connections direct-return affinity=10800\n"
        ),
        "{text}"
    );
}

#[test]
fn weights_are_the_endpoints() {
    let heavy = SliceEndpoint {
        weight: 3,
        ..endpoint("10.1.0.1", "node-a")
    };
    let odd = SliceEndpoint {
        weight: 0,
        ..endpoint("10.1.0.2", "node-a")
    };
    let text = tables(
        &[service("web", &["10.96.0.1"])],
        &[slice("web", vec![heavy, odd])],
    );
    assert!(
        text.contains("inside: 10.1.0.1:8080*3 10.1.0.2:8080\n"),
        "{text}"
    );
}

fn hinted(address: &str, node: &str, zones: &[&str], nodes: &[&str]) -> SliceEndpoint {
    SliceEndpoint {
        for_zones: zones.iter().map(|zone| (*zone).into()).collect(),
        for_nodes: nodes.iter().map(|node| (*node).into()).collect(),
        ..endpoint(address, node)
    }
}

fn inside(endpoints: Vec<SliceEndpoint>) -> String {
    let text = tables(
        &[service("web", &["10.96.0.1"])],
        &[slice("web", endpoints)],
    );
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("  inside: "));
    line.unwrap().replace(":8080", "")
}

#[test]
fn hints_of_zones_keep_to_this_zone() {
    let near = hinted("10.1.0.1", "node-b", &["z-b", "z-a"], &[]);
    let far = hinted("10.1.0.2", "node-b", &["z-b"], &[]);
    assert_eq!(inside(vec![near.clone(), far.clone()]), "10.1.0.1");
    // None for this zone, or one without a hint: all.
    assert_eq!(inside(vec![far.clone(), far.clone()]), "10.1.0.2");
    let without = endpoint("10.1.0.3", "node-a");
    assert_eq!(
        inside(vec![near.clone(), far.clone(), without.clone()]),
        "10.1.0.1 10.1.0.2 10.1.0.3"
    );
    // Only those that are ready count.
    let mut ends = without;
    (ends.ready, ends.terminating) = (false, true);
    assert_eq!(
        inside(vec![near.clone(), far.clone(), ends.clone()]),
        "10.1.0.1"
    );
    // Who ends is used whatever the hints.
    let ending = |mut e: SliceEndpoint| {
        (e.ready, e.terminating) = (false, true);
        e
    };
    assert_eq!(inside(vec![ending(far), ends]), "10.1.0.2 10.1.0.3");
}

#[test]
fn hints_of_nodes_come_before_those_of_zones() {
    let here = hinted("10.1.0.1", "node-a", &["z-a"], &["node-a"]);
    let zone = hinted("10.1.0.2", "node-c", &["z-a"], &["node-c"]);
    let far = hinted("10.1.0.3", "node-b", &["z-b"], &["node-b"]);
    assert_eq!(inside(vec![here, zone.clone(), far.clone()]), "10.1.0.1");
    assert_eq!(inside(vec![zone, far.clone()]), "10.1.0.2");
    assert_eq!(inside(vec![far]), "10.1.0.3");
}

#[test]
fn hints_mean_nothing_where_the_policy_is_local() {
    let mut web = balanced("web", "10.96.0.1");
    web.external_local = true;
    let here = hinted("10.1.0.1", "node-a", &["z-b"], &[]);
    let near = hinted("10.1.0.2", "node-b", &["z-a"], &[]);
    let text = tables(&[web], &[slice("web", vec![here, near])]);
    assert!(
        text.contains("inside: 10.1.0.2:8080\n  outside: 10.1.0.1:8080 (local)"),
        "{text}"
    );
}

#[test]
fn without_a_zone_hints_of_zones_mean_nothing() {
    let slices = [slice(
        "web",
        vec![
            hinted("10.1.0.1", "node-a", &["z-a"], &[]),
            hinted("10.1.0.2", "node-b", &["z-b"], &[]),
        ],
    )];
    let mut compiler = compiled(&[service("web", &["10.96.0.1"])], &slices);
    assert!(shown(&compiler.tables()).contains("inside: 10.1.0.1:8080\n"));
    let mut bare = node("node-a", &["192.0.2.1", "2001:db8::1"]);
    bare.zone = None;
    compiler.set_node(&bare);
    assert_eq!(told(&compiler.changes()), ["set default/web:http"]);
    assert!(shown(&compiler.tables()).contains("inside: 10.1.0.1:8080 10.1.0.2:8080\n"));
}

#[test]
fn source_ranges_guard_load_balancers_by_family() {
    let mut web = balanced("web", "10.96.0.1");
    web.cluster_ips.push(ip("fd00::1"));
    web.ingress.push(ingress("2001:db8:9::1"));
    web.source_ranges = ["203.0.113.0/24", "198.51.100.0/25"]
        .map(|net| net.parse().unwrap())
        .into();
    let text = tables(&[web.clone()], &[]);
    assert!(
        text.contains("v4 tcp from=198.51.100.0/25 from=203.0.113.0/24\n"),
        "{text}"
    );
    // As upstream: a family without a range is open.
    assert!(text.contains("v6 tcp\n"), "{text}");
    // There is nothing to guard.
    web.ingress.clear();
    assert!(!tables(&[web], &[]).contains("from="));
}

#[test]
fn both_families_have_a_balancer_each() {
    let mut web = balanced("web", "10.96.0.1");
    web.cluster_ips.push(ip("fd00::1"));
    let four = slice("web", vec![endpoint("10.1.0.1", "node-a")]);
    let mut six = slice("web", vec![endpoint("fd01::1", "node-a")]);
    six.name = named("web-6");
    let text = tables(&[web], &[four, six]);
    assert_eq!(
        text,
        "default/web:http v4 tcp
  ClusterIp 10.96.0.1 80
  NodePort 192.0.2.1 30080
  LoadBalancer 198.51.100.1 80
  inside: 10.1.0.1:8080
default/web:http v6 tcp
  NodePort 2001:db8::1 30080
  ClusterIp fd00::1 80
  inside: [fd01::1]:8080
10.96.0.1 Refused
198.51.100.1 Stack
fd00::1 Refused
"
    );
}

#[test]
fn a_family_without_a_cluster_address_has_nothing() {
    let mut web = balanced("web", "fd00::1");
    web.external_ips.insert(ip("203.0.113.9"));
    let text = tables(&[web], &[]);
    assert_eq!(
        text,
        "default/web:http v6 tcp
  NodePort 2001:db8::1 30080
  ClusterIp fd00::1 80
  inside: none
fd00::1 Refused
"
    );
}

#[test]
fn ranges_are_one_balancer_of_a_protocol() {
    let mut web = balanced("web", "10.96.0.1");
    let range = |protocol, first, last| PortRange {
        protocol,
        first,
        last,
    };
    web.wishes.port_ranges = vec![
        range(Protocol::Udp, 6000, 6999),
        range(Protocol::Udp, 7000, 7010),
        range(Protocol::Udp, 6500, 6600),
        range(Protocol::Tcp, 1, 65535),
    ];
    let text = tables(
        &[web],
        &[slice("web", vec![endpoint("10.1.0.1", "node-a")])],
    );
    assert_eq!(
        text,
        "default/web:http v4 tcp
  ClusterIp 10.96.0.1 80
  NodePort 192.0.2.1 30080
  LoadBalancer 198.51.100.1 80
  inside: 10.1.0.1:8080
default/web:ranges/tcp v4 tcp
  ClusterIp 10.96.0.1 1-65535
  LoadBalancer 198.51.100.1 1-65535
  inside: 10.1.0.1:0
default/web:ranges/udp v4 udp
  ClusterIp 10.96.0.1 6000-7010
  LoadBalancer 198.51.100.1 6000-7010
  inside: 10.1.0.1:0
10.96.0.1 Refused
198.51.100.1 Stack
"
    );
}
