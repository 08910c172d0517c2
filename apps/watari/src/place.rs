//! Which node a question is about: this one, or one of a lab.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use watari_lab::{Label, OpenLab, Target};

/// A node: without arguments this one.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The lab of the node; when absent the only one, else `default`.
    #[arg(long, value_name = "NAME", requires = "node")]
    lab: Option<Label>,
    /// A node of a lab, instead of this machine.
    #[arg(long, value_name = "NAME")]
    node: Option<Label>,
    /// Where the agent listens.
    #[arg(long, value_name = "PATH", default_value = watari_agent::SOCKET)]
    pub socket: PathBuf,
    /// Where the datapath is pinned.
    #[arg(long, value_name = "DIR", default_value = watari_bpf::ROOT)]
    pub bpf_root: PathBuf,
    /// The directory of the node store.
    #[arg(long, value_name = "DIR", default_value = watari_store::DEFAULT_DIR)]
    pub data_dir: PathBuf,
}

impl Place {
    /// Goes there: for a node of a lab this program starts again inside of it, with the same
    /// arguments but for these.
    pub fn enter(&self) -> anyhow::Result<()> {
        let Some(node) = &self.node else {
            return Ok(());
        };
        let lab = OpenLab::look(self.lab.as_ref())?;
        require_node(&lab, node)?;
        let mut words = vec!["/proc/self/exe".to_owned()];
        for word in others(std::env::args_os().skip(1)) {
            let word = word.into_string();
            words.push(word.ok().context("an argument is not UTF-8")?);
        }
        let target = Target::Node(node.to_string());
        Err(watari_lab::exec(&lab, &target, &words))
    }
}

/// Refuses a node that the lab has not.
pub fn require_node(lab: &OpenLab, node: &Label) -> anyhow::Result<()> {
    let lab = &lab.lab;
    if lab.node(node.as_str()).is_some() {
        return Ok(());
    }
    let nodes: Vec<&str> = lab.nodes.iter().map(|node| node.name.as_str()).collect();
    bail!(
        "lab {} has no node {node} (there are: {})",
        lab.name,
        nodes.join(", ")
    );
}

/// The arguments that do not name a node of a lab.
fn others(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut is_value = false;
    for word in words {
        if std::mem::take(&mut is_value) {
            continue;
        }
        if word == "--lab" || word == "--node" {
            is_value = true;
            continue;
        }
        let text = word.to_string_lossy();
        if !text.starts_with("--lab=") && !text.starts_with("--node=") {
            kept.push(word);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_named_once() {
        let words = ["flows", "--lab", "l", "--json", "--node=n", "--port", "80"];
        let left = others(words.iter().map(OsString::from));
        assert_eq!(left, ["flows", "--json", "--port", "80"]);
    }
}
