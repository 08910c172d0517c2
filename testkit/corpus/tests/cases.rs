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
