//! The node daemon: what it desires, what it observes, what it repairs, what it tells.
//!
//! One task owns everything ([`Daemon`]); it is woken five times a second, and by what the kernel
//! tells of links, addresses, routes and neighbours. What is desired comes from the node store
//! (`book`) and the cluster's folder (`cluster`); `node` brings the kernel there. Who asks
//! over the socket (`server`) is served by tasks of their own, from what the daemon hands them.
//!
//! Nothing of forwarding ends with it: programs and tables are pinned.

mod book;
mod client;
mod cluster;
mod daemon;
mod drops;
mod endpoint;
mod flows;
mod lock;
mod log;
mod names;
mod node;
mod options;
mod packet;
mod pinned;
mod protocol;
mod recover;
mod run;
mod sandbox;
mod server;
mod status;
mod uplinks;

pub use client::{Answer, ask};
pub use daemon::{Daemon, Reload};
pub use drops::{Dropped, Drops, Example, Examples};
pub use flows::{End, Filter, Row, SCHEMA, Translated, Way};
pub use log::Repair;
pub use names::{Names, Who};
pub use options::Options;
pub use packet::Headers;
pub use pinned::{drops as pinned_drops, flows as pinned_flows, monotonic};
pub use protocol::{Ask, Count, Kept, Missing, SOCKET, Status};
pub use run::{remove, run};
