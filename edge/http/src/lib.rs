//! A small HTTP server for whoever asks how a node is: load balancers, kubelets, Prometheus.
//!
//! It has one thread for all its ports, so it answers while the agent is busy, or hangs. Whoever
//! asks is a stranger: a request is a line and some headers of at most 8 KiB, an answer is short and
//! ready, a connection is for one of each and has ten seconds. Each port has so many places; when
//! all are taken, who comes gets the place of who has had one longest, so that those who take and
//! hold them keep nobody out.

mod answer;
mod server;

pub use answer::{Answer, Handler};
pub use server::{ListenError, Server};
