//! Services: whose address it is, and which backend gets the connection. One code for packets and
//! for sockets.

mod choose;
mod find;
mod tables;

pub use choose::{Choice, Wish, choose, member};
pub(crate) use find::find_range;
pub use find::{Found, find, find_exact};
pub use tables::ServiceTables;
