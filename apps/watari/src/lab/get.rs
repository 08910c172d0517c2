//! `watari lab get`.

use clap::ValueEnum;
use serde_json::{Value, json};
use watari_lab::{ContainerState, FoundPod, Label, OpenLab, Phase, PodStatus, SCHEMA};

use super::kinds::Kind;
use super::objects;
use crate::Outcome;

/// List pods, Services, EndpointSlices, Deployments, nodes or labs.
#[derive(Debug, clap::Args)]
pub struct Get {
    /// What to list: `pods`, `services` (`svc`), `endpointslices`, `deployments`, `replicasets`,
    /// `statefulsets`, `daemonsets`, `nodes`, `labs`; several with commas between them.
    #[arg(default_value = "pods")]
    what: String,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Wide,
}

/// What is shown of one kind: a table, and the same as values.
pub struct Page {
    pub head: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
    pub values: Vec<Value>,
    /// Nothing of it is wrong.
    pub well: bool,
}

impl Get {
    /// Does it.
    pub fn run(self, lab: Option<&Label>) -> anyhow::Result<Outcome> {
        let kinds = Kind::parse_list(&self.what)?;
        let mut outcome = Outcome::Well;
        let mut all = json!({"schema": SCHEMA});
        // Labs are listed where there is none.
        let open = if kinds.iter().all(|kind| *kind == Kind::Labs) {
            None
        } else {
            let open = OpenLab::look(lab)?;
            all["lab"] = json!(open.lab.name);
            Some(open)
        };
        for (at, kind) in kinds.iter().enumerate() {
            let page = match (kind, &open) {
                (Kind::Nodes, Some(lab)) => self.nodes(lab)?,
                (Kind::Pods, Some(lab)) => self.pods(lab)?,
                (Kind::Labs, _) | (_, None) => labs()?,
                (kind, Some(lab)) => self.objects(lab, *kind)?,
            };
            if !page.well {
                outcome = Outcome::Wrong;
            }
            if self.json {
                all[kind.plural()] = page.values.into();
                continue;
            }
            if at > 0 {
                println!();
            }
            table(&page.head, page.rows);
        }
        if self.json {
            println!("{all}");
        }
        Ok(outcome)
    }

    fn objects(&self, lab: &OpenLab, kind: Kind) -> anyhow::Result<Page> {
        let namespace = self.namespace.as_deref();
        match kind {
            Kind::Services => objects::services(lab, namespace, self.wide()),
            Kind::EndpointSlices => objects::slices(lab, namespace, self.wide()),
            _ => objects::workloads(lab, kind, namespace, self.wide()),
        }
    }

    fn wide(&self) -> bool {
        self.output == Some(Output::Wide)
    }

    fn nodes(&self, lab: &OpenLab) -> anyhow::Result<Page> {
        let pods = watari_lab::list_pods(lab)?;
        let mut well = true;
        let (mut rows, mut values) = (Vec::new(), Vec::new());
        for node in &lab.lab.nodes {
            if self.node.as_ref().is_some_and(|only| *only != node.name) {
                continue;
            }
            let here = pods.iter().filter(|pod| pod.node == node.name).count();
            let up = watari_lab::node_is_up(lab, node)?;
            well &= up;
            let agent = watari_lab::agent_is_running(lab, &node.name)?;
            let addresses: Vec<String> = node.primaries().iter().map(ToString::to_string).collect();
            values.push(json!({
                "name": node.name, "up": up, "addresses": addresses, "mac": node.mac,
                "pods": here, "maxPods": node.max_pods, "podCIDRs": node.pod_cidrs,
                "agent": agent, "zone": node.zone,
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
                row.push(node.zone.as_ref().map_or("-".to_owned(), Label::to_string));
            }
            rows.push(row);
        }
        let mut head = vec!["NAME", "STATUS", "AGENT", "PODS", "ADDRESS"];
        if self.wide() {
            head.extend(["MAC", "OWNS", "ZONE"]);
        }
        Ok(Page {
            head,
            rows,
            values,
            well,
        })
    }

    fn pods(&self, lab: &OpenLab) -> anyhow::Result<Page> {
        let mut well = true;
        let (mut rows, mut values) = (Vec::new(), Vec::new());
        for pod in watari_lab::list_pods(lab)? {
            let other_node = self.node.as_ref().is_some_and(|only| *only != pod.node);
            let other = self.namespace.as_ref();
            if other_node || other.is_some_and(|only| *only != pod.key.namespace) {
                continue;
            }
            let phase = pod.status.as_ref().map_or(Phase::Pending, |s| s.phase);
            well &= !matches!(phase, Phase::Lost | Phase::Failed);
            values.push(pod_value(&pod, phase));
            rows.push(pod_row(&pod, self.wide()));
        }
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
        Ok(Page {
            head,
            rows,
            values,
            well,
        })
    }
}

fn labs() -> anyhow::Result<Page> {
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for name in watari_lab::labs()? {
        let (state, nodes) = match OpenLab::look(Some(&name)) {
            Ok(lab) => ("up", lab.lab.nodes.len()),
            Err(_) => ("incomplete", 0),
        };
        values.push(json!({"name": name, "state": state, "nodes": nodes}));
        rows.push(vec![name.to_string(), state.to_owned(), nodes.to_string()]);
    }
    Ok(Page {
        head: vec!["NAME", "STATE", "NODES"],
        rows,
        values,
        well: true,
    })
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
    if pod.terminating {
        "Terminating".clone_into(&mut status);
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
            json!({
                "name": container.name, "ready": container.ready,
                "restarts": container.restarts, "state": state,
            })
        })
        .collect();
    json!({
        "namespace": pod.key.namespace,
        "name": pod.key.name,
        "node": pod.node,
        "phase": phase,
        "ready": pod.status.as_ref().is_some_and(PodStatus::is_ready),
        "terminating": pod.terminating,
        "labels": plan.map(|plan| &plan.labels),
        "owner": plan.and_then(|plan| plan.owner.as_ref()),
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
