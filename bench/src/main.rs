//! `watari-bench`: measures Watari beside its peers and beside what the kernel allows, in one run.
//!
//! docs/benchmarks.md says how it is done and how to read it.

mod cni;
mod datapath;
mod row;
mod stats;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::row::Row;

/// Measurements beside peers and floors.
#[derive(Debug, Parser)]
#[command(name = "watari-bench", version)]
struct Cli {
    /// Where the file of rows goes.
    #[arg(long, default_value = "target/bench", global = true)]
    out: PathBuf,
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The plugin: ADD and DEL, at once and many, size and memory.
    Cni {
        /// A few rounds of a few pods: shows that the benchmark works, not how fast anything is.
        #[arg(long)]
        quick: bool,
        /// Only this part of it; all when left out.
        #[arg(long)]
        only: Option<cni::Part>,
    },
    /// The datapath: requests, connections and bulk beside the kernel's own road, time and memory.
    Datapath {
        /// A few short rounds: shows that the benchmark works, not how fast anything is.
        #[arg(long)]
        quick: bool,
        /// Only this part of it; all when left out.
        #[arg(long)]
        only: Option<datapath::Part>,
    },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let (name, rows) = match cli.bench {
        Bench::Cni { quick, only } => ("cni", cni::run(quick, only)?),
        Bench::Datapath { quick, only } => ("datapath", datapath::run(quick, only)?),
    };
    print!("{}", row::table(&rows));
    write(&cli.out, name, &rows)
}

fn write(dir: &Path, name: &str, rows: &[Row]) -> Result<()> {
    let file = dir.join(format!("{name}.json"));
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let text = serde_json::to_string_pretty(rows)? + "\n";
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    println!("written: {}", file.display());
    Ok(())
}
