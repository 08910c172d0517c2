//! Packets a second and core through the program at the driver, by `BPF_PROG_TEST_RUN`, beside programs
//! that only drop a packet or send it back: no program there can be faster.
//!
//! The program translates its packet, and would find another one in a second run; so each call is one
//! run, and those beside it likewise. What a call costs by itself is in all of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use watari_bpf::sys::{Pinned as _, ProgramFd, TestInput, load_driver_program};
use watari_bpf::{Attachment, LoadOptions, PinDir, load_driver};
use watari_testbed::{Bed, Datapaths, Loading, UPLINK, raw};

use super::roads::bed;
use super::tables::{Snapshot, Tables};
use super::world::World;
use super::{ENDPOINTS, Sizes};
use crate::row::Row;

const SYN: u8 = 2;
const ACK: u8 = 16;
/// `XDP_DROP` and `XDP_TX` of `linux/bpf.h`.
const DROP: u8 = 1;
const TX: u8 = 3;
/// The client's port of the connection that is established.
const ESTABLISHED: u16 = 9_999;
/// The first of those that are new.
const NEW: u16 = 10_000;
/// Who sends by the uplink.
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Bytes of a `struct xdp_md`, and where `data_end` and `ingress_ifindex` are in it.
const CONTEXT: usize = 24;
const END: usize = 4;
const IFINDEX: usize = 12;

/// A program that gives one verdict.
fn bare(verdict: u8) -> Result<ProgramFd> {
    // `r0 = verdict; exit`.
    let instructions = [
        [0xb7, 0, 0, 0, verdict, 0, 0, 0],
        [0x95, 0, 0, 0, 0, 0, 0, 0],
    ];
    let loaded = load_driver_program("bare", &instructions);
    loaded.context("the kernel refuses the bare program")
}

/// A node where packets of a Service come in whose backend is on another one.
struct Bench {
    program: ProgramFd,
    ifindex: u32,
    mac: [u8; 6],
    frontend: SocketAddr,
    client: IpAddr,
    _datapaths: Datapaths,
    bed: Bed,
}

impl Bench {
    fn new(sizes: Sizes, v6: bool) -> Result<Self> {
        let bed = bed(2)?;
        let world = World {
            load_balancers: 1,
            ..World::new(sizes.services.1, ENDPOINTS, Some(bed.pod(1, 0).address(v6)))
        };
        let datapaths = Datapaths::load(&bed, Loading::from(Attachment::Tcx))?;
        let root = datapaths.root(0);
        let mut tables = Tables::open(root)?;
        tables.take(&Snapshot::of(&world))?;
        tables.apply()?;
        tables.switch_on(bed.nodes[0].addresses())?;
        load_driver(&LoadOptions::at(root))?;
        let program = ProgramFd::open(&PinDir::current(root).driver_program())?;
        let [uplink, next] = [bed.nodes[0].link(UPLINK)?, bed.nodes[1].link(UPLINK)?];
        let next = next.mac.context("an uplink has no MAC")?;
        // A packet to a neighbour without a MAC is the stack's.
        for address in bed.nodes[1].addresses() {
            bed.nodes[0].run(&format!(
                "ip neigh replace {address} lladdr {next} dev {UPLINK}"
            ));
        }
        let client = if v6 {
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).into()
        } else {
            Ipv4Addr::new(192, 0, 2, 9).into()
        };
        Ok(Self {
            program,
            ifindex: uplink.index,
            mac: uplink.mac.context("an uplink has no MAC")?.0,
            frontend: world.used_ingress(),
            client,
            _datapaths: datapaths,
            bed,
        })
    }

    /// One run of a program; packets a second.
    fn run(&self, program: &ProgramFd, verdict: u8, port: u16, flags: u8) -> Result<f64> {
        let source = SocketAddr::new(self.client, port);
        let segment = raw::tcp(source, self.frontend, 1, flags);
        let packet = raw::packet(source, self.frontend, raw::TCP, &segment);
        let kind = if source.is_ipv4() {
            [0x08, 0x00]
        } else {
            [0x86, 0xdd]
        };
        let frame = [&self.mac[..], &SENDER[..], &kind[..], &packet[..]].concat();
        let mut context = [0; CONTEXT];
        let length = u32::try_from(frame.len())?;
        context[END..END + 4].copy_from_slice(&length.to_ne_bytes());
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&self.ifindex.to_ne_bytes());
        let output = program.test_run(&TestInput {
            packet: &frame,
            context: &context,
            repeat: 1,
        })?;
        ensure!(
            output.verdict == i32::from(verdict),
            "from {source} to {}: verdict {}",
            self.frontend,
            output.verdict
        );
        Ok(1e9 / f64::from(output.nanoseconds.max(1)))
    }

    /// Samples of each case.
    fn samples(&self, count: usize) -> Result<[(&'static str, Vec<f64>); 4]> {
        let (drop, tx) = (bare(DROP)?, bare(TX)?);
        self.run(&self.program, TX, ESTABLISHED, SYN)?;
        let [mut established, mut new, mut drops, mut turns] = [const { vec![] }; 4];
        for number in 0..u16::try_from(count)? {
            established.push(self.run(&self.program, TX, ESTABLISHED, ACK)?);
            new.push(self.run(&self.program, TX, NEW + number, SYN)?);
            drops.push(self.run(&drop, DROP, ESTABLISHED, ACK)?);
            turns.push(self.run(&tx, TX, ESTABLISHED, ACK)?);
        }
        Ok([
            ("established", established),
            ("new", new),
            ("XDP_DROP", drops),
            ("XDP_TX", turns),
        ])
    }
}

/// The rows.
pub fn rows(sizes: Sizes) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (v6, family) in [(false, "v4"), (true, "v6")] {
        let bench = Bench::new(sizes, v6)?;
        let measured = bench.bed.nodes[0]
            .netns
            .enter(|| bench.samples(sizes.packets));
        for (what, samples) in measured? {
            let case = format!("xdp/{what}/{family}");
            rows.push(Row::value(case, "packets/s/core", &samples));
        }
    }
    Ok(rows)
}
