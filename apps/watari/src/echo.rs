//! `watari echo`: the built-in server.

use watari_lab::EchoOptions;

use crate::Outcome;

/// A server that answers who it is and whom it saw, for tests and for looking around.
///
/// Every answer is one line of JSON. Without a port: HTTP and UDP on port 80.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Serve HTTP on this port (may be repeated).
    #[arg(long, value_name = "PORT")]
    http: Vec<u16>,
    /// Serve TCP on this port: say who it is, then repeat what is heard.
    #[arg(long, value_name = "PORT")]
    tcp: Vec<u16>,
    /// Serve UDP on this port.
    #[arg(long, value_name = "PORT")]
    udp: Vec<u16>,
    /// What it calls itself; the pod's name, or the host name, when absent.
    #[arg(long)]
    name: Option<String>,
}

impl Args {
    /// Does it.
    pub fn run(self) -> anyhow::Result<Outcome> {
        watari_lab::echo(EchoOptions {
            http: self.http,
            tcp: self.tcp,
            udp: self.udp,
            name: self.name,
        })?;
        Ok(Outcome::Well)
    }
}
