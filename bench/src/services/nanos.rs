//! How long `connect()` takes, and each program for a packet of a Service, by `BPF_PROG_TEST_RUN`.
//!
//! A program translates its packet, and would find another one in a second run; so each call is one
//! run. The straight packet beside it is measured likewise.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use aya::programs::SchedClassifier;
use watari_abi::Hook;
use watari_bpf::{Attachment, PinDir};
use watari_testbed::{Bed, Datapaths, Loading};

use super::cgroup::Cgroup;
use super::roads::{Ours, bed, server};
use super::tables::{Snapshot, Tables};
use super::world::World;
use super::{ENDPOINTS, Sizes, pairs};
use crate::datapath::At;
use crate::row::Row;

const SYN: u8 = 2;
const ACK: u8 = 16;
/// `TC_ACT_REDIRECT`.
const REDIRECTED: u32 = 7;
/// The client's port of the connections that are established.
const ESTABLISHED: u16 = 9_999;
/// The first of those that are new.
const NEW: u16 = 10_000;

/// The rows.
pub fn rows(sizes: Sizes) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let cgroup = Cgroup::new()?;
    for v6 in [false, true] {
        rows.extend(connects(sizes, v6, &cgroup)?);
    }
    for v6 in [false, true] {
        rows.extend(Bench::new(sizes, v6)?.rows(sizes.packets)?);
    }
    Ok(rows)
}

fn family(v6: bool) -> &'static str {
    if v6 { "v6" } else { "v4" }
}

/// Of `connect()`.
fn connects(sizes: Sizes, v6: bool, cgroup: &Cgroup) -> Result<[Row; 2]> {
    const STRAIGHT: &str = "straight, no program at the socket";
    let ours = Ours::new(sizes.services.1, ENDPOINTS, v6, cgroup)?;
    let (through, straight) = (ours.world.used()[0], ours.world.backends()[0]);
    let (mut served, mut missed, mut plain) = (vec![], vec![], vec![]);
    let stretches = sizes.packets.div_ceil(10);
    for round in 0..10 {
        let mut each = || -> Result<()> {
            plain.extend(ours.unserved.connects(straight, stretches)?);
            missed.extend(ours.served.connects(straight, stretches)?);
            served.extend(ours.served.connects(through, stretches)?);
            Ok(())
        };
        each().with_context(|| format!("in round {round}"))?;
    }
    let row = |what: &str, ours| {
        let case = format!("ns/connect/{what}/{}", family(v6));
        Row::less(case, "ns", STRAIGHT, &pairs(ours, &plain), None)
    };
    Ok([row("clusterip", &served), row("straight", &missed)])
}

/// A node, its datapath and one Service that is looked at.
struct Bench {
    // Ended in this order.
    program: SchedClassifier,
    _datapaths: Datapaths,
    bed: Bed,
    /// Where it is reached.
    frontend: SocketAddr,
    /// Its only endpoint.
    backend: SocketAddr,
    v6: bool,
}

impl Bench {
    fn new(sizes: Sizes, v6: bool) -> Result<Self> {
        let bed = bed()?;
        let world = World::new(sizes.services.1, 1, Some(server(&bed, v6)));
        let datapaths = Datapaths::load(&bed, Loading::from(Attachment::Tcx))?;
        let mut tables = Tables::open(datapaths.root(0))?;
        tables.take(&Snapshot::of(&world))?;
        tables.apply()?;
        tables.switch_on(bed.nodes[0].addresses())?;
        let dir = PinDir::current(datapaths.root(0));
        let program = SchedClassifier::from_pin(dir.program(Hook::FromPod));
        Ok(Self {
            program: program.context("cannot open a pinned program")?,
            _datapaths: datapaths,
            bed,
            frontend: world.used()[0],
            backend: world.backends()[0],
            v6,
        })
    }

    /// Where packets of the pod with this index enter.
    fn at(&self, pod: usize) -> At<'_> {
        let pod = self.bed.pod(0, pod);
        At {
            program: &self.program,
            ifindex: pod.host_index,
            macs: [pod.tables.host.mac.0, pod.tables.pod.mac.0],
        }
    }

    fn client(&self, port: u16) -> SocketAddr {
        let address: IpAddr = self.bed.pod(0, 0).address(self.v6);
        SocketAddr::new(address, port)
    }

    /// One run that has to deliver its packet; its time in ns.
    fn run(&self, pod: usize, ends: [SocketAddr; 2], flags: u8) -> Result<f64> {
        let (verdict, time) = self.at(pod).run(ends, flags, 1)?;
        ensure!(
            verdict == REDIRECTED,
            "from {} to {}: verdict {verdict}",
            ends[0],
            ends[1]
        );
        Ok(time)
    }

    fn rows(&self, count: usize) -> Result<Vec<Row>> {
        self.bed.nodes[0].netns.enter(|| self.measured(count))
    }

    fn measured(&self, count: usize) -> Result<Vec<Row>> {
        const STRAIGHT: &str = "straight to the backend, one run a call";
        let samples = |target: SocketAddr, port| self.samples(target, port, count);
        // Ports of their own: each is a connection of its own at the backend.
        let through = samples(self.frontend, 0)?;
        let straight = samples(self.backend, u16::try_from(count)? + 1)?;
        let row = |(what, (ours, theirs)): (&str, (&Vec<f64>, &Vec<f64>))| {
            let case = format!("ns/from_pod/{what}/{}", family(self.v6));
            Row::less(case, "ns", STRAIGHT, &pairs(ours, theirs), None)
        };
        let names = ["service", "service-reply", "service-new"];
        let values = through.iter().zip(&straight);
        Ok(names.into_iter().zip(values).map(row).collect())
    }

    /// Packets of an established connection, answers of it, and first packets of others; in ns.
    fn samples(&self, target: SocketAddr, offset: u16, count: usize) -> Result<[Vec<f64>; 3]> {
        let client = self.client(ESTABLISHED - offset);
        let (there, back) = ([client, target], [self.backend, client]);
        self.run(0, there, SYN)?;
        self.run(1, back, SYN | ACK)?;
        self.run(0, there, ACK)?;
        let (mut forth, mut replies, mut new) = (vec![], vec![], vec![]);
        for number in 0..u16::try_from(count)? {
            forth.push(self.run(0, there, ACK)?);
            replies.push(self.run(1, back, ACK)?);
            let port = NEW + offset + number;
            new.push(self.run(0, [self.client(port), target], SYN)?);
        }
        Ok([forth, replies, new])
    }
}
