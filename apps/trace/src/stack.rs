//! What the node's stack does with a packet that it is given: its routes, and Watari's own
//! masquerading. Rules of others are not looked at.

use std::net::IpAddr;

use anyhow::Result;
use watari_abi::Hook;
use watari_netlink::{Forwarded, Way};

use crate::model::{End, Masqueraded, Next, Stack};
use crate::node::{At, Node, Onward};
use crate::packet::Packet;
use crate::routes::stack_forwards_ipv6;

/// What the stack did.
pub(crate) struct Handed {
    pub stack: Stack,
    pub packet: Packet,
    pub onward: Onward,
}

/// A way out.
struct Out {
    index: u32,
    via: Option<IpAddr>,
    mtu: Option<u32>,
    unmasqueraded: Option<IpAddr>,
}

impl Node {
    /// Gives a packet of that place to the stack.
    pub(crate) fn stack(
        &self,
        at: &At,
        mut packet: Packet,
        masqueraded: Option<&Masqueraded>,
    ) -> Result<Handed> {
        let back = masqueraded.filter(|known| known.outside == packet.destination);
        if let Some(known) = back {
            packet.destination = known.pod;
        }
        let is_own = at.hook.is_none();
        let way = self.kernel.borrow_mut().handle.way(&Forwarded {
            source: Some(packet.source),
            destination: packet.destination,
            from_link: (!is_own).then_some(at.index),
        })?;
        Ok(match way {
            Way::Local => {
                let node = self.here.name.clone();
                let onward = Onward::Next(Next::End(End::Node { node }));
                Handed {
                    stack: Stack::Local,
                    packet,
                    onward,
                }
            }
            Way::Group => {
                let onward = Onward::Next(self.no_way("it is for many; where to is not followed"));
                Handed {
                    stack: Stack::Group,
                    packet,
                    onward,
                }
            }
            Way::Refused(refusal) => self.refused(packet, refusal.words()),
            Way::Out {
                index, via, mtu, ..
            } => {
                let unmasqueraded = back.map(|known| known.pod);
                let out = Out {
                    index,
                    via,
                    mtu,
                    unmasqueraded,
                };
                self.send(packet, is_own, &out)?
            }
        })
    }

    fn refused(&self, packet: Packet, why: &str) -> Handed {
        let words = format!("the stack: {why}");
        Handed {
            stack: Stack::Refused {
                why: why.to_owned(),
            },
            packet,
            onward: Onward::Next(self.no_way(&words)),
        }
    }

    fn send(&self, mut packet: Packet, is_own: bool, out: &Out) -> Result<Handed> {
        let is_ipv4 = packet.destination.is_ipv4();
        if !is_own {
            if !is_ipv4 && !stack_forwards_ipv6()? {
                return Ok(self.refused(packet, "the node does not forward IPv6"));
            }
            if packet.ttl <= 1 {
                let why = "its time to live ends here, and the sender is told so";
                return Ok(self.refused(packet, why));
            }
        }
        let mtu = self.kernel.borrow().mtu(out.index, out.mtu, is_ipv4);
        if packet.length() as u64 > u64::from(mtu) {
            let why = format!(
                "{} bytes are more than the {mtu} of {}, and the sender is told so",
                packet.length(),
                self.here.link_name(out.index)
            );
            return Ok(self.refused(packet, &why));
        }
        if !is_own {
            packet.ttl -= 1;
        }
        let before = packet.source;
        let masqueraded = self.masquerade(&packet)?;
        if let Some(outside) = masqueraded {
            packet.source = outside;
        }
        let next_hop = out.via.unwrap_or(packet.destination);
        (packet.source_mac, packet.destination_mac) = self.macs(out.index, next_hop);
        let interface = self.here.link_name(out.index);
        let to_pod =
            self.here.pod_behind(out.index).is_some() || self.is_attached(out.index, Hook::ToPod);
        let onward = if to_pod {
            Onward::At(At {
                hook: Some(Hook::ToPod),
                index: out.index,
                packet: packet.clone(),
            })
        } else {
            let pod = before;
            Onward::Next(Next::Leaves {
                interface: interface.clone(),
                next_hop,
                owner: None,
                packet: packet.clone(),
                masqueraded: masqueraded.map(|outside| Masqueraded { pod, outside }),
            })
        };
        let stack = Stack::Out {
            interface,
            ifindex: out.index,
            via: out.via,
            masqueraded,
            unmasqueraded: out.unmasqueraded,
        };
        Ok(Handed {
            stack,
            packet,
            onward,
        })
    }

    /// The address that the packet leaves with, if it is masqueraded. Answers are not: only the
    /// first packet of a connection asks.
    fn masquerade(&self, packet: &Packet) -> Result<Option<IpAddr>> {
        let Some(rules) = &self.masquerade else {
            return Ok(None);
        };
        if packet.answer
            || !rules.pods.contains(packet.source)
            || rules.exceptions.contains(packet.destination)
        {
            return Ok(None);
        }
        let own = self.kernel.borrow_mut().handle.way(&Forwarded {
            source: None,
            destination: packet.destination,
            from_link: None,
        })?;
        Ok(match own {
            Way::Out { source, .. } => source,
            _ => None,
        })
    }
}
