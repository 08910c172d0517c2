//! The nodes' load balancing: from model objects to their tables.

use anyhow::{Result, ensure};
use nix::time::{ClockId, clock_gettime};
use watari_bpf::PinDir;
use watari_bpf::balance::{Balancer, Balancing as _, Departed, NodeConfig};
use watari_services::{Compiler, Options};
use watari_tables::BalancerName;

use crate::bed::Node;
use crate::cluster::SOURCE_PORTS;
use crate::said::{Said, cluster_node};

/// A compiler and the tables of each node.
#[derive(Default)]
pub struct Balancers(Vec<Balanced>);

struct Balanced {
    compiler: Compiler,
    balancer: Balancer<PinDir>,
    /// Those that left and drained when they were last asked about.
    draining: Vec<Left>,
}

/// A backend that a node gives to nobody any more.
#[derive(Debug, Clone)]
pub struct Left {
    /// The index of the node.
    pub node: usize,
    /// Of which balancer, if that is known yet.
    pub name: Option<BalancerName>,
    /// Which one.
    pub departed: Departed,
    /// It drains: it is an endpoint yet.
    pub drains: bool,
}

impl Balancers {
    /// A further node, whose tables are pinned there.
    pub(crate) fn add(&mut self, node: &Node, dir: &PinDir) -> Result<()> {
        let mut balancer = Balancer::open(dir)?;
        balancer.configure(&NodeConfig {
            services: true,
            v4: Some(node.v4().into()),
            v6: Some(node.v6().into()),
            ports: SOURCE_PORTS,
        })?;
        let own = cluster_node(node, None);
        let mut compiler = Compiler::new(Options {
            node: own.name.clone(),
            ..Options::default()
        });
        compiler.set_node(&own);
        self.0.push(Balanced {
            compiler,
            balancer,
            draining: Vec::new(),
        });
        Ok(())
    }

    /// Takes up what a node's tables hold, as a restarted agent does.
    pub(crate) fn reopen(&mut self, node: usize, dir: &PinDir) -> Result<()> {
        let mut balancer = Balancer::open(dir)?;
        let observed = balancer.observe()?;
        ensure!(observed.strays.is_empty(), "strays: {:?}", observed.strays);
        self.0[node].balancer = balancer;
        Ok(())
    }

    /// Tells every node's compiler something, and makes what comes of it. Gives who left.
    ///
    /// # Panics
    /// When a node cannot make it.
    pub fn tell(&mut self, say: impl Fn(usize, &mut Compiler)) -> Vec<Left> {
        let mut left = Vec::new();
        for (number, node) in self.0.iter_mut().enumerate() {
            say(number, &mut node.compiler);
            let changes = node.compiler.changes();
            let applied = node.balancer.apply(&changes, now());
            if let Some((change, error)) = applied.failed.first() {
                panic!("node {number} cannot make {change:?}: {error}");
            }
            let names = node.balancer.names();
            left.extend(applied.departed.into_iter().map(|departed| {
                let name = names.get(&departed.service).cloned();
                let known = name
                    .as_ref()
                    .and_then(|name| node.compiler.knows(name, departed.at));
                Left {
                    node: number,
                    name,
                    departed,
                    drains: known.is_some_and(|known| known.terminating && known.serving),
                }
            }));
            left.append(&mut node.drained());
            let draining = left
                .iter()
                .filter(|left| left.node == number && left.drains);
            node.draining.extend(draining.cloned());
        }
        left
    }

    /// There is this Service.
    pub fn say(&mut self, said: &Said) -> Vec<Left> {
        let slices = said.slices();
        self.tell(|_, compiler| {
            compiler.set_service(&said.service);
            for slice in &slices {
                compiler.set_slice(slice);
            }
        })
    }

    /// There is no such Service any more.
    pub fn forget(&mut self, said: &Said) -> Vec<Left> {
        let slices = said.slices();
        self.tell(|_, compiler| {
            compiler.remove_service(&said.service.name);
            for slice in &slices {
                compiler.remove_slice(&slice.name);
            }
        })
    }
}

impl Balanced {
    /// Those that drained, and are no endpoints any more: they leave once more, for good.
    fn drained(&mut self) -> Vec<Left> {
        let mut gone = Vec::new();
        for left in std::mem::take(&mut self.draining) {
            let name = left.name.as_ref();
            let known = name.and_then(|name| self.compiler.knows(name, left.departed.at));
            match known {
                Some(known) if known.terminating && known.serving => self.draining.push(left),
                // It takes connections again.
                Some(known) if known.ready => {}
                _ => gone.push(Left {
                    drains: false,
                    ..left
                }),
            }
        }
        gone
    }
}

/// Now, as the programs know it: ns of `CLOCK_MONOTONIC`.
///
/// # Panics
/// Never: every kernel has that clock.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the kernel has a clock");
    let (seconds, nanoseconds) = (time.tv_sec(), time.tv_nsec());
    u64::try_from(seconds).unwrap_or(0) * 1_000_000_000 + u64::try_from(nanoseconds).unwrap_or(0)
}
