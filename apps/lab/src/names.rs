use std::fmt;

use serde::{Deserialize, Serialize};

/// A lab or a node: it is a directory, a cgroup and (a node) a host name, so it follows the rule
/// of a DNS label (RFC 1123): lower-case letters, digits and `-`, at most 63.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

/// Text that is no [`Label`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not valid as a name: it has 1 to 63 lower-case letters, digits or '-', and neither starts nor ends with '-'"
)]
pub struct LabelError(String);

impl Label {
    /// Parses a name.
    pub fn new(text: impl Into<String>) -> Result<Self, LabelError> {
        let text = text.into();
        let letters = text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let well = (1..=63).contains(&text.len())
            && letters
            && !text.starts_with('-')
            && !text.ends_with('-');
        if well {
            Ok(Self(text))
        } else {
            Err(LabelError(text.chars().take(80).collect()))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Label {
    type Err = LabelError;
    fn from_str(text: &str) -> Result<Self, LabelError> {
        Self::new(text)
    }
}

impl TryFrom<String> for Label {
    type Error = LabelError;
    fn try_from(text: String) -> Result<Self, LabelError> {
        Self::new(text)
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_as_a_directory() {
        for good in ["default", "a", "node1", "aks-pool-0"] {
            assert!(Label::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "A", "-a", "a-", "a.b", "a b"] {
            assert!(Label::new(bad).is_err(), "{bad:?}");
        }
        assert!(Label::new("a".repeat(64)).is_err());
    }
}
