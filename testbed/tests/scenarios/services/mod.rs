//! Services: clients in pods, on nodes and outside, at their sockets and packet by packet. What the
//! backend sees of its client is asserted each time.

mod affinity;
mod choice;
mod cluster_ip;
mod ends;
mod hairpin;
mod load_balancer;
mod long;
mod node_port;
mod pool;
mod refusals;
mod restart;
mod sctp;
mod udp;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use watari_model::Protocol;
use watari_testbed::witness::{Seen, Talk};
use watari_testbed::{Cluster, SOURCE_PORTS, Way, Who};

use crate::BOTH;

/// What sockets speak.
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
/// How long somebody asks whom nobody answers.
const SILENCE: Duration = Duration::from_millis(300);
/// How often somebody asks who has to be answered by several.
const MANY: usize = 60;

/// Holds this on two nodes with two pods each, by both kinds of attachment.
fn on_both(test: impl Fn(&mut Cluster)) {
    by_both(pool::WIDE, false, test);
}

/// The same where no node has a route to any pod.
fn past_the_routes(test: impl Fn(&mut Cluster)) {
    by_both(pool::WIDE, true, test);
}

/// The same where the second node is behind a narrow link.
fn behind_a_narrow_link(test: impl Fn(&mut Cluster)) {
    by_both(pool::NARROW, false, test);
}

fn by_both(mtu: u32, blackholed: bool, test: impl Fn(&mut Cluster)) {
    for attachment in BOTH {
        let mut cluster = pool::lease(mtu, attachment);
        cluster.blackhole(blackholed);
        cluster.forget_traces().unwrap();
        cluster.mark();
        test(&mut cluster);
        cluster.forget_all();
    }
}

/// A port that no test has used.
fn fresh_ports(count: u16) -> std::ops::Range<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    let first = NEXT.fetch_add(count, Ordering::Relaxed);
    first..first + count
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// Somebody opens a connection.
#[track_caller]
fn open(cluster: &Cluster, who: Who, way: Way, protocol: Protocol, to: SocketAddr) -> Talk {
    let opened = cluster.at(who, way, || Talk::open(protocol, to));
    opened.unwrap_or_else(|error| panic!("{who:?} by {way:?}, {protocol:?} to {to}: {error}"))
}

/// Somebody asks until each of these has answered, and nobody else; gives what they saw.
#[track_caller]
fn reaches(
    cluster: &Cluster,
    who: Who,
    way: Way,
    protocol: Protocol,
    to: SocketAddr,
    names: &[&str],
) -> BTreeMap<String, Seen> {
    let wanted: BTreeSet<&str> = names.iter().copied().collect();
    let what = format!("{who:?} by {way:?}, {protocol:?} to {to}");
    // Longer, so that nobody is left out by chance.
    let most = if names.len() == 1 { 6 } else { MANY };
    let heard = cluster.at(who, way, || {
        let mut heard = BTreeMap::new();
        for _ in 0..most {
            let talk = Talk::open(protocol, to).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(
                talk.peer().unwrap(),
                to,
                "{what}: it is told of another peer"
            );
            assert!(
                wanted.contains(&*talk.seen.name),
                "{what}: {:?} is not one of {wanted:?}",
                talk.seen
            );
            heard.insert(talk.seen.name.clone(), talk.seen);
            if heard.len() == wanted.len() && names.len() > 1 {
                break;
            }
        }
        heard
    });
    assert_eq!(heard.len(), wanted.len(), "{what}: only {:?}", heard.keys());
    heard
}

/// Somebody is refused at once.
#[track_caller]
fn refused(cluster: &Cluster, who: Who, way: Way, protocol: Protocol, to: SocketAddr) {
    let patience = Duration::from_secs(2);
    let asked = cluster.at(who, way, || {
        Talk::open_within(protocol, to, patience).map(|t| t.seen)
    });
    let kind = asked.as_ref().map_err(std::io::Error::kind);
    assert_eq!(
        kind,
        Err(ErrorKind::ConnectionRefused),
        "{who:?} by {way:?}, {protocol:?} to {to}: {asked:?}"
    );
}

/// Somebody hears nothing.
#[track_caller]
fn silent(cluster: &Cluster, who: Who, way: Way, protocol: Protocol, to: SocketAddr) {
    let asked = cluster.at(who, way, || {
        Talk::open_within(protocol, to, SILENCE).map(|t| t.seen)
    });
    let kind = asked.as_ref().map_err(std::io::Error::kind);
    let right = match who {
        // It may be told at once.
        Who::Node(_) => matches!(kind, Err(ErrorKind::TimedOut | ErrorKind::HostUnreachable)),
        _ => kind == Err(ErrorKind::TimedOut),
    };
    assert!(right, "{who:?} by {way:?}, {protocol:?} to {to}: {asked:?}");
}

/// The backend sees the client itself.
#[track_caller]
fn sees(seen: &Seen, client: IpAddr) {
    assert_eq!(seen.client.ip(), client, "{seen:?}");
}

/// The backend sees a node, at a port of those that sources are translated to.
#[track_caller]
fn sees_translated(seen: &Seen, node: IpAddr) {
    let (first, last) = SOURCE_PORTS;
    let port = seen.client.port();
    assert_eq!(seen.client.ip(), node, "{seen:?}");
    assert!((first..=last).contains(&port), "{seen:?}");
}
