use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Addresses of both families as inclusive ranges: in order, disjoint, and no two adjacent, so
/// that the same addresses are always written the same way.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<(IpAddr, IpAddr)>", into = "Vec<(IpAddr, IpAddr)>")]
pub struct Ranges(Vec<(IpAddr, IpAddr)>);

impl Ranges {
    /// Each range, first and last address.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        self.0.iter().copied()
    }

    /// Without any address.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an address is in one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let after = self.0.partition_point(|range| range.0 <= address);
        after
            .checked_sub(1)
            .is_some_and(|at| address <= self.0[at].1)
    }

    /// The address after this one; none past the end of its family.
    pub fn next(address: IpAddr) -> Option<IpAddr> {
        match address {
            IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|v4| IpAddr::V4(v4.into())),
            IpAddr::V6(v6) => u128::from(v6)
                .checked_add(1)
                .map(|v6| IpAddr::V6(v6.into())),
        }
    }
}

impl FromIterator<(IpAddr, IpAddr)> for Ranges {
    /// A range that ends before it starts, or in another family, is none.
    fn from_iter<T: IntoIterator<Item = (IpAddr, IpAddr)>>(ranges: T) -> Self {
        let is_range =
            |(first, last): &(IpAddr, IpAddr)| first <= last && first.is_ipv4() == last.is_ipv4();
        let mut all: Vec<_> = ranges.into_iter().filter(is_range).collect();
        all.sort_unstable();
        let mut merged: Vec<(IpAddr, IpAddr)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match merged.last_mut() {
                // IPv4 comes before IPv6: what follows the last IPv4 address is no neighbour.
                Some(before)
                    if before.1.is_ipv4() == first.is_ipv4()
                        && Self::next(before.1).is_none_or(|after| first <= after) =>
                {
                    before.1 = before.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }
}

impl FromIterator<IpNet> for Ranges {
    fn from_iter<T: IntoIterator<Item = IpNet>>(nets: T) -> Self {
        let ends = |net: IpNet| (net.network(), net.broadcast());
        nets.into_iter().map(ends).collect()
    }
}

impl From<Vec<(IpAddr, IpAddr)>> for Ranges {
    fn from(ranges: Vec<(IpAddr, IpAddr)>) -> Self {
        ranges.into_iter().collect()
    }
}

impl From<Ranges> for Vec<(IpAddr, IpAddr)> {
    fn from(ranges: Ranges) -> Self {
        ranges.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Ranges {
        let parse = |text: &&str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            (first.parse().unwrap(), last.parse().unwrap())
        };
        texts.iter().map(parse).collect()
    }

    #[test]
    fn the_same_addresses_are_written_the_same_way() {
        let one = ranges(&["10.0.0.5-10.0.0.9", "10.0.0.10", "fd00::-fd00::ff"]);
        let other = ranges(&[
            "fd00::80-fd00::ff",
            "10.0.0.7-10.0.0.10",
            "10.0.0.5-10.0.0.8",
            "fd00::-fd00::90",
        ]);
        assert_eq!(one, other);
        assert_eq!(one.iter().count(), 2);
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(text, r#"[["10.0.0.5","10.0.0.10"],["fd00::","fd00::ff"]]"#);
        assert_eq!(serde_json::from_str::<Ranges>(&text).unwrap(), one);
    }

    #[test]
    fn the_ends_of_the_families_do_not_meet() {
        let all = ["0.0.0.0/0", "::/0"].map(|net| net.parse::<IpNet>().unwrap());
        let all: Ranges = all.into_iter().collect();
        assert_eq!(all.iter().count(), 2);
        assert!(all.contains("255.255.255.255".parse().unwrap()));
        assert!(ranges(&["10.0.0.2-10.0.0.1"]).is_empty());
    }

    #[test]
    fn what_is_between_two_ranges_is_in_none() {
        let two = ranges(&["10.0.0.1-10.0.0.3", "10.0.0.5"]);
        let inside = [0, 1, 2, 3, 4, 5, 6].map(|n| two.contains(IpAddr::from([10, 0, 0, n])));
        assert_eq!(inside, [false, true, true, true, false, true, false]);
        assert!(!two.contains("::1".parse().unwrap()));
    }
}
