//! Between pod networks: the routes to the pods of other nodes, and the way out of the cluster.
//! The cluster's nodes in, tables out.

mod host;
mod masquerade;

pub use host::{Beyond, HostRoutes, host_routes};
pub use masquerade::{MasqueradeConf, masquerade};
