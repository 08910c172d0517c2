//! An ADD and a DEL cost the same however many leases there are.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use watari_ipam::{Holder, Millis, Pool, PoolId, Subnet, Wish};
use watari_model::{Attachment, ContainerId, IfName, NetworkName};
use watari_store::{Store, StoreError};

fn pool(net: &str) -> Pool {
    let id = PoolId {
        scope: "node".to_owned(),
        name: net.to_owned(),
    };
    Pool::new(id, vec![Subnet::whole(net.parse().unwrap()).unwrap()]).unwrap()
}

fn holder(at: usize) -> Holder {
    Holder {
        network: NetworkName::new("azure").unwrap(),
        attachment: Attachment {
            container: ContainerId::new(format!("container-{at}")).unwrap(),
            ifname: IfName::new("eth0").unwrap(),
        },
    }
}

fn add(store: &Store, pool: &Pool, at: usize) {
    let holder = holder(at);
    let wish = Wish {
        holder: &holder,
        address: None,
        now: Millis(1_000_000),
        cool_down: Millis(0),
    };
    store
        .write(|tx| Ok::<_, StoreError>(tx.lease(pool, wish)))
        .unwrap()
        .unwrap();
}

fn del(store: &Store, at: usize) {
    let holder = holder(at);
    store
        .write(|tx| tx.release(&holder.network, &holder.attachment, Millis(1_000_000)))
        .unwrap();
}

/// The shortest of a hundred times that one more ADD and its DEL take: noise only lengthens.
fn cost(store: &Store, pool: &Pool, at: usize) -> Duration {
    let one = |at| {
        let started = Instant::now();
        add(store, pool, at);
        del(store, at);
        started.elapsed()
    };
    (at..at + 100).map(one).min().unwrap()
}

#[test]
fn a_lease_costs_the_same_at_ten_and_at_five_thousand() {
    for net in ["10.0.0.0/16", "fd00::/64"] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let pool = pool(net);
        (0..10).for_each(|at| add(&store, &pool, at));
        let few = cost(&store, &pool, 100_000);
        (10..5_000).for_each(|at| add(&store, &pool, at));
        (0..1_000).for_each(|at| del(&store, at));
        let many = cost(&store, &pool, 200_000);
        println!("{net}: {few:?} at ten, {many:?} at five thousand");
        // One look over all leases would be ten times as long.
        assert!(many <= few * 2, "{net}: {few:?} at ten, {many:?} now");
    }
}
