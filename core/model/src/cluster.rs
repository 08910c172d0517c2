use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A node of the cluster, as every other node needs to know it: Kubernetes' `Node`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterNode {
    /// `metadata.name`.
    pub name: String,
    /// Where it is reached: the addresses of type `InternalIP` in `status.addresses`.
    pub addresses: Vec<IpAddr>,
    /// The ranges that its pods' addresses come from: `spec.podCIDRs`, else `spec.podCIDR`.
    pub pod_cidrs: Vec<IpNet>,
    /// Further addresses that are its pods', as inclusive ranges, first and last: the annotation
    /// `watari.io/owned-addresses`, `10.240.0.5-10.240.0.104,fd10::5-fd10::68`.
    pub owned: Vec<(IpAddr, IpAddr)>,
}
