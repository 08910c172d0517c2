//! Services by our datapath beside going straight to the backend, and beside kube-proxy's rules.

mod agent;
mod cgroup;
mod change;
mod driver;
mod nanos;
mod peers;
mod program;
mod rates;
mod roads;
mod sockets;
mod tables;
mod traffic;
mod world;

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;

use crate::row::{Pairs, Row};

/// How much is measured.
#[derive(Clone, Copy)]
struct Sizes {
    /// Numbers of Services, and which of them stands where only one is measured.
    services: (&'static [u32], u32),
    /// Rounds of requests or connections.
    rounds: usize,
    /// How long each of them lasts.
    round: Duration,
    /// Samples of a program's time.
    packets: usize,
    /// Services that are programmed at once, endpoints of each, and how often.
    program: (u32, u32, usize),
    /// Services among which an endpoint changes, endpoints of each, and how often.
    change: (u32, u32, usize),
    /// How often one of kube-proxy's changes.
    their_changes: usize,
}

const FULL: Sizes = Sizes {
    services: (&[10, 1000, 10_000, 50_000], 10_000),
    rounds: 60,
    round: Duration::from_millis(150),
    packets: 2000,
    program: (10_000, 10, 5),
    change: (50_000, 4, 1000),
    their_changes: 5,
};

const QUICK: Sizes = Sizes {
    services: (&[10, 100], 100),
    rounds: 2,
    round: Duration::from_millis(20),
    packets: 20,
    program: (100, 10, 2),
    change: (100, 4, 20),
    their_changes: 2,
};

/// Endpoints of each Service where packets are measured.
const ENDPOINTS: u32 = 2;

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Connections and requests.
    Rates,
    /// Time of `connect()`, and of each program.
    Programs,
    /// From a snapshot to the kernel.
    Program,
    /// One endpoint changes.
    Change,
    /// Packets a second at the driver.
    Driver,
    /// Memory of the agent.
    Memory,
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
            Part::Rates => rates::rows(sizes),
            Part::Programs => nanos::rows(sizes),
            Part::Program => program::rows(sizes),
            Part::Change => change::rows(sizes),
            Part::Driver => driver::rows(sizes),
            Part::Memory => agent::rows(sizes),
        };
        rows.extend(more.with_context(|| format!("cannot measure the part {part:?}"))?);
        eprintln!("measured: {part:?}");
    }
    Ok(rows)
}

fn pairs(ours: &[f64], theirs: &[f64]) -> Pairs {
    Pairs {
        rounds: ours.iter().copied().zip(theirs.iter().copied()).collect(),
        calls: vec![],
    }
}
