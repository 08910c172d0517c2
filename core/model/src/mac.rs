use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A 48-bit MAC address, in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// True for an address that can be given to one interface: not multicast, not all zeros.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

/// Text that is not a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address (want six hexadecimal bytes, as in 02:00:5e:10:00:01)")]
pub struct MacError(String);

impl FromStr for MacAddr {
    type Err = MacError;

    /// Accepts `aa:bb:cc:dd:ee:ff`, `aa-bb-…` and the wire server's `AABBCCDDEEFF`.
    fn from_str(text: &str) -> Result<Self, MacError> {
        let bad = || MacError(text.chars().take(64).collect());
        let digits: String = match text.len() {
            12 => text.to_owned(),
            17 => {
                let separator = text.as_bytes()[2];
                let well = text
                    .bytes()
                    .enumerate()
                    .all(|(at, byte)| (at % 3 == 2) == (byte == separator));
                if !matches!(separator, b':' | b'-') || !well {
                    return Err(bad());
                }
                text.chars().filter(char::is_ascii_hexdigit).collect()
            }
            _ => return Err(bad()),
        };
        if digits.len() != 12 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let value = u64::from_str_radix(&digits, 16).map_err(|_| bad())?;
        let [_, _, bytes @ ..] = value.to_be_bytes();
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for MacAddr {
    type Error = MacError;
    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_three_spellings() {
        let want = MacAddr([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]);
        for text in ["12:34:56:78:9a:bc", "12-34-56-78-9A-BC", "123456789ABC"] {
            assert_eq!(text.parse(), Ok(want), "{text}");
        }
        assert_eq!(want.to_string(), "12:34:56:78:9a:bc");
    }

    #[test]
    fn refuses_what_is_none() {
        for text in [
            "",
            "12:34",
            "12:34:56:78:9a:bg",
            "+23456789abc",
            "12:34-56:78:9a:bc",
            "1234:56:78:9a:bc:",
        ] {
            assert!(text.parse::<MacAddr>().is_err(), "{text}");
        }
    }
}
