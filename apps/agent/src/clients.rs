//! Whose processes are in which network namespace, for the programs at sockets: the node's own, and
//! those of pods whose plugin had no datapath yet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use watari_bpf::{Clients, netns_cookie};
use watari_ipam::Millis;
use watari_model::Attachment;
use watari_netlink::Netns;
use watari_store::EndpointRecord;

/// The kernel's cookies of namespaces that were looked into.
#[derive(Debug, Default)]
pub struct Known {
    own: Option<u64>,
    /// By attachment and the time it was made.
    pods: BTreeMap<(Attachment, Millis), u64>,
}

impl Known {
    /// Registers the calling thread's namespace and those of the pods. `own` are the
    /// node's addresses; without them the node's entry stays as it is.
    pub fn register(
        &mut self,
        pins: &Path,
        own: Option<&[IpAddr]>,
        records: &[EndpointRecord],
    ) -> Result<()> {
        let clients = Clients::open(pins)?;
        if self.own.is_none() {
            self.own = netns_cookie()?;
        }
        let Some(host) = self.own else {
            // The kernel does not tell them: `watari status` says what follows.
            return Ok(());
        };
        if let Some(own) = own {
            clients.set(host, own)?;
        }
        let mut pods = BTreeMap::new();
        for record in records {
            let key = (record.attachment.clone(), record.created);
            let known = self.pods.get(&key).copied();
            let Some(cookie) = known.or_else(|| cookie_of(record)) else {
                continue;
            };
            let addresses: Vec<IpAddr> = record
                .tables
                .pod
                .addresses
                .iter()
                .map(ipnet::IpNet::addr)
                .collect();
            clients.set(cookie, &addresses)?;
            pods.insert(key, cookie);
        }
        self.pods = pods;
        Ok(())
    }
}

/// None: its namespace is gone, or cannot be seen from here.
fn cookie_of(record: &EndpointRecord) -> Option<u64> {
    let netns = Netns::open(record.netns.as_deref()?).ok()?;
    netns.within(netns_cookie).ok()?.ok()?
}
