//! What holds of any Services and slices, in any order.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use common::*;
use proptest::prelude::*;
use watari_model::{
    ClusterNode, EndpointSlice, PortRange, Protocol, Service, ServiceName, ServiceType,
    SliceEndpoint,
};
use watari_services::Compiler;
use watari_tables::{Frontend, FrontendKind, Services, ServicesChange};

#[derive(Debug, Clone)]
enum Event {
    Service(Box<Service>),
    NoService(ServiceName),
    Slice(EndpointSlice),
    NoSlice(ServiceName),
    Node(ClusterNode),
    NoNode,
}

fn take(compiler: &mut Compiler, event: &Event) {
    match event {
        Event::Service(service) => compiler.set_service(service),
        Event::NoService(name) => compiler.remove_service(name),
        Event::Slice(slice) => compiler.set_slice(slice),
        Event::NoSlice(name) => compiler.remove_slice(name),
        Event::Node(node) => compiler.set_node(node),
        Event::NoNode => compiler.remove_node("node-a"),
    }
}

/// What is there after some events.
#[derive(Debug, Default, Clone)]
struct World {
    services: BTreeMap<ServiceName, Service>,
    slices: BTreeMap<ServiceName, EndpointSlice>,
    node: Option<ClusterNode>,
}

impl World {
    fn of(events: &[Event]) -> Self {
        let mut world = Self::default();
        for event in events.iter().cloned() {
            match event {
                Event::Service(service) => {
                    world.services.insert(service.name.clone(), *service);
                }
                Event::NoService(name) => {
                    world.services.remove(&name);
                }
                Event::Slice(slice) => {
                    world.slices.insert(slice.name.clone(), slice);
                }
                Event::NoSlice(name) => {
                    world.slices.remove(&name);
                }
                Event::Node(node) => world.node = Some(node),
                Event::NoNode => world.node = None,
            }
        }
        world
    }

    fn events(&self) -> Vec<Event> {
        let services = self
            .services
            .values()
            .cloned()
            .map(Box::new)
            .map(Event::Service);
        let slices = self.slices.values().cloned().map(Event::Slice);
        let node = self.node.clone().map(Event::Node);
        services.chain(slices).chain(node).collect()
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "other/a"];

fn name() -> impl Strategy<Value = ServiceName> {
    prop::sample::select(&NAMES[..]).prop_map(named)
}

/// Services that get into each other's way.
fn a_service() -> impl Strategy<Value = Service> {
    let flags = prop::array::uniform8(prop::bool::weighted(0.3));
    let few = 0..4_u16;
    (name(), flags, few.clone(), few.clone(), few, 0..3_i64).prop_map(
        |(name, flags, own, external, range, created)| {
            let [
                two,
                external_ips,
                balancer,
                ranges,
                foreign,
                internal,
                local,
                tcp_too,
            ] = flags;
            let mut service = service("x", &[&format!("10.96.0.{own}")]);
            service.name = name;
            service.created = created;
            if two {
                service.cluster_ips.push(ip(&format!("fd00::{own}")));
            }
            if external_ips {
                service
                    .external_ips
                    .insert(ip(&format!("203.0.113.{external}")));
                service.external_ips.insert(ip("10.96.0.1"));
            }
            if balancer {
                service.kind = ServiceType::LoadBalancer;
                service.ports[0].node_port = Some(30000 + external);
                service.ingress = vec![ingress(&format!("203.0.113.{range}"))];
            }
            if ranges {
                service.wishes.port_ranges = vec![PortRange {
                    protocol: Protocol::Udp,
                    first: 100 * (range + 1),
                    last: 100 * (external + 3),
                }];
            }
            if foreign {
                service.proxy_name = Some("other".to_owned()).filter(|_| range == 0);
            }
            if tcp_too {
                service
                    .ports
                    .push(port("more", Protocol::Tcp, 79 + external));
            }
            service.internal_local = internal;
            service.external_local = local;
            service
        },
    )
}

fn an_endpoint() -> impl Strategy<Value = SliceEndpoint> {
    let flags = prop::array::uniform4(prop::bool::weighted(0.5));
    (0..6_u8, 0..2_u8, flags, 0..3_u8).prop_map(|(host, node, flags, hint)| {
        let [ready, serving, terminating, hinted] = flags;
        let mut found = endpoint(
            &format!("10.1.0.{host}"),
            ["node-a", "node-b"][usize::from(node)],
        );
        (found.ready, found.serving, found.terminating) = (ready, serving, terminating);
        if hinted && hint == 0 {
            found.for_zones = vec!["z-a".into()];
        }
        if hinted && hint == 1 {
            found.for_nodes = vec!["node-b".into(), "node-a".into()];
        }
        found
    })
}

fn a_slice() -> impl Strategy<Value = EndpointSlice> {
    (
        name(),
        name(),
        prop::collection::vec(an_endpoint(), 0..5),
        0..3_u16,
    )
        .prop_map(|(slice_name, service, endpoints, number)| {
            let mut found = slice("x", endpoints);
            found.name = ServiceName {
                namespace: service.namespace,
                name: format!("{}-{number}", slice_name.name),
            };
            found.service = service.name;
            found.v6 = false;
            if number == 2 {
                found.ports.push(slice_port("more", Protocol::Tcp, 9000));
            }
            found
        })
}

fn a_node() -> impl Strategy<Value = ClusterNode> {
    (1..3_u8, prop::option::of(0..2_usize)).prop_map(|(host, zone)| {
        let mut found = node("node-a", &[&format!("192.0.2.{host}")]);
        found.zone = zone.map(|zone| ["z-a", "z-b"][zone].into());
        found
    })
}

fn an_event() -> impl Strategy<Value = Event> {
    let slice_name = (name(), 0..3_u16).prop_map(|(of, number)| ServiceName {
        namespace: of.namespace,
        name: format!("{}-{number}", of.name),
    });
    prop_oneof![
        6 => a_service().prop_map(Box::new).prop_map(Event::Service),
        2 => name().prop_map(Event::NoService),
        8 => a_slice().prop_map(Event::Slice),
        3 => slice_name.prop_map(Event::NoSlice),
        2 => a_node().prop_map(Event::Node),
        1 => Just(Event::NoNode),
    ]
}

fn bare() -> Compiler {
    Compiler::new(watari_services::Options {
        node: "node-a".to_owned(),
        node_port_cidrs: Vec::new(),
    })
}

fn all_at_once(events: &[Event]) -> Services {
    let mut compiler = bare();
    for event in events {
        take(&mut compiler, event);
    }
    compiler.changes();
    compiler.tables()
}

/// No frontend is two balancers', and no two ranges overlap.
fn each_frontend_is_one_balancers(tables: &Services) {
    let mut seen: Vec<(Protocol, Frontend)> = Vec::new();
    for balancer in tables.balancers.values() {
        for frontend in balancer.frontends.keys() {
            let clash = seen.iter().find(|(protocol, other)| {
                *protocol == balancer.protocol
                    && other.address == frontend.address
                    && other.range == frontend.range
                    && other.first <= frontend.last
                    && frontend.first <= other.last
            });
            assert_eq!(clash, None, "{}", shown(tables));
            seen.push((balancer.protocol, *frontend));
        }
    }
}

/// All endpoints of a port by address, the best of each.
fn endpoints(world: &World, service: &Service, port: &str) -> BTreeMap<SocketAddr, SliceEndpoint> {
    let mut best: BTreeMap<SocketAddr, SliceEndpoint> = BTreeMap::new();
    let good = |e: &SliceEndpoint| {
        (
            e.ready,
            !e.ready && e.serving && e.terminating,
            e.serving,
            e.node.as_deref() == Some("node-a"),
        )
    };
    for slice in world.slices.values() {
        if (&slice.name.namespace, &slice.service) != (&service.name.namespace, &service.name.name)
        {
            continue;
        }
        for of_port in slice.ports.iter().filter(|p| p.name == port) {
            for endpoint in &slice.endpoints {
                let at = SocketAddr::new(endpoint.address, of_port.port.unwrap());
                match best.get(&at) {
                    Some(held) if good(held) >= good(endpoint) => {}
                    _ => {
                        best.insert(at, endpoint.clone());
                    }
                }
            }
        }
    }
    best
}

/// Of ready ones those in the zone or on the node, said once more and otherwise than the compiler does.
fn usable<'a>(
    all: &BTreeMap<SocketAddr, &'a SliceEndpoint>,
    zone: Option<&str>,
) -> BTreeSet<SocketAddr> {
    let ready: BTreeMap<_, _> = all.iter().filter(|(_, e)| e.ready).collect();
    if ready.is_empty() {
        let ending = all.iter().filter(|(_, e)| e.serving && e.terminating);
        return ending.map(|(at, _)| *at).collect();
    }
    let hinted = |of: &dyn Fn(&'a SliceEndpoint) -> Vec<&'a str>, to: Option<&str>| {
        let complete = ready.values().all(|e| !of(e).is_empty());
        let ours = ready
            .iter()
            .filter(|(_, e)| to.is_some_and(|to| of(e).contains(&to)));
        let ours: BTreeSet<SocketAddr> = ours.map(|(at, _)| **at).collect();
        (complete && !ours.is_empty()).then_some(ours)
    };
    let nodes = hinted(
        &|e| e.for_nodes.iter().map(|n| &**n).collect(),
        Some("node-a"),
    );
    let zones = hinted(&|e| e.for_zones.iter().map(|z| &**z).collect(), zone);
    nodes
        .or(zones)
        .unwrap_or_else(|| ready.keys().map(|at| **at).collect())
}

fn members(backends: &watari_tables::Backends) -> BTreeSet<SocketAddr> {
    backends.members.keys().copied().collect()
}

fn each_set_is_what_it_should_be(world: &World, tables: &Services) {
    let zone = world.node.as_ref().and_then(|node| node.zone.as_deref());
    for (name, balancer) in &tables.balancers {
        if name.v6 || name.port.starts_with("ranges/") {
            continue;
        }
        let service = &world.services[&name.service];
        let all = endpoints(world, service, &name.port);
        let all: BTreeMap<_, _> = all.iter().map(|(at, e)| (*at, e)).collect();
        let here = |e: &SliceEndpoint| e.node.as_deref() == Some("node-a");
        let mut local = all.clone();
        local.retain(|_, e| here(e));
        for e in local.values() {
            assert!(here(e));
        }
        // Hints hold for no local set: ask without them.
        let bare: Vec<(SocketAddr, SliceEndpoint)> = local
            .iter()
            .map(|(at, e)| {
                let mut e = (*e).clone();
                (e.for_nodes, e.for_zones) = (vec![], vec![]);
                (*at, e)
            })
            .collect();
        let local = usable(&bare.iter().map(|(at, e)| (*at, e)).collect(), None);
        let cluster = usable(&all, zone);
        let inside = if service.internal_local {
            &local
        } else {
            &cluster
        };
        assert_eq!(&members(&balancer.inside), inside, "{name} inside");
        let external = balancer
            .frontends
            .values()
            .any(|kind| *kind != FrontendKind::ClusterIp);
        if external {
            let outside = if service.external_local {
                &local
            } else {
                &cluster
            };
            assert_eq!(
                members(&balancer.inside_external),
                cluster,
                "{name} inside external"
            );
            assert_eq!(&members(&balancer.outside), outside, "{name} outside");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_events_does_not_matter(
        (events, shuffled) in prop::collection::vec(an_event(), 0..40).prop_flat_map(|events| {
            let last = World::of(&events).events();
            (Just(events), Just(last).prop_shuffle())
        })
    ) {
        let mut compiler = bare();
        let mut tables = Services::default();
        for event in &events {
            take(&mut compiler, event);
            for change in compiler.changes() {
                tables.take(change);
            }
        }
        prop_assert_eq!(&tables, &compiler.tables());
        prop_assert_eq!(shown(&tables), shown(&all_at_once(&shuffled)));
        prop_assert_eq!(&tables, &all_at_once(&shuffled));
        prop_assert_eq!(&tables, &all_at_once(&events));
        let world = World::of(&events);
        let mut loaded = bare();
        if let Some(node) = &world.node {
            loaded.set_node(node);
        }
        loaded.load(world.services.values(), world.slices.values());
        loaded.changes();
        prop_assert_eq!(&tables, &loaded.tables());
        each_set_is_what_it_should_be(&world, &tables);
    }

    #[test]
    fn a_change_touches_what_it_must(events in prop::collection::vec(an_event(), 0..40)) {
        let mut compiler = bare();
        let mut tables = Services::default();
        for event in &events {
            let before = tables.clone();
            take(&mut compiler, event);
            let changes = compiler.changes();
            let fewest = before.steps_to(&compiler.tables());
            // Those that lose a frontend and get another in one go are told twice.
            let names: BTreeSet<_> = changes.iter().filter_map(|change| match change {
                ServicesChange::Set(name, _) => Some(name.clone()),
                _ => None,
            }).collect();
            let sets = changes.iter().filter(|c| matches!(c, ServicesChange::Set(..))).count();
            prop_assert_eq!(changes.len() - sets + names.len(), fewest.len(), "{:?}", told(&changes));
            for change in changes {
                tables.take(change);
                each_frontend_is_one_balancers(&tables);
            }
            prop_assert_eq!(&tables, &compiler.tables());
            take(&mut compiler, event);
            prop_assert_eq!(compiler.changes(), vec![]);
        }
    }

    #[test]
    fn nothing_is_left_when_all_is_gone(events in prop::collection::vec(an_event(), 0..40)) {
        let mut compiler = bare();
        let mut tables = Services::default();
        for (at, event) in events.iter().enumerate() {
            take(&mut compiler, event);
            if at % 3 == 0 {
                compiler.changes().into_iter().for_each(|change| tables.take(change));
            }
        }
        compiler.load([], []);
        compiler.changes().into_iter().for_each(|change| tables.take(change));
        prop_assert_eq!(&tables, &Services::default());
        prop_assert_eq!(compiler.tables(), Services::default());
        prop_assert_eq!(compiler.notes(), vec![]);
    }

    #[test]
    fn who_has_no_frontend_is_noted_with_who_has_it(
        services in prop::collection::vec(a_service(), 0..8)
    ) {
        let services: BTreeMap<_, _> = services.into_iter().map(|s| (s.name.clone(), s)).collect();
        let mut compiler = bare();
        compiler.load(services.values(), []);
        compiler.changes();
        for note in compiler.notes() {
            let watari_services::Note::Taken { winner, loser, .. } = note else {
                continue;
            };
            let rank = |name: &ServiceName| (services[name].created, name.clone());
            prop_assert!(rank(&winner) < rank(&loser));
        }
    }
}
