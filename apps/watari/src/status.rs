//! `watari status`: how a node stands.

use anyhow::Context as _;
use watari_agent::{Ask, Kept, Status};

use crate::Outcome;
use crate::place::Place;

/// Show how a node stands: is all that is desired there, what was repaired, what is missing.
///
/// Exit status: 0 healthy, 1 not, 2 no agent answers.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// One JSON object instead of a page.
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Does it.
    pub fn run(self) -> anyhow::Result<Outcome> {
        self.place.enter()?;
        let socket = &self.place.socket;
        let answer = watari_agent::ask(socket, Ask::Status)?.with_context(|| {
            format!(
                "no agent listens at {}: start it with `watari agent`; pods go on talking without",
                socket.display()
            )
        })?;
        let status: Status = answer.single()?;
        if self.json {
            println!("{}", serde_json::to_string(&status)?);
        } else {
            print(&status);
        }
        Ok(if status.healthy {
            Outcome::Well
        } else {
            Outcome::Wrong
        })
    }
}

fn print(status: &Status) {
    let health = if status.healthy {
        "healthy"
    } else {
        "not as it should be"
    };
    println!("node {}: {health}", status.node);
    println!(
        "agent    {} (process {}, up {})",
        status.version,
        status.pid,
        span(status.up_seconds)
    );
    let words = status
        .datapath
        .iter()
        .map(|(key, value)| format!("{key} {value}"));
    println!("datapath {}", words.collect::<Vec<_>>().join(", "));
    println!("uplinks  {}", status.uplinks.join(", "));
    let nodes = status
        .nodes
        .map_or("unknown".to_owned(), |nodes| nodes.to_string());
    println!(
        "tables   {} addresses of pods here, {} ranges of pods elsewhere, {nodes} nodes",
        status.endpoints, status.remotes
    );
    let done = status
        .kept
        .iter()
        .filter(|kept| kept.state == "done")
        .count();
    println!("kept     {done} of {} as they should be", status.kept.len());
    for kept in status.kept.iter().filter(|kept| kept.state != "done") {
        println!(
            "  {}: {}",
            name(kept),
            kept.error.as_deref().unwrap_or(&kept.state)
        );
    }
    println!(
        "repairs  {}; sandboxes: {} missed, {} taken back",
        status.repairs, status.missed, status.reclaimed
    );
    for repair in status.last_repairs.iter().rev().take(10) {
        println!("  {}: {}", repair.of, repair.what);
    }
    print_notes(status);
}

fn print_notes(status: &Status) {
    for note in &status.notes {
        println!("note     {note}");
    }
    for missing in &status.missing {
        println!("missing  {}: {}", missing.feature, missing.consequence);
    }
    println!("counters");
    for (name, count) in status
        .counters
        .iter()
        .filter(|(_, count)| count.packets > 0)
    {
        println!(
            "  {name:<20} {:>12} packets {:>15} bytes",
            count.packets, count.bytes
        );
    }
}

fn name(kept: &Kept) -> String {
    match &kept.pod {
        Some(pod) => format!("{pod} ({})", kept.what),
        None => kept.what.clone(),
    }
}

/// Seconds, as people say them.
pub fn span(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.1}s"),
        s if s < 7200.0 => format!("{:.0}m", s / 60.0),
        s if s < 172_800.0 => format!("{:.0}h", s / 3600.0),
        s => format!("{:.0}d", s / 86400.0),
    }
}
