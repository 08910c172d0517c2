//! Links, addresses, routes, neighbours, settings and namespaces of a node, by rtnetlink and
//! procfs. Synchronous: a plugin lives for two milliseconds and waits for nothing else.
//!
//! A [`Handle`] belongs to one network namespace for good. Changes go out in batches: all
//! messages in one `sendmsg`, all acknowledgements read back, the first failure reported with
//! the change that it belongs to.

mod change;
mod endpoint;
mod error;
mod forward;
mod handle;
mod monitor;
mod netns;
mod own_routes;
mod query;
mod repair;
mod snapshot;
mod survey;
mod sysctl;

pub use change::{Change, NewRoute, OWN_PROTOCOL, RouteKind, RouteProtocol, Veth};
pub use endpoint::{CreateError, Created, create, inspect, observe, remove};
pub use error::NetlinkError;
pub use forward::{Forwarded, Refusal, Way};
pub use handle::Handle;
#[doc(hidden)]
pub use handle::read_datagram;
pub use monitor::{Event, Monitor};
pub use netns::Netns;
pub use own_routes::OwnRoutes;
pub use query::{Link, RouteTo};
pub use repair::repair;
pub use snapshot::{Observed, Snapshot};
pub use survey::{SeenAddress, SeenNeighbour, SeenRoute};
pub use sysctl::{link_setting, read_setting, write_link_setting, write_setting};
