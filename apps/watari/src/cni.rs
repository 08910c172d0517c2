//! `watari cni`: runs CNI plugins over a network configuration, as a container runtime does.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;

use crate::Outcome;

/// Run CNI plugins over a network configuration, as a container runtime does.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the network configurations are.
    #[arg(long, env = "NETCONFPATH", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the configuration files.
    List,
}

impl Args {
    /// Does it.
    pub fn run(self) -> anyhow::Result<Outcome> {
        match self.command {
            Command::List => {
                let files = std::fs::read_dir(&self.conf_dir)
                    .with_context(|| format!("read the directory {}", self.conf_dir.display()))?
                    .map(|entry| Ok(entry?.path()))
                    .collect::<anyhow::Result<Vec<_>>>()?;
                for file in &files {
                    println!("{}", file.display());
                }
                Ok(if files.is_empty() {
                    Outcome::Wrong
                } else {
                    Outcome::Well
                })
            }
        }
    }
}
