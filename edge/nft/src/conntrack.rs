//! Connection tracking entries of UDP mappings.
//!
//! A UDP client that keeps its source port keeps its entry alive, and with it the translation
//! that its first packet met: to a pod that is gone, or to none. So entries are deleted when a
//! mapping changes.

use std::net::IpAddr;

use nix::errno::Errno;

use crate::attr::{Attrs, find, parse_attrs};
use crate::message::{Family, Message};
use crate::{Error, Socket};

/// `IPCTNL_MSG_CT_GET` of `NFNL_SUBSYS_CTNETLINK`.
const GET: u16 = 0x101;
/// `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 0x102;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
/// `CTA_ID`.
const ID: u16 = 12;
/// `CTA_ZONE`.
const ZONE: u16 = 18;
/// `CTA_FILTER`.
const FILTER: u16 = 25;

/// Fields that a filter looks at (`CTA_FILTER_FLAG_*`).
const BY_SOURCE: u32 = 1;
const BY_DESTINATION: u32 = 1 << 1;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

/// Which entries: those whose first packet went to this port (and address), and, if `target` is
/// given, whose replies come from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flows {
    /// IPv4 or IPv6.
    pub family: Family,
    /// IP protocol number.
    pub protocol: u8,
    /// The destination address of the first packet; any when none.
    pub address: Option<IpAddr>,
    /// The destination port of the first packet.
    pub port: u16,
    /// Who answers; anybody when none.
    pub target: Option<IpAddr>,
}

impl Flows {
    fn address(kind4: u16, kind6: u16, address: IpAddr) -> Attrs {
        match address {
            IpAddr::V4(v4) => Attrs::new().bytes(kind4, &v4.octets()),
            IpAddr::V6(v6) => Attrs::new().bytes(kind6, &v6.octets()),
        }
    }

    fn filter(&self) -> Attrs {
        let protocol = Attrs::new().u8(1, self.protocol).be16(3, self.port);
        let mut original = Attrs::new().nested(2, &protocol);
        let mut original_flags = BY_PROTOCOL | BY_DESTINATION_PORT;
        if let Some(address) = self.address {
            original = original.nested(1, &Self::address(2, 4, address));
            original_flags |= BY_DESTINATION;
        }
        let mut body = Attrs::new().nested(ORIGINAL, &original);
        let mut reply_flags = 0;
        if let Some(target) = self.target {
            let reply = Attrs::new().nested(1, &Self::address(1, 3, target));
            body = body.nested(REPLY, &reply);
            reply_flags |= BY_SOURCE;
        }
        // The flags are the one thing here in the host's byte order.
        let flags = Attrs::new()
            .bytes(1, &u32::to_ne_bytes(original_flags))
            .bytes(2, &u32::to_ne_bytes(reply_flags));
        body.nested(FILTER, &flags)
    }

    fn message(&self, kind: u16, body: Attrs, verb: &str) -> Message {
        let what = format!(
            "{verb} the connection tracking entries of protocol {} port {}",
            self.protocol, self.port
        );
        let mut message = Message::new(kind, self.family, body, what);
        // Only from version 1 on does a deletion look at the family.
        message.version = 1;
        message
    }
}

impl Socket {
    /// Deletes the entries. The kernel picks them (`CTA_FILTER`). One that cannot delete by
    /// filter (before 6.11) misses the rest of the tuple or says so; it lists them by the filter,
    /// which 5.8 and later can, and they are deleted one by one.
    pub fn forget_flows(&mut self, flows: &Flows) -> Result<(), Error> {
        let request = flows.message(DELETE, flows.filter(), "delete");
        match self.request(&request) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
            Err(error) if matches!(error.errno(), Some(Errno::EOPNOTSUPP | Errno::EINVAL)) => {
                self.forget_flows_one_by_one(flows)
            }
            result => result,
        }
    }

    /// As [`Socket::forget_flows`] does where the kernel cannot delete by filter.
    pub fn forget_flows_one_by_one(&mut self, flows: &Flows) -> Result<(), Error> {
        let request = flows.message(GET, flows.filter(), "list");
        for entry in self.dump(&request)? {
            let attrs =
                parse_attrs(&entry).map_err(|source| Error::malformed(&request.what, source))?;
            let Some(original) = find(&attrs, ORIGINAL) else {
                continue;
            };
            let mut body = Attrs::new().bytes(ORIGINAL | 0x8000, original.value);
            for kind in [ID, ZONE] {
                if let Some(attr) = find(&attrs, kind) {
                    body = body.bytes(kind, attr.value);
                }
            }
            match self.request(&flows.message(DELETE, body, "delete")) {
                Err(error) if error.errno() != Some(Errno::ENOENT) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
