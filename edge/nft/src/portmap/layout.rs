//! The table: its sets, chains and rules. None of them depends on a mapping.

use std::net::Ipv6Addr;

use super::Masquerade;
use crate::expr::Meta::TransportProtocol;
use crate::expr::{
    Expr, Header, Register, destination_translated, family_is, for_this_node, from_a_link,
};
use crate::message::{Family, Message};
use crate::object::{Base, DataType, Set, Table};

pub(super) const TABLE: Table<'static> = Table {
    family: Family::Inet,
    name: super::TABLE_NAME,
};

/// The sets of one address family, and where its addresses stand in a header.
#[derive(Debug)]
pub(super) struct PerFamily {
    pub family: Family,
    /// protocol . port : address . port
    pub hostports: Set<'static>,
    /// host address . protocol . port : address . port
    pub boundports: Set<'static>,
    /// source . destination of what is masqueraded
    pub snat: Set<'static>,
    /// destination of what is masqueraded wherever it comes from
    pub masqall: Set<'static>,
    /// Bytes of an address, and the offsets of source and destination in the header.
    size: u32,
    source: u32,
    destination: u32,
}

macro_rules! sets {
    ($address:ident, $hostports:literal, $boundports:literal, $snat:literal, $masqall:literal,
     $family:ident, $size:literal, $source:literal, $destination:literal) => {
        PerFamily {
            family: Family::$family,
            hostports: Set {
                name: $hostports,
                key: &[DataType::Protocol, DataType::Port],
                data: &[DataType::$address, DataType::Port],
            },
            boundports: Set {
                name: $boundports,
                key: &[DataType::$address, DataType::Protocol, DataType::Port],
                data: &[DataType::$address, DataType::Port],
            },
            snat: Set {
                name: $snat,
                key: &[DataType::$address, DataType::$address],
                data: &[],
            },
            masqall: Set {
                name: $masqall,
                key: &[DataType::$address],
                data: &[],
            },
            size: $size,
            source: $source,
            destination: $destination,
        }
    };
}

pub(super) static V4: PerFamily = sets!(
    Ipv4,
    "hostports4",
    "boundports4",
    "snat4",
    "masqall4",
    Ip,
    4,
    12,
    16
);
pub(super) static V6: PerFamily = sets!(
    Ipv6,
    "hostports6",
    "boundports6",
    "snat6",
    "masqall6",
    Ip6,
    16,
    8,
    24
);

/// Who has mappings.
pub(super) static OWNERS: Set<'static> = Set {
    name: "owners",
    key: &[DataType::Name],
    data: &[],
};

impl PerFamily {
    pub fn maps(&self) -> [&Set<'static>; 2] {
        [&self.boundports, &self.hostports]
    }

    pub fn sets(&self) -> [&Set<'static>; 4] {
        [&self.boundports, &self.hostports, &self.snat, &self.masqall]
    }

    /// Pieces of four bytes that an address takes.
    fn pieces(&self) -> u32 {
        self.size / 4
    }

    /// Loads protocol and destination port behind `at` pieces of key, looks them up, rewrites.
    fn dnat(&self, map: &Set<'static>, at: u32) -> Vec<Expr<'static>> {
        let port = Expr::Payload(Header::Transport, 2, 2, Register::piece(at + 1));
        vec![
            Expr::Meta(TransportProtocol, Register::piece(at)),
            port,
            Expr::Map(map.name, Register::FIRST, Register::FIRST),
            Expr::Dnat(self.family, Register::FIRST, Register::piece(self.pieces())),
        ]
    }

    fn load(&self, offset: u32, at: u32) -> Expr<'static> {
        Expr::Payload(Header::Network, offset, self.size, Register::piece(at))
    }

    /// Bound to an address first: it is the more specific.
    fn hostports_rules(&self) -> [Vec<Expr<'static>>; 2] {
        let mut bound = family_is(self.family);
        bound.push(self.load(self.destination, 0));
        bound.extend(self.dnat(&self.boundports, self.pieces()));
        let mut any = family_is(self.family);
        any.extend(self.dnat(&self.hostports, 0));
        [bound, any]
    }

    fn postrouting_rules(&self) -> [Vec<Expr<'static>>; 2] {
        let start = || {
            let mut rule = destination_translated();
            rule.extend(family_is(self.family));
            rule
        };
        let mut pair = start();
        pair.push(self.load(self.source, 0));
        pair.push(self.load(self.destination, self.pieces()));
        pair.push(Expr::Member(self.snat.name, Register::FIRST));
        pair.push(Expr::Masquerade);
        let mut all = start();
        all.push(self.load(self.destination, 0));
        all.push(Expr::Member(self.masqall.name, Register::FIRST));
        all.push(Expr::Masquerade);
        [pair, all]
    }

    /// The sets, and keys, that make what `masquerade` says for a target address.
    pub fn masquerade_keys(
        &self,
        target: &[u8],
        masquerade: Masquerade,
    ) -> Vec<(&'static str, Vec<u8>)> {
        let pair = |source: &[u8]| (self.snat.name, [source, target].concat());
        match masquerade {
            Masquerade::Nothing => vec![],
            Masquerade::Everything => vec![(self.masqall.name, target.to_vec())],
            Masquerade::Local if self.family == Family::Ip => {
                vec![pair(target), pair(&[127, 0, 0, 1])]
            }
            Masquerade::Local => vec![pair(target)],
        }
    }
}

pub(super) const CHAINS: [(&str, Option<Base>); 5] = [
    ("hostports", None),
    ("prerouting", Some(base("nat", 0, -100))),
    ("output", Some(base("nat", 3, -100))),
    ("postrouting", Some(base("nat", 4, 100))),
    ("guard", Some(base("filter", 0, -300))),
];

const fn base(kind: &'static str, hook: u32, priority: i32) -> Base {
    Base {
        kind,
        hook,
        priority,
    }
}

/// `iif != "lo"`, and source or destination in 127.0.0.0/8: drop.
fn martian(offset: u32) -> Vec<Expr<'static>> {
    let mut rule = from_a_link();
    rule.extend(family_is(Family::Ip));
    rule.push(Expr::Payload(Header::Network, offset, 1, Register::FIRST));
    rule.push(Expr::Equal(Register::FIRST, &[127]));
    rule.push(Expr::Drop);
    rule
}

/// The rules of a chain, in order.
pub(super) fn rules(chain: &str) -> Vec<Vec<Expr<'static>>> {
    match chain {
        "hostports" => [V4.hostports_rules(), V6.hostports_rules()].concat(),
        "postrouting" => [V4.postrouting_rules(), V6.postrouting_rules()].concat(),
        "guard" => vec![martian(V4.source), martian(V4.destination)],
        "output" => vec![loopback6(), to_hostports()],
        _ => vec![to_hostports()],
    }
}

/// `fib daddr type local goto hostports`
fn to_hostports() -> Vec<Expr<'static>> {
    let mut rule = for_this_node();
    rule.push(Expr::Goto("hostports"));
    rule
}

/// `ip6 daddr ::1 return`
fn loopback6() -> Vec<Expr<'static>> {
    const LOOPBACK: [u8; 16] = Ipv6Addr::LOCALHOST.octets();
    let mut rule = family_is(Family::Ip6);
    rule.push(V6.load(V6.destination, 0));
    rule.push(Expr::Equal(Register::FIRST, &LOOPBACK));
    rule.push(Expr::Return);
    rule
}

/// All sets.
pub(super) fn sets() -> impl Iterator<Item = &'static Set<'static>> {
    V4.sets().into_iter().chain(V6.sets()).chain([&OWNERS])
}

/// Messages that create what is missing and lay the rules anew, for one transaction. Elements
/// stay, and no packet meets a moment without rules.
pub(super) fn create() -> Vec<Message> {
    let mut messages = vec![TABLE.create()];
    messages.extend(sets().zip(1..).map(|(set, id)| TABLE.create_set(set, id)));
    messages.extend(CHAINS.map(|(name, base)| TABLE.create_chain(name, base)));
    messages.push(TABLE.flush_rules());
    for (chain, _) in CHAINS {
        messages.extend(
            rules(chain)
                .iter()
                .map(|rule| TABLE.append_rule(chain, rule, "")),
        );
    }
    messages
}
