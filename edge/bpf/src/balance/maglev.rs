//! The table of Maglev (Eisenbud and others, NSDI 2016, section 3.4): every node computes the same
//! from the same members, and little of it changes when one comes or goes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::words::shares;

/// Sizes of a table: primes below powers of two.
const SIZES: [u32; 9] = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521];

/// Nobody's entry.
const NOBODY: u32 = u32::MAX;

/// Entries of the table of so many members: at least a hundred for each, as far as there are.
pub(super) fn size(members: usize) -> u32 {
    let wanted = u64::try_from(members)
        .unwrap_or(u64::MAX)
        .saturating_mul(100);
    let fits = SIZES.iter().find(|size| u64::from(**size) >= wanted);
    fits.copied().unwrap_or(SIZES[SIZES.len() - 1])
}

/// The way of one member through the table.
struct Walk {
    at: u32,
    skip: u32,
    member: u32,
    turns: u8,
}

/// The table: each entry the number of a member in the map's order. Empty without members.
pub(super) fn ring(members: &BTreeMap<SocketAddr, u8>) -> Vec<u32> {
    let size = size(members.len());
    let mut walks: Vec<Walk> = (0..)
        .zip(shares(members))
        .map(|(member, (at, turns))| {
            let (offset, skip) = hashes(at);
            Walk {
                at: remainder(offset, size),
                skip: remainder(skip, size - 1) + 1,
                member,
                turns,
            }
        })
        .collect();
    if walks.is_empty() {
        return Vec::new();
    }
    let mut table = vec![NOBODY; size as usize];
    let mut left = size;
    loop {
        for walk in &mut walks {
            for _ in 0..walk.turns {
                // The skip and the size have no divisor in common: it meets every entry.
                while table[walk.at as usize] != NOBODY {
                    walk.at = (walk.at + walk.skip) % size;
                }
                table[walk.at as usize] = walk.member;
                left -= 1;
                if left == 0 {
                    return table;
                }
            }
        }
    }
}

fn remainder(hash: u64, of: u32) -> u32 {
    // Less than `of`.
    u32::try_from(hash % u64::from(of)).unwrap_or(0)
}

/// Two hashes of a member: FNV-1a with two beginnings, each finished as `SplitMix64` does it.
fn hashes(member: SocketAddr) -> (u64, u64) {
    let address = match member.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let bytes = || address.into_iter().chain(member.port().to_be_bytes());
    let hash = |start: u64| {
        let mixed = bytes().fold(start, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    };
    (hash(0xcbf2_9ce4_8422_2325), hash(0x9e37_79b9_7f4a_7c15))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: u32, weight: impl Fn(u32) -> u8) -> BTreeMap<SocketAddr, u8> {
        let at = |n: u32| SocketAddr::from(((0x0a00_0000 + n).to_be_bytes(), 80));
        (0..count).map(|n| (at(n), weight(n))).collect()
    }

    fn counts(table: &[u32], members: usize) -> Vec<u32> {
        let mut counts = vec![0; members];
        for member in table {
            counts[*member as usize] += 1;
        }
        counts
    }

    #[test]
    fn every_member_has_its_share() {
        for count in [1_u32, 2, 3, 10, 100, 600] {
            let table = ring(&members(count, |_| 1));
            let counts = counts(&table, count as usize);
            let fair = u32::try_from(table.len()).unwrap() / count;
            assert!(
                counts.iter().all(|n| (fair..=fair + 1).contains(n)),
                "{count}: {counts:?}"
            );
        }
        let weighted = ring(&members(3, |n| if n == 0 { 4 } else { 2 }));
        let counts = counts(&weighted, 3);
        assert!(counts[0].abs_diff(2 * counts[1]) <= 2, "{counts:?}");
        // Only how weights are to each other counts.
        assert_eq!(weighted, ring(&members(3, |n| if n == 0 { 2 } else { 1 })));
    }

    #[test]
    fn little_changes_when_one_goes() {
        let all = members(10, |_| 1);
        let mut fewer = all.clone();
        let gone = *all.keys().nth(4).unwrap();
        fewer.remove(&gone);
        let name = |members: &BTreeMap<SocketAddr, u8>| {
            let keys: Vec<_> = members.keys().copied().collect();
            let table = ring(members);
            table
                .iter()
                .map(|at| keys[*at as usize])
                .collect::<Vec<_>>()
        };
        let (before, after) = (name(&all), name(&fewer));
        assert_eq!(before.len(), after.len());
        let stayed = before.iter().filter(|at| **at != gone).count();
        let same = before
            .iter()
            .zip(&after)
            .filter(|(one, two)| one == two)
            .count();
        assert!(same * 100 >= stayed * 85, "{same} of {stayed}");
    }

    #[test]
    fn sizes_grow_with_the_members() {
        assert_eq!(
            [size(1), size(3), size(10), size(10_000)],
            [251, 509, 1021, 65521]
        );
        assert_eq!(ring(&BTreeMap::new()), [0; 0]);
    }
}
