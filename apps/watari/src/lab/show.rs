//! `watari lab get` and `inspect`.

use clap::ValueEnum;
use serde_json::{Value, json};
use watari_lab::{ContainerState, FoundPod, Label, OpenLab, Phase, SCHEMA};

use crate::Outcome;

/// List pods, nodes or labs.
#[derive(Debug, clap::Args)]
pub struct Get {
    /// What to list.
    #[arg(default_value = "pods")]
    what: What,
    /// `wide` shows more.
    #[arg(short, long)]
    output: Option<Output>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Of this node only.
    #[arg(long, value_name = "NAME")]
    node: Option<Label>,
    /// Of this namespace only.
    #[arg(short, long)]
    namespace: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    #[value(alias = "pod", alias = "po")]
    Pods,
    #[value(alias = "node", alias = "no")]
    Nodes,
    #[value(alias = "lab")]
    Labs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Wide,
}

/// Show addresses, routes, neighbours and links of a node, a pod or the fabric.
#[derive(Debug, clap::Args)]
pub struct Inspect {
    #[command(flatten)]
    place: super::Place,
    /// One JSON object instead of a page.
    #[arg(long)]
    json: bool,
}

impl Get {
    /// Does it.
    pub fn run(self, lab: Option<&Label>) -> anyhow::Result<Outcome> {
        match self.what {
            What::Labs => self.labs(),
            What::Nodes => self.nodes(&OpenLab::look(lab)?),
            What::Pods => self.pods(&OpenLab::look(lab)?),
        }
    }

    fn wide(&self) -> bool {
        self.output == Some(Output::Wide)
    }

    fn labs(&self) -> anyhow::Result<Outcome> {
        let mut rows = Vec::new();
        for name in watari_lab::labs()? {
            let (state, nodes) = match OpenLab::look(Some(&name)) {
                Ok(lab) => ("up", lab.lab.nodes.len()),
                Err(_) => ("incomplete", 0),
            };
            rows.push((name, state, nodes));
        }
        if self.json {
            let labs: Vec<Value> = rows
                .iter()
                .map(|(name, state, nodes)| json!({"name": name, "state": state, "nodes": nodes}))
                .collect();
            println!("{}", json!({"schema": SCHEMA, "labs": labs}));
        } else {
            let rows = rows.iter().map(|(name, state, nodes)| {
                vec![name.to_string(), (*state).to_owned(), nodes.to_string()]
            });
            table(&["NAME", "STATE", "NODES"], rows.collect());
        }
        Ok(Outcome::Well)
    }

    fn nodes(&self, lab: &OpenLab) -> anyhow::Result<Outcome> {
        let pods = watari_lab::list_pods(lab)?;
        let mut outcome = Outcome::Well;
        let (mut rows, mut values) = (Vec::new(), Vec::new());
        for node in &lab.lab.nodes {
            if self.node.as_ref().is_some_and(|only| *only != node.name) {
                continue;
            }
            let here = pods.iter().filter(|pod| pod.node == node.name).count();
            let up = watari_lab::node_is_up(lab, node)?;
            if !up {
                outcome = Outcome::Wrong;
            }
            let agent = watari_lab::agent_is_running(lab, &node.name)?;
            let addresses: Vec<String> = node.primaries().iter().map(ToString::to_string).collect();
            values.push(json!({
                "name": node.name, "up": up, "addresses": addresses, "mac": node.mac,
                "pods": here, "maxPods": node.max_pods, "podCIDRs": node.pod_cidrs,
                "agent": agent,
            }));
            let mut row = vec![
                node.name.to_string(),
                if up { "Up" } else { "Lost" }.to_owned(),
                if agent { "Running" } else { "-" }.to_owned(),
                format!("{here}/{}", node.max_pods),
                addresses.join(","),
            ];
            if self.wide() {
                let mut owns: Vec<String> = node
                    .owned()
                    .iter()
                    .map(|(first, last)| format!("{first} to {last}"))
                    .collect();
                owns.extend(node.pod_cidrs.iter().map(ToString::to_string));
                row.push(node.mac.to_string());
                row.push(owns.join(","));
            }
            rows.push(row);
        }
        if self.json {
            let lab = &lab.lab.name;
            println!("{}", json!({"schema": SCHEMA, "lab": lab, "nodes": values}));
        } else {
            let mut head = vec!["NAME", "STATUS", "AGENT", "PODS", "ADDRESS"];
            if self.wide() {
                head.extend(["MAC", "OWNS"]);
            }
            table(&head, rows);
        }
        Ok(outcome)
    }

    fn pods(&self, lab: &OpenLab) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::Well;
        let (mut rows, mut values) = (Vec::new(), Vec::new());
        for pod in watari_lab::list_pods(lab)? {
            let other_node = self.node.as_ref().is_some_and(|only| *only != pod.node);
            let other = self.namespace.as_ref();
            if other_node || other.is_some_and(|only| *only != pod.key.namespace) {
                continue;
            }
            let phase = pod.status.as_ref().map_or(Phase::Pending, |s| s.phase);
            if matches!(phase, Phase::Lost | Phase::Failed) {
                outcome = Outcome::Wrong;
            }
            values.push(pod_value(&pod, phase));
            rows.push(pod_row(&pod, self.wide()));
        }
        if self.json {
            let lab = &lab.lab.name;
            println!("{}", json!({"schema": SCHEMA, "lab": lab, "pods": values}));
        } else {
            let mut head = vec![
                "NAMESPACE",
                "NAME",
                "READY",
                "STATUS",
                "RESTARTS",
                "IP",
                "NODE",
            ];
            if self.wide() {
                head.extend(["NETNS", "SANDBOX"]);
            }
            table(&head, rows);
        }
        Ok(outcome)
    }
}

fn pod_row(pod: &FoundPod, wide: bool) -> Vec<String> {
    let (mut ready, mut status, mut restarts, mut ips) = (
        String::from("0/0"),
        String::from("Pending"),
        0,
        String::new(),
    );
    if let Some(known) = &pod.status {
        let (running, all) = known.ready();
        ready = format!("{running}/{all}");
        status = known.headline();
        restarts = known.containers.iter().map(|c| c.restarts).sum();
        ips = known.pod_ips.join(",");
    }
    let key = &pod.key;
    let mut row = vec![
        key.namespace.clone(),
        key.name.clone(),
        ready,
        status,
        restarts.to_string(),
        ips,
        pod.node.to_string(),
    ];
    if wide {
        let plan = pod.plan.as_ref().filter(|plan| !plan.host_network);
        row.push(plan.map_or("-".to_owned(), |plan| plan.netns.clone()));
        row.push(plan.map_or("-".to_owned(), |plan| plan.sandbox[..12].to_owned()));
    }
    row
}

fn pod_value(pod: &FoundPod, phase: Phase) -> Value {
    let plan = pod.plan.as_ref();
    let containers = pod.status.as_ref().map(|status| &status.containers);
    let containers: Vec<Value> = containers
        .into_iter()
        .flatten()
        .map(|container| {
            let state = match &container.state {
                ContainerState::Running { pid, started_s } => {
                    json!({"running": {"pid": pid, "startedAt": started_s}})
                }
                ContainerState::Waiting { reason, last_exit } => {
                    json!({"waiting": {"reason": reason, "lastExitCode": last_exit}})
                }
                ContainerState::Terminated {
                    exit_code,
                    finished_s,
                } => json!({"terminated": {"exitCode": exit_code, "finishedAt": finished_s}}),
            };
            json!({"name": container.name, "restarts": container.restarts, "state": state})
        })
        .collect();
    json!({
        "namespace": pod.key.namespace,
        "name": pod.key.name,
        "node": pod.node,
        "phase": phase,
        "podIPs": pod.status.as_ref().map(|status| &status.pod_ips),
        "hostIPs": pod.status.as_ref().map(|status| &status.host_ips),
        "hostNetwork": plan.map(|plan| plan.host_network),
        "uid": plan.map(|plan| &plan.uid),
        "sandbox": plan.map(|plan| &plan.sandbox),
        "netns": plan.filter(|plan| !plan.host_network).map(|plan| &plan.netns),
        "containers": containers,
    })
}

/// Prints columns as wide as their widest cell.
fn table(head: &[&str], rows: Vec<Vec<String>>) {
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let all: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let columns = all[0].len();
    let wide = |column: usize| all.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(wide).collect();
    for row in &all {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        println!("{}", cells.join("   ").trim_end());
    }
}

impl Inspect {
    /// Does it.
    pub fn run(self, lab: Option<&Label>) -> anyhow::Result<Outcome> {
        let lab = OpenLab::look(lab)?;
        let target = self.place.find(&lab)?;
        let page = watari_lab::inspect(&lab, &target)?;
        if self.json {
            println!("{}", page.to_json());
        } else {
            print!("{page}");
        }
        Ok(Outcome::Well)
    }
}
