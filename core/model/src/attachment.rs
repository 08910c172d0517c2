use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{ContainerId, IfName, MacAddr, NameError};

/// The prefix of a host-side veth when the configuration names none.
pub const DEFAULT_HOST_PREFIX: &str = "azv";

/// What one ADD creates and one DEL ends: an interface of a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container: ContainerId,
    /// `CNI_IFNAME`: the interface's name inside the container.
    pub ifname: IfName,
}

/// The first letters of every host-side veth of a node; at most four bytes, so that eleven
/// hexadecimal digits fit behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPrefix(String);

impl HostPrefix {
    /// Refuses a prefix that is empty, longer than four bytes, or not valid in an interface name.
    pub fn new(prefix: &str) -> Result<Self, NameError> {
        IfName::new(format!("{prefix}0123456789a"))?;
        IfName::new(prefix)?;
        Ok(Self(prefix.to_owned()))
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostPrefix {
    type Err = NameError;
    fn from_str(prefix: &str) -> Result<Self, NameError> {
        Self::new(prefix)
    }
}

impl Default for HostPrefix {
    fn default() -> Self {
        Self(DEFAULT_HOST_PREFIX.to_owned())
    }
}

impl Attachment {
    /// The name of the host-side veth: the prefix and the first eleven hexadecimal digits of
    /// SHA-256 over `<container id>/<interface>`.
    ///
    /// # Panics
    /// Never: a checked prefix and eleven digits always make an interface name.
    pub fn host_ifname(&self, prefix: &HostPrefix) -> IfName {
        let digest = self.digest();
        let first: [u8; 8] = std::array::from_fn(|at| digest[at]);
        let digits = format!("{:016x}", u64::from_be_bytes(first));
        IfName::new(format!("{}{}", prefix.0, &digits[..11]))
            .expect("a checked prefix and eleven digits make an interface name")
    }

    /// The MAC of the host-side veth: locally administered, from the same digest, so that a
    /// neighbour entry can be planned before the link exists.
    pub fn host_mac(&self) -> MacAddr {
        self.mac_at(8)
    }

    /// The MAC of the container-side interface when the runtime asks for none.
    pub fn pod_mac(&self) -> MacAddr {
        self.mac_at(16)
    }

    fn mac_at(&self, offset: usize) -> MacAddr {
        let digest = self.digest();
        let mut mac = [0; 6];
        mac.copy_from_slice(&digest[offset..offset + 6]);
        mac[0] = (mac[0] & 0xfc) | 0x02;
        MacAddr(mac)
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.to_string()).into()
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.ifname)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment {
            container: ContainerId::new("c0ffee").unwrap(),
            ifname: IfName::new("eth0").unwrap(),
        }
    }

    #[test]
    fn the_host_side_is_named_by_the_digest() {
        // printf c0ffee/eth0 | sha256sum
        let name = attachment().host_ifname(&HostPrefix::default());
        assert_eq!(name.as_str(), "azv6ad2516ced2");
    }

    #[test]
    fn macs_are_local_unicast_and_differ() {
        let (host, pod) = (attachment().host_mac(), attachment().pod_mac());
        assert_ne!(host, pod);
        for mac in [host, pod] {
            assert!(mac.is_unicast());
            assert_eq!(mac.0[0] & 2, 2);
        }
    }

    #[test]
    fn a_prefix_leaves_room_for_eleven_digits() {
        assert!(HostPrefix::new("veth").is_ok());
        assert!(HostPrefix::new("vethx").is_err());
        assert!(HostPrefix::new("").is_err());
        assert!(HostPrefix::new("a/").is_err());
    }
}
