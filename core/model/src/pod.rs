use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Protocol;

/// Which pod it is: `K8S_POD_NAMESPACE` and `K8S_POD_NAME` of `CNI_ARGS`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name in it.
    pub name: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A `v1` `Pod` as Services need to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterPod {
    /// `metadata.namespace` and `metadata.name`.
    pub name: PodName,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `status.podIPs`, else `status.podIP`; those of its node for a pod of the host's network.
    pub addresses: Vec<IpAddr>,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// The condition `Ready` is true.
    pub ready: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// `status.phase` is `Succeeded` or `Failed`.
    pub finished: bool,
    /// `spec.containers[].ports` in their order, then those of `spec.initContainers` whose
    /// `restartPolicy` is `Always` (sidecars).
    pub ports: Vec<ContainerPort>,
    /// `spec.hostname`.
    pub hostname: Option<String>,
    /// `spec.subdomain`.
    pub subdomain: Option<String>,
    /// The annotation `watari.io/weight`, 1 to 100; 1 when not said.
    pub weight: u8,
}

/// `ports[]` of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPort {
    /// `name`; empty for none.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `containerPort`.
    pub port: u16,
}
