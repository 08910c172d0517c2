//! What changes by what, who gets what two want, and what is told of it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;

use common::*;
use watari_model::{PodName, PortRange, Protocol, SliceEndpoint};
use watari_services::{
    BackendView, Compiler, HealthCheck, Known, NoLocal, Options, Programmed, State, Unused,
};
use watari_tables::{BalancerName, ServicesChange};

#[test]
fn one_endpoint_changes_one_balancer() {
    let names: Vec<String> = (0..100).map(|at| format!("s{at}")).collect();
    let services: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(at, name)| service(name, &[&format!("10.96.0.{at}")]))
        .collect();
    let slices: Vec<_> = names
        .iter()
        .map(|name| slice(name, vec![endpoint("10.1.0.1", "node-a")]))
        .collect();
    let mut compiler = compiled(&services, &slices);
    let mut more = slices[7].clone();
    more.endpoints.push(endpoint("10.1.0.2", "node-b"));
    compiler.set_slice(&more);
    assert_eq!(told(&compiler.changes()), ["set default/s7:http"]);
    // What makes no difference to the tables changes nothing.
    more.endpoints[1].zone = Some("elsewhere".into());
    more.endpoints.push(not_ready("10.1.0.3", "node-b"));
    compiler.set_slice(&more);
    assert_eq!(told(&compiler.changes()), [""; 0]);
    compiler.remove_slice(&more.name);
    assert_eq!(told(&compiler.changes()), ["set default/s7:http"]);
    compiler.remove_service(&named("s7"));
    let gone = ["remove default/s7:http", "10.96.0.7 none"];
    assert_eq!(told(&compiler.changes()), gone);
}

#[test]
fn what_is_taken_back_before_anybody_asks_costs_nothing() {
    let mut compiler = compiled(&[service("a", &["10.96.0.1"])], &[]);
    compiler.set_service(&service("b", &["10.96.0.2"]));
    compiler.remove_service(&named("b"));
    compiler.set_slice(&slice("a", vec![endpoint("10.1.0.1", "node-a")]));
    compiler.remove_slice(&named("a-1"));
    assert_eq!(compiler.changes(), []);
    compiler.remove_service(&named("nobody"));
    compiler.remove_slice(&named("nobody"));
    assert_eq!(compiler.changes(), []);
}

#[test]
fn sets_that_are_equal_are_one() {
    let mut compiler = compiled(
        &[balanced("web", "10.96.0.1")],
        &[slice("web", vec![endpoint("10.1.0.1", "node-a")])],
    );
    let before = compiler.tables();
    let held = |tables: &watari_tables::Services| {
        let balancer = tables.balancers.values().next().unwrap();
        [
            &balancer.inside,
            &balancer.inside_external,
            &balancer.outside,
        ]
        .map(|b| b.members.clone())
    };
    let [a, b, c] = held(&before);
    assert!(std::sync::Arc::ptr_eq(&a, &b) && std::sync::Arc::ptr_eq(&a, &c));
    // Also to the one before, where only the frontends changed.
    let mut web = balanced("web", "10.96.0.1");
    web.external_ips.insert(ip("203.0.113.1"));
    compiler.set_service(&web);
    assert_eq!(compiler.changes().len(), 2);
    assert!(std::sync::Arc::ptr_eq(&a, &held(&compiler.tables())[0]));
}

#[test]
fn a_slice_may_go_to_another_service() {
    let mut moved = slice("a", vec![endpoint("10.1.0.1", "node-a")]);
    let services = [service("a", &["10.96.0.1"]), service("b", &["10.96.0.2"])];
    let mut compiler = compiled(&services, std::slice::from_ref(&moved));
    moved.service = "b".to_owned();
    compiler.set_slice(&moved);
    assert_eq!(
        told(&compiler.changes()),
        ["set default/a:http", "set default/b:http"]
    );
    assert_eq!(compiler.tables(), compiled(&services, &[moved]).tables());
}

#[test]
fn the_older_service_has_what_two_want() {
    let mut a = service("a", &["10.96.0.1"]);
    let mut b = service("b", &["10.96.0.2"]);
    a.external_ips.insert(ip("203.0.113.1"));
    b.external_ips.insert(ip("203.0.113.1"));
    a.created = 2;
    b.created = 1;
    let mut compiler = compiled(&[a.clone(), b.clone()], &[]);
    let has = |compiler: &Compiler, name: &str| {
        let text = shown(&compiler.tables());
        let (_, rest) = text.split_once(&format!("default/{name}:")).unwrap();
        rest.split("inside")
            .next()
            .unwrap()
            .contains("ExternalIp 203.0.113.1 80")
    };
    assert_eq!((has(&compiler, "a"), has(&compiler, "b")), (false, true));
    let notes: Vec<String> = compiler.notes().iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [
            "Service default/a: 203.0.113.1 port 80/tcp is Service default/b's, which is older or first by name"
        ]
    );
    let view = compiler.view(&a.name).unwrap();
    let taken: Vec<_> = view.parts[0]
        .frontends
        .iter()
        .map(|f| f.taken_by.clone())
        .collect();
    assert_eq!(taken, [None, Some(b.name.clone())]);

    // It goes over with the older one, and back: who loses it is told first.
    b.external_ips.clear();
    compiler.set_service(&b);
    assert_eq!(
        told(&compiler.changes()),
        ["set default/b:http", "set default/a:http"]
    );
    assert!(has(&compiler, "a") && compiler.notes().is_empty());
    b.external_ips.insert(ip("203.0.113.1"));
    compiler.set_service(&b);
    assert_eq!(
        told(&compiler.changes()),
        ["set default/a:http", "set default/b:http"]
    );
    // Of one age, the first by name.
    b.created = 2;
    compiler.set_service(&b);
    assert_eq!(
        told(&compiler.changes()),
        ["set default/b:http", "set default/a:http"]
    );
}

#[test]
fn two_services_may_swap_addresses() {
    let mut a = service("a", &["10.96.0.1"]);
    let mut b = service("b", &["10.96.0.2"]);
    let mut compiler = compiled(&[a.clone(), b.clone()], &[]);
    std::mem::swap(&mut a.cluster_ips, &mut b.cluster_ips);
    compiler.load(&[a, b], &[]);
    let mut tables = compiled(
        &[service("a", &["10.96.0.1"]), service("b", &["10.96.0.2"])],
        &[],
    )
    .tables();
    for change in compiler.changes() {
        tables.take(change);
        let all = tables.balancers.values().flat_map(|b| b.frontends.keys());
        let all: Vec<_> = all.collect();
        let each: BTreeSet<_> = all.iter().collect();
        assert_eq!(all.len(), each.len());
    }
    assert_eq!(tables, compiler.tables());
}

#[test]
fn ranges_of_two_services_do_not_overlap() {
    let udp = |first, last| PortRange {
        protocol: Protocol::Udp,
        first,
        last,
    };
    let shared = |name: &str, own: &str, range| {
        let mut service = service(name, &[own]);
        service.external_ips.insert(ip("203.0.113.1"));
        service.wishes.port_ranges = vec![range];
        service.ports.clear();
        service
    };
    let services = [
        shared("a", "10.96.0.1", udp(100, 200)),
        shared("b", "10.96.0.2", udp(150, 250)),
        shared("c", "10.96.0.3", udp(201, 300)),
    ];
    let compiler = compiled(&services, &[]);
    let text = shown(&compiler.tables());
    let held: Vec<_> = text
        .lines()
        .filter(|line| line.contains("ExternalIp"))
        .collect();
    // The second wants what the first has, so it has nothing there, and the third all that it wants.
    assert_eq!(
        held,
        [
            "  ExternalIp 203.0.113.1 100-200",
            "  ExternalIp 203.0.113.1 201-300"
        ]
    );
    let notes: Vec<String> = compiler.notes().iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [
            "Service default/b: 203.0.113.1 port 150-250/udp is Service default/a's, which is older or first by name"
        ]
    );
}

#[test]
fn what_cannot_be_is_left_out_and_noted() {
    let mut web = service("web", &["10.96.0.1"]);
    web.external_ips.insert(ip("127.0.0.1"));
    web.ingress.push(ingress("169.254.169.254"));
    web.ports.push(port("http", Protocol::Tcp, 81));
    web.ports.push(port("again", Protocol::Tcp, 80));
    let odd = [
        "127.0.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "0.0.0.0",
        "fd01::1",
    ];
    let mut endpoints: Vec<_> = odd.iter().map(|text| endpoint(text, "node-a")).collect();
    endpoints.insert(0, endpoint("10.1.0.1", "node-a"));
    let compiler = compiled(&[web], &[slice("web", endpoints)]);
    let text = shown(&compiler.tables());
    assert_eq!(
        text,
        "default/web:http v4 tcp
  ClusterIp 10.96.0.1 80
  inside: 10.1.0.1:8080
10.96.0.1 Refused
"
    );
    let notes: Vec<String> = compiler.notes().iter().map(ToString::to_string).collect();
    let mut expected = vec![
        r#"Service default/web: its port "again" has a name or number that another of its ports has"#,
        r#"Service default/web: its port "http" has a name or number that another of its ports has"#,
        "Service default/web: address 127.0.0.1 is left out: it is a loopback address",
        "Service default/web: address 169.254.169.254 is left out: it is a link-local address",
        "EndpointSlice default/web-1: endpoint 0.0.0.0 is left out: it is unspecified",
        "EndpointSlice default/web-1: endpoint 127.0.0.1 is left out: it is a loopback address",
        "EndpointSlice default/web-1: endpoint 169.254.169.254 is left out: it is a link-local address",
        "EndpointSlice default/web-1: endpoint 224.0.0.1 is left out: it is a multicast address",
        "EndpointSlice default/web-1: endpoint fd01::1 is left out: it is not of the slice's address type",
    ];
    expected.sort_unstable();
    let mut notes: Vec<_> = notes.iter().map(String::as_str).collect();
    notes.sort_unstable();
    assert_eq!(notes, expected);
}

#[test]
fn node_ports_are_at_the_primary_addresses() {
    let mut compiler = compiled(&[balanced("web", "10.96.0.1")], &[]);
    let ports = |compiler: &Compiler| {
        let text = shown(&compiler.tables());
        let lines = text.lines().filter(|line| line.contains("NodePort"));
        lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ports(&compiler), ["NodePort 192.0.2.1 30080"]);
    // What else is on interfaces does not count; another node neither.
    compiler.set_addresses([ip("192.0.2.99"), ip("127.0.0.1")].into());
    compiler.set_node(&node("node-b", &["192.0.2.2"]));
    assert_eq!(compiler.changes(), []);
    compiler.set_node(&node("node-a", &["192.0.2.7", "192.0.2.8", "2001:db8::1"]));
    assert_eq!(told(&compiler.changes()), ["set default/web:http"]);
    assert_eq!(ports(&compiler), ["NodePort 192.0.2.7 30080"]);
    compiler.remove_node("node-a");
    compiler.changes();
    assert_eq!(ports(&compiler), [""; 0]);
}

#[test]
fn node_ports_may_be_asked_for_by_range() {
    let mut compiler = Compiler::new(Options {
        node: "node-a".to_owned(),
        node_port_cidrs: vec![
            "192.0.2.0/24".parse().unwrap(),
            "127.0.0.0/8".parse().unwrap(),
        ],
    });
    compiler.set_node(&node("node-a", &["192.0.2.1", "198.51.100.1"]));
    compiler.set_addresses(["192.0.2.9", "127.0.0.1", "10.0.0.1"].map(ip).into());
    compiler.load(&[balanced("web", "10.96.0.1")], &[]);
    compiler.changes();
    let text = shown(&compiler.tables());
    let lines: Vec<_> = text
        .lines()
        .filter(|line| line.contains("NodePort"))
        .collect();
    assert_eq!(
        lines,
        ["  NodePort 192.0.2.1 30080", "  NodePort 192.0.2.9 30080"]
    );
}

#[test]
fn ranges_of_cluster_addresses_are_told_once() {
    let mut compiler = compiled(&[], &[]);
    let cidrs: BTreeSet<_> = ["10.96.0.0/16", "fd00::/112"]
        .map(|net| net.parse().unwrap())
        .into();
    compiler.set_cidrs(cidrs.clone());
    compiler.set_service(&service("a", &["10.96.0.1"]));
    let changes = compiler.changes();
    assert_eq!(
        told(&changes),
        ["set default/a:http", "10.96.0.1 Refused", "cidrs 2"]
    );
    compiler.set_cidrs(cidrs.clone());
    assert_eq!(compiler.changes(), []);
    assert_eq!(compiler.tables().cidrs, cidrs);
}

#[test]
fn a_port_that_changes_its_name_is_another() {
    let mut compiler = compiled(&[service("a", &["10.96.0.1"])], &[]);
    let mut renamed = service("a", &["10.96.0.1"]);
    renamed.ports[0].name = "web".to_owned();
    compiler.set_service(&renamed);
    assert_eq!(
        told(&compiler.changes()),
        ["remove default/a:http", "set default/a:web"]
    );
}

/// A backend in a line.
fn in_words(b: &BackendView) -> String {
    let pod = b.pod.as_ref().map_or("-".to_owned(), ToString::to_string);
    let (node, zone) = (b.node.as_deref().unwrap(), b.zone.as_deref().unwrap());
    let (weight, state, why) = (b.weight, b.state, b.why_not());
    format!("{} {pod} {node} {zone} {weight} {state}: {why}", b.at)
}

#[test]
fn a_view_says_of_each_backend_why_it_is_not_used() {
    let mut web = balanced("web", "10.96.0.1");
    web.external_local = true;
    web.affinity = Some(60);
    let pod = |mut e: SliceEndpoint, name: &str| {
        e.pod = Some(PodName {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        });
        e
    };
    let compiler = compiled(
        &[web],
        &[slice(
            "web",
            vec![
                pod(endpoint("10.1.0.1", "node-a"), "web-1"),
                pod(endpoint("10.1.1.1", "node-b"), "web-22"),
                draining("10.1.0.2", "node-a"),
                terminating("10.1.0.3", "node-a"),
                pod(not_ready("10.1.0.4", "node-a"), "web-4"),
            ],
        )],
    );
    let view = compiler.view(&named("web")).unwrap();
    assert_eq!(
        (view.programmed, view.affinity),
        (Programmed::Here, Some(60))
    );
    assert!(view.external_local && !view.internal_local);
    let part = &view.parts[0];
    assert_eq!(
        (&*part.name.port, part.protocol, part.frontends.len()),
        ("http", Protocol::Tcp, 3)
    );
    let lines: Vec<String> = part.backends.iter().map(in_words).collect();
    assert_eq!(
        lines,
        [
            "10.1.0.1:8080 default/web-1 node-a z-a 1 ready: ",
            "10.1.0.2:8080 - node-a z-a 1 serving, terminating: terminating, others are ready",
            "10.1.0.3:8080 - node-a z-a 1 terminating: terminating, not serving",
            "10.1.0.4:8080 default/web-4 node-a z-a 1 not ready: not ready",
            "10.1.1.1:8080 default/web-22 node-b z-b 1 ready: from outside: on another node (policy Local)",
        ]
    );
    assert_eq!(part.backends[1].state, State::Draining);
    assert_eq!(part.backends[4].outside, Err(Unused::OtherNode));
    assert_eq!(compiler.view(&named("nobody")), None);
    assert_eq!(compiler.service_names().count(), 1);
}

#[test]
fn it_is_known_whether_an_endpoint_ends_or_is_gone() {
    let mut compiler = compiled(
        &[service("web", &["10.96.0.1"])],
        &[slice(
            "web",
            vec![
                endpoint("10.1.0.1", "node-a"),
                draining("10.1.0.2", "node-a"),
            ],
        )],
    );
    let http = BalancerName {
        service: named("web"),
        port: "http".into(),
        v6: false,
    };
    let at = |text: &str| text.parse().unwrap();
    let known = Known {
        ready: false,
        serving: true,
        terminating: true,
    };
    assert_eq!(compiler.knows(&http, at("10.1.0.2:8080")), Some(known));
    assert_eq!(compiler.knows(&http, at("10.1.0.2:8081")), None);
    assert_eq!(compiler.knows(&http, at("10.1.0.3:8080")), None);
    compiler.remove_service(&named("web"));
    assert_eq!(compiler.knows(&http, at("10.1.0.1:8080")), None);
}

#[test]
fn health_checks_count_ready_endpoints_of_this_node() {
    let mut web = balanced("web", "10.96.0.1");
    web.health_check_port = Some(32000);
    // Without the policy upstream serves no check.
    let mut compiler = compiled(&[web.clone()], &[]);
    assert!(compiler.health_checks().is_empty());
    web.external_local = true;
    web.ports.push(port("more", Protocol::Tcp, 81));
    compiler.set_service(&web);
    let mut four = slice(
        "web",
        vec![
            endpoint("10.1.0.1", "node-a"),
            draining("10.1.0.2", "node-a"),
            endpoint("10.1.1.1", "node-b"),
        ],
    );
    four.ports.push(slice_port("more", Protocol::Tcp, 8081));
    compiler.set_slice(&four);
    let mut six = slice(
        "web",
        vec![endpoint("fd01::1", "node-a"), endpoint("fd01::2", "node-a")],
    );
    six.name = named("web-6");
    compiler.set_slice(&six);
    let expected = HealthCheck {
        port: 32000,
        local_v4: 1,
        local_v6: 2,
    };
    assert_eq!(compiler.health_checks().get(&named("web")), Some(&expected));
    compiler.remove_service(&named("web"));
    assert!(compiler.health_checks().is_empty());
}

#[test]
fn ports_without_a_local_endpoint_are_counted() {
    let mut web = balanced("web", "10.96.0.1");
    web.external_local = true;
    web.internal_local = true;
    let mut api = service("api", &["10.96.0.2"]);
    api.internal_local = true;
    let slices = ["web", "api"].map(|name| slice(name, vec![endpoint("10.1.1.1", "node-b")]));
    let compiler = compiled(&[web, api], &slices);
    assert_eq!(
        compiler.no_local(),
        NoLocal {
            internal: 2,
            external: 1
        }
    );
}

#[test]
fn an_address_says_what_its_other_ports_are() {
    let mut a = service("a", &["10.96.0.1"]);
    let mut b = service("b", &["10.96.0.2"]);
    a.external_ips = [ip("203.0.113.1"), ip("10.96.0.2")].into();
    b.external_ips = [ip("203.0.113.1")].into();
    let mut compiler = compiled(&[a, b], &[]);
    let text = shown(&compiler.tables());
    assert!(
        text.ends_with("10.96.0.1 Refused\n10.96.0.2 Refused\n203.0.113.1 Stack\n"),
        "{text}"
    );
    compiler.remove_service(&named("b"));
    let changes = compiler.changes();
    let addresses: Vec<_> = changes
        .iter()
        .filter(|change| matches!(change, ServicesChange::Address(..)))
        .cloned()
        .collect();
    assert_eq!(told(&addresses), ["10.96.0.2 Stack"]);
}
