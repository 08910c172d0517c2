//! Tables, chains, sets, maps, rules and elements of `nf_tables` as messages.

use crate::attr::{Attrs, Malformed, find, parse_attrs};
use crate::expr::{Expr, LIST_ELEMENT};
use crate::message::{APPEND, CREATE, EXCLUSIVE, Family, Message};

const NEW_TABLE: u16 = 0xa00;
const GET_TABLE: u16 = 0xa01;
const DELETE_TABLE: u16 = 0xa02;
const NEW_CHAIN: u16 = 0xa03;
const GET_CHAIN: u16 = 0xa04;
const NEW_RULE: u16 = 0xa06;
const GET_RULE: u16 = 0xa07;
const DELETE_RULE: u16 = 0xa08;
pub(crate) const NEW_SET: u16 = 0xa09;
const GET_SET: u16 = 0xa0a;
pub(crate) const NEW_ELEMENT: u16 = 0xa0c;
const GET_ELEMENT: u16 = 0xa0d;
const DELETE_ELEMENT: u16 = 0xa0e;
const GET_GENERATION: u16 = 0xa10;

/// `NFTA_DATA_VALUE`.
const VALUE: u16 = 1;
/// `NFT_SET_MAP`.
const IS_MAP: u32 = 8;
/// Bits of each part of a concatenated type.
const TYPE_BITS: u32 = 6;
/// The most that a comment may take: its length, with a terminating zero, is one byte.
pub const MAX_COMMENT: usize = 254;

/// A table, by its family and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table<'a> {
    /// The family of its chains.
    pub family: Family,
    /// Its name.
    pub name: &'a str,
}

/// What a base chain is hooked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// `nat` or `filter`.
    pub kind: &'static str,
    /// `NF_INET_*`: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub hook: u32,
    /// Lower comes first.
    pub priority: i32,
}

/// A part of a key or of data, by the number that `nft` knows its type by. Each takes a multiple
/// of four bytes in a concatenation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum DataType {
    /// `ipv4_addr`.
    Ipv4 = 7,
    /// `ipv6_addr`.
    Ipv6 = 8,
    /// `inet_proto`.
    Protocol = 12,
    /// `inet_service`: a port.
    Port = 13,
    /// `ifname`: up to 15 bytes of text.
    Name = 41,
}

impl DataType {
    /// Bytes that it takes.
    pub const fn size(self) -> usize {
        match self {
            Self::Ipv6 | Self::Name => 16,
            Self::Ipv4 | Self::Protocol | Self::Port => 4,
        }
    }
}

/// A set, or a map when it has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set<'a> {
    /// Its name.
    pub name: &'a str,
    /// The parts of its key.
    pub key: &'a [DataType],
    /// The parts of its data; empty for a set.
    pub data: &'a [DataType],
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The key, its parts padded to four bytes each.
    pub key: Vec<u8>,
    /// The data likewise; empty in a set.
    pub data: Vec<u8>,
    /// The comment; empty for none.
    pub comment: String,
}

fn concatenated(parts: &[DataType]) -> (u32, u32) {
    let kind = parts
        .iter()
        .fold(0, |kind, part| kind << TYPE_BITS | *part as u32);
    let size: usize = parts.iter().map(|part| part.size()).sum();
    (kind, u32::try_from(size).unwrap_or(u32::MAX))
}

/// A comment as `nft` stores it: type 0, length, text with a terminating zero. Cut to what fits.
fn comment_bytes(comment: &str) -> Vec<u8> {
    let mut end = comment.len().min(MAX_COMMENT);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    let length = u8::try_from(end + 1).unwrap_or(u8::MAX);
    let mut bytes = vec![0, length];
    bytes.extend(&comment.as_bytes()[..end]);
    bytes.push(0);
    bytes
}

/// The comment in user data; empty when there is none.
pub fn parse_comment(user_data: &[u8]) -> String {
    let mut rest = user_data;
    while let [kind, length, tail @ ..] = rest {
        let Some((value, next)) = tail.split_at_checked(usize::from(*length)) else {
            break;
        };
        if *kind == 0 {
            let text = value.split(|byte| *byte == 0).next().unwrap_or(&[]);
            return String::from_utf8_lossy(text).into_owned();
        }
        rest = next;
    }
    String::new()
}

/// Asks for the generation of the ruleset: a number that every transaction changes.
pub fn get_generation() -> Message {
    let what = "read the generation of nf_tables";
    Message::new(GET_GENERATION, Family::Unspecified, Attrs::new(), what)
}

/// The generation in the attributes of a reply.
pub fn parse_generation(attributes: &[u8]) -> Result<u32, Malformed> {
    find(&parse_attrs(attributes)?, 1)
        .ok_or(Malformed("no generation"))?
        .be32()
}

impl Table<'_> {
    fn message(&self, kind: u16, body: Attrs, verb: &str, object: &str) -> Message {
        let what = format!("{verb}{object} nf_tables table {}", self.name);
        Message::new(kind, self.family, body, what)
    }

    fn named(&self) -> Attrs {
        Attrs::new().text(1, self.name)
    }

    /// Creates the table unless it exists.
    pub fn create(&self) -> Message {
        let body = self.named().be32(2, 0);
        self.message(NEW_TABLE, body, "create", "").with(CREATE)
    }

    /// Looks it up.
    pub fn get(&self) -> Message {
        self.message(GET_TABLE, self.named(), "look up", "")
    }

    /// Deletes it and all in it.
    pub fn delete(&self) -> Message {
        self.message(DELETE_TABLE, self.named(), "delete", "")
    }

    /// The attributes that describe a chain: what [`Table::create_chain`] sends.
    pub fn chain_attributes(&self, name: &str, base: Option<Base>) -> Attrs {
        let body = self.named().text(3, name);
        let Some(base) = base else { return body };
        let hook = Attrs::new()
            .be32(1, base.hook)
            .be32(2, base.priority.cast_unsigned());
        // The policy is NF_ACCEPT.
        body.text(7, base.kind).be32(5, 1).nested(4, &hook)
    }

    /// Creates a chain unless it exists.
    pub fn create_chain(&self, name: &str, base: Option<Base>) -> Message {
        let body = self.chain_attributes(name, base);
        self.message(NEW_CHAIN, body, "create", &format!(" chain {name} in"))
            .with(CREATE)
    }

    /// Creates a base chain for the frames that come in by a device, unless it exists. The table
    /// is of [`Family::Netdev`].
    pub fn create_ingress_chain(&self, name: &str, device: &str, priority: i32) -> Message {
        // NF_NETDEV_INGRESS is 0; the policy is NF_ACCEPT.
        let hook = Attrs::new().be32(1, 0).be32(2, priority.cast_unsigned());
        let body = self.named().text(3, name).text(7, "filter").be32(5, 1);
        let body = body.nested(4, &hook.text(3, device));
        self.message(NEW_CHAIN, body, "create", &format!(" chain {name} in"))
            .with(CREATE)
    }

    /// Looks a chain up.
    pub fn get_chain(&self, name: &str) -> Message {
        let body = self.named().text(3, name);
        self.message(GET_CHAIN, body, "look up", &format!(" chain {name} in"))
    }

    /// The attributes that describe a rule, without its comment.
    pub fn rule_attributes(&self, chain: &str, expressions: &[Expr<'_>]) -> Attrs {
        let list = expressions.iter().fold(Attrs::new(), |list, expression| {
            list.nested(LIST_ELEMENT, &expression.encode())
        });
        self.named().text(2, chain).nested(4, &list)
    }

    /// Appends a rule to a chain.
    pub fn append_rule(&self, chain: &str, expressions: &[Expr<'_>], comment: &str) -> Message {
        let mut body = self.rule_attributes(chain, expressions);
        if !comment.is_empty() {
            body = body.bytes(7, &comment_bytes(comment));
        }
        let object = format!(" a rule in chain {chain} of");
        self.message(NEW_RULE, body, "append", &object)
            .with(CREATE | APPEND)
    }

    /// Deletes all rules of all chains.
    pub fn flush_rules(&self) -> Message {
        self.message(DELETE_RULE, self.named(), "flush", " the rules of")
    }

    /// Lists the rules of a chain, in order. For [`crate::Socket::dump`].
    pub fn dump_rules(&self, chain: &str) -> Message {
        let body = self.named().text(2, chain);
        self.message(GET_RULE, body, "list", &format!(" chain {chain} of"))
    }

    /// Creates a set unless it exists. `id` tells the sets of one transaction apart.
    pub fn create_set(&self, set: &Set<'_>, id: u32) -> Message {
        let (kind, length) = concatenated(set.key);
        let flags = if set.data.is_empty() { 0 } else { IS_MAP };
        let mut body = self.named().text(2, set.name).be32(3, flags);
        body = body.be32(4, kind).be32(5, length);
        if !set.data.is_empty() {
            let (kind, length) = concatenated(set.data);
            body = body.be32(6, kind).be32(7, length);
        }
        if set.key == [DataType::Name] {
            // For nft alone (user data 0, four bytes): text is in the host's byte order, 1.
            body = body.bytes(13, &[&[0, 4][..], &1_u32.to_ne_bytes()].concat());
        }
        let object = format!(" set {} in", set.name);
        self.message(NEW_SET, body.be32(10, id), "create", &object)
            .with(CREATE)
    }

    /// Looks a set up.
    pub fn get_set(&self, set: &str) -> Message {
        let body = self.named().text(2, set);
        self.message(GET_SET, body, "look up", &format!(" set {set} in"))
    }

    fn element_message(&self, kind: u16, set: &str, element: &Element, verb: &str) -> Message {
        let key = Attrs::new().bytes(VALUE, &element.key);
        let mut body = Attrs::new().nested(1, &key);
        if !element.data.is_empty() {
            body = body.nested(2, &Attrs::new().bytes(VALUE, &element.data));
        }
        if !element.comment.is_empty() {
            body = body.bytes(6, &comment_bytes(&element.comment));
        }
        let list = Attrs::new().nested(LIST_ELEMENT, &body);
        let body = self.named().text(2, set).nested(3, &list);
        self.message(kind, body, verb, &format!(" an element of set {set} in"))
    }

    fn keyed(&self, kind: u16, set: &str, key: &[u8], verb: &str) -> Message {
        let element = Element {
            key: key.to_vec(),
            data: Vec::new(),
            comment: String::new(),
        };
        self.element_message(kind, set, &element, verb)
    }

    /// Adds an element; fails with `EEXIST` when the key is there.
    pub fn add_element(&self, set: &str, element: &Element) -> Message {
        self.element_message(NEW_ELEMENT, set, element, "add")
            .with(CREATE | EXCLUSIVE)
    }

    /// Deletes the element of a key; fails with `ENOENT` when there is none.
    pub fn delete_element(&self, set: &str, key: &[u8]) -> Message {
        self.keyed(DELETE_ELEMENT, set, key, "delete")
    }

    /// Deletes all elements.
    pub fn flush_set(&self, set: &str) -> Message {
        let body = self.named().text(2, set);
        self.message(DELETE_ELEMENT, body, "flush", &format!(" set {set} in"))
    }

    /// Looks one key up, without reading the others.
    pub fn get_element(&self, set: &str, key: &[u8]) -> Message {
        self.keyed(GET_ELEMENT, set, key, "look up")
    }

    /// Lists all elements. For [`crate::Socket::dump`].
    pub fn dump_elements(&self, set: &str) -> Message {
        let body = self.named().text(2, set);
        self.message(GET_ELEMENT, body, "list", &format!(" set {set} of"))
    }
}

/// The elements in the attributes of a reply to a look-up or dump.
pub fn parse_elements(attributes: &[u8]) -> Result<Vec<Element>, Malformed> {
    let Some(list) = find(&parse_attrs(attributes)?, 3) else {
        return Ok(Vec::new());
    };
    parse_attrs(list.value)?
        .into_iter()
        .map(|element| {
            let attrs = parse_attrs(element.value)?;
            let value = |kind| {
                find(&attrs, kind).map_or(Ok(Vec::new()), |outer| {
                    let inner = find(&parse_attrs(outer.value)?, VALUE);
                    Ok(inner.map_or_else(Vec::new, |inner| inner.value.to_vec()))
                })
            };
            Ok(Element {
                key: value(1)?,
                data: value(2)?,
                comment: find(&attrs, 6)
                    .map(|user_data| parse_comment(user_data.value))
                    .unwrap_or_default(),
            })
        })
        .collect()
}

/// Whether `observed` says at least what `expected` says: each attribute of `expected` is there
/// with the same value, attribute by attribute within nested ones. The kernel adds attributes
/// of its own (handles, defaults), which versions differ in, so equality would say too much.
/// Lists (`NFTA_LIST_ELEM` repeated) have to agree in length and order.
pub fn says(observed: &[u8], expected: &Attrs) -> Result<bool, Malformed> {
    contains(&parse_attrs(observed)?, &parse_raw(expected.as_bytes())?)
}

struct Expected<'a> {
    kind: u16,
    nested: bool,
    value: &'a [u8],
}

/// Ours, so the flag "nested" tells which values are attributes themselves.
fn parse_raw(bytes: &[u8]) -> Result<Vec<Expected<'_>>, Malformed> {
    let mut at = 0;
    parse_attrs(bytes)?
        .into_iter()
        .map(|attr| {
            let flags: &[u8] = bytes.get(at + 2..at + 4).unwrap_or(&[0, 0]);
            at += (4 + attr.value.len()).next_multiple_of(4);
            let nested = u16::from_ne_bytes([flags[0], flags[1]]) & 0x8000 != 0;
            Ok(Expected {
                kind: attr.kind,
                nested,
                value: attr.value,
            })
        })
        .collect()
}

fn contains(
    observed: &[crate::attr::Attr<'_>],
    expected: &[Expected<'_>],
) -> Result<bool, Malformed> {
    let count = |kind| expected.iter().filter(|e| e.kind == kind).count();
    for (at, want) in expected.iter().enumerate() {
        let nth = expected[..at]
            .iter()
            .filter(|e| e.kind == want.kind)
            .count();
        let same: Vec<_> = observed.iter().filter(|o| o.kind == want.kind).collect();
        let Some(have) = same.get(nth) else {
            return Ok(false);
        };
        if count(want.kind) > 1 && same.len() != count(want.kind) {
            return Ok(false);
        }
        let equal = if want.nested {
            contains(&parse_attrs(have.value)?, &parse_raw(want.value)?)?
        } else {
            have.value == want.value
        };
        if !equal {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table<'static> = Table {
        family: Family::Inet,
        name: "t",
    };

    #[test]
    fn concatenated_types_have_six_bits_a_part() {
        let key = [DataType::Protocol, DataType::Port];
        assert_eq!(concatenated(&key), (0x30d, 8));
        let data = [DataType::Ipv6, DataType::Port];
        assert_eq!(concatenated(&data), (0x20d, 20));
    }

    #[test]
    fn an_element_reads_back() {
        let element = Element {
            key: vec![6, 0, 0, 0, 0x1f, 0x90, 0, 0],
            data: vec![10, 0, 0, 2, 0, 80, 0, 0],
            comment: "net/pod/eth0".to_owned(),
        };
        let message = TABLE.add_element("m", &element);
        assert_eq!(parse_elements(message.body.as_bytes()), Ok(vec![element]));
    }

    #[test]
    fn comments_are_cut_to_what_fits_and_foreign_user_data_is_no_comment() {
        let long = "é".repeat(200);
        assert_eq!(parse_comment(&comment_bytes(&long)), "é".repeat(127));
        assert_eq!(parse_comment(&[7, 1, 9, 0, 2, b'a', 0]), "a");
        assert_eq!(parse_comment(&[0, 200, b'a']), "");
        assert_eq!(parse_comment(&[0]), "");
    }

    #[test]
    fn a_rule_says_itself_and_not_another() {
        let one = TABLE.rule_attributes("c", &[Expr::Masquerade, Expr::Drop]);
        let other = TABLE.rule_attributes("c", &[Expr::Masquerade]);
        let annotated = TABLE.append_rule("c", &[Expr::Masquerade, Expr::Drop], "x");
        assert_eq!(says(annotated.body.as_bytes(), &one), Ok(true));
        assert_eq!(says(other.as_bytes(), &one), Ok(false));
    }
}
