//! The books against a plain model, under any order of adding, removing, collecting, waiting and
//! changes of the pool.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use watari_ipam::{Holder, LeaseError, Millis, Pool, PoolId, Refusal, Span, Subnet, Wish};
use watari_model::{Attachment, ContainerId, IfName, NetworkName};
use watari_store::{Store, StoreError};

const COOL_DOWN: u64 = 1000;

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 7, 0, last])
}

/// Addresses .2 to `last`.
fn pool(last: u8) -> Pool {
    let id = PoolId {
        scope: "node".to_owned(),
        name: "model".to_owned(),
    };
    let spans = vec![Span::new(ip(2), ip(last)).unwrap()];
    let subnet = Subnet::new("10.7.0.0/24".parse().unwrap(), Some(ip(1)), spans, []);
    Pool::new(id, vec![subnet.unwrap()]).unwrap()
}

fn holder(who: u8) -> Holder {
    Holder {
        network: NetworkName::new("model").unwrap(),
        attachment: Attachment {
            container: ContainerId::new(format!("c{who}")).unwrap(),
            ifname: IfName::new("eth0").unwrap(),
        },
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8),
    Ask(u8, u8),
    Del(u8),
    Collect(BTreeSet<u8>),
    Wait(u64),
    Resize(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0u8..16;
    prop_oneof![
        8 => who.clone().prop_map(Step::Add),
        2 => (who.clone(), 0u8..16).prop_map(|(who, last)| Step::Ask(who, last)),
        6 => who.clone().prop_map(Step::Del),
        1 => prop::collection::btree_set(who, 0..16).prop_map(Step::Collect),
        3 => (0u64..1500).prop_map(Step::Wait),
        1 => (4u8..14).prop_map(Step::Resize),
    ]
}

/// The rules, over plain collections.
struct Model {
    now: u64,
    last: u8,
    leases: BTreeMap<u8, IpAddr>,
    /// Addresses that were used and are not leased, with the time of their release.
    released: BTreeMap<IpAddr, u64>,
    ever: BTreeSet<IpAddr>,
}

impl Model {
    fn has(&self, address: IpAddr) -> bool {
        ip(2) <= address && address <= ip(self.last)
    }

    fn holder_of(&self, address: IpAddr) -> Option<u8> {
        self.leases
            .iter()
            .find(|(_, has)| **has == address)
            .map(|(who, _)| *who)
    }

    fn held(&self, who: u8) -> Option<IpAddr> {
        let has = self.leases.get(&who).copied();
        has.filter(|address| self.has(*address))
    }

    /// What ADD may answer: any of these, or none. Several only for equal release times.
    fn choices(&self) -> BTreeSet<IpAddr> {
        let all = (2..=self.last).map(ip);
        if let Some(unused) = all.clone().find(|address| !self.ever.contains(address)) {
            return BTreeSet::from([unused]);
        }
        let rested = |at: &&u64| self.now - **at >= COOL_DOWN;
        let free = all.filter_map(|address| Some((address, self.released.get(&address)?)));
        let free: Vec<_> = free.filter(|(_, at)| rested(at)).collect();
        let oldest = free.iter().map(|(_, at)| **at).min();
        let oldest = free.iter().filter(|(_, at)| Some(**at) == oldest);
        oldest.map(|(address, _)| *address).collect()
    }

    fn lease(&mut self, who: u8, address: IpAddr) {
        assert_eq!(self.holder_of(address), None, "leased twice");
        self.ever.insert(address);
        // What the pool has lost of the holder's goes with the new one.
        self.release(who);
        self.released.remove(&address);
        self.leases.insert(who, address);
    }

    fn release(&mut self, who: u8) {
        if let Some(address) = self.leases.remove(&who) {
            self.released.insert(address, self.now);
        }
    }
}

type Answer = Result<IpAddr, LeaseError<StoreError>>;

fn lease(store: &Store, model: &Model, who: u8, address: Option<IpAddr>) -> Answer {
    let holder = holder(who);
    let wish = Wish {
        holder: &holder,
        address,
        now: Millis(model.now),
        cool_down: Millis(COOL_DOWN),
    };
    store
        .write(|tx| Ok::<_, StoreError>(tx.lease(&pool(model.last), wish)))
        .unwrap()
}

fn take(store: &Store, model: &mut Model, step: Step) {
    match step {
        Step::Add(who) => {
            let answer = lease(store, model, who, None);
            if let Some(has) = model.held(who) {
                assert_eq!(answer.unwrap(), has, "stable");
                return;
            }
            let choices = model.choices();
            match answer {
                Ok(address) => {
                    assert!(choices.contains(&address), "{address} not in {choices:?}");
                    model.lease(who, address);
                }
                Err(LeaseError::Refused(Refusal::Exhausted { .. })) => assert!(choices.is_empty()),
                Err(other) => panic!("{other}"),
            }
        }
        Step::Ask(who, last) => {
            let answer = lease(store, model, who, Some(ip(last)));
            let free = model.has(ip(last)) && model.holder_of(ip(last)).is_none();
            match model.held(who) {
                Some(has) => assert_eq!(answer.is_ok(), has == ip(last)),
                None if free => {
                    assert_eq!(answer.unwrap(), ip(last));
                    model.lease(who, ip(last));
                }
                None => {
                    answer.unwrap_err();
                }
            }
        }
        Step::Del(who) => {
            let holder = holder(who);
            store
                .write(|tx| tx.release(&holder.network, &holder.attachment, Millis(model.now)))
                .unwrap();
            model.release(who);
        }
        Step::Collect(valid) => {
            let network = NetworkName::new("model").unwrap();
            let keep = valid.iter().map(|who| holder(*who).attachment).collect();
            store
                .write(|tx| tx.release_others(&network, &keep, Millis(model.now)))
                .unwrap();
            let gone: Vec<u8> = model.leases.keys().copied().collect();
            for who in gone.into_iter().filter(|who| !valid.contains(who)) {
                model.release(who);
            }
        }
        Step::Wait(more) => model.now += more,
        Step::Resize(last) => model.last = last,
    }
}

/// Takes the steps with a store and with the model, and compares the books after each.
fn follow(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut model = Model {
        now: 10_000,
        last: 8,
        leases: BTreeMap::new(),
        released: BTreeMap::new(),
        ever: BTreeSet::new(),
    };
    for step in steps {
        take(&store, &mut model, step);
        let books: BTreeMap<IpAddr, Attachment> = store
            .leases()
            .unwrap()
            .into_iter()
            .map(|lease| (lease.address, lease.holder.attachment))
            .collect();
        let expected: BTreeMap<IpAddr, Attachment> = model
            .leases
            .iter()
            .map(|(who, has)| (*has, holder(*who).attachment))
            .collect();
        assert_eq!(books, expected);
    }
}

/// Found by chance: the pod had an address before the pool shrank and another after, and the
/// first one again when the pool had grown.
#[test]
fn an_address_that_the_pool_lost_is_not_the_pods_any_more() {
    follow(vec![
        Step::Resize(9),
        Step::Add(0),
        Step::Add(1),
        Step::Add(2),
        Step::Add(3),
        Step::Add(4),
        Step::Collect([].into()),
        Step::Add(3),
        Step::Resize(5),
        Step::Wait(1_163),
        Step::Add(3),
        Step::Resize(13),
        Step::Add(3),
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_books_follow_the_rules(steps in prop::collection::vec(step(), 1..120)) {
        follow(steps);
    }
}
