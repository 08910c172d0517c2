//! How long `connect()` takes, and each program for a packet of a Service, by `BPF_PROG_TEST_RUN`.
//!
//! A program translates its packet, and would find another one in a second run; so each call is one
//! run. The straight packet beside it is measured likewise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use aya::programs::SchedClassifier;
use watari_abi::Hook;
use watari_bpf::{Attachment, PinDir};
use watari_testbed::{Bed, Datapaths, Loading, UPLINK};

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
/// Who sends by the uplink.
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 9];
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
        rows.extend(Bench::new(sizes, v6, 1)?.of_pods(sizes.packets)?);
        rows.extend(Bench::new(sizes, v6, ENDPOINTS)?.of_uplink(sizes.packets)?);
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

/// One run that has to deliver its packet; its time in ns.
fn run(at: &At<'_>, ends: [SocketAddr; 2], flags: u8) -> Result<f64> {
    let (verdict, time) = at.run(ends, flags, 1)?;
    let [source, target] = ends;
    ensure!(
        verdict == REDIRECTED,
        "from {source} to {target}: verdict {verdict}"
    );
    Ok(time)
}

/// Two nodes; on one of them Services, one of which is looked at.
struct Bench {
    // Ended in this order.
    from_pod: SchedClassifier,
    from_uplink: SchedClassifier,
    _datapaths: Datapaths,
    bed: Bed,
    world: World,
    v6: bool,
}

impl Bench {
    fn new(sizes: Sizes, v6: bool, endpoints: u32) -> Result<Self> {
        let bed = bed(2)?;
        let world = World {
            load_balancers: 1,
            ..World::new(sizes.services.1, endpoints, Some(server(&bed, v6)))
        };
        let datapaths = Datapaths::load(&bed, Loading::from(Attachment::Tcx))?;
        let mut tables = Tables::open(datapaths.root(0))?;
        tables.take(&Snapshot::of(&world))?;
        tables.apply()?;
        tables.switch_on(bed.nodes[0].addresses())?;
        let dir = PinDir::current(datapaths.root(0));
        let program = |hook| {
            let opened = SchedClassifier::from_pin(dir.program(hook));
            opened.context("cannot open a pinned program")
        };
        Ok(Self {
            from_pod: program(Hook::FromPod)?,
            from_uplink: program(Hook::FromUplink)?,
            _datapaths: datapaths,
            bed,
            world,
            v6,
        })
    }

    /// Where packets of the pod with this index enter.
    fn at_pod(&self, pod: usize) -> At<'_> {
        let pod = self.bed.pod(0, pod);
        At {
            program: &self.from_pod,
            ifindex: pod.host_index,
            macs: [pod.tables.host.mac.0, pod.tables.pod.mac.0],
        }
    }

    /// Where those from outside do.
    fn at_uplink(&self) -> Result<At<'_>> {
        let uplink = self.bed.nodes[0].link(UPLINK)?;
        let mac = uplink.mac.context("an uplink has no MAC")?;
        Ok(At {
            program: &self.from_uplink,
            ifindex: uplink.index,
            macs: [mac.0, SENDER],
        })
    }

    fn client(&self, port: u16) -> SocketAddr {
        let address: IpAddr = self.bed.pod(0, 0).address(self.v6);
        SocketAddr::new(address, port)
    }

    /// Of packets from a pod; the Service has one endpoint, so that it is known who answers.
    fn of_pods(&self, count: usize) -> Result<Vec<Row>> {
        self.bed.nodes[0].netns.enter(|| self.pods(count))
    }

    /// Of packets from outside to a load balancer's address, where Maglev chooses.
    fn of_uplink(&self, count: usize) -> Result<[Row; 2]> {
        let (forth, new) = self.bed.nodes[0].netns.enter(|| self.uplink(count))?;
        let row = |what: &str, samples: &[f64]| {
            let case = format!("ns/from_uplink/{what}/{}", family(self.v6));
            Row::value(case, "ns", samples)
        };
        Ok([row("service", &forth), row("service-new", &new)])
    }

    /// Further packets of a connection, and first ones of others; in ns.
    fn uplink(&self, count: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        let at = self.at_uplink()?;
        let frontend = self.world.used_ingress();
        let client: IpAddr = if self.v6 {
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).into()
        } else {
            Ipv4Addr::new(192, 0, 2, 9).into()
        };
        let run = |port, flags| run(&at, [SocketAddr::new(client, port), frontend], flags);
        run(ESTABLISHED, SYN)?;
        let (mut forth, mut new) = (vec![], vec![]);
        for number in 0..u16::try_from(count)? {
            forth.push(run(ESTABLISHED, ACK)?);
            new.push(run(NEW + number, SYN)?);
        }
        Ok((forth, new))
    }

    fn pods(&self, count: usize) -> Result<Vec<Row>> {
        const STRAIGHT: &str = "straight to the backend, one run a call";
        let samples = |target: SocketAddr, port| self.samples(target, port, count);
        // Ports of their own: each is a connection of its own at the backend.
        let through = samples(self.world.used()[0], 0)?;
        let straight = samples(self.world.backends()[0], u16::try_from(count)? + 1)?;
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
        let (there, back) = ([client, target], [self.world.backends()[0], client]);
        let (of_client, of_server) = (self.at_pod(0), self.at_pod(1));
        run(&of_client, there, SYN)?;
        run(&of_server, back, SYN | ACK)?;
        run(&of_client, there, ACK)?;
        let (mut forth, mut replies, mut new) = (vec![], vec![], vec![]);
        for number in 0..u16::try_from(count)? {
            forth.push(run(&of_client, there, ACK)?);
            replies.push(run(&of_server, back, ACK)?);
            let port = NEW + offset + number;
            new.push(run(&of_client, [self.client(port), target], SYN)?);
        }
        Ok([forth, replies, new])
    }
}
