//! Sets whose elements are ranges of addresses (`flags interval`): for the kernel each range is
//! its first address, and an end mark at the address after its last.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use watari_tables::Ranges;

use crate::attr::{Attrs, Malformed, find, parse_attrs};
use crate::expr::LIST_ELEMENT;
use crate::message::{CREATE, EXCLUSIVE, Message};
use crate::object::{DataType, NEW_ELEMENT, NEW_SET, Table};

/// `NFT_SET_INTERVAL`.
const IS_INTERVAL: u32 = 4;
/// `NFT_SET_ELEM_INTERVAL_END`.
const IS_END: u32 = 1;
/// `NFTA_DATA_VALUE`.
const VALUE: u16 = 1;
/// Marks of one message: their list is an attribute, which has 65,531 bytes at most.
const MARKS: usize = 1_000;

/// A set of ranges of addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntervalSet {
    /// Its name.
    pub name: &'static str,
    /// [`DataType::Ipv4`] or [`DataType::Ipv6`].
    pub address: DataType,
}

/// Where a range starts, or the address after it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The address, in network byte order.
    pub key: Vec<u8>,
    /// True for the start. Behind `key`, so that where one range ends and the next starts, the
    /// end comes first.
    pub start: bool,
}

impl IntervalSet {
    /// The marks of those ranges that are of the set's family.
    fn marks(&self, ranges: &Ranges) -> Vec<Mark> {
        let mut marks = Vec::new();
        for (first, last) in ranges.iter() {
            if first.is_ipv4() != (self.address == DataType::Ipv4) {
                continue;
            }
            let mark = |address, start| Mark {
                key: octets(address),
                start,
            };
            marks.push(mark(first, true));
            // A range up to the family's last address has no end.
            let after = Ranges::next(last);
            marks.extend(after.map(|after| mark(after, false)));
        }
        marks
    }

    /// The attributes that describe the set.
    pub fn attributes(&self, table: &Table<'_>) -> Attrs {
        let length = u32::try_from(self.address.size()).unwrap_or(u32::MAX);
        let named = Attrs::new().text(1, table.name).text(2, self.name);
        let body = named.be32(3, IS_INTERVAL).be32(4, self.address as u32);
        body.be32(5, length)
    }

    /// Creates the set, which must not be there, with those ranges that are of its family. `id`
    /// tells the sets of one transaction apart.
    pub fn create(&self, table: &Table<'_>, id: u32, ranges: &Ranges) -> Vec<Message> {
        let body = self.attributes(table).be32(10, id);
        let what = self.what("create", table);
        let set = Message::new(NEW_SET, table.family, body, what).with(CREATE | EXCLUSIVE);
        let mut messages = vec![set];
        messages.extend(self.fill(table, Some(id), ranges));
        messages
    }

    /// The messages that put ranges into it: by the `id` that it has in the transaction that
    /// creates it, or where it stands already.
    pub fn fill(&self, table: &Table<'_>, id: Option<u32>, ranges: &Ranges) -> Vec<Message> {
        let marks = self.marks(ranges);
        let filled = marks.chunks(MARKS).map(|marks| {
            let list = marks.iter().fold(Attrs::new(), |list, mark| {
                let flags = if mark.start { 0 } else { IS_END };
                let element = Attrs::new().be32(3, flags);
                let element = element.nested(1, &Attrs::new().bytes(VALUE, &mark.key));
                list.nested(LIST_ELEMENT, &element)
            });
            let mut body = Attrs::new().text(1, table.name).text(2, self.name);
            if let Some(id) = id {
                body = body.be32(4, id);
            }
            let body = body.nested(3, &list);
            Message::new(NEW_ELEMENT, table.family, body, self.what("fill", table))
                .with(CREATE | EXCLUSIVE)
        });
        filled.collect()
    }

    fn what(&self, verb: &str, table: &Table<'_>) -> String {
        format!("{verb} set {} of nf_tables table {}", self.name, table.name)
    }
}

/// The marks in the attributes of a reply to a dump of elements.
pub fn parse_marks(attributes: &[u8]) -> Result<Vec<Mark>, Malformed> {
    let Some(list) = find(&parse_attrs(attributes)?, 3) else {
        return Ok(Vec::new());
    };
    parse_attrs(list.value)?
        .into_iter()
        .map(|element| {
            let attrs = parse_attrs(element.value)?;
            let flags = find(&attrs, 3).map_or(Ok(0), |flags| flags.be32())?;
            let key = find(&attrs, 1).ok_or(Malformed("an element has no key"))?;
            let key = find(&parse_attrs(key.value)?, VALUE);
            let key = key.ok_or(Malformed("a key has no value"))?.value.to_vec();
            let start = flags & IS_END == 0;
            Ok(Mark { key, start })
        })
        .collect()
}

/// The ranges that marks stand for, in whatever order they come.
pub fn ranges_of(mut marks: Vec<Mark>) -> Result<Vec<(IpAddr, IpAddr)>, Malformed> {
    marks.sort_unstable();
    let mut ranges = Vec::new();
    let mut open: Option<IpAddr> = None;
    for mark in marks {
        let address = address(&mark.key).ok_or(Malformed("an element is no address"))?;
        match (open.take(), mark.start) {
            (first, true) => {
                // Two starts in a row do not come of us; the first is an address by itself.
                ranges.extend(first.map(|first| (first, first)));
                open = Some(address);
            }
            (Some(first), false) => ranges.extend(before(address).map(|last| (first, last))),
            // nft marks the end of nothing at the start of the family.
            (None, false) => {}
        }
    }
    ranges.extend(open.map(|first| (first, last_of(first))));
    Ok(ranges)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => Some(IpAddr::V4(u32::from(v4).checked_sub(1)?.into())),
        IpAddr::V6(v6) => Some(IpAddr::V6(u128::from(v6).checked_sub(1)?.into())),
    }
}

fn last_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(u32::MAX.into()),
        IpAddr::V6(_) => IpAddr::V6(u128::MAX.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Family;

    const TABLE: Table<'static> = Table {
        family: Family::Inet,
        name: "t",
    };
    const V4: IntervalSet = IntervalSet {
        name: "v4",
        address: DataType::Ipv4,
    };
    const V6: IntervalSet = IntervalSet {
        name: "v6",
        address: DataType::Ipv6,
    };

    #[test]
    fn ranges_read_back_each_from_the_set_of_its_family() {
        let net = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
        let nets = [
            "10.1.0.0/16",
            "10.3.0.1/32",
            "224.0.0.0/3",
            "fd00::/8",
            "::/1",
            "8000::/1",
        ];
        let all: Ranges = nets.into_iter().map(net).collect();
        let mut read = Vec::new();
        for set in [V4, V6] {
            let mut marks = Vec::new();
            for message in set.create(&TABLE, 1, &all).into_iter().skip(1) {
                marks.extend(parse_marks(message.body.as_bytes()).unwrap());
            }
            marks.reverse();
            read.extend(ranges_of(marks).unwrap());
        }
        assert_eq!(read.into_iter().collect::<Ranges>(), all);
    }

    #[test]
    fn many_ranges_are_several_messages_whose_lists_fit() {
        let many = (0..5_000_u32).map(|at| {
            let address = IpAddr::V4((at * 2).into());
            (address, address)
        });
        let messages = V4.create(&TABLE, 1, &many.collect());
        assert_eq!(messages.len(), 1 + 10);
        assert!(messages.iter().all(|m| m.body.as_bytes().len() < 60_000));
    }

    #[test]
    fn marks_of_others_are_read_without_a_panic() {
        let mark = |first: u8, start| Mark {
            key: vec![first, 0, 0, 0],
            start,
        };
        let strange = vec![mark(0, false), mark(1, true), mark(2, true), mark(9, false)];
        let read: Ranges = ranges_of(strange).unwrap().into_iter().collect();
        assert_eq!(read.iter().count(), 2);
        let odd = Mark {
            key: vec![1],
            start: true,
        };
        assert!(ranges_of(vec![odd]).is_err());
    }
}
