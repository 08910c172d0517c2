//! Nodes and pods from throw-away namespaces, and traffic between them: what benchmarks and
//! scenarios of the datapath have in common. For tests and measurements only.

mod balancers;
mod bed;
mod cgroup;
mod cluster;
mod cpu;
mod datapath;
pub mod echo;
mod outside;
pub mod raw;
mod reaper;
pub mod said;
mod traffic;
pub mod witness;

pub use balancers::{Balancers, Left, now};
pub use bed::{Bed, Between, Layout, Node, Pod, UPLINK};
pub use cgroup::Cgroup;
pub use cluster::{Cluster, PORTS, SOURCE_PORTS, WAYS, Way, Who};
pub use cpu::{busy, pin};
pub use datapath::{BpfFs, Datapaths, Loading};
pub use outside::Outside;
pub use reaper::go_with_this_process;
pub use traffic::{Bulk, Congestion, Ends, bulk, connect_rate, request_rate};
