//! The way out of the cluster: who leaves a node with the node's own address.
//!
//! One table, `inet watari-masquerade`: the sets `pods4` and `pods6` of this node's pods, the sets
//! `exceptions4` and `exceptions6` of destinations that see the pods' own addresses, and at
//! `postrouting` (priority 100) one rule a family. The ports are drawn at random
//! (`fully-random`), so that two connections that start at once do not choose the same one and
//! lose a packet. The rules need nothing of how a packet came: what the datapath hands to the
//! stack and what takes the ordinary road leave alike.
//!
//! The table is replaced as a whole, in one transaction, and only if it differs: no packet meets
//! a moment without rules, and what is connected already stays as it is, since connection
//! tracking knows its translation. A different table is not mended: whoever changed it may have
//! changed anything.

use std::net::IpAddr;

use nix::errno::Errno;
use watari_tables::{Masquerade, Ranges};

use crate::expr::{Expr, Header, Register, family_is};
use crate::interval::{IntervalSet, parse_marks, ranges_of};
use crate::message::{Family, Message};
use crate::object::{Base, DataType, Table, says};
use crate::{Batch, Error, Socket, check};

/// The table's name; its family is `inet`.
pub const TABLE_NAME: &str = "watari-masquerade";

const TABLE: Table<'static> = Table {
    family: Family::Inet,
    name: TABLE_NAME,
};
const CHAIN: &str = "postrouting";
/// `srcnat`, after routing.
const BASE: Base = Base {
    kind: "nat",
    hook: 4,
    priority: 100,
};

/// The sets of one address family, and where its addresses stand in a header.
struct PerFamily {
    family: Family,
    pods: IntervalSet,
    exceptions: IntervalSet,
    /// Bytes of an address, and the offsets of source and destination in the header.
    size: u32,
    source: u32,
    destination: u32,
}

const fn set(name: &'static str, address: DataType) -> IntervalSet {
    IntervalSet { name, address }
}

const FAMILIES: [PerFamily; 2] = [
    PerFamily {
        family: Family::Ip,
        pods: set("pods4", DataType::Ipv4),
        exceptions: set("exceptions4", DataType::Ipv4),
        size: 4,
        source: 12,
        destination: 16,
    },
    PerFamily {
        family: Family::Ip6,
        pods: set("pods6", DataType::Ipv6),
        exceptions: set("exceptions6", DataType::Ipv6),
        size: 16,
        source: 8,
        destination: 24,
    },
];

impl PerFamily {
    /// `ip saddr @pods4 ip daddr != @exceptions4 masquerade fully-random`
    fn rule(&self) -> Vec<Expr<'static>> {
        let load = |offset| Expr::Payload(Header::Network, offset, self.size, Register::FIRST);
        let mut rule = family_is(self.family);
        rule.extend([
            load(self.source),
            Expr::Member(self.pods.name, Register::FIRST),
            load(self.destination),
            Expr::NotMember(self.exceptions.name, Register::FIRST),
            Expr::MasqueradeAtRandom,
        ]);
        rule
    }
}

/// Masquerading in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Masquerading {
    socket: Socket,
}

impl Masquerading {
    /// For the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        let socket = Socket::open()?;
        Ok(Self { socket })
    }

    /// Who is masqueraded; none without the table. That its rules are whole is
    /// [`Self::differences`]' to say.
    pub fn observe(&mut self) -> Result<Option<Masquerade>, Error> {
        if self.socket.find(&TABLE.get())?.is_none() {
            return Ok(None);
        }
        let (mut pods, mut exceptions) = (Vec::new(), Vec::new());
        for family in &FAMILIES {
            pods.extend(self.ranges(&family.pods)?);
            exceptions.extend(self.ranges(&family.exceptions)?);
        }
        Ok(Some(Masquerade {
            pods: pods.into_iter().collect(),
            exceptions: exceptions.into_iter().collect(),
        }))
    }

    /// How what is there differs from this; empty when nothing does. Without pods there shall be
    /// no table.
    pub fn differences(&mut self, wanted: &Masquerade) -> Result<Vec<String>, Error> {
        let Some(there) = self.observe()? else {
            let missing = format!("table inet {TABLE_NAME} is missing");
            return Ok(if wanted.pods.is_empty() {
                Vec::new()
            } else {
                vec![missing]
            });
        };
        if wanted.pods.is_empty() {
            return Ok(vec![format!(
                "table inet {TABLE_NAME} is there, though no pod is masqueraded"
            )]);
        }
        let mut differences = Vec::new();
        for (what, there, wanted) in [
            ("pods", &there.pods, &wanted.pods),
            ("exceptions", &there.exceptions, &wanted.exceptions),
        ] {
            differences.extend(compare(what, there, wanted));
        }
        differences.extend(self.misshapen()?);
        Ok(differences)
    }

    /// How the table differs but for what its sets hold.
    fn misshapen(&mut self) -> Result<Vec<String>, Error> {
        let mut differences = Vec::new();
        for family in &FAMILIES {
            for set in [family.pods, family.exceptions] {
                let request = TABLE.get_set(set.name);
                let malformed = |source| Error::malformed(&request.what, source);
                match self.socket.find(&request)? {
                    None => differences.push(format!("set {} is missing", set.name)),
                    Some(there) if says(&there, &set.attributes(&TABLE)).map_err(malformed)? => {}
                    Some(_) => differences.push(format!("set {} is of another kind", set.name)),
                }
            }
        }
        let rules = FAMILIES.each_ref().map(PerFamily::rule);
        let chain = check::chain(&mut self.socket, &TABLE, CHAIN, Some(BASE), &rules)?;
        differences.extend(chain);
        Ok(differences)
    }

    /// Brings the table to this, and answers how it differed before; when it did not, nothing is
    /// written.
    pub fn set(&mut self, wanted: &Masquerade) -> Result<Vec<String>, Error> {
        let differences = self.differences(wanted)?;
        if differences.is_empty() {
            return Ok(differences);
        }
        if wanted.pods.is_empty() {
            self.remove()?;
            return Ok(differences);
        }
        // While a chain takes the place of another, the kernel may run a packet through the new one
        // before the change and through the old one after it, and neither has a rule for it: a
        // connection slips through. So where sets alone differ, sets alone are changed.
        let refilled = self.observe()?.is_some() && self.misshapen()?.is_empty() && {
            let mut batch = Batch::new();
            batch.extend(refill(wanted));
            self.socket.commit(&batch).is_ok()
        };
        if !refilled {
            let mut batch = Batch::new();
            // So that there is one to delete.
            batch.push(TABLE.create());
            batch.push(TABLE.delete());
            batch.extend(create(wanted));
            self.socket.commit(&batch)?;
        }
        Ok(differences)
    }

    /// Removes the table; false when there was none. Connections that were masqueraded keep their
    /// translation only while another table translates.
    pub fn remove(&mut self) -> Result<bool, Error> {
        let mut batch = Batch::new();
        batch.push(TABLE.delete());
        match self.socket.commit(&batch) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// Closes the socket without waiting: see [`Socket::close_behind`].
    pub fn leave(self) {
        self.socket.close_behind();
    }

    fn ranges(&mut self, set: &IntervalSet) -> Result<Vec<(IpAddr, IpAddr)>, Error> {
        let request = TABLE.dump_elements(set.name);
        let malformed = |source| Error::malformed(&request.what, source);
        let replies = match self.socket.dump(&request) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => return Ok(Vec::new()),
            replies => replies?,
        };
        let mut marks = Vec::new();
        for reply in replies {
            marks.extend(parse_marks(&reply).map_err(malformed)?);
        }
        // A reading that was interrupted is repeated, and finds the same again.
        marks.sort_unstable();
        marks.dedup();
        ranges_of(marks).map_err(malformed)
    }
}

/// The messages that give the sets of the table other contents.
fn refill(wanted: &Masquerade) -> Vec<Message> {
    let mut messages = Vec::new();
    for (set, ranges) in sets(wanted) {
        messages.push(TABLE.flush_set(set.name));
        messages.extend(set.fill(&TABLE, None, ranges));
    }
    messages
}

/// The messages that make the table where there is none.
fn create(wanted: &Masquerade) -> Vec<Message> {
    let mut messages = vec![TABLE.create()];
    for ((set, ranges), id) in sets(wanted).zip(1..) {
        messages.extend(set.create(&TABLE, id, ranges));
    }
    messages.push(TABLE.create_chain(CHAIN, Some(BASE)));
    for family in &FAMILIES {
        messages.push(TABLE.append_rule(CHAIN, &family.rule(), ""));
    }
    messages
}

/// Every set, and what it shall hold.
fn sets(wanted: &Masquerade) -> impl Iterator<Item = (IntervalSet, &Ranges)> {
    FAMILIES.iter().flat_map(|family| {
        [
            (family.pods, &wanted.pods),
            (family.exceptions, &wanted.exceptions),
        ]
    })
}

/// What is too much and what is missing, a few of each.
fn compare(what: &str, there: &Ranges, wanted: &Ranges) -> Vec<String> {
    let list = |of: &Ranges, without: &Ranges| -> Option<String> {
        let other: Vec<_> = without.iter().collect();
        let more: Vec<String> = of
            .iter()
            .filter(|range| !other.contains(range))
            .map(|(first, last)| format!("{first}-{last}"))
            .collect();
        let shown = more.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        match more.len() {
            0 => None,
            1..=3 => Some(shown),
            count => Some(format!("{shown} and {} more", count - 3)),
        }
    };
    let missing = list(wanted, there).map(|ranges| format!("{what}: {ranges} missing"));
    let extra = list(there, wanted).map(|ranges| format!("{what}: {ranges} too much"));
    missing.into_iter().chain(extra).collect()
}
