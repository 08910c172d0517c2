//! How long each program takes for a packet, by `BPF_PROG_TEST_RUN`, and how many instructions
//! the verifier looked at.
//!
//! A run changes the packet, and the next one sees what it left. So the destination's entry
//! makes the rewriting of both MACs write what was there, and the packet starts with the most
//! hops: it stays the same but for its time to live.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use watari_abi::{Address, Endpoint, Hook};
use watari_bpf::{Attachment, BpfError, PinDir};
use watari_testbed::raw;
use watari_testbed::{Bed, Between, Datapaths, Layout, Loading, Pod, UPLINK};

use crate::row::Row;

/// Runs of one call: as many as the packet has hops, but some.
const REPEAT: u32 = 200;
/// `offsetof(struct __sk_buff, ifindex)` and the size of what stands before its end.
const IFINDEX: usize = 40;
const SYN: u8 = 2;
const ACK: u8 = 16;
/// `TC_ACT_REDIRECT`.
const REDIRECTED: u32 = 7;
const HOPS: u8 = 255;
/// The sender's port of the connection that is established.
const ESTABLISHED: u16 = 9_999;
/// Who sends by the uplink.
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// A packet at a hook.
struct At<'a> {
    program: &'a SchedClassifier,
    ifindex: u32,
    macs: [[u8; 6]; 2],
}

impl At<'_> {
    /// Runs the program on a TCP segment; the verdict, and the time of one run in ns.
    fn run(&self, ends: [SocketAddr; 2], flags: u8, repeat: u32) -> Result<(u32, f64)> {
        let [source, destination] = ends;
        let segment = raw::tcp(source, destination, 1, flags);
        let mut packet = raw::packet(source, destination, raw::TCP, &segment);
        let (hops, kind) = match source.ip() {
            IpAddr::V4(_) => (8, [0x08, 0x00]),
            IpAddr::V6(_) => (7, [0x86, 0xdd]),
        };
        packet[hops] = HOPS;
        let [to, from] = self.macs;
        let frame = [&to[..], &from[..], &kind[..], &packet[..]].concat();
        let mut context = [0; IFINDEX + 4];
        context[IFINDEX..].copy_from_slice(&self.ifindex.to_ne_bytes());
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.ctx_in = Some(&context);
        options.repeat = repeat;
        let result = self
            .program
            .test_run(options)
            .context("cannot run a program")?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
        let nanoseconds = result.duration.as_nanos() as f64;
        Ok((result.return_value, nanoseconds))
    }
}

/// What a program is measured with.
struct Bench {
    bed: Bed,
    datapaths: Datapaths,
    programs: Vec<(Hook, SchedClassifier)>,
}

/// Where packets enter and where they go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From a pod to a pod of its node.
    Local,
    /// From a pod to a pod of another node.
    Remote,
    /// By the uplink to a pod.
    Enter,
    /// From the stack to a pod.
    Deliver,
}

impl Way {
    const ALL: [Self; 4] = [Self::Local, Self::Remote, Self::Enter, Self::Deliver];

    fn hook(self) -> Hook {
        match self {
            Self::Local | Self::Remote => Hook::FromPod,
            Self::Enter => Hook::FromUplink,
            Self::Deliver => Hook::ToPod,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Remote => "from_pod-remote",
            _ => self.hook().program(),
        }
    }

    /// Whether the program redirects, rather than leaving the packet to the stack.
    fn redirects(self) -> bool {
        self != Self::Deliver
    }
}

impl Bench {
    fn new() -> Result<Self> {
        let bed = Bed::new(Layout {
            nodes: 2,
            pods: 3,
            mtu: 1500,
            between: Between::Wire,
        })?;
        let datapaths = Datapaths::load(&bed, Loading::from(Attachment::Tcx))?;
        let dir = PinDir::current(datapaths.root(0));
        let opened = Hook::ALL.iter().map(|hook| {
            let program = SchedClassifier::from_pin(dir.program(*hook));
            Ok((*hook, program.context("cannot open a pinned program")?))
        });
        let programs = opened.collect::<Result<_>>()?;
        Ok(Self {
            bed,
            datapaths,
            programs,
        })
    }

    /// Whoever sends to the second pod from the first, or to the third by the uplink, is told the
    /// MACs that the packet has already.
    fn settle_macs(&mut self) -> Result<()> {
        let pods = &self.bed.nodes[0].pods;
        let uplink = self.bed.nodes[0]
            .link(UPLINK)?
            .mac
            .context("an uplink has no MAC")?;
        let entries = [
            (
                &pods[1],
                [pods[0].tables.host.mac.0, pods[0].tables.pod.mac.0],
            ),
            (&pods[2], [uplink.0, SENDER]),
        ];
        self.datapaths.with(&self.bed, 0, |node| {
            for (pod, [mac, host_mac]) in entries {
                let entry = Endpoint {
                    ifindex: pod.host_index,
                    mac,
                    host_mac,
                    ..Endpoint::default()
                };
                for address in [IpAddr::from(pod.v4), pod.v6.into()] {
                    let key = Address::from(address);
                    node.tables().endpoints.insert(&key, &entry)?;
                }
            }
            Ok::<_, BpfError>(())
        })?;
        Ok(())
    }

    fn at(&self, hook: Hook, ifindex: u32, macs: [[u8; 6]; 2]) -> Result<At<'_>> {
        let found = self.programs.iter().find(|(of, _)| *of == hook);
        Ok(At {
            program: &found.context("there is no such program")?.1,
            ifindex,
            macs,
        })
    }

    /// From a pod of the node.
    fn at_pod(&self, pod: &Pod) -> Result<At<'_>> {
        let macs = [pod.tables.host.mac.0, pod.tables.pod.mac.0];
        self.at(Hook::FromPod, pod.host_index, macs)
    }

    /// By the uplink.
    fn at_uplink(&self) -> Result<At<'_>> {
        let uplink = self.bed.nodes[0].link(UPLINK)?;
        let mac = uplink.mac.context("an uplink has no MAC")?;
        self.at(Hook::FromUplink, uplink.index, [mac.0, SENDER])
    }

    /// Who sends to whom.
    fn ends(&self, way: Way) -> [&Pod; 2] {
        let (own, far) = (&self.bed.nodes[0].pods, self.bed.pod(1, 0));
        match way {
            Way::Local => [&own[0], &own[1]],
            Way::Remote => [&own[0], far],
            Way::Enter | Way::Deliver => [far, &own[2]],
        }
    }

    /// Where packets of this way enter.
    fn entry(&self, way: Way) -> Result<At<'_>> {
        let [source, target] = self.ends(way);
        match way {
            Way::Local | Way::Remote => self.at_pod(source),
            Way::Enter => self.at_uplink(),
            Way::Deliver => {
                let macs = [target.tables.pod.mac.0, target.tables.host.mac.0];
                self.at(Hook::ToPod, target.host_index, macs)
            }
        }
    }

    /// Samples of an established connection and of new ones, in ns.
    fn samples(&self, way: Way, v6: bool, count: usize) -> Result<[Vec<f64>; 2]> {
        let at = self.entry(way)?;
        let ends = |port| self.sockets(way, v6, port);
        let expected = if way.redirects() {
            REDIRECTED
        } else {
            u32::MAX
        };
        let check = |(verdict, time): (u32, f64)| {
            ensure!(verdict == expected, "{}: verdict {verdict}", way.name());
            Ok(time)
        };
        let mut new = Vec::new();
        for number in 0..count {
            let port = 10_000 + u16::try_from(number)?;
            new.push(check(at.run(ends(port), SYN, 1)?)?);
        }
        let talk = ends(ESTABLISHED);
        let times = (0..count.div_ceil(10)).map(|_| check(at.run(talk, ACK, REPEAT)?));
        Ok([times.collect::<Result<_>>()?, new])
    }

    /// The sender's port is free; each way has connections of its own by the receiver's.
    fn sockets(&self, way: Way, v6: bool, port: u16) -> [SocketAddr; 2] {
        let [source, target] = self.ends(way).map(|pod| pod.address(v6));
        [
            SocketAddr::new(source, port),
            SocketAddr::new(target, 80 + way as u16),
        ]
    }

    /// Establishes a connection. The answer comes from where its other end is.
    fn handshake(&self, way: Way, v6: bool) -> Result<()> {
        let [source, target] = self.sockets(way, v6, ESTABLISHED);
        let at = self.entry(way)?;
        let back = match way {
            Way::Remote => self.at_uplink()?,
            _ => self.at_pod(self.ends(way)[1])?,
        };
        at.run([source, target], SYN, 1)?;
        back.run([target, source], SYN | ACK, 1)?;
        at.run([source, target], ACK, 1)?;
        Ok(())
    }
}

/// The rows.
pub fn rows(count: usize) -> Result<Vec<Row>> {
    let mut bench = Bench::new()?;
    let families = [false, true];
    for (way, v6) in Way::ALL
        .iter()
        .flat_map(|way| families.map(|v6| (*way, v6)))
    {
        let node = &bench.bed.nodes[0].netns;
        node.enter(|| bench.handshake(way, v6))?;
    }
    bench.settle_macs()?;
    let mut rows = Vec::new();
    for (hook, program) in &bench.programs {
        let info = program.info().context("cannot ask about a program")?;
        let count = info.verified_instruction_count().unwrap_or_default();
        let case = format!("insns/{}", hook.program());
        rows.push(Row::value(case, "verified", &[f64::from(count)]));
    }
    for way in Way::ALL {
        for v6 in families {
            let measured = bench.bed.nodes[0]
                .netns
                .enter(|| bench.samples(way, v6, count));
            let family = if v6 { "v6" } else { "v4" };
            for (what, samples) in ["established", "new"].iter().zip(measured?) {
                let case = format!("ns/{}/{what}/{family}", way.name());
                rows.push(Row::value(case, "ns", &samples));
            }
        }
    }
    // Nothing was dropped on the way, so it was the whole work that was measured.
    let drops = bench
        .datapaths
        .with(&bench.bed, 0, watari_bpf::Datapath::drops)?;
    let dropped: u64 = drops.totals.iter().map(|(_, tally)| tally.packets).sum();
    ensure!(dropped == 0, "packets were dropped: {:?}", drops.totals);
    Ok(rows)
}
