use std::net::IpAddr;
use std::path::PathBuf;

use watari_ipam::Millis;
use watari_model::{Attachment, IfName, NetworkName, PodName};
use watari_tables::Endpoint;

/// What is remembered of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRecord {
    /// The network that it was attached to.
    pub network: NetworkName,
    /// The container and its interface.
    pub attachment: Attachment,
    /// Which pod it is of; none where the runtime did not say.
    pub pod: Option<PodName>,
    /// `CNI_NETNS` of its ADD.
    pub netns: Option<PathBuf>,
    /// The host-side veth.
    pub host_ifname: IfName,
    /// What the kernel should hold for it.
    pub tables: Endpoint,
    /// `ipsToRouteViaHost`: destinations that always go through the node's stack.
    pub ips_to_route_via_host: Vec<IpAddr>,
    /// When it was made, by [`now`](crate::now).
    pub created: Millis,
}
