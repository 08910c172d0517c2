//! Telling processes of this node that the endpoint which they are connected to is gone: their sockets
//! are ended, so that they connect anew instead of waiting.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::libc::{IPPROTO_TCP, IPPROTO_UDP};
use watari_abi::{SocketKey, SocketService, maps};
use watari_bpf::balance::Departed;
use watari_bpf::{Map, PinDir};
use watari_netlink::{NetlinkError, Netns, Sockets, Transport};

/// What came of it.
#[derive(Debug, Default)]
pub struct Told {
    /// Sockets that were ended.
    pub sockets: u64,
    /// Why others were not.
    pub untold: Option<NetlinkError>,
}

type Wanted = BTreeMap<Transport, BTreeMap<u64, SocketAddr>>;

/// Ends these sockets, which were given to those who are gone. The calling thread is in the node's
/// namespace; `pods` are those of its pods.
pub fn tell(
    pins: &Path,
    pods: &[PathBuf],
    gone: &[Departed],
    sockets: &[(SocketKey, SocketService)],
) -> Result<Told> {
    let mut wanted = Wanted::new();
    let mut datagrams = Vec::new();
    for (key, value) in sockets {
        let Some(peer) = peer(gone, value) else {
            continue;
        };
        let transport = match i32::from(key.protocol) {
            IPPROTO_TCP => Transport::Tcp,
            IPPROTO_UDP => {
                datagrams.push(*key);
                Transport::Udp
            }
            _ => continue,
        };
        wanted
            .entry(transport)
            .or_default()
            .insert(key.cookie, peer);
    }
    let mut told = Told::default();
    // The node's own, then those of pods, until all are found.
    let mut outcome = end(&mut wanted, &mut told.sockets);
    for pod in pods {
        if outcome.is_err() || wanted.is_empty() {
            break;
        }
        // A namespace that is gone has no sockets any more.
        if let Ok(netns) = Netns::open(pod) {
            outcome = netns
                .within(|| end(&mut wanted, &mut told.sockets))
                .and_then(|ended| ended);
        }
    }
    told.untold = outcome.err();
    if !datagrams.is_empty() {
        // The next datagram to the Service finds another endpoint.
        let map = PinDir::current(pins).map(maps::SOCKETS);
        let map: Map<SocketKey, SocketService> = Map::open(&map)?;
        let forgotten = map.remove_all(&datagrams);
        forgotten.context("forget where sockets of datagrams led")?;
    }
    Ok(told)
}

/// Whom a socket is connected to that a Service has given to one of these.
fn peer(gone: &[Departed], value: &SocketService) -> Option<SocketAddr> {
    let mut of = gone.iter();
    let of = of.find(|of| of.service == value.service && of.backend == value.backend)?;
    let mut at = of.at;
    if at.port() == 0 {
        // Of a range: the port that the client chose.
        at.set_port(u16::from_be(value.port));
    }
    Some(at)
}

/// Ends those of these sockets that are in the calling thread's namespace.
fn end(wanted: &mut Wanted, count: &mut u64) -> Result<(), NetlinkError> {
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
