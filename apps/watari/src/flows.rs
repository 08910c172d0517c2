//! `watari flows`: the connections of a node.

use std::net::IpAddr;

use clap::ValueEnum;
use watari_agent::{Ask, End, Filter, Names, Row};

use crate::Outcome;
use crate::place::Place;
use crate::status::span;

/// Show the connections of a node, and follow them.
///
/// Needs no agent, but only an agent knows the cluster's nodes and tells what happens.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Go on: what comes, what ends, what is refused.
    #[arg(short, long)]
    follow: bool,
    /// Of this pod.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pod: Option<String>,
    /// Of this address, on either side.
    #[arg(long)]
    address: Option<IpAddr>,
    /// Of this port, on either side.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Of this protocol: tcp, udp, icmp, … or a number.
    #[arg(long)]
    protocol: Option<String>,
    /// So judged.
    #[arg(long)]
    verdict: Option<Verdict>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Verdict {
    Allowed,
    Denied,
    Dropped,
}

impl Args {
    /// Does it.
    pub fn run(self) -> anyhow::Result<Outcome> {
        self.place.enter()?;
        let pod = self.pod.as_ref().map(|pod| {
            let namespace = if pod.contains('/') { "" } else { "default/" };
            format!("{namespace}{pod}")
        });
        let verdict = self.verdict.map(|verdict| match verdict {
            Verdict::Allowed => "allowed".to_owned(),
            Verdict::Denied => "denied".to_owned(),
            Verdict::Dropped => "dropped".to_owned(),
        });
        let filter = Filter {
            pod,
            address: self.address,
            port: self.port,
            protocol: self.protocol.clone(),
            verdict,
        };
        if !self.json {
            println!("{}", head());
        }
        let follow = self.follow;
        let ask = Ask::Flows {
            filter: filter.clone(),
            follow,
        };
        let Some(mut answer) = watari_agent::ask(&self.place.socket, ask)? else {
            return self.alone(&filter);
        };
        while let Some(line) = answer.line()? {
            if self.json {
                println!("{line}");
            } else {
                match serde_json::from_str::<Row>(&line) {
                    Ok(row) => println!("{}", show(&row)),
                    // As `{"event":"lost",…}`.
                    Err(_) => println!("{line}"),
                }
            }
        }
        Ok(Outcome::Well)
    }

    /// Without an agent: what stands in the tables now.
    fn alone(&self, filter: &Filter) -> anyhow::Result<Outcome> {
        if self.follow {
            anyhow::bail!(
                "no agent listens at {}, and only an agent can be followed",
                self.place.socket.display()
            );
        }
        let names = Names::of_store(&self.place.data_dir);
        watari_agent::pinned_flows(&self.place.bpf_root, &names, filter, &mut |row| {
            if self.json {
                println!("{}", serde_json::to_string(row)?);
            } else {
                println!("{}", show(row));
            }
            Ok(())
        })?;
        Ok(Outcome::Well)
    }
}

fn line(cells: [&str; 9]) -> String {
    let [
        event,
        protocol,
        source,
        destination,
        state,
        road,
        packets,
        bytes,
        age,
    ] = cells;
    let text = format!(
        "{event:<8} {protocol:<7} {source:<42} {destination:<42} {state:<16} {road:<7} \
         {packets:>11} {bytes:>15} {age}"
    );
    text.trim_end().to_owned()
}

fn head() -> String {
    line([
        "EVENT", "PROTO", "FROM", "TO", "STATE", "ROAD", "PACKETS", "BYTES", "SEEN",
    ])
}

fn show(row: &Row) -> String {
    let pair = |one: u64, other: u64| format!("{one}/{other}");
    let last = [row.original.last_seconds_ago, row.reply.last_seconds_ago];
    let last = last.into_iter().flatten().fold(f64::INFINITY, f64::min);
    let seen = if last.is_finite() {
        span(last)
    } else {
        String::new()
    };
    line([
        &row.event,
        &row.protocol,
        &end(&row.source),
        &end(&row.destination),
        &row.state,
        &row.road,
        &pair(row.original.packets, row.reply.packets),
        &pair(row.original.bytes, row.reply.bytes),
        &seen,
    ])
}

/// The pod where it is known, else the address; of an address the node that it is of.
fn end(end: &End) -> String {
    let at = match (end.address, end.port) {
        (address, 0) => address.to_string(),
        (IpAddr::V4(v4), port) => format!("{v4}:{port}"),
        (IpAddr::V6(v6), port) => format!("[{v6}]:{port}"),
    };
    match (&end.who.pod, &end.who.node) {
        (Some(pod), _) => format!("{at} {pod}"),
        (None, Some(node)) => format!("{at} on {node}"),
        (None, None) => at,
    }
}
