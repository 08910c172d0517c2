use std::fmt::Write;

use sha2::{Digest, Sha256};
use watari_model::{Attachment, NetworkName};

/// A part of a comment longer than this is replaced by a digest, so that three fit.
const LONGEST: usize = 100;

/// Whose an element is, as its comment says it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(String);

impl Owner {
    /// An attachment of a network.
    pub fn new(network: &NetworkName, attachment: &Attachment) -> Self {
        let container = short(attachment.container.as_str());
        Self(format!(
            "{}{container}/{}",
            Self::prefix(network),
            attachment.ifname
        ))
    }

    /// What the comments of all attachments of a network start with.
    pub fn prefix(network: &NetworkName) -> String {
        format!("{}/", short(network.as_str()))
    }

    /// The key of the owner with this comment in the set `owners`: 15 hexadecimal digits of its
    /// SHA-256, and a zero.
    pub(super) fn key(comment: &str) -> Vec<u8> {
        let mut key = hexadecimal(comment, 8).into_bytes();
        key.truncate(15);
        key.push(0);
        key
    }

    /// The comment.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `~` starts no name of the CNI specification, so a digest is never taken for one.
fn short(part: &str) -> String {
    if part.len() <= LONGEST {
        return part.to_owned();
    }
    format!("~{}", hexadecimal(part, 20))
}

/// The first bytes of the SHA-256 of a text.
fn hexadecimal(text: &str, bytes: usize) -> String {
    let mut digits = String::new();
    for byte in Sha256::digest(text).iter().take(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

#[cfg(test)]
mod tests {
    use watari_model::{ContainerId, IfName};

    use super::*;
    use crate::object::MAX_COMMENT;

    fn owner(network: &str, container: &str) -> Owner {
        Owner::new(
            &NetworkName::new(network).unwrap(),
            &Attachment {
                container: ContainerId::new(container).unwrap(),
                ifname: IfName::new("abcdefghijklmno").unwrap(),
            },
        )
    }

    #[test]
    fn the_longest_names_fit_a_comment_and_stay_apart() {
        let (a, b) = ("a".repeat(256), format!("{}b", "a".repeat(255)));
        assert!(owner(&a, &b).as_str().len() <= MAX_COMMENT);
        assert!(owner(&"a".repeat(100), &"b".repeat(100)).as_str().len() <= MAX_COMMENT);
        assert_ne!(owner("n", &a), owner("n", &b));
        assert_eq!(owner("n", "c").as_str(), "n/c/abcdefghijklmno");
    }
}
