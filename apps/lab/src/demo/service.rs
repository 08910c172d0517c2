//! The part of the demonstration that shows a Service.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use watari_manifests::Object;
use watari_netlink::Netns;

use super::datapath::tell;
use super::{PODS, PORT, Places, netns, probe, title, verdict};
use crate::agent;
use crate::control;
use crate::enter::Target;
use crate::state::OpenLab;

/// The Service of the demonstration.
const NAME: &str = "web";
/// Questions to each address.
const QUESTIONS: usize = 24;
/// How long an agent may take to hear of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Lines of connections that are shown.
const LINES: usize = 4;

/// Applies the Service, shows it as a node has it, and asks it from a pod, a node and outside; true if each was
/// answered by every pod behind it.
pub fn show(lab: &OpenLab, places: &Places, out: &mut impl Write) -> Result<bool> {
    let node = &places.nodes[0];
    let named = lab.lab.node(&node.name).context("the first node")?;
    if !agent::is_running(lab, &named.name)? {
        return Ok(true);
    }
    title(out, "A Service, without kube-proxy")?;
    apply(lab)?;
    let place = ["--lab", lab.lab.name.as_str(), "--node", &node.name];
    for other in &places.nodes {
        let place = ["--lab", lab.lab.name.as_str(), "--node", &other.name];
        wait_for_endpoints(&place, places.pods.len())?;
    }
    writeln!(out, "{}", tell(&["service", NAME], &place)?.trim_end())?;
    writeln!(out)?;
    let (cluster, port) = addresses(lab)?;
    let outside = netns(lab, &Target::Outside)?;
    let pod = &places.pods[0];
    let mut well = true;
    for (who, from, address, port) in [
        (pod.name.as_str(), &pod.netns, cluster, PORT),
        (node.name.as_str(), &node.netns, cluster, PORT),
        ("a host outside", &outside, node.address, port),
    ] {
        well &= ask(out, (who, from), (address, port), places.pods.len())?;
    }
    let only = ["flows", "--service", NAME, "--pod", &pod.name];
    let flows = tell(&only, &place)?;
    writeln!(out)?;
    for line in flows.lines().take(LINES) {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(well)
}

fn apply(lab: &OpenLab) -> Result<()> {
    let found =
        watari_manifests::parse_whole(Path::new("examples/demo/pods.yaml"), PODS.as_bytes());
    let is_service = |object: &Object| matches!(object, Object::Service(_));
    let services = found.objects.iter().filter(|one| is_service(&one.object));
    for change in control::apply_services(lab, &services.collect::<Vec<_>>())? {
        change.context("apply the Service")?;
    }
    control::publish(lab)
}

/// Its cluster address and its port of each node.
fn addresses(lab: &OpenLab) -> Result<(IpAddr, u16)> {
    let all = control::published(lab)?;
    let mut services = all.services();
    let found = services.find(|one| &*one.name.name == NAME);
    let found = found.context("the Service")?;
    let cluster = found.cluster_ips.first().context("a cluster address")?;
    let port = found.ports.first().and_then(|port| port.node_port);
    Ok((*cluster, port.context("a node port")?))
}

fn wait_for_endpoints(place: &[&str], count: usize) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        // The agent does not know it before it has heard of it.
        let ready = tell(&["service", NAME, "--json"], place).and_then(|text| {
            let told: Value = serde_json::from_str(&text)?;
            Ok(told["ready"].as_u64())
        });
        match ready {
            Ok(ready) if ready == u64::try_from(count).ok() => return Ok(()),
            Ok(_) | Err(_) if Instant::now() < end => sleep(Duration::from_millis(20)),
            Ok(ready) => bail!("{} has {ready:?} of {count} endpoints", place[3]),
            Err(error) => return Err(error),
        }
    }
}

/// Asks many times: each must be answered. Tells how many pods answered.
fn ask(
    out: &mut impl Write,
    (who, from): (&str, &Netns),
    (address, port): (IpAddr, u16),
    pods: usize,
) -> Result<bool> {
    let mut names = BTreeSet::new();
    for _ in 0..QUESTIONS {
        names.insert(probe::ask(from, address, port)?.name);
    }
    let answered = names.len();
    let told = format!(
        "{who} asked {address}:{port}: {QUESTIONS} of {QUESTIONS} answered, by {answered} of {pods} pods"
    );
    // Each by chance: that only one answers is one in 10^18.
    verdict(out, answered > 1, &told)
}
