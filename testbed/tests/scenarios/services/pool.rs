//! Clusters that tests use one after the other: the verifier takes seconds for the programs of each.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use watari_bpf::Attachment;
use watari_testbed::{Cluster, go_with_this_process};

/// Links as anywhere, in bytes.
pub(super) const WIDE: u32 = 1500;
/// The second node's is narrow.
pub(super) const NARROW: u32 = 1400;
/// On each node.
const PODS: u8 = 2;

/// By the MTU of the second node's link, and whether programs are attached by tcx.
type Kind = (u32, bool);

static IDLE: Mutex<BTreeMap<Kind, Vec<Cluster>>> = Mutex::new(BTreeMap::new());

/// A cluster, for one test at a time. One in which a test failed is given to nobody else.
pub(super) struct Lease {
    kind: Kind,
    cluster: Option<Cluster>,
}

/// A cluster whose second node is behind a link with this MTU.
pub(super) fn lease(mtu: u32, attachment: Attachment) -> Lease {
    go_with_this_process();
    let kind = (mtu, attachment == Attachment::Tcx);
    let idle = || {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        idle.get_mut(&kind).and_then(Vec::pop)
    };
    let cluster = idle().unwrap_or_else(|| Cluster::with_mtu(PODS, attachment, mtu).unwrap());
    Lease {
        kind,
        cluster: Some(cluster),
    }
}

impl Deref for Lease {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster.as_ref().unwrap()
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Cluster {
        self.cluster.as_mut().unwrap()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(cluster) = self.cluster.take()
            && !std::thread::panicking()
        {
            let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
            idle.entry(self.kind).or_default().push(cluster);
        }
    }
}
