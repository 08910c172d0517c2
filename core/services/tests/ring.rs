//! Maglev's table.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use proptest::prelude::*;
use watari_services::{ring, ring_size};

fn members(hosts: impl IntoIterator<Item = (u16, u8)>) -> BTreeMap<SocketAddr, u8> {
    let at = |host: u16| {
        let [high, low] = host.to_be_bytes();
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 1, high, low)), 8080)
    };
    hosts
        .into_iter()
        .map(|(host, weight)| (at(host), weight))
        .collect()
}

/// Who is in each slot.
fn owners(members: &BTreeMap<SocketAddr, u8>) -> Vec<SocketAddr> {
    let all: Vec<_> = members.keys().copied().collect();
    ring(members)
        .into_iter()
        .map(|at| all[at as usize])
        .collect()
}

#[test]
fn sizes_are_primes_that_fit() {
    let sizes = [
        (0, 0),
        (1, 251),
        (2, 251),
        (3, 509),
        (10, 1021),
        (11, 2039),
        (655, 65521),
        (70_000, 65521),
    ];
    for (members, size) in sizes {
        assert_eq!(ring_size(members), size, "{members}");
    }
    assert_eq!(ring(&BTreeMap::new()), []);
    assert_eq!(ring(&members([(1, 1)])), [0; 251]);
}

#[test]
fn a_table_stays_the_same_for_ever() {
    // Nodes of two versions have to agree: these numbers may never change.
    let table = ring(&members([(1, 1), (2, 1), (3, 2), (4, 1)]));
    assert_eq!(table[..24], FIRST);
    let six: SocketAddr = "[fd01::1]:53".parse().unwrap();
    let table = ring(&BTreeMap::from([
        (six, 1),
        ("[fd01::2]:53".parse().unwrap(), 1),
    ]));
    assert_eq!(table[..16], SIX);
}

const FIRST: [u32; 24] = [
    2, 2, 2, 0, 1, 0, 2, 0, 2, 0, 2, 2, 2, 2, 3, 2, 2, 3, 2, 2, 1, 2, 0, 1,
];
const SIX: [u32; 16] = [0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 0, 1, 0, 1, 0];

#[test]
fn more_members_than_slots_share_them() {
    let table = ring(&members((0..u16::MAX).map(|host| (host, 1))));
    assert_eq!(table.len(), 65521);
    let mut seen = vec![0; usize::from(u16::MAX)];
    for at in table {
        seen[at as usize] += 1;
    }
    assert!(seen.iter().all(|count| *count <= 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn each_has_its_part(weights in prop::collection::btree_map(any::<u16>(), 1..=100_u8, 1..60)) {
        let members = members(weights);
        let table = ring(&members);
        prop_assert_eq!(table.len(), ring_size(members.len()));
        let mut taken = vec![0_usize; members.len()];
        for at in &table {
            taken[*at as usize] += 1;
        }
        let total: usize = members.values().map(|weight| usize::from(*weight)).sum();
        for (count, weight) in taken.into_iter().zip(members.values()) {
            // What is due, and less than a slot off.
            let due = table.len() * usize::from(*weight);
            prop_assert!((count * total).abs_diff(due) < total, "{count} of {due}/{total}");
        }
    }

    #[test]
    fn a_common_divisor_does_not_matter(weights in prop::collection::btree_map(any::<u16>(), 1..=20_u8, 1..30)) {
        let once = members(weights.clone());
        let five_times = members(weights.into_iter().map(|(host, weight)| (host, weight * 5)));
        prop_assert_eq!(ring(&once), ring(&five_times));
    }

    #[test]
    fn who_leaves_disturbs_few(hosts in prop::collection::btree_set(any::<u16>(), 7..=10), which in 0..6_usize) {
        let all = members(hosts.iter().map(|host| (*host, 1)));
        let mut fewer = all.clone();
        let gone = *all.keys().nth(which).unwrap();
        fewer.remove(&gone);
        let (before, after) = (owners(&all), owners(&fewer));
        prop_assert_eq!(before.len(), after.len());
        let moved = before.iter().zip(&after).filter(|(a, b)| **a != gone && a != b).count();
        // Those of the one who left have to move; of the others few do.
        prop_assert!(moved * 6 < before.len(), "{moved} of {}", before.len());
    }
}
