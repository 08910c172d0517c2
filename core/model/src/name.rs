use std::fmt;

use serde::{Deserialize, Serialize};

/// A name that breaks its rule; says the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct NameError {
    what: &'static str,
    value: String,
    rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses the name; the error says the rule that it breaks.
            pub fn new(value: impl Into<String>) -> Result<Self, NameError> {
                let value = value.into();
                let check: fn(&str) -> bool = $check;
                if check(&value) {
                    Ok(Self(value))
                } else {
                    let value = value.chars().take(128).collect();
                    Err(NameError { what: $what, value, rule: $rule })
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(value: String) -> Result<Self, NameError> {
                Self::new(value)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(value: &str) -> Result<Self, NameError> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

/// CNI specification, section "Parameters": alphanumeric first, then also `_`, `.`, `-`.
fn is_identifier(value: &str) -> bool {
    value.len() <= 256
        && value.starts_with(|c: char| c.is_ascii_alphanumeric())
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

name!(
    /// `CNI_CONTAINERID`: what the runtime calls the sandbox.
    ContainerId,
    "container id",
    "it starts with a letter or digit, continues with letters, digits, '_', '.', '-', and has at most 256 characters",
    is_identifier
);

name!(
    /// The `name` of a network configuration.
    NetworkName,
    "network name",
    "it starts with a letter or digit, continues with letters, digits, '_', '.', '-', and has at most 256 characters",
    is_identifier
);

name!(
    /// A Linux network interface name (`dev_valid_name` in the kernel), no pattern of names.
    IfName,
    "interface name",
    "it has 1 to 15 bytes, is not '.' or '..', and holds no '/', ':', '%', white space or control character",
    |value| (1..=15).contains(&value.len())
        && value != "."
        && value != ".."
        // `eth%d` asks the kernel to choose a name.
        && !value.contains(|c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control())
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_follow_the_kernel() {
        for good in ["eth0", "azvbdb1c4944b1", "a", "lo", "abcdefghijklmno"] {
            assert!(IfName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a b",
            "a/b",
            "a:b",
            "abcdefghijklmnop",
            "a\n",
            "eth%d",
        ] {
            assert!(IfName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn container_ids_follow_the_specification() {
        assert!(ContainerId::new("cni-0.a_B").is_ok());
        for bad in ["", "-a", "_a", "a/b", "../a", "a b", "é"] {
            let error = ContainerId::new(bad).expect_err(bad);
            assert!(error.to_string().contains("starts with a letter or digit"));
        }
    }
}
