//! What tests share: throw-away namespaces, waiting on conditions. For tests only: what fails
//! here panics, saying what was tried.

mod netns;
mod wait;

pub use netns::Netns;
pub use wait::{run, wait_until};
