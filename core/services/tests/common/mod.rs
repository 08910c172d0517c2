//! Services, slices and pods in few words, and tables as text.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use watari_model::{
    ClusterNode, EndpointSlice, Ingress, Protocol, Service, ServiceName, ServicePort, ServiceType,
    SliceEndpoint, SlicePort, TargetPort, Wishes,
};
use watari_services::{Compiler, Options};
use watari_tables::{Backends, Services, ServicesChange};

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn named(name: &str) -> ServiceName {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    ServiceName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// A `ClusterIP` Service with port 80, named `http`, for targets at 8080.
pub fn service(name: &str, cluster_ips: &[&str]) -> Service {
    Service {
        name: named(name),
        created: 0,
        kind: ServiceType::ClusterIp,
        cluster_ips: cluster_ips.iter().map(|text| ip(text)).collect(),
        headless: false,
        external_ips: BTreeSet::new(),
        ingress: Vec::new(),
        ports: vec![port("http", Protocol::Tcp, 80)],
        selector: BTreeMap::from([("app".to_owned(), named(name).name)]),
        internal_local: false,
        external_local: false,
        affinity: None,
        publish_not_ready: false,
        source_ranges: BTreeSet::new(),
        distribution: None,
        health_check_port: None,
        load_balancer_class: None,
        proxy_name: None,
        wishes: Wishes::default(),
    }
}

/// One with a node port 30080 and a load balancer's address 198.51.100.1 beside.
pub fn balanced(name: &str, cluster_ip: &str) -> Service {
    let mut service = service(name, &[cluster_ip]);
    service.kind = ServiceType::LoadBalancer;
    service.ports[0].node_port = Some(30080);
    service.ingress = vec![ingress("198.51.100.1")];
    service
}

pub fn ingress(address: &str) -> Ingress {
    Ingress {
        address: ip(address),
        proxy: false,
    }
}

pub fn port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort {
        name: name.to_owned(),
        protocol,
        port,
        target: TargetPort::Number(8080),
        node_port: None,
    }
}

/// A slice `NAME-1` of a Service, with port `http` at 8080.
pub fn slice(service: &str, endpoints: Vec<SliceEndpoint>) -> EndpointSlice {
    let service = named(service);
    EndpointSlice {
        name: named(&format!("{}/{}-1", service.namespace, service.name)),
        service: service.name,
        v6: endpoints.first().is_some_and(|e| e.address.is_ipv6()),
        ports: vec![slice_port("http", Protocol::Tcp, 8080)],
        endpoints,
    }
}

pub fn slice_port(name: &str, protocol: Protocol, port: u16) -> SlicePort {
    SlicePort {
        name: name.to_owned(),
        protocol,
        port: Some(port),
    }
}

/// A ready endpoint on a node; its zone is the node's last letter.
pub fn endpoint(address: &str, node: &str) -> SliceEndpoint {
    SliceEndpoint {
        address: ip(address),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(node.into()),
        zone: Some(format!("z-{}", &node[node.len() - 1..]).into()),
        for_zones: Vec::new(),
        for_nodes: Vec::new(),
        pod: None,
        weight: 1,
    }
}

pub fn draining(address: &str, node: &str) -> SliceEndpoint {
    SliceEndpoint {
        ready: false,
        terminating: true,
        ..endpoint(address, node)
    }
}

pub fn terminating(address: &str, node: &str) -> SliceEndpoint {
    SliceEndpoint {
        serving: false,
        ..draining(address, node)
    }
}

pub fn not_ready(address: &str, node: &str) -> SliceEndpoint {
    SliceEndpoint {
        ready: false,
        serving: false,
        ..endpoint(address, node)
    }
}

pub fn node(name: &str, addresses: &[&str]) -> ClusterNode {
    ClusterNode {
        name: name.to_owned(),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        pod_cidrs: Vec::new(),
        owned: Vec::new(),
        zone: Some(format!("z-{}", &name[name.len() - 1..]).into()),
        deleting: false,
    }
}

/// The compiler of `node-a`, which is in zone `z-a`, with two addresses.
pub fn compiler() -> Compiler {
    let mut compiler = Compiler::new(Options {
        node: "node-a".to_owned(),
        node_port_cidrs: Vec::new(),
    });
    compiler.set_node(&node("node-a", &["192.0.2.1", "2001:db8::1"]));
    compiler
}

/// What such a compiler makes of Services and slices.
pub fn compiled(services: &[Service], slices: &[EndpointSlice]) -> Compiler {
    let mut compiler = compiler();
    compiler.load(services, slices);
    let mut tables = Services::default();
    for change in compiler.changes() {
        tables.take(change);
    }
    assert_eq!(tables, compiler.tables());
    compiler
}

pub fn tables(services: &[Service], slices: &[EndpointSlice]) -> String {
    shown(&compiled(services, slices).tables())
}

/// Tables as text: balancers with a line for each of their sets, then addresses, then ranges.
pub fn shown(tables: &Services) -> String {
    let mut text = String::new();
    for (name, balancer) in &tables.balancers {
        let family = if name.v6 { "v6" } else { "v4" };
        write!(text, "{name} {family} {}", balancer.protocol).unwrap();
        let mut flag = |set: bool, word: &str| {
            if set {
                write!(text, " {word}").unwrap();
            }
        };
        flag(balancer.keeps_source, "keeps-source");
        flag(balancer.least_connections, "least-connections");
        flag(balancer.direct_return, "direct-return");
        if let Some(seconds) = balancer.affinity {
            flag(true, &format!("affinity={seconds}"));
        }
        for net in balancer.source_ranges.iter().flatten() {
            flag(true, &format!("from={net}"));
        }
        text.push('\n');
        for (frontend, kind) in &balancer.frontends {
            let last = if frontend.range {
                format!("-{}", frontend.last)
            } else {
                String::new()
            };
            let (address, first) = (frontend.address, frontend.first);
            writeln!(text, "  {kind:?} {address} {first}{last}").unwrap();
        }
        writeln!(text, "  inside: {}", set(&balancer.inside)).unwrap();
        if balancer.inside_external != balancer.inside {
            writeln!(
                text,
                "  inside-external: {}",
                set(&balancer.inside_external)
            )
            .unwrap();
        }
        if balancer.outside != balancer.inside_external {
            writeln!(text, "  outside: {}", set(&balancer.outside)).unwrap();
        }
    }
    for (address, others) in &tables.addresses {
        writeln!(text, "{address} {others:?}").unwrap();
    }
    for cidr in &tables.cidrs {
        writeln!(text, "{cidr}").unwrap();
    }
    text
}

fn set(backends: &Backends) -> String {
    let mut words = Vec::new();
    for (at, weight) in &*backends.members {
        words.push(match weight {
            1 => at.to_string(),
            weight => format!("{at}*{weight}"),
        });
    }
    if words.is_empty() {
        words.push("none".to_owned());
    }
    if backends.drops_when_empty {
        words.push("(local)".to_owned());
    }
    words.join(" ")
}

/// Changes in a word each.
pub fn told(changes: &[ServicesChange]) -> Vec<String> {
    let word = |change: &ServicesChange| match change {
        ServicesChange::Set(name, _) => format!("set {name}"),
        ServicesChange::Remove(name) => format!("remove {name}"),
        ServicesChange::Address(ip, Some(others)) => format!("{ip} {others:?}"),
        ServicesChange::Address(ip, None) => format!("{ip} none"),
        ServicesChange::Cidrs(cidrs) => format!("cidrs {}", cidrs.len()),
    };
    changes.iter().map(word).collect()
}
