use std::collections::BTreeMap;
use std::path::PathBuf;

use watari_model::{Attachment, ContainerId, IfName};

/// `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Command {
    /// Connect a container.
    Add,
    /// Disconnect it.
    Del,
    /// Is it as ADD left it? From 0.4.0.
    Check,
    /// Remove what belongs to no valid attachment. From 1.1.0.
    Gc,
    /// Can this node take a container? From 1.1.0.
    Status,
    /// Which versions are spoken.
    Version,
}

/// `CNI_ARGS`, `K=V;K=V`, in order of key. Kubernetes runtimes pass `IgnoreUnknown`,
/// `K8S_POD_NAMESPACE`, `K8S_POD_NAME`, `K8S_POD_INFRA_CONTAINER_ID`, `K8S_POD_UID`.
pub type CniArgs = BTreeMap<String, String>;

/// The environment of one execution of a plugin, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// `CNI_CONTAINERID`; absent for STATUS, GC and VERSION.
    pub container: Option<ContainerId>,
    /// `CNI_IFNAME`; absent likewise.
    pub ifname: Option<IfName>,
    /// `CNI_NETNS`: a path to a network namespace; required for ADD and CHECK.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`.
    pub args: CniArgs,
    /// `CNI_PATH`, split.
    pub path: Vec<PathBuf>,
}

impl Request {
    /// The attachment that ADD, DEL and CHECK are about.
    pub fn attachment(&self) -> Option<Attachment> {
        Some(Attachment {
            container: self.container.clone()?,
            ifname: self.ifname.clone()?,
        })
    }
}
