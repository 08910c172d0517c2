//! `watari service`: the Services of a node, or one of them.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::Context as _;
use watari_agent::{
    Answer, Ask, ServiceBackend, ServiceDetail, ServiceFrontend, ServicePort, ServiceRow,
};
use watari_model::ServiceName;

use crate::Outcome;
use crate::place::Place;

/// Show the Services of a node, or one of them: where it is reached, who is behind, and who is not
/// used, and why.
///
/// Exit status: 0 well; 1 it has no endpoint that is ready, or an address of it is another's; 2 no agent
/// answers, or there is no such Service.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The Service: NAME (of the namespace `default`) or NAMESPACE/NAME [default: a list of all].
    #[arg(value_name = "NAME", value_parser = name)]
    service: Option<ServiceName>,
    #[command(flatten)]
    place: Place,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// A Service's name as somebody types it.
pub fn name(text: &str) -> Result<ServiceName, String> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        return Err("want NAME or NAMESPACE/NAME".to_owned());
    }
    Ok(ServiceName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

impl Args {
    /// Does it.
    pub fn run(self) -> anyhow::Result<Outcome> {
        self.place.enter()?;
        match self.service.clone() {
            None => self.list(),
            Some(service) => self.one(service),
        }
    }

    fn ask(&self, ask: Ask) -> anyhow::Result<Answer> {
        let socket = &self.place.socket;
        watari_agent::ask(socket, ask)?.with_context(|| {
            format!(
                "no agent listens at {}, and only an agent knows Services: start it with `watari \
                 agent`; what is programmed goes on without",
                socket.display()
            )
        })
    }

    fn list(&self) -> anyhow::Result<Outcome> {
        let mut answer = self.ask(Ask::Services)?;
        if !self.json {
            println!("{}", list_head());
        }
        while let Some(line) = answer.line()? {
            if self.json {
                println!("{line}");
            } else {
                let row = serde_json::from_str(&line);
                println!("{}", list_line(&row.context("read the agent's answer")?));
            }
        }
        Ok(Outcome::Well)
    }

    fn one(&self, service: ServiceName) -> anyhow::Result<Outcome> {
        let detail: ServiceDetail = self.ask(Ask::Service { service })?.single()?;
        if self.json {
            println!("{}", serde_json::to_string(&detail)?);
        } else {
            print!("{}", page(&detail));
        }
        Ok(if is_well(&detail) {
            Outcome::Well
        } else {
            Outcome::Wrong
        })
    }
}

/// What is not programmed is well as it is.
fn is_well(detail: &ServiceDetail) -> bool {
    let mut frontends = detail.parts.iter().flat_map(|part| &part.frontends);
    detail.row.not_programmed.is_some()
        || (detail.row.ready > 0 && frontends.all(|frontend| frontend.taken_by.is_none()))
}

fn list_row(cells: [&str; 6]) -> String {
    let [namespace, name, kind, addresses, ports, endpoints] = cells;
    let text =
        format!("{namespace:<16} {name:<24} {kind:<13} {addresses:<26} {endpoints:<11} {ports}");
    text.trim_end().to_owned()
}

fn list_head() -> String {
    list_row(["NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "PORTS", "READY"])
}

fn list_line(row: &ServiceRow) -> String {
    let addresses: Vec<String> = row.cluster_ips.iter().map(ToString::to_string).collect();
    let addresses = match &row.not_programmed {
        Some(why) => format!("({why})"),
        None => addresses.join(","),
    };
    list_row([
        &row.namespace,
        &row.name,
        &word(&row.kind),
        &addresses,
        &row.ports.join(","),
        &format!("{}/{}", row.ready, row.total),
    ])
}

/// A Service as people read it.
fn page(detail: &ServiceDetail) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let row = &detail.row;
    let _ = writeln!(
        text,
        "service {}/{}: {}, {} of {} endpoints ready",
        row.namespace,
        row.name,
        word(&row.kind),
        row.ready,
        row.total
    );
    if let Some(why) = &row.not_programmed {
        let _ = writeln!(text, "not programmed: {why}");
    }
    let _ = writeln!(
        text,
        "traffic policy: {} inside, {} from outside",
        detail.internal_traffic_policy, detail.external_traffic_policy
    );
    if let Some(seconds) = detail.affinity_seconds {
        let _ = writeln!(text, "affinity: by client address, for {seconds} s");
    }
    if detail.least_connections {
        let _ = writeln!(
            text,
            "of two endpoints that with fewer connections is chosen"
        );
    }
    if detail.direct_return {
        let _ = writeln!(
            text,
            "endpoints shall answer clients outside by themselves: without effect so far"
        );
    }
    for part in &detail.parts {
        text.push_str(&part_page(part));
    }
    text
}

fn part_page(part: &ServicePort) -> String {
    let name = if part.port.is_empty() {
        "port"
    } else {
        &part.port
    };
    let mut head = format!("\n{name} ({}, {})", part.protocol, part.family);
    if part.maglev > 0 {
        let _ = write!(head, ", {} entries of Maglev for outside", part.maglev);
    }
    let mut lines = vec![head];
    for frontend in &part.frontends {
        lines.push(frontend_line(frontend));
    }
    let cells = [
        "  ENDPOINT",
        "STATE",
        "WEIGHT",
        "CONNS",
        "NODE",
        "ZONE",
        "POD",
    ];
    lines.push(backend_row(cells));
    for backend in &part.backends {
        lines.push(backend_line(backend));
    }
    if part.backends.is_empty() {
        lines.push("  none".to_owned());
    }
    lines.join("\n") + "\n"
}

fn frontend_line(frontend: &ServiceFrontend) -> String {
    let mut line = format!(
        "  {:<14} {}",
        word(&frontend.kind),
        at(frontend.address, frontend.first)
    );
    if frontend.last != frontend.first {
        let _ = write!(line, "-{}", frontend.last);
    }
    match &frontend.taken_by {
        Some(owner) => drop(write!(line, "   ({owner} has it, which is older)")),
        None if !frontend.programmed => line.push_str("   (not in the kernel)"),
        None => {}
    }
    line
}

fn backend_row(cells: [&str; 7]) -> String {
    let [endpoint, state, weight, connections, node, zone, pod] = cells;
    let text = format!(
        "{endpoint:<30} {state:<20} {weight:>6} {connections:>7} {node:<14} {zone:<12} {pod}"
    );
    text.trim_end().to_owned()
}

fn backend_line(backend: &ServiceBackend) -> String {
    let line = backend_row([
        &format!("  {}", at(backend.address, backend.port)),
        &backend.state,
        &backend.weight.to_string(),
        &backend.connections.to_string(),
        backend.node.as_deref().unwrap_or_default(),
        backend.zone.as_deref().unwrap_or_default(),
        backend.pod.as_deref().unwrap_or_default(),
    ]);
    match &backend.unused {
        Some(why) => format!("{line}\n      not used: {why}"),
        None => line,
    }
}

/// A type as the API calls it.
fn word(kind: &impl serde::Serialize) -> String {
    match serde_json::to_value(kind) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn at(address: IpAddr, port: u16) -> String {
    match (address, port) {
        (address, 0) => address.to_string(),
        (IpAddr::V4(v4), port) => format!("{v4}:{port}"),
        (IpAddr::V6(v6), port) => format!("[{v6}]:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail() -> ServiceDetail {
        let text = r#"{"schema":1,"namespace":"shop","name":"web","type":"NodePort",
            "clusterIps":["10.96.0.9"],"ports":["80:30080/tcp"],"ready":1,"total":2,
            "internalTrafficPolicy":"Cluster","externalTrafficPolicy":"Local","affinitySeconds":600,
            "leastConnections":false,"directReturn":false,"balancers":[{"port":"http","family":"IPv4",
            "protocol":"tcp","number":3,"maglev":251,"frontends":[
              {"address":"10.96.0.9","first":80,"last":80,"kind":"ClusterIP","programmed":true},
              {"address":"10.240.0.4","first":30080,"last":30080,"kind":"NodePort","programmed":false}],
            "backends":[
              {"address":"10.244.1.2","port":8080,"pod":"shop/web-1","node":"node1","zone":"a",
               "state":"ready","weight":1,"number":7,"connections":12},
              {"address":"10.244.2.2","port":8080,"node":"node2","state":"not ready","weight":1,
               "unused":"not ready","connections":0}]}]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn names_are_read() {
        assert_eq!(name("web").unwrap().to_string(), "default/web");
        assert_eq!(name("shop/web").unwrap().to_string(), "shop/web");
        for wrong in ["", "/", "a/", "/b", "a/b/c"] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_service_is_told_on_a_page() {
        let text = page(&detail());
        for line in [
            "service shop/web: NodePort, 1 of 2 endpoints ready",
            "traffic policy: Cluster inside, Local from outside",
            "affinity: by client address, for 600 s",
            "http (tcp, IPv4), 251 entries of Maglev for outside",
            "  NodePort       10.240.0.4:30080   (not in the kernel)",
            "      not used: not ready",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        let words = [
            "10.244.1.2:8080",
            "ready",
            "1",
            "12",
            "node1",
            "a",
            "shop/web-1",
        ];
        let mut lines = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        assert!(lines.any(|line| line == words), "{text}");
        assert!(is_well(&detail()));
    }

    #[test]
    fn a_service_without_endpoints_or_with_another_s_address_is_wrong() {
        let mut none = detail();
        none.row.ready = 0;
        assert!(!is_well(&none));
        none.row.not_programmed = Some("headless".to_owned());
        assert!(is_well(&none));
        let mut taken = detail();
        taken.parts[0].frontends[0].taken_by = Some("shop/old".to_owned());
        assert!(!is_well(&taken));
        assert!(page(&taken).contains("(shop/old has it, which is older)"));
    }
}
