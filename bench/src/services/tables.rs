//! The way of Services into a node's kernel: the compiler and the adapter, as the agent joins them.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};
use watari_bpf::PinDir;
use watari_bpf::balance::{Balancer, Balancing, NodeConfig, difference};
use watari_model::{EndpointSlice, Service};
use watari_services::{Compiler, Options};
use watari_tables::ServicesChange;

use super::world::World;

/// The name of the node.
const NODE: &str = "node1";
/// What the sources of connections are translated to.
const PORTS: (u16, u16) = (61_000, 65_535);

/// Both.
pub struct Tables {
    /// What is desired.
    pub compiler: Compiler,
    balancer: Balancer<PinDir>,
}

/// A snapshot of the API server, read.
pub struct Snapshot {
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
    cidr: &'static str,
}

impl Snapshot {
    /// Of a world.
    pub fn of(world: &World) -> Self {
        let all = 0..world.services;
        Self {
            services: all.clone().map(|at| world.service(at)).collect(),
            slices: all.flat_map(|at| world.slices(at)).collect(),
            cidr: world.cidr(),
        }
    }
}

/// When it is, in ns of `CLOCK_MONOTONIC`.
fn now() -> Result<u64> {
    nanoseconds(ClockId::CLOCK_MONOTONIC)
}

/// What this process has worked, and the kernel for it, in ms.
pub fn worked() -> Result<f64> {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
    let time = nanoseconds(ClockId::CLOCK_PROCESS_CPUTIME_ID)? as f64;
    Ok(time / 1e6)
}

fn nanoseconds(clock: ClockId) -> Result<u64> {
    let time = clock_gettime(clock).context("cannot read a clock")?;
    let part = u64::try_from(time.tv_nsec())?;
    Ok(u64::try_from(time.tv_sec())? * 1_000_000_000 + part)
}

impl Tables {
    /// Of a node with its datapath pinned below this directory and without any Service.
    pub fn open(root: &Path) -> Result<Self> {
        let options = Options {
            node: NODE.to_owned(),
            node_port_cidrs: vec![],
        };
        Ok(Self {
            compiler: Compiler::new(options),
            balancer: Balancer::open(&PinDir::current(root))?,
        })
    }

    /// The compiler takes a snapshot.
    pub fn take(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.compiler.set_cidrs([snapshot.cidr.parse()?].into());
        self.compiler.load(&snapshot.services, &snapshot.slices);
        Ok(())
    }

    /// What changed since this was last asked.
    pub fn compile(&mut self) -> Vec<ServicesChange> {
        self.compiler.changes()
    }

    /// The kernel gets what changed; how many entries were written.
    pub fn apply(&mut self) -> Result<u64> {
        let changes = self.compile();
        self.write(&changes)
    }

    /// The kernel gets these changes; how many entries were written.
    pub fn write(&mut self, changes: &[ServicesChange]) -> Result<u64> {
        let applied = self.balancer.apply(changes, now()?);
        if let Some((change, error)) = applied.failed.into_iter().next() {
            bail!("cannot make {change:?}: {error}");
        }
        Ok(applied.writes)
    }

    /// What is left to do some time after a change.
    pub fn tidy(&mut self) -> Result<()> {
        self.balancer.tidy(now()?)?;
        Ok(())
    }

    /// Packets are looked up among Services from now on.
    pub fn switch_on(&mut self, addresses: [std::net::IpAddr; 2]) -> Result<()> {
        let [v4, v6] = addresses.map(Some);
        let node = NodeConfig {
            services: true,
            v4,
            v6,
            ports: PORTS,
        };
        Ok(self.balancer.configure(&node)?)
    }

    /// The kernel holds what is desired, and nothing else.
    pub fn hold(&mut self) -> Result<()> {
        let observed = self.balancer.observe()?;
        let missing = difference(&observed, &self.compiler.tables());
        ensure!(
            missing.is_empty() && observed.strays.is_empty(),
            "the kernel differs in {} places from what is desired: {:?}; {:?}",
            missing.len(),
            missing.first(),
            observed.strays.first(),
        );
        Ok(())
    }
}
