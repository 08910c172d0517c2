//! Netlink attributes (`struct nlattr`): a 16-bit length and type in the host's byte order, then
//! the value, padded to four bytes. Values of netfilter are in network byte order.

/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// `NLA_TYPE_MASK`: without the flags "nested" and "network byte order".
const TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 4;

/// Bytes of the kernel that do not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink bytes: {0}")]
pub struct Malformed(pub &'static str);

/// A sequence of attributes being written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attrs(Vec<u8>);

impl Attrs {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The encoded sequence.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Appends a value as it is. One that does not fit an attribute (65,531 bytes) makes a
    /// message that the kernel refuses; no caller comes near.
    #[must_use]
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(HEADER + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Appends one byte.
    #[must_use]
    pub fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    /// Appends 16 bits in network byte order.
    #[must_use]
    pub fn be16(self, kind: u16, value: u16) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Appends 32 bits in network byte order.
    #[must_use]
    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Appends a string with its terminating zero.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Appends attributes within an attribute.
    #[must_use]
    pub fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }
}

/// One attribute that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr<'a> {
    /// Its type, without flags.
    pub kind: u16,
    /// Its value, without padding.
    pub value: &'a [u8],
}

impl Attr<'_> {
    /// The value as 32 bits in network byte order.
    pub fn be32(&self) -> Result<u32, Malformed> {
        self.value
            .try_into()
            .map(u32::from_be_bytes)
            .map_err(|_| Malformed("an attribute of 32 bits has another length"))
    }

    /// The value as 16 bits in network byte order.
    pub fn be16(&self) -> Result<u16, Malformed> {
        self.value
            .try_into()
            .map(u16::from_be_bytes)
            .map_err(|_| Malformed("an attribute of 16 bits has another length"))
    }

    /// The value as a string, up to the first zero.
    pub fn text(&self) -> Result<&str, Malformed> {
        let text = self.value.split(|byte| *byte == 0).next().unwrap_or(&[]);
        std::str::from_utf8(text).map_err(|_| Malformed("a string is not UTF-8"))
    }
}

/// Splits a sequence of attributes; never looks past a length that does not fit.
pub fn parse_attrs(bytes: &[u8]) -> Result<Vec<Attr<'_>>, Malformed> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let &[l0, l1, k0, k1, ..] = rest else {
            return Err(Malformed("an attribute's header is cut off"));
        };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest
            .get(HEADER..length)
            .ok_or(Malformed("an attribute's length does not fit"))?;
        let kind = u16::from_ne_bytes([k0, k1]) & TYPE_MASK;
        found.push(Attr { kind, value });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(found)
}

/// The first attribute of a type.
pub fn find<'a>(attrs: &[Attr<'a>], kind: u16) -> Option<Attr<'a>> {
    attrs.iter().find(|attr| attr.kind == kind).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_padded_and_its_length_is_not() {
        let attrs = Attrs::new().text(1, "nat").u8(2, 7);
        let mut expected = 8_u16.to_ne_bytes().to_vec();
        expected.extend(1_u16.to_ne_bytes());
        expected.extend(b"nat\0");
        expected.extend(5_u16.to_ne_bytes());
        expected.extend(2_u16.to_ne_bytes());
        expected.extend([7, 0, 0, 0]);
        assert_eq!(attrs.as_bytes(), expected);
    }

    #[test]
    fn what_is_written_is_read() {
        let inner = Attrs::new().be32(3, 0xdead_beef);
        let outer = Attrs::new().nested(9, &inner).be16(1, 80);
        let read = parse_attrs(outer.as_bytes()).unwrap();
        assert_eq!((read[0].kind, read[1].be16().unwrap()), (9, 80));
        let read = parse_attrs(read[0].value).unwrap();
        assert_eq!(read[0].be32().unwrap(), 0xdead_beef);
    }

    #[test]
    fn every_cut_is_refused_or_shorter() {
        let whole = Attrs::new().text(1, "hostports4").be32(2, 1);
        for end in 0..whole.as_bytes().len() {
            if let Ok(read) = parse_attrs(&whole.as_bytes()[..end]) {
                assert!(read.len() < 2);
            }
        }
        assert!(parse_attrs(&[3, 0, 1, 0]).is_err());
        assert!(parse_attrs(&[255, 255, 1, 0]).is_err());
    }
}
