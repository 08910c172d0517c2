//! What compiling costs. Short in an ordinary run; `WATARI_SOAK=1` with `--release --nocapture` is
//! the measurement.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::*;
use watari_model::{EndpointSlice, Service};
use watari_services::{Compiler, derive, ring};

fn soak() -> bool {
    std::env::var_os("WATARI_SOAK").is_some()
}

fn services(count: u32) -> Vec<Service> {
    let one = |at: u32| {
        let [_, b, c, d] = at.to_be_bytes();
        let mut service = service(
            &format!("team-{}/service-{at}", at % 50),
            &[&format!("10.{}.{c}.{d}", 96 + b)],
        );
        service.created = i64::from(at);
        service
    };
    (0..count).map(one).collect()
}

fn slices(services: &[Service], endpoints: u32) -> Vec<EndpointSlice> {
    let one = |(at, service): (usize, &Service)| {
        let all = (0..endpoints).map(|number| {
            let at = u32::try_from(at).unwrap() * endpoints + number;
            let [_, b, c, d] = at.to_be_bytes();
            let mut found = endpoint(
                &format!("10.{}.{c}.{d}", 128 + b),
                &format!("node-{}", at % 5000),
            );
            found.pod = Some(watari_model::PodName {
                namespace: service.name.namespace.clone(),
                name: format!("{}-7d9c5b8f6-{at:05}", service.name.name),
            });
            found
        });
        slice(&service.name.to_string(), all.collect())
    };
    services.iter().enumerate().map(one).collect()
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn loaded(count: u32, endpoints: u32) -> (Compiler, Vec<EndpointSlice>) {
    let services = services(count);
    let slices = slices(&services, endpoints);
    let before = resident();
    let mut compiler = compiler();
    let start = Instant::now();
    compiler.load(&services, &slices);
    let changes = compiler.changes();
    let took = start.elapsed();
    assert_eq!(changes.len(), 2 * count as usize);
    drop(changes);
    let held = resident().saturating_sub(before);
    println!(
        "{count} x {endpoints}: compiled in {took:?}, about {} KiB more",
        held / 1024
    );
    let start = Instant::now();
    compiler.load(&services, &slices);
    assert!(compiler.changes().is_empty());
    println!("  the same again: {:?}", start.elapsed());
    (compiler, slices)
}

#[test]
fn all_at_once() {
    let count = if soak() { 10_000 } else { 1_000 };
    let (compiler, _) = loaded(count, 10);
    let start = Instant::now();
    let tables = compiler.tables();
    println!("  tables(): {:?}", start.elapsed());
    assert_eq!(tables.balancers.len(), count as usize);
    let start = Instant::now();
    assert!(compiler.notes().is_empty());
    println!("  notes(): {:?}", start.elapsed());
}

#[test]
fn one_endpoint_among_many() {
    let count = if soak() { 50_000 } else { 2_000 };
    let (mut compiler, mut slices) = loaded(count, 10);
    let rounds = 2_000;
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let at = round * 7919 % slices.len();
        let slice = &mut slices[at];
        slice.endpoints[0].ready ^= true;
        let start = Instant::now();
        compiler.set_slice(slice);
        let changes = compiler.changes();
        times.push(start.elapsed());
        assert_eq!(changes.len(), 1, "{:?}", told(&changes));
    }
    times.sort();
    let at = |part: usize| times[times.len() * part / 1000];
    println!(
        "  one endpoint: p50 {:?}, p99 {:?}, p99.9 {:?}",
        at(500),
        at(990),
        at(999)
    );
    assert!(
        at(500) < Duration::from_millis(2),
        "it grows with the number of Services"
    );
}

#[test]
fn slices_of_many_pods() {
    let count = if soak() { 10_000 } else { 500 };
    let services = services(count);
    let pods: Vec<_> = (0..count * 10)
        .map(|at| {
            let service = &services[(at / 10) as usize];
            let [_, b, c, d] = at.to_be_bytes();
            watari_model::ClusterPod {
                name: watari_model::PodName {
                    namespace: service.name.namespace.clone(),
                    name: format!("{}-{at}", service.name.name),
                },
                labels: service.selector.clone(),
                addresses: vec![ip(&format!("10.{}.{c}.{d}", 128 + b))],
                node: Some("node-a".into()),
                ready: true,
                terminating: false,
                finished: false,
                ports: Vec::new(),
                hostname: None,
                subdomain: None,
                weight: 1,
            }
        })
        .collect();
    let start = Instant::now();
    let slices = derive(&services, &pods, &|_| None);
    println!("{count} x 10 derived in {:?}", start.elapsed());
    assert_eq!(slices.len(), count as usize);
    for members in [2_u16, 10, 100, 655] {
        let all = (0..members).map(|host| {
            let [high, low] = host.to_be_bytes();
            (std::net::SocketAddr::from(([10, 1, high, low], 80)), 1)
        });
        let all = all.collect();
        let start = Instant::now();
        let table = ring(&all);
        println!(
            "ring of {members}: {} slots in {:?}",
            table.len(),
            start.elapsed()
        );
    }
}
