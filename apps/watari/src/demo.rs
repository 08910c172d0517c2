//! `watari demo`: a lab that shows itself.

use std::path::PathBuf;

use watari_lab::{Label, Options};

use crate::Outcome;

/// Bring a three-node lab up, show it, try what a pod network promises, and leave it up.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The lab's name.
    #[arg(long, default_value = "demo")]
    lab: Label,
    /// The plugin binary, or its directory; beside this binary when absent.
    #[arg(long)]
    cni_bin: Option<PathBuf>,
}

impl Args {
    /// Does it.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let options = Options {
            cni_bin: self.cni_bin,
            ..Options::default()
        };
        let well = watari_lab::demo(&self.lab, &options, &mut std::io::stdout().lock())?;
        Ok(if well { Outcome::Well } else { Outcome::Wrong })
    }
}
