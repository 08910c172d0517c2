//! How the node's part in Services is, for strangers: `/healthz` and `/livez` of the node, the health
//! check ports of Services, `/metrics`. Answers, headers and bodies are kube-proxy's
//! (`pkg/proxy/healthcheck`), since load balancers and probes were made for them.

mod board;
mod ports;
mod time;

pub use board::{Board, HealthCheck};
pub use ports::Ports;
