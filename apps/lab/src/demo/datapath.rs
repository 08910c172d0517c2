//! The part of the demonstration that shows the datapath, as `watari` itself shows it.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{PORT, Places, probe, title, verdict};
use crate::agent;
use crate::process::SELF;
use crate::state::OpenLab;

/// Lines of connections that are shown.
const LINES: usize = 6;
/// Past the stack.
const DIRECT: &str = "direct";

/// Shows how the first node stands and which connections its first pod has; true if those to other
/// pods took the direct road.
pub fn show(lab: &OpenLab, places: &Places, out: &mut impl Write) -> Result<bool> {
    let (node, pod) = (&places.nodes[0], &places.pods[0]);
    let named = lab.lab.node(&node.name).context("the first node")?;
    if !agent::is_running(lab, &named.name)? {
        return Ok(true);
    }
    title(
        out,
        "The datapath: programs at each pod's link, and the connections that they know",
    )?;
    let lab = lab.lab.name.as_str();
    let place = ["--lab", lab, "--node", &node.name];
    write!(out, "{}", tell(&["status"], &place)?)?;
    let near = places
        .pods
        .iter()
        .skip(1)
        .find(|other| other.node == pod.node);
    let far = places.pods.iter().find(|other| other.node != pod.node);
    let others = [
        near.context("a pod beside it")?,
        far.context("a pod elsewhere")?,
    ];
    for other in others {
        probe::ask(&pod.netns, other.address, PORT)?;
    }
    let only = ["flows", "--pod", &pod.name, "--port", &PORT.to_string()];
    let flows = tell(&only, &place)?;
    writeln!(out)?;
    for line in flows.lines().take(LINES) {
        writeln!(out, "{}", line.trim_end())?;
    }
    let rows = tell(&[&only[..], &["--json"]].concat(), &place)?;
    let mut well = true;
    for (other, what) in others.into_iter().zip(["on its node", "on another node"]) {
        let road = road(&rows, pod.address, other.address)?;
        let told = format!("{} to {} {what}: {road}", pod.name, other.name);
        well &= verdict(out, road == DIRECT, &told)?;
    }
    Ok(well)
}

/// Which road a connection between two pods takes: the direct one, if any of theirs does.
fn road(rows: &str, from: IpAddr, to: IpAddr) -> Result<String> {
    let is = |row: &Value, end: &str, address: IpAddr| row[end]["address"] == address.to_string();
    let mut roads = Vec::new();
    for row in rows.lines() {
        let row: Value = serde_json::from_str(row).context("read a line of watari flows")?;
        if is(&row, "source", from) && is(&row, "destination", to) {
            roads.push(row["road"].as_str().unwrap_or("not told").to_owned());
        }
    }
    let direct = roads.iter().position(|road| road == DIRECT);
    let told = roads.into_iter().nth(direct.unwrap_or(0));
    Ok(told.unwrap_or_else(|| "no connection is known".to_owned()))
}

/// What this program says when it is called so.
fn tell(words: &[&str], place: &[&str]) -> Result<String> {
    let mut command = Command::new(SELF);
    command.arg0("watari").args(words).args(place);
    let output = command
        .output()
        .with_context(|| format!("run watari {}", words.join(" ")))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("watari {}: {}", words.join(" "), errors.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
