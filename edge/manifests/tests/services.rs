//! Services: what is read of them, and what is refused with which words.

use std::path::Path;
use std::sync::Arc;

use watari_manifests::{Manifests, parse};
use watari_model::{Distribution, Protocol, Service, ServicePort, ServiceType, TargetPort};

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
fn one_service(text: &str) -> Arc<Service> {
    let found = parsed(text);
    assert!(found.errors.is_empty(), "{text}: {:?}", found.errors);
    let mut all = found.services();
    Arc::clone(all.next().expect("a Service"))
}

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  creationTimestamp: '2026-01-02T03:04:05Z'
  labels: {service.kubernetes.io/service-proxy-name: other}
  annotations:
    watari.io/port-ranges: 6000-6999/UDP, */SCTP,  7000
    watari.io/algorithm: least-connections
    watari.io/direct-return: 'true'
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.7
  clusterIPs: [10.96.0.7, 'fd00:10:96::7']
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: PreferDualStack
  externalIPs: [198.51.100.7]
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: web, nodePort: 30080, appProtocol: http}
  - {name: dns, port: 53, protocol: UDP, nodePort: 30053}
  internalTrafficPolicy: Local
  externalTrafficPolicy: Local
  healthCheckNodePort: 31000
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  publishNotReadyAddresses: true
  loadBalancerSourceRanges: [10.1.2.3/8, ' fd00::/8 ']
  loadBalancerClass: example.com/balancer
  trafficDistribution: PreferSameNode
status:
  loadBalancer:
    ingress:
    - {ip: 203.0.113.7, ipMode: VIP}
    - {ip: 'fd00::7', ipMode: Proxy}
    - {hostname: web.example.com}
";

#[test]
fn a_service_is_read_whole() {
    let found = parsed(SERVICE);
    assert_eq!((&found.errors[..], &found.notes[..]), (&[][..], &[][..]));
    assert_eq!(found.objects[0].id().to_string(), "Service shop/web");
    let service = one_service(SERVICE);
    assert_eq!(service.name.to_string(), "shop/web");
    assert_eq!(service.created, 1_767_323_045);
    assert_eq!(service.kind, ServiceType::LoadBalancer);
    let texts: Vec<String> = service
        .cluster_ips
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(texts, ["10.96.0.7", "fd00:10:96::7"]);
    assert!(!service.headless);
    assert_eq!(service.external_ips.len(), 1);
    let ingress: Vec<_> = service
        .ingress
        .iter()
        .map(|i| (i.address.to_string(), i.proxy))
        .collect();
    assert_eq!(
        ingress,
        [
            ("203.0.113.7".to_owned(), false),
            ("fd00::7".to_owned(), true)
        ]
    );
    assert_eq!(
        service.ports,
        [
            ServicePort {
                name: "http".to_owned(),
                protocol: Protocol::Tcp,
                port: 80,
                target: TargetPort::Name("web".to_owned()),
                node_port: Some(30080),
            },
            ServicePort {
                name: "dns".to_owned(),
                protocol: Protocol::Udp,
                port: 53,
                target: TargetPort::Number(53),
                node_port: Some(30053),
            },
        ]
    );
}

#[test]
fn what_a_service_asks_is_read() {
    let service = one_service(SERVICE);
    assert_eq!(service.selector["app"], "web");
    assert!(service.internal_local && service.external_local && service.publish_not_ready);
    assert_eq!(service.affinity, Some(60));
    let ranges: Vec<String> = service
        .source_ranges
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(ranges, ["10.0.0.0/8", "fd00::/8"]);
    assert_eq!(service.distribution, Some(Distribution::PreferSameNode));
    assert_eq!(service.health_check_port, Some(31000));
    assert_eq!(
        service.load_balancer_class.as_deref(),
        Some("example.com/balancer")
    );
    assert_eq!(service.proxy_name.as_deref(), Some("other"));
    let wishes = &service.wishes;
    assert!(wishes.least_connections && wishes.direct_return);
    let ranges: Vec<_> = wishes
        .port_ranges
        .iter()
        .map(|r| (r.protocol, r.first, r.last))
        .collect();
    assert_eq!(
        ranges,
        [
            (Protocol::Udp, 6000, 6999),
            (Protocol::Sctp, 1, 65535),
            (Protocol::Tcp, 7000, 7000),
        ]
    );
}

#[test]
fn what_is_not_said_is_as_the_api_server_has_it() {
    let service = one_service(
        "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: [{port: 80, targetPort: 0}], sessionAffinity: ClientIP}}",
    );
    assert_eq!(service.name.namespace, "default");
    assert_eq!((service.created, service.kind), (0, ServiceType::ClusterIp));
    assert_eq!(service.affinity, Some(10_800));
    assert_eq!(service.ports[0].target, TargetPort::Number(80));
    assert_eq!(service.ports[0].node_port, None);
    assert!(service.source_ranges.is_empty() && service.ingress.is_empty());

    let headless = one_service(
        "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {clusterIP: None, clusterIPs: [None]}}",
    );
    assert!(headless.headless && headless.cluster_ips.is_empty() && headless.ports.is_empty());
    let name = one_service(
        "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: ExternalName, externalName: db.example.com.}}",
    );
    assert_eq!(name.kind, ServiceType::ExternalName);
    // The old place of source ranges, on a load balancer alone.
    let old = "{apiVersion: v1, kind: Service, metadata: {name: s, annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: '10.0.0.0/8, 192.0.2.1/32'}}, spec: {type: LoadBalancer, ports: [{port: 80}]}}";
    assert_eq!(one_service(old).source_ranges.len(), 2);
    let other = old.replace("LoadBalancer", "NodePort");
    assert_eq!(one_service(&other).source_ranges.len(), 0);
}

/// What is replaced, by what, and what is said then.
const WRONG_SERVICES: &[(&str, &str, &str)] = &[
    (
        "port: 80",
        "port: 0",
        "spec.ports[0].port: 0 is no port: want 1 to 65535",
    ),
    (
        "port: 80",
        "port: 65536",
        "spec.ports[0].port: 65536 is no port",
    ),
    ("port: 80", "port: -1", "spec.ports[0].port: -1 is no port"),
    (
        "port: 53",
        "port: x",
        "spec.ports[1].port: invalid type: string \"x\", expected i32",
    ),
    (
        "name: dns",
        "name: http",
        "spec.ports[1].name: another port has the name \"http\"",
    ),
    (
        "name: dns, ",
        "",
        "spec.ports[1].name: missing; of several ports each has one",
    ),
    (
        "name: dns",
        "name: Dns",
        "spec.ports[1].name: \"Dns\" is not a name of at most 63",
    ),
    (
        "port: 53, protocol: UDP",
        "port: 80",
        "spec.ports[1].port: tcp 80 stands twice",
    ),
    (
        "protocol: UDP, nodePort: 30053",
        "nodePort: 30080",
        "spec.ports[1].nodePort: tcp 30080 stands twice",
    ),
    (
        "protocol: UDP",
        "protocol: udp",
        "spec.ports[1].protocol: \"udp\" is none of TCP, UDP, SCTP",
    ),
    (
        "nodePort: 30080",
        "nodePort: 65536",
        "spec.ports[0].nodePort: 65536 is no port",
    ),
    (
        "targetPort: web",
        "targetPort: 70000",
        "spec.ports[0].targetPort: 70000 is no port",
    ),
    (
        "targetPort: web",
        "targetPort: '80'",
        "spec.ports[0].targetPort: \"80\" is neither a port nor a port's name",
    ),
    (
        "type: LoadBalancer",
        "type: Balancer",
        "spec.type: \"Balancer\" is none of ClusterIP, NodePort",
    ),
    (
        "type: LoadBalancer",
        "type: ClusterIP",
        "spec.ports[0].nodePort: it is for types NodePort and LoadBalancer",
    ),
    (
        "type: LoadBalancer",
        "type: ExternalName",
        "spec.externalName: missing",
    ),
    (
        "type: LoadBalancer",
        "type: NodePort",
        "spec.loadBalancerSourceRanges: it is for type LoadBalancer",
    ),
    (
        "clusterIP: 10.96.0.7",
        "clusterIP: 10.96.0.8",
        "spec.clusterIPs[0]: \"10.96.0.7\" is not spec.clusterIP, \"10.96.0.8\"",
    ),
    (
        "'fd00:10:96::7'",
        "10.96.0.9",
        "spec.clusterIPs[1]: 10.96.0.9 and 10.96.0.7 are of one family",
    ),
    (
        "'fd00:10:96::7'",
        "10.96.0",
        "spec.clusterIPs[1]: \"10.96.0\" is no IP address",
    ),
    (
        "'fd00:10:96::7'",
        "None",
        "spec.clusterIPs: None stands beside an address",
    ),
    (
        "[198.51.100.7]",
        "[127.0.0.1]",
        "spec.externalIPs[0]: 127.0.0.1 is a loopback address",
    ),
    (
        "[198.51.100.7]",
        "[224.0.0.1]",
        "spec.externalIPs[0]: 224.0.0.1 is a multicast address",
    ),
    (
        "[IPv4, IPv6]",
        "[IPv4, IPv4]",
        "spec.ipFamilies[1]: IPv4 stands twice",
    ),
    (
        "[IPv4, IPv6]",
        "[IP4]",
        "spec.ipFamilies[0]: \"IP4\" is none of IPv4, IPv6",
    ),
    (
        "PreferDualStack",
        "Dual",
        "spec.ipFamilyPolicy: \"Dual\" is none of SingleStack",
    ),
    (
        "internalTrafficPolicy: Local",
        "internalTrafficPolicy: local",
        "spec.internalTrafficPolicy: \"local\" is none of Cluster, Local",
    ),
    (
        "externalTrafficPolicy: Local",
        "externalTrafficPolicy: Cluster",
        "spec.healthCheckNodePort: it is for type LoadBalancer with externalTrafficPolicy Local",
    ),
    (
        "healthCheckNodePort: 31000",
        "healthCheckNodePort: -3",
        "spec.healthCheckNodePort: -3 is no port",
    ),
    (
        "sessionAffinity: ClientIP",
        "sessionAffinity: Client",
        "spec.sessionAffinity: \"Client\" is none of None, ClientIP",
    ),
    (
        "timeoutSeconds: 60",
        "timeoutSeconds: 86401",
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds: want 1 to 86400 seconds, not 86401",
    ),
    (
        "10.1.2.3/8",
        "10.1.2.3/33",
        "spec.loadBalancerSourceRanges[0]: \"10.1.2.3/33\" is no CIDR",
    ),
    (
        "PreferSameNode",
        "PreferMoon",
        "spec.trafficDistribution: \"PreferMoon\" is none of PreferSameZone",
    ),
    (
        "ip: 203.0.113.7",
        "ip: 203.0.113",
        "status.loadBalancer.ingress[0].ip: \"203.0.113\" is no IP address",
    ),
    (
        "ipMode: VIP",
        "ipMode: Vip",
        "status.loadBalancer.ingress[0].ipMode: \"Vip\" is none of VIP, Proxy",
    ),
    (
        "6000-6999/UDP",
        "6999-6000/UDP",
        "metadata.annotations['watari.io/port-ranges']: \"6999-6000/UDP\" is no range of ports",
    ),
    (
        "6000-6999/UDP",
        "0-1/UDP",
        "metadata.annotations['watari.io/port-ranges']: \"0-1/UDP\" is no range of ports",
    ),
    (
        "6000-6999/UDP",
        "7000-7001/TCP",
        "metadata.annotations['watari.io/port-ranges']: \"7000\" meets 7000-7001",
    ),
    (
        "least-connections",
        "fastest",
        "metadata.annotations['watari.io/algorithm']: \"fastest\" is none of random, least-connections",
    ),
    (
        "direct-return: 'true'",
        "direct-return: 'yes'",
        "metadata.annotations['watari.io/direct-return']: \"yes\" is none of true, false",
    ),
    (
        "name: web\n",
        "name: web.shop\n",
        "metadata.name: \"web.shop\" is not a name",
    ),
];

#[test]
fn what_a_service_cannot_be_is_told_with_its_path() {
    for (good, bad, told) in WRONG_SERVICES {
        assert!(SERVICE.contains(good), "{good}");
        let said = reason(&SERVICE.replacen(good, bad, 1));
        assert!(said.starts_with(told), "{bad}: {said}");
    }
    for (spec, told) in [
        (
            "{}",
            "spec.ports: missing; only a headless Service has none",
        ),
        (
            "{type: NodePort, clusterIP: None, ports: [{port: 80}]}",
            "spec.clusterIP: None is for type ClusterIP",
        ),
        (
            "{externalTrafficPolicy: Local, ports: [{port: 80}]}",
            "spec.externalTrafficPolicy: nobody outside reaches it",
        ),
        (
            "{type: ExternalName, externalName: a.b, clusterIP: 10.0.0.1}",
            "spec.clusterIP: \"10.0.0.1\" with type ExternalName",
        ),
        (
            "{type: ExternalName, externalName: 'a b'}",
            "spec.externalName: \"a b\" is not a name",
        ),
    ] {
        let said = reason(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {spec}}}"
        ));
        assert!(said.starts_with(told), "{spec}: {said}");
    }
}

#[test]
fn unknown_fields_and_annotations_of_ours_are_noted() {
    let text = SERVICE
        .replace("watari.io/algorithm", "watari.io/algoritm")
        .replace("internalTrafficPolicy", "internalTraficPolicy");
    let notes: Vec<String> = parsed(&text)
        .notes
        .into_iter()
        .map(|n| n.to_string())
        .collect();
    assert_eq!(
        notes,
        [
            "x.yaml: document 1 (from line 1): metadata.annotations['watari.io/algoritm']: no annotation of ours for this kind",
            "x.yaml: document 1 (from line 1): spec.internalTraficPolicy: unknown field",
        ]
    );
}
