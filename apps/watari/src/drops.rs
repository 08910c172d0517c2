//! `watari drops`: what a node dropped, and why.

use clap::builder::PossibleValuesParser;
use watari_abi::Reason;
use watari_agent::{Ask, Dropped, Drops, Examples, Names, monotonic};

use crate::Outcome;
use crate::place::Place;
use crate::status::span;

/// Show what a node dropped: by reason and by pod, with the last packet of each.
///
/// Needs no agent, but only an agent keeps examples.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// For this reason only.
    #[arg(long, value_parser = reasons())]
    reason: Option<String>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

fn reasons() -> PossibleValuesParser {
    let known = Reason::ALL.iter().map(|reason| reason.name());
    // As those are shown that only programs of another version know.
    PossibleValuesParser::new(known.chain(["unknown"]))
}

impl Args {
    /// Does it.
    pub fn run(self) -> anyhow::Result<Outcome> {
        self.place.enter()?;
        let answer = watari_agent::ask(&self.place.socket, Ask::Drops)?;
        let mut drops: Drops = if let Some(answer) = answer {
            answer.single()?
        } else {
            let names = Names::of_store(&self.place.data_dir);
            let dropped = watari_agent::pinned_drops(&self.place.bpf_root)?;
            Drops::new(&dropped, &Examples::default(), &names, monotonic())
        };
        if let Some(reason) = &self.reason {
            drops.totals.retain(|dropped| dropped.reason == *reason);
            drops.links.retain(|dropped| dropped.reason == *reason);
        }
        if self.json {
            println!("{}", serde_json::to_string(&drops)?);
        } else {
            print(&drops);
        }
        Ok(Outcome::Well)
    }
}

fn print(drops: &Drops) {
    if drops.totals.is_empty() {
        println!("nothing was dropped");
        return;
    }
    let head = ["REASON", "LINK", "POD", "AT", "PACKETS", "BYTES"];
    println!("{}", line(head));
    for total in &drops.totals {
        show(total);
        for link in drops
            .links
            .iter()
            .filter(|link| link.reason == total.reason)
        {
            show(link);
        }
    }
}

fn line(cells: [&str; 6]) -> String {
    let [reason, link, pod, at, packets, bytes] = cells;
    format!("{reason:<18} {link:<16} {pod:<30} {at:<12} {packets:>10} {bytes:>13}")
}

fn show(dropped: &Dropped) {
    let (packets, bytes) = (dropped.packets.to_string(), dropped.bytes.to_string());
    println!(
        "{}",
        line([
            &dropped.reason,
            dropped.link.as_deref().unwrap_or("all"),
            dropped.pod.as_deref().unwrap_or_default(),
            dropped.hook.as_deref().unwrap_or_default(),
            &packets,
            &bytes,
        ])
    );
    if let Some(example) = dropped.example.as_ref().filter(|_| dropped.link.is_some()) {
        let (ago, length) = (span(example.seconds_ago), example.length);
        println!("    {ago} ago, {length} bytes: {}", example.line);
    }
}
