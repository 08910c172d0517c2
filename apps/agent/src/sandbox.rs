//! Sandboxes that are gone, and taking back what they left.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use watari_model::Attachment;
use watari_netlink::{Handle, remove};
use watari_nft::portmap::{Owner, PortMaps};
use watari_store::{EndpointRecord, Store, StoreError, now};

use crate::endpoint::is_there;

/// Since when each sandbox has been missed.
#[derive(Debug, Default)]
pub struct Missed(BTreeMap<Attachment, Duration>);

impl Missed {
    /// Takes a look at every endpoint; gives those whose sandbox was gone at an earlier look and
    /// for `grace` since.
    pub fn look<'a>(
        &mut self,
        records: &'a [EndpointRecord],
        now: Duration,
        grace: Duration,
        mut is_gone: impl FnMut(&EndpointRecord) -> bool,
    ) -> Vec<&'a EndpointRecord> {
        let mut missed = BTreeMap::new();
        let mut due = Vec::new();
        for record in records.iter().filter(|record| is_gone(record)) {
            let known = self.0.get(&record.attachment).copied();
            let since = known.unwrap_or(now);
            if known.is_some() && now.saturating_sub(since) >= grace {
                due.push(record);
            }
            missed.insert(record.attachment.clone(), since);
        }
        self.0 = missed;
        due
    }

    /// It was taken back.
    pub fn forget(&mut self, attachment: &Attachment) {
        self.0.remove(attachment);
    }

    /// How many are missed.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// True if the namespace of an endpoint's ADD is there no more.
///
/// A namespace that this process merely cannot see is not gone: where the folder of its path is
/// absent too, or the path is a process's, only the end of the link, which dies with the
/// namespace, says so.
pub fn is_gone(record: &EndpointRecord, link_is_there: bool) -> bool {
    let Some(path) = &record.netns else {
        return false;
    };
    if is_there(path) {
        return false;
    }
    let may_be_hidden = path.starts_with("/proc") || !path.parent().is_some_and(Path::is_dir);
    !(may_be_hidden && link_is_there)
}

/// Takes back all of an endpoint, in the order of a DEL: its link, its host ports, then its leases
/// and its record. False if it changed since it was read: then somebody uses it.
pub fn reclaim(store: &Store, host: &mut Handle, record: &EndpointRecord) -> Result<bool> {
    let attachment = &record.attachment;
    let done = store.write(|tx| {
        if tx.endpoint(attachment)?.as_ref() != Some(record) {
            return Ok(false);
        }
        remove(host, &record.host_ifname).context("take its link away")?;
        let owner = Owner::new(&record.network, attachment);
        let mut ports = PortMaps::open().context("open nf_tables")?;
        let freed = ports.remove_all(&owner);
        ports.leave();
        freed.context("take its host ports away")?;
        tx.remove_endpoint(attachment)?;
        tx.release(&record.network, attachment, now())?;
        Ok::<_, Failed>(true)
    })?;
    Ok(done)
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}
