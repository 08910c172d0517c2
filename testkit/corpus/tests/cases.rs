//! The corpus on the desk.

use std::collections::BTreeSet;

use watari_corpus::{Place, cases, desk};

#[test]
fn every_case_holds_on_the_desk() {
    let place = Place::default();
    let wrong: Vec<String> = cases(&place)
        .iter()
        .filter_map(|case| desk::run(case, place.now).err())
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_case_has_a_name_of_its_own_and_packets() {
    let mut names = BTreeSet::new();
    for case in cases(&Place::default()) {
        assert!(!case.shots.is_empty(), "{} has no packet", case.name);
        assert!(
            names.insert(case.name.clone()),
            "{} is there twice",
            case.name
        );
    }
}

/// A runner whose tables are wrong is noticed: without its pods, no case of a delivery holds.
#[test]
fn a_case_fails_in_another_world() {
    let place = Place::default();
    let mut failed = 0;
    for mut case in cases(&place) {
        case.world.endpoints.clear();
        failed += usize::from(desk::run(&case, place.now).is_err());
    }
    assert!(failed > 60, "only {failed} cases noticed");
}

/// A Service of the stack's that answers by UDP for longer than anything is sent to it: every answer
/// is the stack's to translate.
#[test]
fn a_long_answer_stays_with_the_stack() {
    const SECOND: u64 = 1_000_000_000;
    let place = Place::default();
    let name = "udp-reply-of-the-stack/v4";
    let case = cases(&place)
        .into_iter()
        .find(|case| case.name == name)
        .unwrap_or_else(|| panic!("no case {name}"));
    let mut desk = desk::desk(&case.world, place.now);
    let (asked, answer) = (&case.shots[0], &case.shots[1]);
    desk.run(asked.hook, asked.input.clone());
    for round in 1..=60 {
        desk.now = place.now + round * 5 * SECOND;
        let verdict = desk.run(answer.hook, answer.input.clone()).verdict;
        assert_eq!(verdict, answer.verdict, "after {} s", round * 5);
    }
}
