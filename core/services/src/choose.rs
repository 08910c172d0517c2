use std::fmt;

use crate::names::{Names, Symbol, among};
use crate::slices::{Candidate, Endpoint};

/// Where this node stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Here {
    pub node: Symbol,
    pub zone: Symbol,
}

/// Why an endpoint is not among the backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unused {
    /// Neither ready, nor serving while it ends.
    NotReady,
    /// It ends, and serves no more.
    Terminating,
    /// It ends, and others are ready.
    Draining,
    /// It is elsewhere, and the traffic policy is `Local`.
    OtherNode,
    /// Hints give it to other nodes.
    HintedToOtherNodes,
    /// Hints give it to other zones.
    HintedToOtherZones,
}

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReady => "not ready",
            Self::Terminating => "terminating, not serving",
            Self::Draining => "terminating, others are ready",
            Self::OtherNode => "on another node (policy Local)",
            Self::HintedToOtherNodes => "hinted to other nodes",
            Self::HintedToOtherZones => "hinted to other zones",
        })
    }
}

/// Who of a Service's endpoints is used from this node: `CategorizeEndpoints` of upstream's
/// `pkg/proxy/topology.go`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    hints: Hints,
    /// Somebody of all is ready.
    ready: bool,
    /// Somebody of this node is.
    ready_here: bool,
    /// Somebody of all is usable, if only while it ends: without one, nothing is dropped for policy.
    pub usable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hints {
    Ignored,
    Zones,
    Nodes,
}

impl Rules {
    pub fn of(candidates: &[Candidate<'_>], here: Here, names: &Names) -> Self {
        let ready = || candidates.iter().map(|c| c.endpoint).filter(|e| e.ready());
        let node = Hinted::of(ready().map(|e| e.for_nodes), here.node, names);
        let zone = Hinted::of(ready().map(|e| e.for_zones), here.zone, names);
        let hints = if node.hold() {
            Hints::Nodes
        } else if zone.hold() {
            Hints::Zones
        } else {
            Hints::Ignored
        };
        let any_ready = ready().next().is_some();
        Self {
            hints,
            ready: any_ready,
            ready_here: ready().any(|e| local(e, here)),
            usable: any_ready || candidates.iter().any(|c| c.endpoint.draining()),
        }
    }

    /// Whether it is used where no policy holds.
    pub fn cluster(self, endpoint: &Endpoint, here: Here, names: &Names) -> Result<(), Unused> {
        state(endpoint, self.ready)?;
        let given = |hint, to| hint == to || among(names.text(hint), names.text(to));
        if !self.ready || self.hints == Hints::Ignored {
            return Ok(());
        }
        if self.hints == Hints::Nodes {
            let ours = given(endpoint.for_nodes, here.node);
            return ours.then_some(()).ok_or(Unused::HintedToOtherNodes);
        }
        let ours = given(endpoint.for_zones, here.zone);
        ours.then_some(()).ok_or(Unused::HintedToOtherZones)
    }

    /// Whether it is used where the policy is `Local`: hints mean nothing then.
    pub fn local(self, endpoint: &Endpoint, here: Here) -> Result<(), Unused> {
        if !local(endpoint, here) {
            return Err(Unused::OtherNode);
        }
        state(endpoint, self.ready_here)
    }
}

/// Whether an endpoint is on this node.
pub(crate) fn local(endpoint: &Endpoint, here: Here) -> bool {
    here.node != Symbol::NONE && endpoint.node == here.node
}

fn state(endpoint: &Endpoint, others_ready: bool) -> Result<(), Unused> {
    match (endpoint.ready(), endpoint.draining()) {
        (false, true) if others_ready => Err(Unused::Draining),
        (true, _) | (_, true) => Ok(()),
        (false, false) if endpoint.terminating() => Err(Unused::Terminating),
        (false, false) => Err(Unused::NotReady),
    }
}

/// What the hints of all ready endpoints say together.
struct Hinted {
    all: bool,
    somebody_here: bool,
}

impl Hinted {
    fn of(hints: impl Iterator<Item = Symbol>, here: Symbol, names: &Names) -> Self {
        let mut found = Self {
            all: true,
            somebody_here: false,
        };
        for hint in hints {
            if hint == Symbol::NONE {
                found.all = false;
                return found;
            }
            let ours = hint == here || among(names.text(hint), names.text(here));
            found.somebody_here |= ours;
        }
        found
    }

    fn hold(&self) -> bool {
        self.all && self.somebody_here
    }
}
