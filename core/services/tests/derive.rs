//! `EndpointSlices` from selectors and pods, as the control plane makes them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use common::*;
use proptest::prelude::*;
use watari_model::{
    ClusterPod, ContainerPort, Distribution, EndpointSlice, PodName, Protocol, Service, TargetPort,
};
use watari_services::derive;

fn pod(name: &str, app: &str, addresses: &[&str]) -> ClusterPod {
    let name = named(name);
    ClusterPod {
        name: PodName {
            namespace: name.namespace,
            name: name.name,
        },
        labels: BTreeMap::from([
            ("app".to_owned(), app.to_owned()),
            ("all".to_owned(), "yes".to_owned()),
        ]),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        node: Some("node-a".into()),
        ready: true,
        terminating: false,
        finished: false,
        ports: Vec::new(),
        hostname: None,
        subdomain: None,
        weight: 1,
    }
}

fn zone_of(node: &str) -> Option<Arc<str>> {
    (node == "node-a").then(|| "z-a".into())
}

fn derived(services: &[Service], pods: &[ClusterPod]) -> Vec<EndpointSlice> {
    derive(services, pods, &zone_of)
}

fn lines(slices: &[EndpointSlice]) -> Vec<String> {
    let mut lines = Vec::new();
    for slice in slices {
        let ports: Vec<_> = slice
            .ports
            .iter()
            .map(|p| format!("{}={}/{}", p.name, p.port.unwrap(), p.protocol))
            .collect();
        let endpoints: Vec<_> = slice
            .endpoints
            .iter()
            .map(|e| {
                let mut text = e.address.to_string();
                for (set, letter) in [(e.ready, 'r'), (e.serving, 's'), (e.terminating, 't')] {
                    text.push(if set { letter } else { '-' });
                }
                text
            })
            .collect();
        let family = if slice.v6 { "v6" } else { "v4" };
        lines.push(format!(
            "{} {family} [{}] {}",
            slice.service,
            ports.join(" "),
            endpoints.join(" ")
        ));
    }
    lines
}

#[test]
fn a_selector_finds_the_pods_of_its_namespace() {
    let mut both = service("both", &["10.96.0.2"]);
    both.selector = BTreeMap::from([
        ("all".to_owned(), "yes".to_owned()),
        ("app".to_owned(), "web".to_owned()),
    ]);
    let mut without = service("without", &["10.96.0.3"]);
    without.selector.clear();
    let pods = [
        pod("b", "web", &["10.1.0.2"]),
        pod("a", "web", &["10.1.0.1"]),
        pod("c", "db", &["10.1.0.3"]),
        pod("other/d", "web", &["10.1.0.4"]),
    ];
    let slices = derived(&[service("web", &["10.96.0.1"]), both, without], &pods);
    assert_eq!(
        lines(&slices),
        [
            "web v4 [http=8080/tcp] 10.1.0.1rs- 10.1.0.2rs-",
            "both v4 [http=8080/tcp] 10.1.0.1rs- 10.1.0.2rs-",
        ]
    );
    let first = &slices[0].endpoints[0];
    assert_eq!(first.pod.as_ref().unwrap().to_string(), "default/a");
    assert_eq!(
        (first.node.as_deref(), first.zone.as_deref()),
        (Some("node-a"), Some("z-a"))
    );
    assert!(
        slices[0].name.name.starts_with("web-"),
        "{}",
        slices[0].name
    );
}

#[test]
fn conditions_are_the_control_planes() {
    let with = |ready, terminating| ClusterPod {
        ready,
        terminating,
        ..pod(&format!("{ready}{terminating}"), "web", &["10.1.0.1"])
    };
    let pods = [
        with(true, false),
        with(true, true),
        with(false, true),
        with(false, false),
    ];
    let mut web = service("web", &["10.96.0.1"]);
    assert_eq!(
        lines(&derived(&[web.clone()], &pods)),
        ["web v4 [http=8080/tcp] 10.1.0.1--- 10.1.0.1--t 10.1.0.1rs- 10.1.0.1-st"]
    );
    web.publish_not_ready = true;
    assert_eq!(
        lines(&derived(&[web], &pods)),
        ["web v4 [http=8080/tcp] 10.1.0.1r-- 10.1.0.1r-t 10.1.0.1rs- 10.1.0.1rst"]
    );
}

#[test]
fn who_has_no_address_or_is_done_is_none() {
    let mut done = pod("done", "web", &["10.1.0.1"]);
    done.finished = true;
    let slices = derived(
        &[service("web", &["10.96.0.1"])],
        &[done, pod("new", "web", &[])],
    );
    // An empty slice says that somebody looked.
    assert_eq!(lines(&slices), ["web v4 [] "]);
}

#[test]
fn a_named_port_is_each_pods_own() {
    let named_port = |mut pod: ClusterPod, port| {
        let tcp = |name: &str, protocol, port| ContainerPort {
            name: name.to_owned(),
            protocol,
            port,
        };
        pod.ports = vec![
            tcp("web", Protocol::Udp, 1),
            tcp("web", Protocol::Tcp, port),
        ];
        pod
    };
    let mut web = service("web", &["10.96.0.1"]);
    web.ports[0].target = TargetPort::Name("web".to_owned());
    web.ports.push(port("more", Protocol::Tcp, 81));
    let pods = [
        named_port(pod("a", "web", &["10.1.0.1"]), 8000),
        named_port(pod("b", "web", &["10.1.0.2"]), 9000),
        named_port(pod("c", "web", &["10.1.0.3"]), 8000),
        pod("d", "web", &["10.1.0.4"]),
    ];
    let slices = derived(&[web], &pods);
    assert_eq!(
        lines(&slices),
        [
            "web v4 [http=8000/tcp more=8080/tcp] 10.1.0.1rs- 10.1.0.3rs-",
            "web v4 [http=9000/tcp more=8080/tcp] 10.1.0.2rs-",
            "web v4 [more=8080/tcp] 10.1.0.4rs-",
        ]
    );
    let names: BTreeSet<_> = slices.iter().map(|slice| &slice.name).collect();
    assert_eq!(names.len(), 3);
}

#[test]
fn each_family_has_slices_of_its_own() {
    let pods = [
        pod("a", "web", &["10.1.0.1", "fd01::1"]),
        pod("b", "web", &["10.1.0.2"]),
    ];
    let lines_of = |ips: &[&str]| lines(&derived(&[service("web", ips)], &pods));
    let four = "web v4 [http=8080/tcp] 10.1.0.1rs- 10.1.0.2rs-";
    let six = "web v6 [http=8080/tcp] fd01::1rs-";
    assert_eq!(lines_of(&["10.96.0.1"]), [four]);
    assert_eq!(lines_of(&["fd00::1"]), [six]);
    assert_eq!(lines_of(&["10.96.0.1", "fd00::1"]), [four, six]);
    let mut headless = service("web", &[]);
    headless.headless = true;
    assert_eq!(lines(&derived(&[headless], &pods)), [four, six]);
}

#[test]
fn hints_come_of_traffic_distribution() {
    let mut here = pod("a", "web", &["10.1.0.1"]);
    here.weight = 7;
    let mut ending = pod("b", "web", &["10.1.0.2"]);
    ending.terminating = true;
    let mut nowhere = pod("c", "web", &["10.1.0.3"]);
    nowhere.node = Some("node-x".into());
    let mut web = service("web", &["10.96.0.1"]);
    let hints = |web: &Service| {
        let slices = derived(
            std::slice::from_ref(web),
            &[here.clone(), ending.clone(), nowhere.clone()],
        );
        let endpoints = &slices[0].endpoints;
        assert_eq!(endpoints[0].weight, 7);
        let each = endpoints.iter().map(|e| {
            let all = e.for_zones.iter().chain(&e.for_nodes);
            all.map(ToString::to_string).collect::<Vec<_>>().join("+")
        });
        each.collect::<Vec<_>>()
    };
    assert_eq!(hints(&web), ["", "", ""]);
    web.distribution = Some(Distribution::PreferSameZone);
    assert_eq!(hints(&web), ["z-a", "", ""]);
    web.distribution = Some(Distribution::PreferSameNode);
    assert_eq!(hints(&web), ["z-a+node-a", "", "node-x"]);
}

#[test]
fn a_slice_has_a_hundred_endpoints_at_most() {
    let pods: Vec<_> = (0..250_u16)
        .map(|at| {
            let [high, low] = at.to_be_bytes();
            pod(
                &format!("p{at:03}"),
                "web",
                &[&format!("10.1.{high}.{low}")],
            )
        })
        .collect();
    let slices = derived(&[service("web", &["10.96.0.1"])], &pods);
    let sizes: Vec<_> = slices.iter().map(|slice| slice.endpoints.len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
    let names: BTreeSet<_> = slices.iter().map(|slice| slice.name.clone()).collect();
    assert_eq!(names.len(), 3);
    // Names stay when pods come and go.
    let fewer = derived(&[service("web", &["10.96.0.1"])], &pods[..120]);
    assert!(fewer.iter().all(|slice| names.contains(&slice.name)));
}

proptest! {
    #[test]
    fn every_ready_pod_is_a_backend_and_no_other(
        pods in prop::collection::vec((0..3_usize, any::<[bool; 3]>()), 0..40)
    ) {
        const APPS: [&str; 3] = ["a", "b", "c"];
        let pods: Vec<_> = pods.into_iter().enumerate().map(|(at, (app, flags))| ClusterPod {
            ready: flags[0],
            terminating: flags[1],
            finished: flags[2],
            ..pod(&format!("p{at}"), APPS[app], &[&format!("10.1.0.{at}")])
        }).collect();
        let services: Vec<_> = APPS.iter().enumerate()
            .map(|(at, app)| service(app, &[&format!("10.96.0.{at}")]))
            .collect();
        let slices = derived(&services, &pods);
        let tables = compiled(&services, &slices).tables();
        for (name, balancer) in &tables.balancers {
            let of = |pod: &&ClusterPod| pod.labels["app"] == name.service.name && !pod.finished && pod.ready;
            let all: Vec<_> = pods.iter().filter(of).collect();
            let ready = all.iter().any(|pod| !pod.terminating);
            let wanted = all.iter().filter(|pod| pod.terminating != ready);
            let wanted: BTreeSet<_> = wanted.map(|pod| pod.addresses[0]).collect();
            let found: BTreeSet<_> = balancer.inside.members.keys().map(SocketAddr::ip).collect();
            prop_assert_eq!(found, wanted);
        }
        let mut reversed = pods.clone();
        reversed.reverse();
        prop_assert_eq!(derived(&services, &reversed), slices);
    }
}
