//! One endpoint: looked at on both sides, and given back what it lost.

use std::io::ErrorKind;
use std::path::Path;

use watari_model::IfName;
use watari_netlink::{Handle, NetlinkError, Netns, inspect, repair};
use watari_plan::{Difference, differences};
use watari_store::EndpointRecord;
use watari_tables::LinkTables;

/// Why an endpoint is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Without its host-side link nothing of it is left.
    #[error(
        "the link {0} is gone, and the pod's network with it: it cannot be made again from here; \
         delete the pod"
    )]
    LinkGone(IfName),
    /// The same, and the namespace too.
    #[error("the sandbox {} is gone: what it left behind is taken back in time", .0)]
    SandboxGone(String),
    /// The pod removed its interface, or moved it.
    #[error("the pod has no interface {0} any more: delete the pod")]
    PodLinkGone(IfName),
    /// The kernel refused.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Vec<NetlinkError>),
}

impl From<NetlinkError> for EndpointError {
    fn from(error: NetlinkError) -> Self {
        Self::Refused(vec![error])
    }
}

/// Brings an endpoint back to its tables; says what it had lost.
pub fn mend(host: &mut Handle, record: &EndpointRecord) -> Result<Vec<String>, EndpointError> {
    let tables = &record.tables;
    let Some(mut found) = side(host, &tables.host, "node")? else {
        let link = tables.host.name.clone();
        return Err(match &record.netns {
            Some(path) if !is_there(path) => EndpointError::SandboxGone(path.display().to_string()),
            _ => EndpointError::LinkGone(link),
        });
    };
    // Without a namespace that can be entered there is only the node's side to look at.
    let netns = record.netns.as_deref().map(Netns::open);
    if let Some(Ok(netns)) = netns {
        let inside = netns.within(|| side(&mut Handle::open()?, &tables.pod, "pod"))??;
        match inside {
            Some(more) => found.extend(more),
            None => return Err(EndpointError::PodLinkGone(tables.pod.name.clone())),
        }
    }
    Ok(found)
}

/// True for a namespace that can be opened, and for one that may not be looked at.
pub fn is_there(netns: &Path) -> bool {
    let Err(NetlinkError::File { source, .. }) = Netns::open(netns) else {
        return true;
    };
    // No such file, or one on which nothing is mounted any more.
    !matches!(source.kind(), ErrorKind::NotFound | ErrorKind::Other)
}

/// Looks at one side and repairs it; none if the link is not there.
fn side(
    handle: &mut Handle,
    desired: &LinkTables,
    whose: &str,
) -> Result<Option<Vec<String>>, EndpointError> {
    let Some(observed) = inspect(handle, desired)? else {
        return Ok(None);
    };
    let found = differences(desired, Some(&observed.tables));
    let mut lost: Vec<String> = found
        .iter()
        .filter(|difference| difference.is_loss())
        .map(|difference: &Difference| format!("{whose} {}: {difference}", desired.name))
        .collect();
    if !observed.up {
        lost.push(format!(
            "{whose} {}: it is down, should be up",
            desired.name
        ));
    }
    if !lost.is_empty() {
        repair(handle, desired, &observed).map_err(EndpointError::Refused)?;
    }
    Ok(Some(lost))
}

/// True if the pod's side of an endpoint is all there, or cannot be looked at.
pub fn pod_side_is_well(record: &EndpointRecord) -> bool {
    let desired = &record.tables.pod;
    let Some(Ok(netns)) = record.netns.as_deref().map(Netns::open) else {
        return true;
    };
    let seen = netns.within(|| inspect(&mut Handle::open()?, desired));
    match seen {
        Ok(Ok(Some(observed))) => {
            let found = differences(desired, Some(&observed.tables));
            observed.up && !found.iter().any(Difference::is_loss)
        }
        _ => false,
    }
}
