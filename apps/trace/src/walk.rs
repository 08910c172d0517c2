//! From node to node.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;

use crate::model::{
    Answer, Arrival, Ask, End, Journey, Kind, Next, Party, Place, SCHEMA, Trace, Translated,
};
use crate::packet::Packet;

/// Nodes that a packet comes by, at most: a way that is longer goes in circles.
const NODES: usize = 8;

/// The nodes that can be asked.
pub trait Cluster {
    /// Puts a question to a node.
    fn ask(&mut self, node: &str, ask: &Ask) -> Result<Answer>;

    /// The node that has an address, or whose pods' it is.
    fn owner(&self, address: IpAddr) -> Option<String>;

    /// The address of a node, of the family of `like`.
    fn address(&self, node: &str, like: IpAddr) -> Option<IpAddr>;

    /// Routers that a packet comes by from one node to another: each takes a hop.
    fn routers(&self) -> u8;
}

/// What is to be traced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who sends it.
    pub from: Party,
    /// Whom it is for.
    pub to: Party,
    /// The packet.
    pub packet: Packet,
    /// The node where it is first seen.
    pub node: String,
    /// Where there.
    pub place: Place,
    /// Its answer is traced as well.
    pub reply: bool,
}

/// What was on its way before, by node; and where that ended.
struct Walk<'a, C> {
    cluster: &'a mut C,
    seen: BTreeMap<String, Vec<Arrival>>,
}

/// A way, and what its answer needs to know.
struct Walked {
    journey: Journey,
    last: Packet,
    node: String,
    translated: Option<Translated>,
}

/// Follows the packet, and its answer if that is asked for.
pub fn trace(cluster: &mut impl Cluster, question: &Question) -> Result<Trace> {
    let mut walk = Walk {
        cluster,
        seen: BTreeMap::new(),
    };
    let arrival = Arrival {
        place: question.place,
        packet: question.packet.clone(),
        translated: None,
    };
    if let Some(way) = question.inside() {
        return Ok(question.told(
            way.clone(),
            question.reply.then(|| Journey {
                packet: way.packet.answered(),
                ..way
            }),
        ));
    }
    let there = walk.follow(&question.node, arrival)?;
    let mut reply = None;
    if question.reply && there.journey.end.is_well() {
        let packet = there.last.answered();
        let place = match &there.journey.end {
            End::Delivered { .. } => Some(Place::Pod {
                address: there.last.destination,
            }),
            End::Node { .. } => Some(Place::Node),
            _ => walk
                .cluster
                .address(&there.node, packet.destination)
                .map(|address| Place::Uplink { address }),
        };
        if let Some(place) = place {
            let arrival = Arrival {
                place,
                packet,
                translated: there.translated,
            };
            reply = Some(walk.follow(&there.node, arrival)?.journey);
        }
    }
    Ok(question.told(there.journey, reply))
}

impl Question {
    /// The way of what a pod sends to itself: its own stack has it before any program sees it.
    fn inside(&self) -> Option<Journey> {
        let (from, to) = (&self.from, &self.to);
        let Place::Pod { address } = self.place else {
            return None;
        };
        let destination = self.packet.destination;
        let is_same = to.kind == Kind::Pod
            && from.name.is_some()
            && (&from.name, &from.node) == (&to.name, &to.node);
        let is_own = destination == address || destination == from.address || is_same;
        let stays = is_own || destination.is_loopback() || destination.is_unspecified();
        stays.then(|| Journey {
            packet: self.packet.clone(),
            hops: Vec::new(),
            end: End::Loopback {
                node: self.node.clone(),
                pod: from.name.clone(),
            },
        })
    }

    fn told(&self, way: Journey, reply: Option<Journey>) -> Trace {
        Trace {
            schema: SCHEMA,
            from: self.from.clone(),
            to: self.to.clone(),
            way,
            reply,
        }
    }
}

/// What comes after a node.
enum After {
    /// Another one.
    Node(String, Arrival),
    /// The end, and the packet as it was then.
    End(End, Packet),
}

impl<C: Cluster> Walk<'_, C> {
    fn follow(&mut self, node: &str, mut arrival: Arrival) -> Result<Walked> {
        let packet = arrival.packet.clone();
        let mut walked = Walked {
            last: packet.clone(),
            node: node.to_owned(),
            translated: None,
            journey: Journey {
                packet,
                hops: Vec::new(),
                end: End::NoWay {
                    node: node.to_owned(),
                    why: "it goes from node to node in circles".to_owned(),
                },
            },
        };
        for _ in 0..NODES {
            match self.visit(arrival, &mut walked)? {
                After::Node(node, next) => {
                    walked.node = node;
                    arrival = next;
                }
                After::End(end, last) => {
                    walked.journey.end = end;
                    walked.last = last;
                    break;
                }
            }
        }
        Ok(walked)
    }

    /// Asks the node where the packet is.
    fn visit(&mut self, arrival: Arrival, walked: &mut Walked) -> Result<After> {
        let node = walked.node.clone();
        let answers = arrival.translated;
        let before = self.seen.entry(node.clone()).or_default();
        let ask = Ask {
            before: before.clone(),
            now: arrival,
        };
        let answer = self.cluster.ask(&node, &ask)?;
        before.push(ask.now);
        let went = answer.hops.last().map(|hop| hop.went.clone());
        walked.journey.hops.extend(answer.hops);
        walked.translated = walked.translated.or(answer.translated);
        let (interface, next_hop, owner, mut packet) = match answer.next {
            Next::End(end) => {
                return Ok(After::End(end, went.unwrap_or_else(|| walked.last.clone())));
            }
            Next::Leaves {
                interface,
                next_hop,
                owner,
                packet,
            } => (interface, next_hop, owner, packet),
        };
        let Some((next, address)) = self.next(&node, owner, next_hop, packet.destination) else {
            let end = End::Left {
                node,
                interface,
                next_hop,
            };
            return Ok(After::End(end, packet));
        };
        let routers = self.cluster.routers();
        if packet.ttl <= routers {
            let why = "its time to live ends in the network between the nodes".to_owned();
            return Ok(After::End(End::NoWay { node, why }, packet));
        }
        if routers > 0 {
            packet.ttl -= routers;
            (packet.source_mac, packet.destination_mac) = (None, None);
        }
        let arrival = Arrival {
            place: Place::Uplink { address },
            packet,
            translated: answers,
        };
        Ok(After::Node(next, arrival))
    }

    /// The node that a packet comes to next, and the address by which it is known there.
    fn next(
        &self,
        node: &str,
        owner: Option<IpAddr>,
        next_hop: IpAddr,
        destination: IpAddr,
    ) -> Option<(String, IpAddr)> {
        let towards = owner.into_iter().chain([next_hop, destination]);
        for address in towards {
            let Some(found) = self.cluster.owner(address).filter(|found| found != node) else {
                continue;
            };
            if let Some(own) = self.cluster.address(&found, destination) {
                return Some((found, own));
            }
        }
        None
    }
}

impl Party {
    /// Somebody outside.
    pub fn outside(address: IpAddr) -> Self {
        Self {
            kind: Kind::Outside,
            name: None,
            address,
            node: None,
        }
    }
}
