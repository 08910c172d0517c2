//! What happens to a packet, hop by hop.
//!
//! On each node the very decisions of the datapath run over a copy of the node's real tables
//! ([`Node`]), with the kernel's own routes; what a packet leaves in the tables, it leaves in the
//! copy. [`trace`] goes from node to node, and [`picture`] draws what came of it.

mod here;
mod model;
mod node;
mod packet;
mod picture;
mod routes;
mod snapshot;
mod stack;
mod told;
mod walk;

pub use here::{Here, Pod};
pub use model::{
    Answer, Arrival, Ask, Changed, Decided, End, Hop, Journey, Kind, Next, Party, Place, SCHEMA,
    Stack, Told, Trace, Translated,
};
pub use node::{Node, Site, answer};
pub use packet::{HOPS, Packet, Protocol, with_port};
pub use picture::picture;
pub use walk::{Cluster, Question, trace};
