use super::*;

/// The state after each of a journal's writes, that before them first.
fn states(before: &Entries, journal: &[Write]) -> Vec<Entries> {
    let mut states = vec![before.clone()];
    for step in journal {
        let mut next = states[states.len() - 1].clone();
        write(&mut next, step);
        states.push(next);
    }
    states
}

fn steps() -> impl Strategy<Value = Vec<(u8, Step)>> {
    prop::collection::vec((1_u8..9, step()), 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Whatever changes come: the tables are what is wanted, no two sets share a slot, and programs find the
    /// choice of before or of after at any time, whichever of their looks are before a write.
    #[test]
    fn any_changes_are_made_and_programs_never_see_half_of_one(steps in steps()) {
        let memory = Memory::default();
        let mut balancer = Balancer::open(&memory).unwrap();
        let mut model = Model::default();
        for (second, (service, step)) in (0..).zip(steps) {
            let before = model.services();
            model.take(service, step);
            let after = model.services();
            let entries = memory.entries();
            memory.take_journal();
            let changes = between(&before, &after);
            let applied = balancer.apply(&changes, second * SECOND);
            prop_assert!(applied.failed.is_empty(), "{:?}", applied.failed);
            let journal = memory.take_journal();
            prop_assert_eq!(applied.writes, journal.len() as u64);
            let states = states(&entries, &journal);
            for now in &states {
                assert_choice([now; 4], (&before, &after));
            }
            let step = states.len().div_ceil(5);
            for (at, first) in states.iter().enumerate().step_by(step) {
                for (at, second) in states.iter().enumerate().skip(at).step_by(step) {
                    for third in states.iter().skip(at).step_by(step) {
                        let last = &states[states.len() - 1];
                        assert_choice([first, second, third, last], (&before, &after));
                    }
                }
            }
            assert_there(&mut balancer, &after);
            assert_whole(&memory.entries());
            balancer.tidy(second * SECOND).unwrap();
            assert_there(&mut balancer, &after);
            prop_assert_eq!(memory.take_journal().iter().filter(|(table, ..)| *table == maps::FRONTENDS).count(), 0);
        }
        // In the end nothing is left.
        reach(&mut balancer, &Services::default(), 100 * SECOND);
        balancer.tidy(100 * SECOND).unwrap();
        balancer.tidy(200 * SECOND).unwrap();
        prop_assert!(balancer.usage().iter().all(|usage| usage.used == 0), "{:?}", balancer.usage());
        let left: BTreeSet<_> = memory.entries().keys().map(|(table, _)| *table).collect();
        prop_assert!(left.iter().all(|table| *table == maps::SLOTS), "{left:?}");
    }

    /// A shadow that goes on and one that is made of the tables plan the same.
    #[test]
    fn a_restart_changes_nothing(steps in steps()) {
        let memory = Memory::default();
        let mut balancer = Balancer::open(&memory).unwrap();
        let mut model = Model::default();
        for (service, step) in steps {
            let before = model.services();
            model.take(service, step);
            balancer.apply(&between(&before, &model.services()), 0);
        }
        memory.take_journal();
        let mut again = Balancer::open(&memory).unwrap();
        prop_assert!(again.is_confirmed());
        assert_there(&mut again, &model.services());
        let applied = again.apply(&[], SECOND);
        prop_assert_eq!((applied.writes, applied.departed.len()), (0, 0));
        // Not even where all is said anew.
        let all = Services::default().steps_to(&model.services());
        let applied = again.apply(&all, SECOND);
        prop_assert_eq!((applied.writes, applied.failed.len()), (0, 0));
        prop_assert_eq!(memory.take_journal(), []);
    }

    /// Where nothing was changed by somebody else the tables are not made a shadow of again; where anything
    /// was, the comparison is as if nothing had been known.
    #[test]
    fn what_somebody_else_changes_is_seen(
        steps in steps(),
        at in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_u8..3), 1..40),
    ) {
        let memory = Memory::default();
        let mut balancer = Balancer::open(&memory).unwrap();
        let mut model = Model::default();
        for (second, (service, step)) in (0..).zip(steps) {
            let before = model.services();
            model.take(service, step);
            balancer.apply(&between(&before, &model.services()), second * 7 * SECOND);
            prop_assert!(balancer.is_confirmed());
            balancer.tidy(second * 7 * SECOND).unwrap();
            prop_assert!(balancer.is_confirmed());
        }
        let wanted = model.services();
        let entries = memory.entries();
        for (entry, bit, kind) in at.into_iter().filter(|_| !entries.is_empty()) {
            let ((table, key), value) = entries.iter().nth(entry.index(entries.len())).unwrap();
            let flipped = |bytes: &[u8]| {
                // No array has a number much larger than that.
                let bits = if kind == 2 && bytes.len() == 4 { 12 } else { bytes.len() * 8 };
                let (mut bytes, at) = (bytes.to_vec(), bit.index(bits));
                bytes[at / 8] ^= 1 << (at % 8);
                bytes
            };
            let (tampered, back) = match kind {
                0 => ((*table, key.clone(), None), (*table, key.clone(), Some(value.clone()))),
                1 => ((*table, key.clone(), Some(flipped(value))), (*table, key.clone(), Some(value.clone()))),
                _ => {
                    let key = flipped(key);
                    let before = entries.get(&(*table, key.clone())).cloned();
                    ((*table, key.clone(), Some(value.clone())), (*table, key, before))
                }
            };
            memory.tamper(&tampered);
            let observed = Balancer::open(&memory).unwrap().observe().unwrap();
            let compared = balancer.compare(&wanted).unwrap();
            prop_assert_eq!(compared.changes, difference(&observed, &wanted), "{:?}", tampered);
            prop_assert_eq!(compared.strays, observed.strays);
            memory.tamper(&back);
            prop_assert_eq!(balancer.compare(&wanted).unwrap(), Compared::default());
            balancer.apply(&[], 1000 * SECOND);
        }
    }

    /// Killed after any write, the next one reaches what is wanted then, and nothing is left over.
    #[test]
    fn after_a_kill_at_any_write_all_is_put_right(
        steps in prop::collection::vec((1_u8..5, step()), 1..10),
        last in prop::collection::vec((1_u8..5, step()), 1..4),
        then in prop::collection::vec((1_u8..5, step()), 0..2),
    ) {
        let memory = Memory::default();
        let mut balancer = Balancer::open(&memory).unwrap();
        let mut model = Model::default();
        for (service, step) in steps {
            let before = model.services();
            model.take(service, step);
            balancer.apply(&between(&before, &model.services()), 0);
        }
        let before = model.services();
        for (service, step) in last {
            model.take(service, step);
        }
        let wanted = model.services();
        for (service, step) in then {
            model.take(service, step);
        }
        let now_wanted = model.services();
        let entries = memory.entries();
        memory.take_journal();
        balancer.apply(&between(&before, &wanted), 0);
        let states = states(&entries, &memory.take_journal());
        let step = states.len().div_ceil(24);
        for state in states.into_iter().step_by(step) {
            let memory = Memory::with(state);
            let mut next = Balancer::open(&memory).unwrap();
            let observed = next.observe().unwrap();
            let applied = next.apply(&difference(&observed, &now_wanted), SECOND);
            prop_assert!(applied.failed.is_empty(), "{:?}", applied.failed);
            next.tidy(SECOND).unwrap();
            assert_there(&mut next, &now_wanted);
            assert_whole(&memory.entries());
            next.tidy(10 * SECOND).unwrap();
            next.tidy(200 * SECOND).unwrap();
            assert_there(&mut next, &now_wanted);
            let entries = memory.entries();
            let count = |table| entries.keys().filter(|(of, _)| *of == table).count();
            let used = |table| next.usage().iter().find(|usage| usage.map == table).unwrap().used;
            prop_assert_eq!(count(maps::SERVICE_NAMES), used(maps::SERVICE_NAMES) as usize);
            prop_assert_eq!(count(maps::BACKENDS), used(maps::BACKENDS) as usize);
            let mut members = BTreeSet::new();
            for balancer in now_wanted.balancers.values().filter_map(|balancer| canonical(balancer)) {
                for of in [&balancer.inside, &balancer.inside_external, &balancer.outside] {
                    members.extend(of.members.keys().copied());
                }
            }
            prop_assert_eq!(count(maps::BACKENDS), members.len());
        }
    }

    /// A kernel that refuses some writes: what can be made is made, what cannot is told, and once it does not
    /// refuse any more all is made.
    #[test]
    fn refused_writes_are_told_and_made_later(
        steps in steps(),
        fail in 0_usize..40,
    ) {
        let memory = Memory::default();
        let mut balancer = Balancer::open(&memory).unwrap();
        let mut model = Model::default();
        for (service, step) in steps {
            model.take(service, step);
        }
        let wanted = model.services();
        memory.fail_after(Some(fail));
        let all = between(&Services::default(), &wanted);
        let applied = balancer.apply(&all, 0);
        prop_assert_eq!(applied.done + applied.failed.len(), all.len());
        memory.fail_after(None);
        let observed = balancer.observe().unwrap();
        let applied = balancer.apply(&difference(&observed, &wanted), SECOND);
        prop_assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        balancer.tidy(SECOND).unwrap();
        assert_there(&mut balancer, &wanted);
        assert_whole(&memory.entries());
    }
}
