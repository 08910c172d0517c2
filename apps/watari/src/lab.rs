//! `watari lab`: a cluster on one machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use watari_lab::{Label, Options, Spec};

use crate::Outcome;

/// A cluster on this machine, from network namespaces: nodes, and pods that are real processes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The lab; when absent the only one, else `default`.
    #[arg(long, global = true)]
    lab: Option<Label>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a lab up.
    Up(Up),
    /// Take a lab down, in whatever state it is.
    Down,
    #[command(hide = true)]
    FabricInit,
    #[command(hide = true)]
    NodeInit { node: Label },
}

#[derive(Debug, clap::Args)]
struct Up {
    /// What to build: `lab.yaml`; every field has a default.
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// The plugin binary, or its directory; beside this binary when absent.
    #[arg(long)]
    cni_bin: Option<PathBuf>,
    /// How many nodes, whatever the file says.
    #[arg(long)]
    nodes: Option<u16>,
}

impl Args {
    /// Does it.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let lab = self.lab;
        match self.command {
            Command::Up(up) => up.run(lab),
            Command::Down => down(lab.as_ref()),
            Command::FabricInit => done(watari_lab::run_fabric(&required(lab)?)),
            Command::NodeInit { node } => done(watari_lab::run_node(&required(lab)?, &node)),
        }
    }
}

fn done(result: anyhow::Result<()>) -> anyhow::Result<Outcome> {
    result.map(|()| Outcome::Well)
}

fn required(lab: Option<Label>) -> anyhow::Result<Label> {
    lab.context("--lab is missing")
}

impl Up {
    fn run(self, lab: Option<Label>) -> anyhow::Result<Outcome> {
        let mut spec = Spec::default();
        let mut options = Options {
            conflist: None,
            cni_bin: self.cni_bin,
        };
        if let Some(path) = &self.file {
            let text = read(path)?;
            spec = Spec::parse(&text).with_context(|| format!("read {}", path.display()))?;
            if let Some(conflist) = &spec.conflist {
                let beside = path.parent().unwrap_or(Path::new("")).join(conflist);
                options.conflist = Some(read(&beside)?);
            }
        }
        spec.nodes = self.nodes.unwrap_or(spec.nodes);
        let name = match lab.or_else(|| spec.name.clone()) {
            Some(name) => name,
            None => Label::new("default")?,
        };
        let lab = watari_lab::up(&name, &spec, &options)?;
        println!("lab {} is up:", lab.name);
        for node in &lab.nodes {
            println!("  {}", watari_lab::describe(node));
        }
        Ok(Outcome::Well)
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let length = fs::metadata(path)
        .with_context(|| format!("read {}", path.display()))?
        .len();
    if length > 1 << 20 {
        bail!("{} has more than a mebibyte", path.display());
    }
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

fn down(lab: Option<&Label>) -> anyhow::Result<Outcome> {
    let name = watari_lab::which(lab)?;
    let left = watari_lab::down(&name)?;
    for error in &left {
        eprintln!("watari: {error:#}");
    }
    if left.is_empty() {
        println!("lab {name} is down");
        return Ok(Outcome::Well);
    }
    Ok(Outcome::Wrong)
}
