use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use watari_abi::{Connection, ConnectionKey, State};
use watari_bpf::{Datapath, LoadOptions, Node, Stray, load, probe};
use watari_model::IfName;
use watari_tables::{Datapath as Tables, Hook, HookAt, LocalEndpoint};

use crate::world::{Pod, World, kinds, lacks, words};

/// What a node with these pods should hold.
fn desired(pods: &[&Pod]) -> Tables {
    let mut tables = Tables::default();
    for pod in pods {
        let endpoint = LocalEndpoint {
            link: pod.link.clone(),
            mac: pod.mac,
            host_mac: pod.host_mac,
        };
        for address in &pod.addresses {
            tables.endpoints.insert(*address, endpoint.clone());
        }
        for hook in [Hook::FromPod, Hook::ToPod] {
            tables.hooks.insert(HookAt {
                link: pod.link.clone(),
                hook,
            });
        }
    }
    let v4 = Ipv4Net::new(Ipv4Addr::new(10, 9, 1, 0), 24).expect("a range");
    let v6 = Ipv6Net::new(Ipv6Addr::new(0xfd00, 9, 1, 0, 0, 0, 0, 0), 64).expect("a range");
    tables.remotes = BTreeMap::from([
        (v4.into(), Ipv4Addr::new(192, 168, 0, 2).into()),
        (v6.into(), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).into()),
    ]);
    tables
}

/// Brings the node there, and holds that nothing is left to do.
fn reach(node: &mut Node, tables: &Tables) {
    let observed = node.observe().expect("observe");
    let applied = node.apply(&observed, tables);
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    let observed = node.observe().expect("observe");
    assert_eq!(observed.tables, *tables);
    assert_eq!(observed.strays, []);
    assert!(observed.unpinned.is_empty(), "{:?}", observed.unpinned);
    let again = node.apply(&observed, tables);
    assert!(
        again.done.is_empty() && again.failed.is_empty(),
        "{again:?}"
    );
}

#[test]
fn any_tables_are_reached_and_what_others_break_is_repaired() {
    for attachment in kinds() {
        let world = World::new();
        let (one, two) = (world.pod(1), world.pod(2));
        let (root, dev) = (world.bpffs.root(), one.link.as_str());
        world.node.enter(|| {
            load(&world.options(attachment)).unwrap();
            let mut node = Node::open(&root, attachment).unwrap();
            let both = desired(&[&one, &two]);
            reach(&mut node, &both);
            node.promote(100).unwrap();
            reach(&mut node, &both);
            // Somebody takes the programs off.
            let dir = watari_bpf::PinDir::current(&root);
            let pin = dir.link(&one.link, watari_abi::Hook::FromPod);
            if pin.exists() {
                let path = pin.to_str().unwrap();
                watari_testkit::run(&["bpftool", "link", "detach", "pinned", path]);
            } else {
                watari_testkit::run(&["tc", "qdisc", "del", "dev", dev, "clsact"]);
            }
            let broken = node.observe().unwrap();
            assert_ne!(broken.tables.hooks, both.hooks);
            reach(&mut node, &both);
            // Somebody removes entries.
            let key = one.addresses[0].into();
            assert!(node.tables().endpoints.remove(&key).unwrap());
            let ifindex = watari_bpf::links::index_of(&two.link).unwrap();
            assert!(node.tables().links.remove(&ifindex).unwrap());
            let broken = node.observe().unwrap();
            assert_eq!(broken.strays.len(), 2, "{:?}", broken.strays);
            assert_eq!(broken.tables.endpoints.len(), 1);
            reach(&mut node, &both);
            // One pod goes, and then all.
            reach(&mut node, &desired(&[&two]));
            reach(&mut node, &Tables::default());
            assert_eq!(node.tables().links.entries().unwrap(), []);
        });
    }
}

#[test]
fn the_entries_of_a_link_that_is_gone_are_strays_and_removed() {
    for attachment in kinds() {
        let world = World::new();
        let (one, two) = (world.pod(1), world.pod(2));
        let root = world.bpffs.root();
        world.node.enter(|| {
            load(&world.options(attachment)).unwrap();
            let mut node = Node::open(&root, attachment).unwrap();
            reach(&mut node, &desired(&[&one, &two]));
            node.promote(100).unwrap();
            watari_testkit::run(&["ip", "link", "del", one.link.as_str()]);
            let observed = node.observe().unwrap();
            let gone = |stray: &&Stray| matches!(stray, Stray::Endpoint { .. });
            assert_eq!(observed.strays.iter().filter(gone).count(), 2);
            // Still desired: it says so, and does the rest.
            let applied = node.apply(&observed, &desired(&[&one, &two]));
            assert_eq!(applied.failed.len(), 4, "{:?}", applied.failed);
            assert!(applied.failed.iter().all(|(_, error)| error.is_absent()));
            reach(&mut node, &desired(&[&two]));
        });
    }
}

#[test]
fn ten_thousand_ranges_are_one_difference() {
    let world = World::new();
    let root = world.bpffs.root();
    world.node.enter(|| {
        let attachment = load(&LoadOptions::at(&root)).unwrap().attachment;
        let mut node = Node::open(&root, attachment).unwrap();
        let mut tables = Tables::default();
        for number in 0_u32..10_000 {
            let network = Ipv4Addr::from(0x0a00_0000 + number * 256);
            let range = IpNet::new(network.into(), 24).unwrap();
            tables.remotes.insert(range, IpAddr::from([192, 168, 1, 1]));
        }
        reach(&mut node, &tables);
        reach(&mut node, &Tables::default());
    });
}

fn connection(number: u32, expires: u64) -> (ConnectionKey, Connection) {
    let key = ConnectionKey {
        low: IpAddr::from([10, 0, 0, 1]).into(),
        high: IpAddr::V4(Ipv4Addr::from(0x0a01_0000 + number)).into(),
        protocol: 6,
        ..ConnectionKey::default()
    };
    let connection = Connection {
        expires,
        state: State::Established as u8,
        ..Connection::default()
    };
    (key, connection)
}

#[test]
fn a_sweep_removes_what_has_expired_step_by_step() {
    let world = World::new();
    let root = world.bpffs.root();
    world.node.enter(|| {
        let attachment = load(&LoadOptions::at(&root)).unwrap().attachment;
        let mut node = Node::open(&root, attachment).unwrap();
        let entries: Vec<_> = (0_u32..20_000)
            .map(|number| connection(number, if number % 4 == 0 { 10 } else { 1000 }))
            .collect();
        let (some, others) = entries.split_at(10_000);
        node.tables().established.insert_all(some).unwrap();
        node.tables().transient.insert_all(others).unwrap();
        let mut removed = 0;
        for step in 0.. {
            assert!(step < 100, "a sweep has no end");
            let swept = node.sweep(500, 1000).unwrap();
            assert!(swept.looked_at <= 3000, "{swept:?}");
            removed += swept.removed;
            if swept.at_end {
                break;
            }
        }
        assert_eq!(removed, 5000);
        let (mut established, mut others) = (0, 0);
        node.flows(&mut |flow| {
            assert_eq!(flow.connection.expires, 1000);
            *(if flow.established {
                &mut established
            } else {
                &mut others
            }) += 1;
        })
        .unwrap();
        assert_eq!((established, others), (7500, 7500));
    });
}

#[test]
fn this_kernel_has_what_the_datapath_needs() {
    let world = World::new();
    let features = probe(&world.bpffs.root());
    for feature in &features {
        assert_eq!(feature.there.is_ok(), !lacks(feature.name), "{feature}");
    }
    assert!(features.len() > 10);
    let elsewhere = probe(std::path::Path::new("/proc/nowhere"));
    let bpffs = elsewhere.iter().find(|feature| feature.name == "bpffs");
    assert!(bpffs.is_some_and(|feature| feature.there.is_err()));
}

#[test]
fn a_name_that_a_bpffs_refuses_is_attached_all_the_same() {
    for attachment in kinds() {
        let world = World::new();
        let root = world.bpffs.root();
        let link = IfName::new("up.100").unwrap();
        world.node.enter(|| {
            watari_testkit::run(&words("ip link add up.100 type veth peer name other"));
            load(&world.options(attachment)).unwrap();
            let mut node = Node::open(&root, attachment).unwrap();
            let hook = Hook::FromUplink;
            let mut tables = Tables::default();
            tables.hooks.insert(HookAt { link, hook });
            reach(&mut node, &tables);
            watari_bpf::remove(&root).unwrap();
        });
        assert!(!root.exists());
    }
}
