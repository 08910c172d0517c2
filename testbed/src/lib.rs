//! Nodes and pods from throw-away namespaces, and traffic between them: what benchmarks and
//! scenarios of the datapath have in common. For tests and measurements only.

mod bed;
mod cpu;
mod datapath;
pub mod echo;
pub mod raw;
mod traffic;

pub use bed::{Bed, Between, Layout, Node, Pod, UPLINK};
pub use cpu::{busy, pin};
pub use datapath::{Datapaths, Loading};
pub use traffic::{Bulk, Congestion, Ends, bulk, connect_rate, request_rate};
