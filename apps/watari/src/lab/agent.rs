//! `watari lab agent`.

use clap::ValueEnum;
use watari_lab::{EndAgent, Label, OpenLab};

use crate::Outcome;

/// Start, end or look at the agents of nodes.
#[derive(Debug, clap::Args)]
pub struct Agent {
    /// What to do.
    action: Action,
    /// The nodes; all when none is named.
    nodes: Vec<Label>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Action {
    /// Start it, as of this build of watari, and wait until it is ready.
    Start,
    /// Tell it to end, and wait until it has.
    Stop,
    /// End it without a word (kill -9).
    Kill,
    /// Stop and start.
    Restart,
    /// Print what it wrote.
    Log,
}

impl Agent {
    /// Does it.
    pub fn run(self, lab: Option<&Label>) -> anyhow::Result<Outcome> {
        let lab = OpenLab::locked(lab)?;
        let all = || lab.lab.nodes.iter().map(|node| node.name.clone());
        for name in &self.nodes {
            if lab.lab.node(name.as_str()).is_none() {
                anyhow::bail!("the lab has no node {name}");
            }
        }
        let nodes = if self.nodes.is_empty() {
            all().collect()
        } else {
            self.nodes
        };
        match self.action {
            Action::Start => watari_lab::start_agents(&lab, &nodes)?,
            Action::Stop => end(&lab, &nodes, EndAgent::Stop)?,
            Action::Kill => end(&lab, &nodes, EndAgent::Kill)?,
            Action::Restart => {
                end(&lab, &nodes, EndAgent::Stop)?;
                watari_lab::start_agents(&lab, &nodes)?;
            }
            Action::Log => {
                for node in &nodes {
                    print!("{}", watari_lab::agent_log(&lab, node)?);
                }
            }
        }
        Ok(Outcome::Well)
    }
}

fn end(lab: &OpenLab, nodes: &[Label], how: EndAgent) -> anyhow::Result<()> {
    for node in nodes {
        if !watari_lab::end_agent(lab, node, how)? {
            println!("no agent runs on {node}");
        }
    }
    Ok(())
}
