//! What one node holds of all Services.
//!
//! [`Compiler`] takes Services, `EndpointSlices` and this node as they come and go, and says what
//! changes in the node's load-balancer tables; the result is the same in whatever order they came.
//! [`derive()`] makes the `EndpointSlices` of Services with a selector from pods, as the control plane
//! does. [`ring()`] is Maglev's table.

mod balancer;
mod choose;
mod claims;
mod compiler;
mod derive;
mod names;
mod notes;
mod ring;
mod slices;
mod spec;
mod steps;
mod view;

pub use choose::Unused;
pub use compiler::{Compiler, Options};
pub use derive::derive;
pub use notes::Note;
pub use ring::{ring, ring_size};
pub use spec::Programmed;
pub use view::{
    BackendView, FrontendView, HealthCheck, Known, NoLocal, PartView, ServiceView, State,
};
