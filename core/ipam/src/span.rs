use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The address with this value; `None` past the end of the family.
    pub(crate) fn address(self, bits: u128) -> Option<IpAddr> {
        Some(match self {
            Self::V4 => Ipv4Addr::from(u32::try_from(bits).ok()?).into(),
            Self::V6 => Ipv6Addr::from(bits).into(),
        })
    }

    /// 4 or 6.
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IPv{}", self.number())
    }
}

/// The value of an address within its family.
pub(crate) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The address after this one; `None` at the end of the family.
pub fn next(address: IpAddr) -> Option<IpAddr> {
    Family::of(address).address(bits(address).checked_add(1)?)
}

/// The address before this one; `None` at the start of the family.
pub fn previous(address: IpAddr) -> Option<IpAddr> {
    Family::of(address).address(bits(address).checked_sub(1)?)
}

/// Consecutive addresses of one family, both ends included; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(IpAddr, IpAddr)", into = "(IpAddr, IpAddr)")]
pub struct Span {
    first: IpAddr,
    last: IpAddr,
}

impl Span {
    /// `None` when `last` comes before `first` or is of another family.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (Family::of(first) == Family::of(last) && first <= last).then_some(Self { first, last })
    }

    /// One address.
    pub fn one(address: IpAddr) -> Self {
        Self {
            first: address,
            last: address,
        }
    }

    /// The lowest address.
    pub fn first(self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(self) -> IpAddr {
        self.last
    }

    /// True for an address between the ends.
    pub fn contains(self, address: IpAddr) -> bool {
        self.first <= address && address <= self.last
    }

    /// How many addresses; `u128::MAX` also for the whole of IPv6.
    pub fn count(self) -> u128 {
        (bits(self.last) - bits(self.first)).saturating_add(1)
    }
}

impl TryFrom<(IpAddr, IpAddr)> for Span {
    type Error = &'static str;
    fn try_from((first, last): (IpAddr, IpAddr)) -> Result<Self, Self::Error> {
        Self::new(first, last).ok_or("a span ends before it starts")
    }
}

impl From<Span> for (IpAddr, IpAddr) {
    fn from(span: Span) -> Self {
        (span.first, span.last)
    }
}

/// Sorted, disjoint spans with no two adjacent.
pub(crate) fn normalise(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut out: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match out.last_mut() {
            Some(before) if next(before.last).is_none_or(|after| span.first <= after) => {
                before.last = before.last.max(span.last);
            }
            _ => out.push(span),
        }
    }
    out
}

/// `spans` (normalised) without `taken` (ascending; repeats allowed).
pub(crate) fn subtract(spans: &[Span], taken: impl IntoIterator<Item = IpAddr>) -> Vec<Span> {
    let mut out = Vec::with_capacity(spans.len());
    let mut spans = spans.iter().copied();
    let mut current = spans.next();
    for address in taken {
        while let Some(span) = current.filter(|span| span.last < address) {
            out.push(span);
            current = spans.next();
        }
        let Some(span) = current else { break };
        if span.contains(address) {
            if let Some(before) = previous(address).and_then(|last| Span::new(span.first, last)) {
                out.push(before);
            }
            current = next(address)
                .and_then(|first| Span::new(first, span.last))
                .or_else(|| spans.next());
        }
    }
    out.extend(current);
    out.extend(spans);
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn v4(bits: u32) -> IpAddr {
        Ipv4Addr::from(bits).into()
    }

    fn members(spans: &[Span]) -> Vec<IpAddr> {
        let mut out = Vec::new();
        for span in spans {
            let mut at = Some(span.first);
            while let Some(address) = at.filter(|a| *a <= span.last) {
                out.push(address);
                at = next(address);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn spans_are_sets(
            spans in prop::collection::vec((0u32..200, 0u32..20, any::<bool>()), 0..20),
            taken in prop::collection::btree_set((0u32..220, any::<bool>()), 0..60),
        ) {
            // Half of the addresses stand at the very end of the family.
            let place = |at: u32, high: bool| if high { v4(u32::MAX - at) } else { v4(at) };
            let spans: Vec<Span> = spans
                .into_iter()
                .map(|(at, more, high)| {
                    let (a, b) = (place(at, high), place(at + more, high));
                    Span::new(a.min(b), a.max(b)).unwrap()
                })
                .collect();
            let all: BTreeSet<IpAddr> = members(&spans).into_iter().collect();
            let normal = normalise(spans);
            prop_assert_eq!(&members(&normal), &all.iter().copied().collect::<Vec<_>>());
            let taken: BTreeSet<IpAddr> = taken.into_iter().map(|(at, high)| place(at, high)).collect();
            let left = subtract(&normal, taken.iter().copied());
            prop_assert_eq!(members(&left), all.difference(&taken).copied().collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_whole_of_a_family_is_a_span() {
        let all = Span::new("::".parse().unwrap(), IpAddr::from([0xff; 16])).unwrap();
        assert_eq!(all.count(), u128::MAX);
        assert_eq!(normalise(vec![all, all]), vec![all]);
        assert_eq!(next(IpAddr::from([0xff; 4])), None);
    }
}
