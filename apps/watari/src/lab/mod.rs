//! `watari lab`: a cluster on one machine.

mod agent;
mod pods;
mod show;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use watari_lab::{Label, OpenLab, Options, PodKey, Spec, Target};

use crate::{Outcome, told};

/// A cluster on this machine, from network namespaces: nodes, and pods that are real processes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The lab; when absent the only one, else `default` (`up`: what the file says, else `default`).
    #[arg(long, global = true, value_name = "NAME")]
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
    /// Make the pods of manifests that are not there yet.
    Apply(pods::Apply),
    /// End pods and remove all of them.
    Delete(pods::Delete),
    /// List pods, nodes or labs.
    Get(show::Get),
    /// Run a program inside a node, a pod or the fabric.
    Exec {
        #[command(flatten)]
        place: Place,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        words: Vec<String>,
    },
    /// Open a shell inside a node, a pod or the fabric.
    Shell {
        #[command(flatten)]
        place: Place,
    },
    /// Show addresses, routes, neighbours and links of a node, a pod or the fabric.
    Inspect(show::Inspect),
    /// Print what a pod's container wrote.
    Logs(pods::Logs),
    /// Start, end or look at the agents of nodes.
    Agent(agent::Agent),
    #[command(hide = true)]
    FabricInit,
    #[command(hide = true)]
    NodeInit { node: Label },
    #[command(hide = true)]
    AgentInit { node: Label },
    #[command(hide = true)]
    PodInit {
        node: Label,
        namespace: String,
        name: String,
    },
    #[command(hide = true)]
    PodDetach {
        node: Label,
        namespace: String,
        name: String,
    },
    #[command(hide = true)]
    ContainerInit {
        cgroup: PathBuf,
        #[arg(last = true, required = true)]
        words: Vec<String>,
    },
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
    /// Run no agents, whatever the file says.
    #[arg(long)]
    no_agent: bool,
}

/// A node, a pod or the fabric.
#[derive(Debug, clap::Args)]
struct Place {
    /// A node, `[NAMESPACE/]NAME` of a pod, or `fabric`.
    #[arg(required_unless_present = "node")]
    target: Option<String>,
    /// The node, instead of a target.
    #[arg(long, value_name = "NAME", conflicts_with = "target")]
    node: Option<Label>,
    /// The namespace of a pod that is named without one.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

impl Place {
    fn find(&self, lab: &OpenLab) -> anyhow::Result<Target> {
        let node = self.node.as_ref().map(Label::as_str);
        let text = node.or(self.target.as_deref()).unwrap_or_default();
        Target::find(lab, &self.namespace, text)
    }
}

impl Args {
    /// Does it.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let lab = self.lab;
        match self.command {
            Command::Up(up) => up.run(lab),
            Command::Down => down(lab.as_ref()),
            Command::Apply(apply) => apply.run(lab.as_ref()),
            Command::Delete(delete) => delete.run(lab.as_ref()),
            Command::Get(get) => get.run(lab.as_ref()),
            Command::Exec { place, words } => {
                let lab = OpenLab::look(lab.as_ref())?;
                let target = place.find(&lab)?;
                Err(watari_lab::exec(&lab, &target, &words))
            }
            Command::Shell { place } => {
                let lab = OpenLab::look(lab.as_ref())?;
                let target = place.find(&lab)?;
                Err(watari_lab::shell(&lab, &target))
            }
            Command::Inspect(inspect) => inspect.run(lab.as_ref()),
            Command::Logs(logs) => logs.run(lab.as_ref()),
            Command::Agent(agent) => agent.run(lab.as_ref()),
            Command::FabricInit => done(watari_lab::run_fabric(&required(lab)?)),
            Command::NodeInit { node } => done(watari_lab::run_node(&required(lab)?, &node)),
            Command::AgentInit { node } => Err(watari_lab::run_agent(&required(lab)?, &node)),
            Command::PodInit {
                node,
                namespace,
                name,
            } => {
                let key = PodKey { namespace, name };
                done(watari_lab::run_supervisor(&required(lab)?, &node, &key))
            }
            Command::PodDetach {
                node,
                namespace,
                name,
            } => {
                let key = PodKey { namespace, name };
                done(watari_lab::run_detach(&required(lab)?, &node, &key))
            }
            Command::ContainerInit { cgroup, words } => {
                let error = watari_lab::run_container(&cgroup, &words);
                eprintln!("watari: {}", told(&error));
                // What a shell says of a program that it cannot start.
                std::process::exit(127)
            }
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
        spec.agent &= !self.no_agent;
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
    let before = watari_lab::labs()?;
    let there = before.contains(&name);
    if lab.is_none() && !there && !before.is_empty() {
        bail!(
            "there is no lab {name} ({}): name one with --lab",
            others(&before)
        );
    }
    let left = watari_lab::down(&name)?;
    for error in &left {
        eprintln!("watari: {}", told(error));
    }
    if !left.is_empty() {
        return Ok(Outcome::Wrong);
    }
    if there {
        println!("lab {name} is down");
    } else {
        println!("there is no lab {name} ({})", others(&before));
    }
    Ok(Outcome::Well)
}

/// What there is, where a lab that was named is not.
fn others(labs: &[Label]) -> String {
    if labs.is_empty() {
        return "nor any other".to_owned();
    }
    let names: Vec<&str> = labs.iter().map(Label::as_str).collect();
    format!("there are: {}", names.join(", "))
}
