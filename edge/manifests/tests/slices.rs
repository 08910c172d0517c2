//! Slices, and the ranges of Services: what is read of them, and what is refused with which words.

use std::path::Path;
use std::sync::Arc;

use watari_manifests::{Manifests, Object, parse};
use watari_model::{EndpointSlice, Protocol};

fn parsed(text: &str) -> Manifests {
    parse(Path::new("x.yaml"), text.as_bytes()).unique()
}

/// The one error, without its place.
#[track_caller]
fn reason(text: &str) -> String {
    let found = parsed(text);
    assert!(found.objects.is_empty(), "{text}: {:?}", found.objects);
    let said = found.errors[0].to_string();
    let place = "x.yaml: document 1 (from line 1): ";
    said.strip_prefix(place).expect("its place").to_owned()
}

#[track_caller]
fn one_slice(text: &str) -> Arc<EndpointSlice> {
    let found = parsed(text);
    assert!(found.errors.is_empty(), "{text}: {:?}", found.errors);
    let mut all = found.endpoint_slices();
    Arc::clone(all.next().expect("a slice"))
}

const SLICE: &str = "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  namespace: shop
  labels: {kubernetes.io/service-name: web}
  annotations: {watari.io/weight: '3'}
addressType: IPv4
ports:
- {name: http, port: 8080}
- {name: dns, port: 5353, protocol: UDP}
- {name: any}
endpoints:
- addresses: [10.244.1.2]
  conditions: {ready: true, serving: true, terminating: false}
  nodeName: node1
  zone: a
  hints: {forZones: [{name: a}], forNodes: [{name: node1}, {name: node2}]}
  targetRef: {kind: Pod, name: web-x, namespace: shop}
- addresses: [10.244.2.2, 10.244.2.3]
  conditions: {ready: false}
  nodeName: node1
- addresses: [10.244.2.4]
  conditions: {ready: false, serving: true, terminating: true}
- addresses: [10.244.2.5]
";

#[test]
fn a_slice_is_read_whole() {
    let found = parsed(SLICE);
    assert_eq!((&found.errors[..], &found.notes[..]), (&[][..], &[][..]));
    assert_eq!(
        found.objects[0].id().to_string(),
        "EndpointSlice shop/web-1"
    );
    let slice = one_slice(SLICE);
    assert_eq!((slice.service.as_str(), slice.v6), ("web", false));
    let ports: Vec<_> = slice
        .ports
        .iter()
        .map(|p| (p.name.as_str(), p.protocol, p.port))
        .collect();
    assert_eq!(
        ports,
        [
            ("http", Protocol::Tcp, Some(8080)),
            ("dns", Protocol::Udp, Some(5353)),
            ("any", Protocol::Tcp, None),
        ]
    );
    let conditions: Vec<_> = slice
        .endpoints
        .iter()
        .map(|e| (e.address.to_string(), e.ready, e.serving, e.terminating))
        .collect();
    assert_eq!(
        conditions,
        [
            ("10.244.1.2".to_owned(), true, true, false),
            ("10.244.2.2".to_owned(), false, false, false),
            ("10.244.2.4".to_owned(), false, true, true),
            ("10.244.2.5".to_owned(), true, true, false),
        ]
    );
    let first = &slice.endpoints[0];
    assert_eq!(first.pod.as_ref().unwrap().to_string(), "shop/web-x");
    assert_eq!(
        (first.node.as_deref(), first.zone.as_deref()),
        (Some("node1"), Some("a"))
    );
    assert_eq!((first.for_zones.len(), first.for_nodes.len()), (1, 2));
    assert!(slice.endpoints.iter().all(|endpoint| endpoint.weight == 3));
    // A name that several have is kept once.
    let second = slice.endpoints[1].node.as_ref().unwrap();
    assert!(Arc::ptr_eq(first.node.as_ref().unwrap(), second));
    assert!(Arc::ptr_eq(&first.for_nodes[0], second));
}

/// What is replaced, by what, and what is said then.
const WRONG_SLICES: &[(&str, &str, &str)] = &[
    (
        "10.244.1.2",
        "fd00::1",
        "endpoints[0].addresses[0]: fd00::1 is an IPv6 address, and addressType is IPv4",
    ),
    (
        "addressType: IPv4",
        "addressType: IPv6",
        "endpoints[0].addresses[0]: 10.244.1.2 is an IPv4 address, and addressType is IPv6",
    ),
    (
        "addressType: IPv4",
        "addressType: IP",
        "addressType: \"IP\" is none of IPv4, IPv6, FQDN",
    ),
    (
        "10.244.2.3",
        "10.244.2",
        "endpoints[1].addresses[1]: \"10.244.2\" is no IP address",
    ),
    (
        "10.244.2.3",
        "169.254.1.1",
        "endpoints[1].addresses[1]: 169.254.1.1 is a link-local address",
    ),
    ("[10.244.2.4]", "[]", "endpoints[2].addresses: missing"),
    ("port: 8080", "port: 0", "ports[0].port: 0 is no port"),
    (
        "name: dns",
        "name: http",
        "ports[1].name: ports[0] has the name \"http\" too",
    ),
    (
        "protocol: UDP",
        "protocol: ICMP",
        "ports[1].protocol: \"ICMP\" is none of TCP, UDP, SCTP",
    ),
    (
        "weight: '3'",
        "weight: '101'",
        "metadata.annotations['watari.io/weight']: \"101\" is no weight: want 1 to 100",
    ),
    (
        "weight: '3'",
        "weight: 3",
        "metadata.annotations.watari.io/weight: ",
    ),
    (
        "service-name: web",
        "service-name: We_b",
        "metadata.labels['kubernetes.io/service-name']: \"We_b\" is not a name",
    ),
];

#[test]
fn what_a_slice_cannot_be_is_told_with_its_path() {
    for (good, bad, told) in WRONG_SLICES {
        assert!(SLICE.contains(good), "{good}");
        let said = reason(&SLICE.replacen(good, bad, 1));
        assert!(said.starts_with(told), "{bad}: {said}");
    }
}

#[test]
fn a_slice_of_nobody_or_of_names_is_kept_aside() {
    for text in [
        SLICE.replace("kubernetes.io/service-name: web", "a: b"),
        SLICE.replace("addressType: IPv4", "addressType: FQDN"),
    ] {
        let found = parsed(&text);
        assert!(found.errors.is_empty(), "{:?}", found.errors);
        assert!(matches!(found.objects[0].object, Object::Other { .. }));
        assert_eq!(found.notes.len(), 1);
    }
}

#[test]
fn the_ranges_of_services_are_one_or_one_of_each_family() {
    let text = |cidrs: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {{name: kubernetes}}\nspec: {{cidrs: {cidrs}}}\n"
        )
    };
    let found = parsed(&text("[10.96.0.0/16, 'fd00:10:96::/112']"));
    assert_eq!((&found.errors[..], &found.notes[..]), (&[][..], &[][..]));
    assert_eq!(found.objects[0].id().to_string(), "ServiceCIDR kubernetes");
    assert_eq!(found.service_cidrs().count(), 2);
    for (cidrs, told) in [
        ("[10.96.0.0]", "spec.cidrs[0]: \"10.96.0.0\" is no CIDR"),
        ("[]", "spec.cidrs: want one range"),
        ("[10.0.0.0/24, 10.0.1.0/24]", "spec.cidrs: want one range"),
    ] {
        let said = reason(&text(cidrs));
        assert!(said.starts_with(told), "{said}");
    }
}
