use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Sizes of a table: primes, so that every step goes through all of it.
const SIZES: [u16; 9] = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521];

/// Slots for each member, if there is a size for it.
const SLOTS_PER_MEMBER: usize = 100;

/// How large the table for so many members is; zero for none.
pub fn ring_size(members: usize) -> usize {
    let wanted = members.saturating_mul(SLOTS_PER_MEMBER);
    let fits = SIZES.iter().find(|size| usize::from(**size) >= wanted);
    match members {
        0 => 0,
        _ => usize::from(*fits.unwrap_or(&SIZES[SIZES.len() - 1])),
    }
}

/// Maglev's table (Eisenbud and others, NSDI 2016, section 3.4): in each slot a member, by its place in
/// the order of `members`, which have weights. Each has its part to less than a slot. It comes of the
/// members alone, so every node has the same; while the size stays, a member that goes or comes leaves
/// most slots that are not its own as they were (nine of ten, with few members; more with many).
///
/// Weights that have a common divisor make the same table as without it.
///
/// Of more members than the largest table has slots the last ones get none.
pub fn ring(members: &BTreeMap<SocketAddr, u8>) -> Vec<u32> {
    let size = ring_size(members.len());
    let Some(heaviest) = members.values().copied().max() else {
        return Vec::new();
    };
    let heaviest = u64::from(heaviest.max(1));
    let all: Vec<(SocketAddr, u64)> = members
        .iter()
        .map(|(at, weight)| (*at, u64::from((*weight).max(1))))
        .collect();
    let mut takers: Vec<Taker> = all
        .iter()
        .zip(parts(&all, size))
        .map(|((at, weight), part)| Taker::new(*at, *weight, part, size))
        .collect();
    let mut slots: Vec<Option<u32>> = vec![None; size];
    let mut left = size;
    for round in 1.. {
        for (number, taker) in takers.iter_mut().enumerate() {
            // In each round the heaviest takes one slot, others when their part is due.
            if taker.taken == taker.part || taker.taken * heaviest >= round * taker.weight {
                continue;
            }
            let Some(slot) = taker.next_free(&slots) else {
                continue;
            };
            slots[slot] = u32::try_from(number).ok();
            taker.taken += 1;
            left -= 1;
            if left == 0 {
                return slots.into_iter().flatten().collect();
            }
        }
    }
    Vec::new()
}

/// How many slots each gets: what is due, rounded so that all are given (largest remainders first).
fn parts(members: &[(SocketAddr, u64)], size: usize) -> Vec<u64> {
    let size = size as u64;
    let total: u64 = members.iter().map(|(_, weight)| weight).sum();
    let mut parts: Vec<u64> = members
        .iter()
        .map(|(_, weight)| size * weight / total)
        .collect();
    let mut by_remainder: Vec<usize> = (0..members.len()).collect();
    by_remainder.sort_by_key(|at| Reverse(size * members[*at].1 % total));
    let left = size - parts.iter().sum::<u64>();
    for at in by_remainder
        .into_iter()
        .take(usize::try_from(left).unwrap_or_default())
    {
        parts[at] += 1;
    }
    parts
}

/// A member on its way through the slots.
struct Taker {
    weight: u64,
    /// How many slots it gets.
    part: u64,
    taken: u64,
    /// Where it looks next, how far it steps, and how often it still may.
    at: usize,
    step: usize,
    looks: usize,
}

impl Taker {
    fn new(at: SocketAddr, weight: u64, part: u64, size: usize) -> Self {
        let size64 = size as u64;
        let place = |hash: u64, of: u64| usize::try_from(hash % of).unwrap_or_default();
        Self {
            weight,
            part,
            taken: 0,
            at: place(hash(at, 0x9e37_79b9_7f4a_7c15), size64),
            step: 1 + place(hash(at, 0xd1b5_4a32_d192_ed03), size64 - 1),
            looks: size,
        }
    }

    fn next_free(&mut self, slots: &[Option<u32>]) -> Option<usize> {
        while self.looks > 0 {
            let slot = self.at;
            self.looks -= 1;
            self.at = (self.at + self.step) % slots.len();
            if slots[slot].is_none() {
                return Some(slot);
            }
        }
        None
    }
}

/// FNV-1a over address and port, then the last mixing of `SplitMix64`. It must never change: nodes of two
/// versions would choose differently.
fn hash(at: SocketAddr, seed: u64) -> u64 {
    let address = match at.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let bytes = address.octets().into_iter().chain(at.port().to_be_bytes());
    let mut hash = bytes.fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
