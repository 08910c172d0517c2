//! Ending what was connected to an endpoint that is gone: entries of connections, so that the next
//! packet of one is refused or finds another endpoint, and sockets of this node's pods and processes,
//! which are told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::libc::{IPPROTO_TCP, IPPROTO_UDP};
use watari_abi::{
    Connection, ConnectionKey, SocketKey, SocketService, Translation, Tuple, flags, maps,
    translation,
};
use watari_bpf::balance::Departed;
use watari_bpf::{Map, PinDir};
use watari_netlink::{NetlinkError, Netns, Sockets, Transport};

use crate::metrics::Ended;

/// An endpoint that left a balancer and whose connections are to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone(pub Departed);

/// What came of it.
#[derive(Debug, Default)]
pub struct Ending {
    /// How much was ended.
    pub ended: Ended,
    /// Why clients of this node were not told.
    pub untold: Option<NetlinkError>,
}

/// Who is gone, by the numbers of Service and backend.
struct Who(BTreeMap<(u32, u32), SocketAddr>, BTreeSet<(u32, u32, u8)>);

impl Who {
    fn of(gone: &[Gone]) -> Self {
        let mut who = Self(BTreeMap::new(), BTreeSet::new());
        for Gone(departed) in gone {
            let key = (departed.service, departed.backend);
            who.0.insert(key, departed.at);
            who.1.insert((key.0, key.1, departed.protocol.number()));
        }
        who
    }

    fn has(&self, translation: &Translation, protocol: u8) -> bool {
        let Translation {
            service, backend, ..
        } = *translation;
        self.1.contains(&(service, backend, protocol))
    }

    /// Whom such a socket is connected to.
    fn peer(&self, key: &SocketKey, value: &SocketService) -> Option<SocketAddr> {
        let (service, backend) = (value.service, value.backend);
        if !self.1.contains(&(service, backend, key.protocol)) {
            return None;
        }
        let mut at = *self.0.get(&(service, backend))?;
        if at.port() == 0 {
            // Of a range: the port that the client chose.
            at.set_port(u16::from_be(value.port));
        }
        Some(at)
    }
}

/// Ends them. The calling thread is in the node's namespace; `pods` are those of its pods.
pub fn end(root: &Path, pods: &[PathBuf], gone: &[Gone]) -> Result<Ending> {
    let who = Who::of(gone);
    let dir = PinDir::current(root);
    let mut ending = Ending::default();
    // Sockets first: what they still send is refused by who is there.
    end_sockets(&dir, pods, &who, &mut ending).context("end sockets of removed endpoints")?;
    let tables = [maps::ESTABLISHED, maps::TRANSIENT].map(|table| Map::open(&dir.map(table)));
    let [established, transient] = tables;
    let tables = [established?, transient?];
    ending.ended.connections = end_connections(&tables, &who)?;
    Ok(ending)
}

fn end_sockets(dir: &PinDir, pods: &[PathBuf], who: &Who, ending: &mut Ending) -> Result<()> {
    let sockets: Map<SocketKey, SocketService> = Map::open(&dir.map(maps::SOCKETS))?;
    let mut wanted: BTreeMap<Transport, BTreeMap<u64, SocketAddr>> = BTreeMap::new();
    let mut datagrams = Vec::new();
    sockets.for_each(|key, value| {
        let Some(peer) = who.peer(&key, &value) else {
            return;
        };
        let transport = match i32::from(key.protocol) {
            IPPROTO_TCP => Transport::Tcp,
            IPPROTO_UDP => {
                // Its next datagram to the Service finds another.
                datagrams.push(key);
                Transport::Udp
            }
            _ => return,
        };
        wanted
            .entry(transport)
            .or_default()
            .insert(key.cookie, peer);
    })?;
    // The node's own, then those of pods, until all are found.
    let mut told = tell(&mut wanted, &mut ending.ended.sockets);
    for pod in pods {
        if told.is_err() || wanted.is_empty() {
            break;
        }
        // A namespace that is gone has no sockets any more.
        if let Ok(netns) = Netns::open(pod) {
            told = netns
                .within(|| tell(&mut wanted, &mut ending.ended.sockets))
                .and_then(|told| told);
        }
    }
    ending.untold = told.err();
    sockets.remove_all(&datagrams)?;
    Ok(())
}

/// Ends those of these sockets that are in the calling thread's namespace.
fn tell(
    wanted: &mut BTreeMap<Transport, BTreeMap<u64, SocketAddr>>,
    count: &mut u64,
) -> Result<(), NetlinkError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut sockets = Sockets::open()?;
    for (transport, cookies) in wanted.iter_mut() {
        for cookie in sockets.end_all(*transport, cookies)? {
            cookies.remove(&cookie);
            *count += 1;
        }
    }
    wanted.retain(|_, cookies| !cookies.is_empty());
    Ok(())
}

type Table = Map<ConnectionKey, Connection>;

fn end_connections(tables: &[Table; 2], who: &Who) -> Result<u64> {
    let mut ended = 0;
    for table in tables {
        let mut found = Vec::new();
        table.for_each(|key, connection| {
            let is_theirs = who.has(&connection.translation, key.protocol);
            if is_theirs && connection.flags & flags::ALIAS == 0 {
                found.push((key, connection.translation));
            }
        })?;
        for (key, near) in found {
            if let Some(alias) = alias_of(key.protocol, &near) {
                for table in tables {
                    let is_alias = |found: Connection| found.flags & flags::ALIAS != 0;
                    if table.get(&alias)?.is_some_and(is_alias) {
                        table.remove(&alias)?;
                    }
                }
            }
            ended += u64::from(table.remove(&key)?);
        }
    }
    Ok(ended)
}

/// Under which key a translated connection has its alias: that of the tuple which its opener uses.
fn alias_of(protocol: u8, near: &Translation) -> Option<ConnectionKey> {
    let rewritten = translation::DESTINATION | translation::SOURCE;
    (near.kind & rewritten != 0).then(|| {
        let tuple = Tuple {
            source: near.source,
            destination: near.destination,
            source_port: near.source_port,
            destination_port: near.destination_port,
            protocol,
            pad: [0; 3],
        };
        tuple.key().0
    })
}
