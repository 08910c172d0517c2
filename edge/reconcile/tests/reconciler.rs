//! The loop over a fake target, with a clock and dice of the test's.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use watari_reconcile::{Backoff, Deed, Fake, Reconciler, State, Work};

type Loop = Reconciler<u8, u32>;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn step(reconciler: &mut Loop, fake: &mut Fake<u8, u32>, now: Duration) -> Vec<(Work<u8>, bool)> {
    let reports = reconciler.step(now, usize::MAX, fake, &mut || 0.0);
    reports
        .into_iter()
        .map(|report| (report.work, report.outcome.is_ok()))
        .collect()
}

fn calls(fake: &mut Fake<u8, u32>) -> Vec<Deed<u8>> {
    std::mem::take(&mut fake.calls)
}

#[test]
fn nothing_is_pruned_before_the_first_list() {
    let (mut reconciler, mut fake) = (Loop::new(Backoff::default()), Fake::default());
    fake.held = BTreeMap::from([(1, 10), (2, 20)]);
    reconciler.set(1, 10, seconds(0));
    reconciler.touch_all(seconds(0));
    step(&mut reconciler, &mut fake, seconds(0));
    assert_eq!(calls(&mut fake), [Deed::Update(1)]);
    assert!(!reconciler.is_settled());
    reconciler.replace(BTreeMap::from([(1, 10)]), seconds(1));
    step(&mut reconciler, &mut fake, seconds(1));
    assert_eq!(calls(&mut fake), [Deed::Prune([2].into())]);
    assert_eq!(fake.held, BTreeMap::from([(1, 10)]));
    assert!(reconciler.is_settled());
}

#[test]
fn many_events_are_one_look() {
    let (mut reconciler, mut fake) = (Loop::new(Backoff::default()), Fake::default());
    reconciler.replace(BTreeMap::from([(1, 10)]), seconds(0));
    step(&mut reconciler, &mut fake, seconds(0));
    step(&mut reconciler, &mut fake, seconds(1));
    calls(&mut fake);
    for at in [30, 11, 12, 11] {
        reconciler.touch(&1, seconds(at));
    }
    assert_eq!(reconciler.next_due(), Some(seconds(11)));
    for at in 2..60 {
        step(&mut reconciler, &mut fake, seconds(at));
    }
    assert_eq!(calls(&mut fake), [Deed::Update(1)]);
    assert_eq!(reconciler.next_due(), None);
    // Of what nobody desires an event is nothing.
    reconciler.touch(&9, seconds(60));
    assert_eq!(reconciler.next_due(), None);
}

#[test]
fn a_failure_waits_ever_longer_whatever_is_heard_and_a_new_desire_does_not() {
    let (mut reconciler, mut fake) = (Loop::new(Backoff::default()), Fake::default());
    fake.stubborn.insert(1);
    reconciler.replace(BTreeMap::from([(1, 10)]), seconds(0));
    let mut tried = Vec::new();
    for tenth in 0..100 {
        let now = Duration::from_millis(tenth * 100);
        reconciler.touch(&1, now);
        let done = step(&mut reconciler, &mut fake, now);
        let update = done.iter().find(|(work, _)| *work == Work::Update(1));
        if let Some((_, well)) = update {
            assert!(!well);
            tried.push(tenth);
        }
    }
    assert_eq!(tried, [0, 2, 6, 14, 30, 62]);
    let State::Failed { attempts, error } = &reconciler.status()[&1].state else {
        panic!("{:?}", reconciler.status());
    };
    assert_eq!(
        (*attempts, error.as_str()),
        (6, "the fake was told to refuse it")
    );
    assert!(!reconciler.is_settled());
    fake.stubborn.clear();
    reconciler.set(1, 11, seconds(10));
    let done = step(&mut reconciler, &mut fake, seconds(10));
    assert_eq!(done, [(Work::Update(1), true)]);
    assert!(reconciler.is_settled());
}

#[test]
fn a_change_is_looked_at_again_and_a_fight_slows_down() {
    let (mut reconciler, mut fake) = (Loop::new(Backoff::default()), Fake::default());
    reconciler.replace(BTreeMap::from([(1, 10)]), seconds(0));
    let mut repaired = Vec::new();
    for tenth in 0..100 {
        let now = Duration::from_millis(tenth * 100);
        // Somebody takes it away whenever it is there, and the kernel tells of it.
        if fake.held.remove(&1).is_some() {
            reconciler.touch(&1, now);
        }
        step(&mut reconciler, &mut fake, now);
        if fake.held.contains_key(&1) {
            repaired.push(tenth);
        }
    }
    assert_eq!(repaired, [0, 2, 6, 14, 30, 62]);
    // They give up; one clean look, and the next repair is as quick as the first.
    step(&mut reconciler, &mut fake, seconds(60));
    step(&mut reconciler, &mut fake, seconds(100));
    assert!(reconciler.is_settled());
    fake.held.clear();
    reconciler.touch(&1, seconds(101));
    assert_eq!(reconciler.next_due(), Some(seconds(101)));
}

#[test]
fn what_is_no_longer_desired_goes_and_is_tried_until_it_does() {
    let (mut reconciler, mut fake) = (Loop::new(Backoff::default()), Fake::default());
    reconciler.replace(BTreeMap::from([(1, 10), (2, 20)]), seconds(0));
    step(&mut reconciler, &mut fake, seconds(0));
    step(&mut reconciler, &mut fake, seconds(1));
    fake.stubborn.insert(2);
    reconciler.replace(BTreeMap::from([(1, 10)]), seconds(2));
    assert_eq!(
        step(&mut reconciler, &mut fake, seconds(2)),
        [(Work::Delete(2), false)]
    );
    assert!(!reconciler.is_settled());
    fake.stubborn.clear();
    assert_eq!(
        step(&mut reconciler, &mut fake, seconds(3)),
        [(Work::Delete(2), true)]
    );
    assert_eq!(fake.held, BTreeMap::from([(1, 10)]));
    assert_eq!(reconciler.status().len(), 1);
    assert!(reconciler.is_settled());
}

#[test]
fn a_step_does_not_more_than_it_may() {
    let (mut reconciler, mut fake) = (Loop::new(Backoff::default()), Fake::default());
    reconciler.replace((0..10).map(|key| (key, 1)).collect(), seconds(0));
    for done in [4, 8, 10] {
        reconciler.step(seconds(0), 4, &mut fake, &mut || 0.0);
        assert_eq!(fake.held.len(), done);
    }
}

/// Something that happens.
#[derive(Debug, Clone)]
enum Happening {
    Set(u8, u32),
    Remove(u8),
    Replace(BTreeMap<u8, u32>),
    /// Somebody else changes what is there, and it is heard of.
    Break(u8, Option<u32>),
    Refuse(u8),
    Allow(u8),
    Pass(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let (key, value) = (0..6u8, 0..4u32);
    prop_oneof![
        (key.clone(), value.clone()).prop_map(|(key, value)| Happening::Set(key, value)),
        key.clone().prop_map(Happening::Remove),
        prop::collection::btree_map(key.clone(), value.clone(), 0..5).prop_map(Happening::Replace),
        (key.clone(), prop::option::of(value)).prop_map(|(key, to)| Happening::Break(key, to)),
        key.clone().prop_map(Happening::Refuse),
        key.prop_map(Happening::Allow),
        (0..5000u64).prop_map(Happening::Pass),
    ]
}

proptest! {
    /// Whatever happens: nothing that was never spoken of goes before the first list, and once
    /// nothing refuses any more, what is there becomes what is desired.
    #[test]
    fn it_gets_there(story in prop::collection::vec(happening(), 0..60), dice in 0.0..1.0f64) {
        let (mut reconciler, mut fake) = (Loop::new(Backoff::default()), Fake::default());
        fake.held.insert(200, 1);
        let (mut now, mut listed) = (Duration::ZERO, false);
        for happening in story {
            match happening {
                Happening::Set(key, value) => reconciler.set(key, value, now),
                Happening::Remove(key) => reconciler.remove(&key, now),
                Happening::Replace(all) => {
                    listed = true;
                    reconciler.replace(all, now);
                }
                Happening::Break(key, to) => {
                    match to {
                        Some(value) => fake.held.insert(key, value),
                        None => fake.held.remove(&key),
                    };
                    reconciler.touch(&key, now);
                }
                Happening::Refuse(key) => drop(fake.stubborn.insert(key)),
                Happening::Allow(key) => drop(fake.stubborn.remove(&key)),
                Happening::Pass(millis) => now += Duration::from_millis(millis),
            }
            reconciler.step(now, 3, &mut fake, &mut || dice);
            prop_assert!(listed || fake.held.contains_key(&200));
        }
        fake.stubborn.clear();
        let last = reconciler.desired().clone();
        reconciler.replace(last.clone(), now);
        reconciler.touch_all(now);
        // Everything that waits has waited after a minute; what was changed then is looked at once more.
        for _ in 0..200 {
            now += Duration::from_secs(1);
            reconciler.step(now, 3, &mut fake, &mut || dice);
        }
        prop_assert_eq!(&fake.held, &last);
        prop_assert!(reconciler.is_settled());
        prop_assert_eq!(reconciler.next_due(), None);
    }
}
