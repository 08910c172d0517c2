//! The loop that brings something to what is desired, and keeps it there.
//!
//! [`Reconciler`] holds the desired objects, a queue in which each has at most one place, and a
//! status for each. It knows no kernel: it drives a [`Target`], whose `update`, `delete` and
//! `prune` are idempotent. Starting up, a change of what is desired, an event and a timer are the
//! same to it: an object is looked at, and whatever differs is changed.
//!
//! - **Nothing is pruned before the first full list** ([`Reconciler::replace`]): what nobody
//!   desires yet may be what nobody has spoken of yet.
//! - What fails is tried again, ever later ([`Backoff`]); an event does not hasten it, or a failing
//!   change that makes events would never rest. A new desire does.
//! - What has to be changed again and again is looked at ever later too: somebody else may be as
//!   stubborn.
//!
//! Time is an argument everywhere, as the time since whatever the caller likes; so is randomness.

mod backoff;
mod fake;
mod reconciler;

pub use backoff::Backoff;
pub use fake::{Deed, Fake, Refused};
pub use reconciler::{Reconciler, Report, State, Status, Target, Work};
