//! Services: whose address it is, and which backend gets the connection. One code for packets and
//! for sockets.

pub(crate) mod alias;
mod choose;
mod find;
mod refuse;
pub(crate) mod serve;
mod tables;

pub(crate) use alias::is_near;
pub use alias::{Known, follow, known};
pub use choose::{Choice, Wish, choose, member};
pub(crate) use find::find_range;
pub use find::{Found, find, find_exact};
pub use refuse::answer;
pub(crate) use serve::{Need, serve, visit};
pub use serve::{Whose, ask, begin, is_free, pick};
pub use tables::ServiceTables;
