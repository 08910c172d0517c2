//! `watari agent`: the node daemon.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use watari_agent::Options;
use watari_model::IfName;

use crate::{Outcome, told};

/// Entries of a table of connections, at most: some GiB of memory.
const TABLE_MAX: i64 = 1 << 24;

/// Keep this node's pods, datapath and routes as they should be.
///
/// Prints `ready` once the datapath stands, and logs to standard error (`WATARI_LOG` filters, as
/// `debug` or `watari_agent=debug`). SIGTERM ends it; pods go on talking without it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// This node's name in the cluster [default: the host name].
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// A folder of manifests that tell of the cluster's nodes.
    #[arg(long, value_name = "DIR", default_value = "/run/watari/cluster")]
    cluster: PathBuf,
    /// A link by which packets for pods enter the node; may be repeated [default: those with the
    /// node's addresses, and those of the default routes].
    #[arg(long = "uplink", value_name = "LINK")]
    uplinks: Vec<IfName>,
    /// The directory of the node store.
    #[arg(long, value_name = "DIR", default_value = watari_store::DEFAULT_DIR)]
    data_dir: PathBuf,
    /// The directory of the agent's socket and lock.
    #[arg(long, value_name = "DIR", default_value = "/run/watari")]
    run_dir: PathBuf,
    /// Where the datapath is pinned, in a bpffs.
    #[arg(long, value_name = "DIR", default_value = watari_bpf::ROOT)]
    bpf_root: PathBuf,
    /// Seconds that a sandbox is missed before what it left is taken back.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    grace: u32,
    /// Entries of the table of established TCP and SCTP connections. Another size than that of the
    /// table there makes a new one, into which connections are brought over.
    #[arg(long, value_name = "N", default_value_t = watari_abi::maps::ESTABLISHED_MAX,
        value_parser = clap::value_parser!(u32).range(1..=TABLE_MAX))]
    established: u32,
    /// The same of the table of all other connections.
    #[arg(long, value_name = "N", default_value_t = watari_abi::maps::TRANSIENT_MAX,
        value_parser = clap::value_parser!(u32).range(1..=TABLE_MAX))]
    transient: u32,
    /// Send no event for a connection that comes or ends: `watari flows --follow` tells of drops
    /// alone.
    #[arg(long)]
    no_flow_events: bool,
    /// Leave the node as it was found: no programs, no tables, no routes of ours. Pods stay.
    #[arg(long)]
    remove: bool,
}

impl Args {
    /// Does it.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let filter = EnvFilter::try_from_env("WATARI_LOG").unwrap_or_else(|_| "info".into());
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .init();
        let remove = self.remove;
        let options = self.options()?;
        if remove {
            let left = watari_agent::remove(&options)?;
            for error in &left {
                eprintln!("watari: {}", told(error));
            }
            return Ok(if left.is_empty() {
                Outcome::Well
            } else {
                Outcome::Wrong
            });
        }
        // Whoever started it may read one line, and go.
        let say = |line: &str| {
            let mut out = std::io::stdout();
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        };
        let mut is_ready = false;
        let ended = watari_agent::run(&options, || {
            is_ready = true;
            say("ready");
        });
        if let (Err(error), false) = (&ended, is_ready) {
            say(&format!("failed {}", told(error).replace('\n', " ")));
        }
        ended.map(|()| Outcome::Well)
    }

    fn options(self) -> anyhow::Result<Options> {
        let node = match self.node {
            Some(node) => node,
            None => nix::unistd::gethostname()
                .context("read the host name")?
                .into_string()
                .ok()
                .context("the host name is not UTF-8: name the node with --node")?,
        };
        Ok(Options {
            cluster: self.cluster,
            uplinks: self.uplinks,
            data_dir: self.data_dir,
            run_dir: self.run_dir,
            bpf_root: self.bpf_root,
            grace: Duration::from_secs(self.grace.into()),
            established: self.established,
            transient: self.transient,
            flow_events: !self.no_flow_events,
            ..Options::new(&node)
        })
    }
}
