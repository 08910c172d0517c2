//! The datapath beside the kernel's own road and beside the bare redirect.

mod bare;
mod road;

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use watari_testbed::{Bulk, Ends, bulk, connect_rate, request_rate};

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
}

const FULL: Sizes = Sizes {
    rounds: 60,
    round: Duration::from_millis(150),
    bulk: (30, Duration::from_millis(500)),
};

const QUICK: Sizes = Sizes {
    rounds: 2,
    round: Duration::from_millis(20),
    bulk: (2, Duration::from_millis(60)),
};

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Requests and connections.
    Rates,
    /// Bulk TCP.
    Bulk,
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
        };
        rows.extend(more.with_context(|| format!("cannot measure the part {part:?}"))?);
        eprintln!("measured: {part:?}");
    }
    Ok(rows)
}

/// A road with the name that its rows have.
struct Named {
    road: Road,
    /// Ours: the attachment as the case says it; a peer's: its description.
    name: &'static str,
}

const KERNEL: &str = "kernel: routes, nf_conntrack with accounting, origin checks, nft counters";
const BARE: &str = "bare redirect: no table, no look at the packet";

/// One value for each road, each road in turn, there and back: whatever drifts meets all alike.
fn rounds<V>(
    roads: &[Named],
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
            let value = measure(&roads[at].road);
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

/// Where both ends of a conversation run.
const ONE_CPU: [Option<usize>; 2] = [Some(0), Some(0)];
/// Where the ends of bulk run.
const TWO_CPUS: [Option<usize>; 2] = [Some(0), Some(1)];

fn family(v6: bool) -> &'static str {
    if v6 { "/v6" } else { "" }
}

fn roads(place: Place, v6: bool) -> Result<Vec<Named>> {
    let kernel = Road::kernel(place)?;
    let bare = Road::bare(place, v6)?;
    Ok(vec![
        Named {
            road: bare,
            name: BARE,
        },
        Named {
            road: kernel,
            name: KERNEL,
        },
    ])
}

type Measure = fn(&Ends<'_>, Duration) -> Result<f64>;

fn rates(sizes: Sizes) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (place, v6) in everywhere() {
        let roads = roads(place, v6)?;
        for (what, measure) in [("rr", request_rate as Measure), ("crr", connect_rate)] {
            let values = rounds(&roads, sizes.rounds, |road| {
                measure(&road.ends(v6, ONE_CPU), sizes.round)
            })?;
            let case = format!("{}/{what}{}", place.name(), family(v6));
            let pairs = pairs(&values[0], &values[1]);
            rows.push(Row::more(case, "/s", KERNEL, &pairs, None));
        }
    }
    Ok(rows)
}

fn bulks(sizes: Sizes) -> Result<Vec<Row>> {
    let (count, duration) = sizes.bulk;
    let mut rows = Vec::new();
    for (place, v6) in everywhere() {
        let roads = roads(place, v6)?;
        let values: Vec<Vec<Bulk>> = rounds(&roads, count, |road| {
            bulk(&road.ends(v6, TWO_CPUS), duration)
        })?;
        let rate = |at: usize| -> Vec<f64> {
            values[at]
                .iter()
                .map(|bulk| bulk.bytes_per_second * 8e-6)
                .collect()
        };
        let work = |at: usize| -> Vec<f64> {
            values[at]
                .iter()
                .map(|bulk| bulk.cpu_seconds_per_byte * 1024e9)
                .collect()
        };
        let case = |what| format!("{}/{what}{}", place.name(), family(v6));
        let (rates, works) = (pairs(&rate(0), &rate(1)), pairs(&work(0), &work(1)));
        rows.push(Row::more(case("bulk"), "Mbit/s", KERNEL, &rates, Some(1.0)));
        rows.push(Row::less(
            case("bulk-cpu"),
            "ns/KiB",
            KERNEL,
            &works,
            Some(1.0),
        ));
    }
    Ok(rows)
}

fn everywhere() -> impl Iterator<Item = (Place, bool)> {
    [Place::SameNode, Place::CrossNode]
        .into_iter()
        .flat_map(|place| [(place, false), (place, true)])
}
