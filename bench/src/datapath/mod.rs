//! The datapath beside the kernel's own road and beside the bare redirect.

mod agent;
mod bare;
mod memory;
mod nanos;
mod road;

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use watari_bpf::Attachment;
use watari_testbed::{Bulk, Congestion, Ends, bulk, connect_rate, request_rate};

use crate::row::{Pairs, Row};
use road::{Place, Road};

/// How much is measured.
#[derive(Clone, Copy)]
struct Sizes {
    /// Pairs of rounds of requests or connections.
    rounds: usize,
    /// How long each of them lasts.
    round: Duration,
    /// Pairs of rounds of bulk, and how long each lasts.
    bulk: (usize, Duration),
    /// Samples of a program's time.
    packets: usize,
    /// Pods of the agent's node, looks at it, and how long each lasts.
    agent: (usize, usize, Duration),
}

const FULL: Sizes = Sizes {
    rounds: 60,
    round: Duration::from_millis(150),
    bulk: (30, Duration::from_millis(500)),
    packets: 2000,
    // A whole number of the agent's surveys, which come every 30 s.
    agent: (100, 10, Duration::from_secs(6)),
};

const QUICK: Sizes = Sizes {
    rounds: 2,
    round: Duration::from_millis(20),
    bulk: (2, Duration::from_millis(60)),
    packets: 20,
    agent: (2, 2, Duration::from_millis(100)),
};

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Requests and connections.
    Rates,
    /// Bulk TCP.
    Bulk,
    /// Time and instructions of each program.
    Programs,
    /// Memory of the tables.
    Memory,
    /// Memory and time of an idle node's agent.
    Agent,
}

/// The rows of one part, or of all.
pub fn run(quick: bool, only: Option<Part>) -> Result<Vec<Row>> {
    let sizes = if quick { QUICK } else { FULL };
    let mut rows = Vec::new();
    for part in Part::value_variants() {
        if only.is_some_and(|only| only != *part) {
            continue;
        }
        let more = match part {
            Part::Rates => rates(sizes),
            Part::Bulk => bulks(sizes),
            Part::Programs => nanos::rows(sizes.packets),
            Part::Memory => memory::rows(),
            Part::Agent => agent::rows(sizes.agent.0, sizes.agent.1, sizes.agent.2),
        };
        rows.extend(more.with_context(|| format!("cannot measure the part {part:?}"))?);
        eprintln!("measured: {part:?}");
    }
    Ok(rows)
}

const KERNEL: &str = "kernel: routes, nf_conntrack with accounting, origin checks, nft counters";
const BARE: &str = "bare redirect: no table, no look at the packet";
const ROUTED: &str = "bare redirect that asks the kernel's routes: no table, no look at the packet";
/// What the datapath shall be faster than the bare redirect by, at least.
const OF_BARE: f64 = 0.93;
/// Where both ends of a conversation run.
const ONE_CPU: [Option<usize>; 2] = [Some(0), Some(0)];
/// Where the ends of bulk run.
const TWO_CPUS: [Option<usize>; 2] = [Some(0), Some(1)];

/// One value for each road, each road in turn, there and back: whatever drifts meets all alike.
fn rounds<V>(
    roads: &[Road],
    count: usize,
    mut measure: impl FnMut(&Road) -> Result<V>,
) -> Result<Vec<Vec<V>>> {
    let mut values: Vec<Vec<V>> = roads.iter().map(|_| Vec::new()).collect();
    for round in 0..count {
        let forth = 0..roads.len();
        let order: Vec<usize> = if round.is_multiple_of(2) {
            forth.collect()
        } else {
            forth.rev().collect()
        };
        for at in order {
            let value = measure(&roads[at]);
            values[at].push(value.with_context(|| format!("on the road {}", roads[at].name))?);
        }
    }
    Ok(values)
}

fn pairs(ours: &[f64], theirs: &[f64]) -> Pairs {
    Pairs {
        rounds: ours.iter().copied().zip(theirs.iter().copied()).collect(),
        calls: vec![],
    }
}

const PLACES: [Place; 2] = [Place::SameNode, Place::CrossNode];
const FAMILIES: [bool; 2] = [false, true];

/// `what[/family][/attachment]`.
fn case(place: Place, what: &str, v6: bool, attachment: &str) -> String {
    let family = if v6 { "/v6" } else { "" };
    format!("{}/{what}{family}{attachment}", place.name())
}

/// Measures a rate.
type Measure = fn(&Ends<'_>, Duration) -> Result<f64>;

fn rates(sizes: Sizes) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for place in PLACES {
        let mut roads = vec![
            Road::ours(place, Attachment::Tcx)?,
            Road::ours(place, Attachment::Clsact)?,
            Road::kernel(place)?,
        ];
        for v6 in FAMILIES {
            // It knows one family.
            roads.truncate(3);
            roads.push(Road::bare(place, v6)?);
            if place == Place::CrossNode {
                roads.push(Road::routed(v6)?);
            }
            for (what, measure) in [("rr", request_rate as Measure), ("crr", connect_rate)] {
                let values = rounds(&roads, sizes.rounds, |road| {
                    measure(&road.ends(v6, ONE_CPU), sizes.round)
                })?;
                rows.extend(rate_rows(place, what, v6, &values));
            }
        }
    }
    Ok(rows)
}

/// Of the values of the four roads, or five.
fn rate_rows(place: Place, what: &str, v6: bool, values: &[Vec<f64>]) -> Vec<Row> {
    let row = |case, ours: usize, peer, theirs: usize, goal| {
        let pairs = pairs(&values[ours], &values[theirs]);
        Row::more(case, "/s", peer, &pairs, goal)
    };
    let of = |peer: &str| case(place, &format!("{what}/of-{peer}"), v6, "");
    let (tcx, clsact) = (case(place, what, v6, ""), case(place, what, v6, "/clsact"));
    let mut rows = vec![
        row(tcx, 0, KERNEL, 2, Some(place.goal())),
        row(clsact, 1, KERNEL, 2, Some(place.goal())),
        row(of("bare"), 0, BARE, 3, Some(OF_BARE)),
    ];
    if values.len() > 4 {
        rows.push(row(of("routed"), 0, ROUTED, 4, None));
    }
    rows
}

fn bulks(sizes: Sizes) -> Result<Vec<Row>> {
    let (count, duration) = sizes.bulk;
    let mut rows = Vec::new();
    for place in PLACES {
        let roads = [Road::ours(place, Attachment::Tcx)?, Road::kernel(place)?];
        for v6 in FAMILIES {
            for (what, congestion) in [("bulk", Congestion::Cubic), ("bulk-bbr", Congestion::Bbr)] {
                let values = rounds(&roads, count, |road| {
                    bulk(&road.ends(v6, TWO_CPUS), congestion, duration)
                })?;
                rows.extend(bulk_rows(&case(place, what, v6, ""), what, &values));
            }
        }
    }
    Ok(rows)
}

/// Throughput and work of ours and of the kernel's.
fn bulk_rows(case: &str, what: &str, values: &[Vec<Bulk>]) -> [Row; 2] {
    let each = |of: fn(&Bulk) -> f64| {
        let of_road = |at: usize| values[at].iter().map(of).collect::<Vec<_>>();
        pairs(&of_road(0), &of_road(1))
    };
    let rate = each(|bulk| bulk.bytes_per_second * 8e-6);
    let work = each(|bulk| bulk.cpu_seconds_per_byte * 1024e9);
    let cpu = case.replace(what, &format!("{what}-cpu"));
    [
        Row::more(case.to_owned(), "Mbit/s", KERNEL, &rate, Some(1.0)),
        Row::less(cpu, "ns/KiB", KERNEL, &work, Some(1.0)),
    ]
}
