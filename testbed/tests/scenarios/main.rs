//! The datapath under real traffic, in namespaces, by both kinds of attachment and both families
//! of addresses. The pods' kernel routes are blackholed wherever the kernel has no part in what
//! is tested, so that a broken fast path cannot hide behind them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod floods;
mod odd;
mod ports;
mod traffic;

use watari_abi::{Counter, Reason};
use watari_bpf::Attachment;
use watari_testbed::echo::EchoServer;
use watari_testbed::{Bed, Between, Datapaths, Layout, Loading, Pod};

/// The kinds of attachment.
pub(crate) const BOTH: [Attachment; 2] = [Attachment::Tcx, Attachment::Clsact];
/// IPv4, IPv6.
pub(crate) const FAMILIES: [bool; 2] = [false, true];

/// Two pods on one node.
pub(crate) const SAME_NODE: Layout = Layout {
    nodes: 1,
    pods: 2,
    mtu: 1500,
    between: Between::Wire,
};
/// A pod on each of two nodes.
pub(crate) const CROSS_NODE: Layout = Layout {
    nodes: 2,
    pods: 1,
    ..SAME_NODE
};
/// The same with somebody outside between them.
pub(crate) const ROUTED: Layout = Layout {
    between: Between::Router { mtu: 1500 },
    ..CROSS_NODE
};

/// A bed with its datapath.
pub(crate) struct Stage {
    /// The nodes.
    pub(crate) bed: Bed,
    /// What is loaded on them.
    pub(crate) datapaths: Datapaths,
}

impl Stage {
    /// No packet between pods goes by the kernel's routes.
    pub(crate) fn blackholed(layout: Layout, loading: impl Into<Loading>) -> Self {
        let stage = Self::routed(layout, loading);
        stage.bed.blackhole();
        stage
    }

    /// The kernel's routes are there too.
    pub(crate) fn routed(layout: Layout, loading: impl Into<Loading>) -> Self {
        let bed = Bed::new(layout).unwrap();
        let datapaths = Datapaths::load(&bed, loading.into()).unwrap();
        Self { bed, datapaths }
    }

    /// The first pod of the first node.
    pub(crate) fn client(&self) -> &Pod {
        self.bed.pod(0, 0)
    }

    /// The last pod of the last node.
    pub(crate) fn server(&self) -> &Pod {
        self.bed.nodes.last().unwrap().pods.last().unwrap()
    }

    /// An echo server in the server.
    pub(crate) fn echo(&self, v6: bool) -> EchoServer {
        let server = self.server();
        EchoServer::start(&server.netns, server.address(v6), 0).unwrap()
    }

    /// Packets that a node has counted so far.
    pub(crate) fn count(&mut self, node: usize, counter: Counter) -> u64 {
        let tally = self.datapaths.counter(&self.bed, node, counter);
        tally.unwrap().packets
    }

    /// Packets dropped so far, of all links and of one.
    pub(crate) fn dropped(&mut self, node: usize, reason: Reason, link: &str) -> (u64, u64) {
        self.datapaths
            .dropped(&self.bed, node, reason, link)
            .unwrap()
    }

    /// Holds that no node dropped anything.
    pub(crate) fn nothing_dropped(&mut self) {
        for node in 0..self.bed.nodes.len() {
            for reason in Reason::ALL {
                let (total, _) = self.dropped(node, *reason, "");
                assert_eq!(total, 0, "node {node} dropped: {}", reason.name());
            }
        }
    }
}
