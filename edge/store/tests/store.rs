//! The store from outside: what is kept, what is refused, and when it is void.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use watari_ipam::{Holder, LeaseError, Millis, Pool, PoolId, Refusal, Subnet, Wish};
use watari_model::{Attachment, ContainerId, HostPrefix, IfName, NetworkName, PodName};
use watari_store::{EndpointRecord, Options, Store, StoreError};
use watari_tables::{Endpoint, LinkTables};

fn pool(net: &str) -> Pool {
    let id = PoolId {
        scope: "node".to_owned(),
        name: "test".to_owned(),
    };
    Pool::new(id, vec![Subnet::whole(net.parse().unwrap()).unwrap()]).unwrap()
}

fn holder(container: &str) -> Holder {
    Holder {
        network: NetworkName::new("azure").unwrap(),
        attachment: Attachment {
            container: ContainerId::new(container).unwrap(),
            ifname: IfName::new("eth0").unwrap(),
        },
    }
}

fn wish(holder: &Holder, now: u64) -> Wish<'_> {
    Wish {
        holder,
        address: None,
        now: Millis(now),
        cool_down: Millis(1000),
    }
}

fn boot(dir: &Path, id: &str) -> Options {
    let boot_id = dir.join("boot_id");
    std::fs::write(&boot_id, format!("{id}\n")).unwrap();
    Options { boot_id }
}

fn add(store: &Store, pool: &Pool, who: &str, now: u64) -> Result<IpAddr, LeaseError<StoreError>> {
    store
        .write(|tx| Ok::<_, StoreError>(tx.lease(pool, wish(&holder(who), now))))
        .map_err(LeaseError::Ledger)?
}

fn del(store: &Store, who: &str, now: u64) -> usize {
    let holder = holder(who);
    store
        .write(|tx| tx.release(&holder.network, &holder.attachment, Millis(now)))
        .unwrap()
}

#[test]
fn leases_are_least_recently_used_and_cool_down() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("deep/er")).unwrap();
    let pool = pool("10.1.0.0/29"); // .2 to .6
    let ip = |last: u8| IpAddr::from([10, 1, 0, last]);
    assert_eq!(add(&store, &pool, "a", 0).unwrap(), ip(2));
    assert_eq!(add(&store, &pool, "a", 0).unwrap(), ip(2), "repeated");
    assert_eq!(add(&store, &pool, "b", 0).unwrap(), ip(3));
    assert_eq!(del(&store, "a", 100), 1);
    assert_eq!(del(&store, "a", 100), 0, "repeated");
    for (who, want) in [("c", 4), ("d", 5), ("e", 6)] {
        assert_eq!(
            add(&store, &pool, who, 5000).unwrap(),
            ip(want),
            "never used first"
        );
    }
    assert_eq!(add(&store, &pool, "f", 5000).unwrap(), ip(2));
    del(&store, "d", 6000);
    let LeaseError::Refused(refusal) = add(&store, &pool, "g", 6400).unwrap_err() else {
        panic!("refused")
    };
    assert_eq!(
        refusal.to_string(),
        "pool node/test (10.1.0.0/29) has no free address: 4 leased, 1 cooling down; \
         the next is free in 0.600 s"
    );
    assert_eq!(add(&store, &pool, "g", 7000).unwrap(), ip(5));
}

#[test]
fn a_store_of_another_boot_is_void() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let pool = pool("10.1.0.0/24");
    let one = boot(dir.path(), "one");
    let store = Store::open_with(&path, &one).unwrap();
    add(&store, &pool, "a", 0).unwrap();
    drop(store);
    let store = Store::open_with(&path, &one).unwrap();
    assert_eq!(store.leases().unwrap().len(), 1);
    drop(store);

    // Torn by the power loss, even.
    std::fs::write(path.join("node.db"), "torn").unwrap();
    let two = boot(dir.path(), "two");
    let store = Store::open_with(&path, &two).unwrap();
    assert_eq!(store.leases().unwrap(), []);
}

#[test]
fn requested_addresses_are_honoured_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pool = pool("10.1.0.0/24");
    let ask = |who: &str, address: &str| {
        let holder = holder(who);
        let wish = Wish {
            address: Some(address.parse().unwrap()),
            ..wish(&holder, 0)
        };
        store
            .write(|tx| Ok::<_, StoreError>(tx.lease(&pool, wish)))
            .unwrap()
    };
    let refusal = |result| match result {
        Err(LeaseError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    ask("a", "10.1.0.3").unwrap();
    del(&store, "a", 0);
    ask("b", "10.1.0.3").expect("cooling, but asked for by name");
    assert!(matches!(
        refusal(ask("c", "10.1.0.3")),
        Refusal::Taken { .. }
    ));
    assert!(matches!(
        refusal(ask("b", "10.1.0.4")),
        Refusal::HasAnother { .. }
    ));
    assert!(matches!(
        refusal(ask("c", "10.2.0.3")),
        Refusal::Outside { .. }
    ));
    assert!(matches!(
        refusal(ask("c", "fd00::1")),
        Refusal::Outside { .. }
    ));
    for reserved in ["10.1.0.0", "10.1.0.1", "10.1.0.255"] {
        assert!(matches!(refusal(ask("c", reserved)), Refusal::Reserved(_)));
    }
    // The list of unused addresses passes over the one that was asked for.
    assert_eq!(add(&store, &pool, "d", 0).unwrap().to_string(), "10.1.0.2");
    assert_eq!(add(&store, &pool, "e", 0).unwrap().to_string(), "10.1.0.4");
}

#[test]
fn a_failed_transaction_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pool = pool("fd00::/64");
    let failed: Result<(), StoreError> = store.write(|tx| {
        tx.lease(&pool, wish(&holder("a"), 0)).unwrap();
        Err(StoreError::Full {
            path: "x".into(),
            what: "test",
        })
    });
    failed.unwrap_err();
    assert_eq!(store.leases().unwrap(), []);
    assert_eq!(add(&store, &pool, "b", 0).unwrap().to_string(), "fd00::2");
}

#[test]
fn a_changed_pool_is_taken_up_without_leasing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let small = pool("10.1.0.0/30"); // .2 only
    add(&store, &small, "a", 0).unwrap();
    add(&store, &small, "b", 0).unwrap_err();
    let large = pool("10.1.0.0/29");
    assert_eq!(add(&store, &large, "b", 0).unwrap().to_string(), "10.1.0.3");
    del(&store, "b", 0);
    // .3 is gone again: released, but not any more to give.
    add(&store, &small, "c", 9000).unwrap_err();
    del(&store, "a", 0);
    assert_eq!(
        add(&store, &small, "c", 9000).unwrap().to_string(),
        "10.1.0.2"
    );
    add(&store, &small, "d", 9000).unwrap_err();
}

#[test]
fn damage_under_this_boot_is_an_error_and_never_an_empty_store() {
    let pool = pool("10.1.0.0/24");
    for (content, says) in [
        (Some(Vec::new()), "the file is empty"),
        (Some(vec![b'x'; 8192]), "not a database"),
        (None, "the file is gone"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        add(&Store::open(dir.path()).unwrap(), &pool, "a", 0).unwrap();
        let file = dir.path().join("node.db");
        match content {
            Some(content) => std::fs::write(&file, content).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let error = Store::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert!(
            error.contains(&format!("remove {}*", file.display())),
            "{error}"
        );
        // As told: with all of node.db* gone, a new store is made.
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        Store::open(dir.path()).unwrap();
    }
}

#[test]
fn a_truncated_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool("10.1.0.0/24");
    add(&Store::open(dir.path()).unwrap(), &pool, "a", 0).unwrap();
    let file = std::fs::File::options()
        .write(true)
        .open(dir.path().join("node.db"))
        .unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn a_lost_mark_does_not_void_the_leases_of_this_boot() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool("10.1.0.0/24");
    add(&Store::open(dir.path()).unwrap(), &pool, "a", 0).unwrap();
    std::fs::remove_file(dir.path().join("node.db.boot")).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.leases().unwrap().len(), 1);
}

#[test]
fn an_endpoint_remembers_its_pod_and_a_commit_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, other) = (
        Store::open(dir.path()).unwrap(),
        Store::open(dir.path()).unwrap(),
    );
    let before = store.data_version().unwrap();
    assert_eq!(store.data_version().unwrap(), before);
    let holder = holder("a");
    let link = |name: IfName| LinkTables {
        name,
        mac: holder.attachment.pod_mac(),
        mtu: 1500,
        alias: String::new(),
        addresses: BTreeSet::new(),
        routes: BTreeSet::new(),
        neighbours: BTreeSet::new(),
        proxies: BTreeSet::new(),
        sysctls: BTreeSet::new(),
    };
    let host_ifname = holder.attachment.host_ifname(&HostPrefix::default());
    let mut record = EndpointRecord {
        network: holder.network.clone(),
        attachment: holder.attachment.clone(),
        pod: Some(PodName {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
        }),
        netns: None,
        tables: Endpoint {
            host: link(host_ifname.clone()),
            pod: link(holder.attachment.ifname.clone()),
        },
        host_ifname,
        ips_to_route_via_host: Vec::new(),
        created: Millis(1),
    };
    for pod in [record.pod.clone(), None] {
        record.pod = pod;
        other.write(|tx| tx.put_endpoint(&record)).unwrap();
        let found = store.read(|tx| tx.endpoint(&record.attachment)).unwrap();
        assert_eq!(found.as_ref(), Some(&record));
    }
    assert_ne!(store.data_version().unwrap(), before);
}

#[test]
fn a_damaged_store_is_replaced_by_what_is_known_and_a_whole_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let pool = pool("10.1.0.0/29"); // .2 to .6
    let boot = boot(dir.path(), "one");
    add(&Store::open_with(&path, &boot).unwrap(), &pool, "a", 0).unwrap();
    let known = |tx: &watari_store::Tx<'_>| {
        tx.adopt("node", "10.1.0.4".parse().unwrap(), &holder("b"), Millis(7))
    };
    let (store, replaced) = Store::replace_damaged(&path, &boot, known).unwrap();
    assert!(!replaced);
    assert_eq!(store.leases().unwrap().len(), 1);
    drop(store);

    for damage in ["", "this is no database", "gone"] {
        let file = path.join("node.db");
        if damage == "gone" {
            std::fs::remove_file(&file).unwrap();
        } else {
            std::fs::write(&file, damage).unwrap();
        }
        let (store, replaced) = Store::replace_damaged(&path, &boot, known).unwrap();
        assert!(replaced, "{damage:?}");
        store.verify().unwrap();
        let leases = store.leases().unwrap();
        assert_eq!(leases.len(), 1);
        assert_eq!(leases[0].address.to_string(), "10.1.0.4");
        // The pool learns of it when it is built: nobody else gets it, and its holder keeps it.
        let given: Vec<_> = ["c", "d", "b", "e"]
            .map(|who| add(&store, &pool, who, 10).unwrap().to_string())
            .into();
        assert_eq!(given, ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"]);
        drop(store);
        Store::open_with(&path, &boot).unwrap();
    }
    let kept = std::fs::read(path.join("node.db.damaged")).unwrap();
    assert_eq!(kept, b"this is no database");
}
