//! The steps of a decision in words.

use std::net::IpAddr;

use watari_abi::{Address, ConnectionKey, Flow, State, TranslationKind, Tuple, flags};
use watari_datapath::{Route, Step, Table};
use watari_wire::protocol;

use crate::model::Told;
use crate::packet::with_port;

/// What the steps are told about.
pub struct Context<'a> {
    /// Who sent the packet.
    pub source: IpAddr,
    /// Where it was seen.
    pub ifindex: u32,
    /// It came from a pod: its source is looked at.
    pub from_pod: bool,
    /// The names of links.
    pub link: &'a dyn Fn(u32) -> String,
}

/// Tells the steps. What is asked again is told once.
pub fn tell(steps: &[Step], context: &Context<'_>) -> Vec<Told> {
    let mut told: Vec<Told> = Vec::new();
    for step in steps {
        let one = context.tell(step);
        if !told.contains(&one) {
            told.push(one);
        }
    }
    told
}

fn told(
    table: &str,
    key: impl Into<String>,
    held: Option<String>,
    decided: impl Into<String>,
) -> Told {
    Told {
        table: table.to_owned(),
        key: key.into(),
        held,
        decided: decided.into(),
    }
}

fn mac(bytes: [u8; 6]) -> String {
    watari_model::MacAddr(bytes).to_string()
}

fn ip(address: &Address) -> IpAddr {
    IpAddr::from(*address)
}

/// The name of an IANA protocol number, or the number.
fn protocol_name(number: u8) -> String {
    match number {
        protocol::ICMP => "icmp".to_owned(),
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::ICMPV6 => "icmpv6".to_owned(),
        protocol::SCTP => "sctp".to_owned(),
        other => format!("protocol {other}"),
    }
}

fn ends(tuple: &Tuple) -> String {
    let end = |address: &Address, port: u16| with_port(ip(address), u16::from_be(port));
    format!(
        "{} → {} {}",
        end(&tuple.source, tuple.source_port),
        end(&tuple.destination, tuple.destination_port),
        protocol_name(tuple.protocol)
    )
}

fn connection(key: &ConnectionKey) -> String {
    let end = |address: &Address, port: u16| with_port(ip(address), u16::from_be(port));
    format!(
        "{} – {} {}",
        end(&key.low, key.low_port),
        end(&key.high, key.high_port),
        protocol_name(key.protocol)
    )
}

const fn table_name(table: Table) -> &'static str {
    match table {
        Table::Established => watari_abi::maps::ESTABLISHED,
        Table::Transient => watari_abi::maps::TRANSIENT,
    }
}

const fn state_name(number: u8) -> &'static str {
    match State::of(number) {
        Some(State::New) => "new",
        Some(State::Replied) => "replied",
        Some(State::Established) => "established",
        Some(State::Closing) => "closing",
        Some(State::TimeWait) => "time-wait",
        Some(State::Closed) => "closed",
        Some(State::PickedUp) => "picked-up",
        None => "unknown",
    }
}

/// How its packets go.
const fn road(bits: u16) -> &'static str {
    if bits & flags::VIA_STACK == 0 {
        "past the stack"
    } else {
        "by the stack, which may translate it"
    }
}

impl Context<'_> {
    fn tell(&self, step: &Step) -> Told {
        match step {
            Step::Packet { tuple } => told("packet", ends(tuple), None, "read"),
            Step::Endpoint { .. } | Step::Link { .. } | Step::Remote { .. } => self.place(step),
            Step::Connection { .. } | Step::Opened { .. } | Step::Untracked => Self::tracked(step),
            Step::Fragment { key, found } => told(
                watari_abi::maps::FRAGMENTS,
                format!("{} → {}", ip(&key.source), ip(&key.destination)),
                found.map(|ports| {
                    let (from, to) = (ports.source_port, ports.destination_port);
                    format!("ports {} → {}", u16::from_be(from), u16::from_be(to))
                }),
                if found.is_some() {
                    "the ports of its first fragment"
                } else {
                    "its first fragment was not seen: its addresses decide"
                },
            ),
            Step::State { from, to } => told(
                "state",
                format!("{} → {}", state_name(*from), state_name(*to)),
                None,
                "the connection's state changes",
            ),
            Step::Proven => told(
                "connection",
                "proof",
                None,
                "the stack delivered it unchanged: past the stack from now on",
            ),
            Step::StackPort { address, port } => told(
                watari_abi::maps::STACK_PORTS,
                with_port(ip(address), u16::from_be(*port)),
                Some("used a short time ago".to_owned()),
                "the stack may translate this port, so it decides",
            ),
            Step::Translated { translation, tuple } => told(
                "translation",
                ends(tuple),
                Some(format!(
                    "{} {}",
                    match TranslationKind::of(translation.kind) {
                        Some(TranslationKind::Destination) => "destination",
                        Some(TranslationKind::Source) => "source",
                        _ => "nothing",
                    },
                    with_port(ip(&translation.address), u16::from_be(translation.port))
                )),
                "the packet's ends from now on",
            ),
            Step::Route { query, answer } => self.route(ip(&query.next_hop), query.length, *answer),
            Step::HopsExpired => told(
                "ttl",
                "1",
                None,
                "it ends here: the stack tells the sender so",
            ),
        }
    }

    fn place(&self, step: &Step) -> Told {
        match step {
            Step::Endpoint { address, found } => {
                let address = ip(address);
                let held = found.map(|found| {
                    let link = (self.link)(found.ifindex);
                    format!("{link} ({}), MAC {}", found.ifindex, mac(found.mac))
                });
                let own = found.is_some_and(|found| found.ifindex == self.ifindex);
                let decided = if self.from_pod && address == self.source {
                    if own {
                        "the source is an address of this very interface"
                    } else {
                        "the source is no address of this interface"
                    }
                } else if found.is_some() {
                    "the destination is a pod of this node"
                } else {
                    "the destination is no pod of this node"
                };
                told(
                    watari_abi::maps::ENDPOINTS,
                    address.to_string(),
                    held,
                    decided,
                )
            }
            Step::Remote { address, found } => told(
                watari_abi::maps::REMOTES,
                ip(address).to_string(),
                found.map(|found| format!("node {}", ip(&found.next_hop))),
                if found.is_some() {
                    "the destination is a pod of that node"
                } else {
                    "the destination is no pod of another node"
                },
            ),
            Step::Link { ifindex, found } => told(
                watari_abi::maps::LINKS,
                format!("{} ({ifindex})", (self.link)(*ifindex)),
                found.map(|found| format!("MAC {}", mac(found.mac))),
                match found {
                    Some(_) => "packets from there come from this MAC",
                    None => "no pod is known there",
                },
            ),
            _ => told("step", "", None, ""),
        }
    }

    fn tracked(step: &Step) -> Told {
        match step {
            Step::Connection {
                key,
                table,
                flow,
                state,
                flags,
            } => told(
                table_name(*table),
                connection(key),
                Some(state_name(*state).to_owned()),
                format!(
                    "{} of a known connection: {}",
                    match flow {
                        Flow::Original => "a packet",
                        Flow::Reply => "a reply",
                    },
                    road(*flags)
                ),
            ),
            Step::Opened { key, flags } => told(
                table_name(Table::Transient),
                connection(key),
                None,
                format!("a new connection: {}", road(*flags)),
            ),
            _ => told(
                "connection",
                "none",
                None,
                "the packet is of no connection, and makes none",
            ),
        }
    }

    fn route(&self, to: IpAddr, length: u16, answer: Route) -> Told {
        let (held, decided) = match answer {
            Route::Via { ifindex, next_hop } => (
                Some(format!(
                    "{} ({ifindex}) to {}",
                    (self.link)(ifindex),
                    ip(&next_hop)
                )),
                "that way",
            ),
            Route::TooLong => (
                Some("a smaller MTU".to_owned()),
                "too long: the stack tells the sender so",
            ),
            Route::None => (None, "no way that a program may take: the stack has it"),
        };
        told(
            "kernel's routes",
            format!("{to}, {length} bytes"),
            held,
            decided,
        )
    }
}
