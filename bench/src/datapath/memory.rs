//! What the tables take of the kernel's memory.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use watari_abi::{Address, Connection, ConnectionKey, State, maps};
use watari_bpf::{Attachment, PinDir};
use watari_testbed::{Bed, Between, Datapaths, Layout, Loading};

use crate::row::Row;

/// Connections that are tracked.
const CONNECTIONS: u32 = 100_000;

/// What the kernel says a map takes, in bytes (`memlock` in its descriptor's `fdinfo`).
fn bytes(dir: &PinDir, name: &str) -> Result<f64> {
    let map =
        MapData::from_pin(dir.map(name)).with_context(|| format!("cannot open map {name}"))?;
    let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    let value = line.context("the kernel does not say what a map takes")?;
    Ok(value.trim().parse()?)
}

fn all(dir: &PinDir) -> Result<f64> {
    maps::ALL.iter().map(|name| bytes(dir, name)).sum()
}

/// The rows.
pub fn rows() -> Result<Vec<Row>> {
    let bed = Bed::new(Layout {
        nodes: 1,
        pods: 1,
        mtu: 1500,
        between: Between::Wire,
    })?;
    let mut datapaths = Datapaths::load(&bed, Loading::from(Attachment::Tcx))?;
    let dir = PinDir::current(datapaths.root(0));
    let empty = all(&dir)?;
    let entries: Vec<_> = (0..CONNECTIONS).map(connection).collect();
    datapaths.with(&bed, 0, |node| {
        node.tables().established.insert_all(&entries)
    })?;
    let row = |what: &str, value| Row::value(format!("memory/{what}"), "bytes", &[value]);
    let size = format!("{CONNECTIONS}-connections");
    Ok(vec![
        row("empty", empty),
        row(&size, bytes(&dir, maps::ESTABLISHED)?),
        row(&format!("all-maps/{size}"), all(&dir)?),
    ])
}

fn connection(number: u32) -> (ConnectionKey, Connection) {
    let address = |base: u32| Address::from(IpAddr::V4(Ipv4Addr::from(base)));
    let key = ConnectionKey {
        low: address(0x0afa_0101),
        high: address(0x0a00_0000 + number),
        low_port: 80_u16.to_be(),
        high_port: 40_000_u16.to_be(),
        protocol: 6,
        ..ConnectionKey::default()
    };
    let connection = Connection {
        expires: u64::MAX,
        state: State::Established as u8,
        family: 4,
        ..Connection::default()
    };
    (key, connection)
}
