//! Expressions: the instructions that a rule is made of (`NFTA_EXPR_*` of
//! `linux/netfilter/nf_tables.h`), laid out as `nft` lays them out, so that it can print them.

use crate::attr::Attrs;
use crate::message::Family;

const NAME: u16 = 1;
const DATA: u16 = 2;
/// `NFTA_LIST_ELEM`.
pub(crate) const LIST_ELEMENT: u16 = 1;
/// `NFTA_DATA_VALUE`.
const VALUE: u16 = 1;
/// `NFTA_DATA_VERDICT`.
const VERDICT: u16 = 2;
/// `RTN_LOCAL`: an address of this node.
const LOCAL: u32 = 2;
/// `IPS_DST_NAT`.
const DESTINATION_TRANSLATED: u32 = 1 << 5;
/// Name → index of `lo`, the same in every network namespace.
const LOOPBACK: u32 = 1;

/// A register. 1 to 4 are of 16 bytes each; 8 to 23 are the same space in pieces of four bytes.
/// The kernel names a piece that starts a large register by the large one, and so do we.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(u32);

impl Register {
    /// The piece of four bytes at `index`, 0 to 15.
    pub const fn piece(index: u32) -> Self {
        if index.is_multiple_of(4) {
            Self(1 + index / 4)
        } else {
            Self(8 + index)
        }
    }

    /// Where concatenations start.
    pub const FIRST: Self = Self::piece(0);
}

/// What a packet brings beside its bytes (`NFT_META_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Meta {
    /// The frame's protocol, as in its Ethernet header.
    Protocol = 1,
    /// Index of the interface that it came in by.
    InputInterface = 4,
    /// 2 for IPv4, 10 for IPv6.
    NetworkProtocol = 15,
    /// The transport protocol's number.
    TransportProtocol = 16,
}

/// Where an offset counts from (`NFT_PAYLOAD_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Header {
    /// The Ethernet header.
    Link = 0,
    /// The IP header.
    Network = 1,
    /// The transport header.
    Transport = 2,
}

/// One instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expr<'a> {
    /// Loads what a packet brings beside its bytes.
    Meta(Meta, Register),
    /// Loads `length` bytes at `offset` of a header.
    Payload(Header, u32, u32, Register),
    /// Goes on only if a register holds this.
    Equal(Register, &'a [u8]),
    /// Goes on only if a register holds something else.
    Differs(Register, &'a [u8]),
    /// Keeps the bits of a mask.
    Mask(Register, &'a [u8]),
    /// Goes on only if the set holds the key that starts in a register.
    Member(&'a str, Register),
    /// Goes on only if the set does not hold the key that starts in a register.
    NotMember(&'a str, Register),
    /// Goes on only if the map holds the key that starts in the first register; loads its data to
    /// the second.
    Map(&'a str, Register, Register),
    /// Loads the type of the destination address, as the node's routes know it.
    DestinationType(Register),
    /// Loads one byte: 1 if there is a route to the source address by the interface that the
    /// packet came in by, else 0.
    SourceIsHere(Register),
    /// Loads the status bits of the connection.
    ConnectionStatus(Register),
    /// Goes to a chain, not to return.
    Goto(&'a str),
    /// Ends the chain: the policy decides in a base chain.
    Return,
    /// Drops the packet.
    Drop,
    /// Rewrites the destination to the address and the port in these registers.
    Dnat(Family, Register, Register),
    /// Rewrites the source to an address of the interface that the packet leaves by.
    Masquerade,
    /// The same with a port drawn at random, whatever the source port was.
    MasqueradeAtRandom,
}

impl Expr<'_> {
    /// The attributes of one expression.
    pub fn encode(&self) -> Attrs {
        let (name, data) = match *self {
            Self::Meta(key, to) => ("meta", Attrs::new().be32(2, key as u32).be32(1, to.0)),
            Self::Payload(base, offset, length, to) => {
                let data = Attrs::new().be32(1, to.0).be32(2, base as u32);
                ("payload", data.be32(3, offset).be32(4, length))
            }
            Self::Equal(register, value) => ("cmp", compare(register, 0, value)),
            Self::Differs(register, value) => ("cmp", compare(register, 1, value)),
            Self::Mask(register, mask) => ("bitwise", bitwise(register, mask)),
            Self::Member(set, key) => ("lookup", Attrs::new().text(1, set).be32(2, key.0)),
            Self::NotMember(set, key) => {
                let data = Attrs::new().text(1, set).be32(2, key.0);
                // NFT_LOOKUP_F_INV.
                ("lookup", data.be32(5, 1))
            }
            Self::Map(set, key, to) => {
                let data = Attrs::new().text(1, set).be32(2, key.0);
                ("lookup", data.be32(3, to.0))
            }
            // NFT_FIB_RESULT_ADDRTYPE of NFTA_FIB_F_DADDR.
            Self::DestinationType(to) => ("fib", Attrs::new().be32(3, 2).be32(2, 3).be32(1, to.0)),
            // NFT_FIB_RESULT_OIF of NFTA_FIB_F_SADDR, NFTA_FIB_F_IIF and NFTA_FIB_F_PRESENT.
            Self::SourceIsHere(to) => ("fib", Attrs::new().be32(3, 41).be32(2, 1).be32(1, to.0)),
            // NFT_CT_STATUS.
            Self::ConnectionStatus(to) => ("ct", Attrs::new().be32(1, to.0).be32(2, 2)),
            Self::Goto(chain) => {
                // NFT_GOTO is -4.
                let verdict = Attrs::new().be32(1, (-4_i32).cast_unsigned());
                ("immediate", decide(&verdict.text(2, chain)))
            }
            // NFT_RETURN is -5.
            Self::Return => {
                let verdict = Attrs::new().be32(1, (-5_i32).cast_unsigned());
                ("immediate", decide(&verdict))
            }
            Self::Drop => ("immediate", decide(&Attrs::new().be32(1, 0))),
            Self::Dnat(family, address, port) => {
                let data = Attrs::new().be32(1, 1).be32(2, family as u32);
                ("nat", data.be32(3, address.0).be32(5, port.0))
            }
            Self::Masquerade => ("masq", Attrs::new()),
            // NF_NAT_RANGE_PROTO_RANDOM_FULLY.
            Self::MasqueradeAtRandom => ("masq", Attrs::new().be32(1, 1 << 4)),
        };
        Attrs::new().text(NAME, name).nested(DATA, &data)
    }
}

fn compare(register: Register, operation: u32, value: &[u8]) -> Attrs {
    let value = Attrs::new().bytes(VALUE, value);
    let data = Attrs::new().be32(1, register.0).be32(2, operation);
    data.nested(3, &value)
}

fn bitwise(register: Register, mask: &[u8]) -> Attrs {
    let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
    let data = Attrs::new().be32(1, register.0).be32(2, register.0);
    data.be32(3, length)
        .nested(4, &Attrs::new().bytes(VALUE, mask))
        .nested(5, &Attrs::new().bytes(VALUE, &vec![0; mask.len()]))
}

fn decide(verdict: &Attrs) -> Attrs {
    let verdict = Attrs::new().nested(VERDICT, verdict);
    Attrs::new().be32(1, 0).nested(2, &verdict)
}

/// `meta nfproto ipv4` or `ipv6`.
pub fn family_is(family: Family) -> Vec<Expr<'static>> {
    let value: &[u8] = match family {
        Family::Ip6 => &[10],
        Family::Unspecified | Family::Inet | Family::Ip | Family::Netdev => &[2],
    };
    vec![
        Expr::Meta(Meta::NetworkProtocol, Register::FIRST),
        Expr::Equal(Register::FIRST, value),
    ]
}

/// `fib daddr type local`: for an address of this node.
pub fn for_this_node() -> Vec<Expr<'static>> {
    const TYPE: [u8; 4] = LOCAL.to_ne_bytes();
    vec![
        Expr::DestinationType(Register::FIRST),
        Expr::Equal(Register::FIRST, &TYPE),
    ]
}

/// `ct status dnat`: the connection's destination was rewritten.
pub fn destination_translated() -> Vec<Expr<'static>> {
    const BIT: [u8; 4] = DESTINATION_TRANSLATED.to_ne_bytes();
    vec![
        Expr::ConnectionStatus(Register::FIRST),
        Expr::Mask(Register::FIRST, &BIT),
        Expr::Differs(Register::FIRST, &[0; 4]),
    ]
}

/// `iif != "lo"`: it came from outside this network namespace.
pub fn from_a_link() -> Vec<Expr<'static>> {
    const INDEX: [u8; 4] = LOOPBACK.to_ne_bytes();
    vec![
        Expr::Meta(Meta::InputInterface, Register::FIRST),
        Expr::Differs(Register::FIRST, &INDEX),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::parse_attrs;

    #[test]
    fn registers_are_named_as_the_kernel_names_them() {
        let names: Vec<u32> = [0, 1, 2, 4, 5, 8].map(|at| Register::piece(at).0).into();
        assert_eq!(names, [1, 9, 10, 2, 13, 3]);
    }

    #[test]
    fn a_destination_rewrite_is_encoded_as_the_kernel_reads_it() {
        let expr = Expr::Dnat(Family::Ip, Register::piece(0), Register::piece(1)).encode();
        let attrs = parse_attrs(expr.as_bytes()).unwrap();
        assert_eq!(attrs[0].text().unwrap(), "nat");
        let data = parse_attrs(attrs[1].value).unwrap();
        let values: Vec<(u16, u32)> = data.iter().map(|a| (a.kind, a.be32().unwrap())).collect();
        assert_eq!(values, [(1, 1), (2, 2), (3, 1), (5, 9)]);
    }
}
