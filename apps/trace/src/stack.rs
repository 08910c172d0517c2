//! What the node's stack does with a packet that it is given: its routes, Watari's own masquerading,
//! and host ports. Rules of others are not looked at, nor whose source a host port rewrites.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use watari_abi::Hook;
use watari_netlink::{Forwarded, Way};
use watari_nft::portmap::Mapping;

use crate::model::{Changed, End, Next, Stack, Translated};
use crate::node::{At, Node, Onward};
use crate::packet::{Packet, Protocol};
use crate::routes::stack_forwards_ipv6;

/// What the stack did.
pub(crate) struct Handed {
    pub stack: Stack,
    pub packet: Packet,
    pub onward: Onward,
    /// How it translated the connection.
    pub translated: Option<Translated>,
}

/// A way out.
struct Out {
    index: u32,
    via: Option<IpAddr>,
    mtu: Option<u32>,
    changed: Changed,
}

impl Node {
    /// Gives a packet of that place to the stack.
    pub(crate) fn stack(
        &self,
        at: &At,
        mut packet: Packet,
        translated: Option<Translated>,
    ) -> Result<Handed> {
        let mut changed = Changed::default();
        match translated {
            Some(Translated::Masquerade { pod, outside }) if outside == packet.destination => {
                packet.destination = pod;
                changed.unmasqueraded = Some(pod);
            }
            _ => {}
        }
        let mut way = self.way(at, &packet)?;
        let mut now = None;
        if way == Way::Local
            && let Some(pod) = self.host_port(&packet)
        {
            let node = SocketAddr::new(packet.destination, packet.destination_port);
            now = Some(Translated::HostPort { pod, node });
            changed.host_port = Some(pod);
            (packet.destination, packet.destination_port) = (pod.ip(), pod.port());
            way = self.way(at, &packet)?;
        }
        if let Some(Translated::HostPort { pod, node }) = translated
            && SocketAddr::new(packet.source, packet.source_port) == pod
        {
            changed.from_host_port = Some(node);
            (packet.source, packet.source_port) = (node.ip(), node.port());
        }
        let mut handed = match way {
            Way::Local => self.ended(Stack::Local, packet),
            Way::Group => self.ended(Stack::Group, packet),
            Way::Refused(refusal) => self.refused(packet, refusal.words()),
            Way::Out {
                index, via, mtu, ..
            } => {
                let out = Out {
                    index,
                    via,
                    mtu,
                    changed,
                };
                self.send(packet, at.hook.is_none(), &out)?
            }
        };
        handed.translated = handed.translated.or(now);
        Ok(handed)
    }

    fn way(&self, at: &At, packet: &Packet) -> Result<Way> {
        Ok(self.kernel.borrow_mut().handle.way(&Forwarded {
            source: Some(packet.source),
            destination: packet.destination,
            from_link: at.hook.is_some().then_some(at.index),
        })?)
    }

    /// The pod's port behind a port of this node. Answers ask nobody: their connection is known.
    fn host_port(&self, packet: &Packet) -> Option<SocketAddr> {
        let protocol = match packet.protocol {
            Protocol::Tcp => watari_model::Protocol::Tcp,
            Protocol::Udp => watari_model::Protocol::Udp,
            Protocol::Icmp => return None,
        };
        let to = packet.destination;
        let is_it = |mapping: &&Mapping| {
            let (host, target) = (mapping.host, mapping.target);
            let any = |address: IpAddr| address.is_unspecified() || address == to;
            host.protocol == protocol
                && host.port == packet.destination_port
                && target.is_ipv4() == to.is_ipv4()
                && host.address.is_none_or(any)
        };
        let mapping = self.ports.iter().filter(|_| !packet.answer).find(is_it)?;
        Some(SocketAddr::new(mapping.target, mapping.target_port))
    }

    fn ended(&self, stack: Stack, packet: Packet) -> Handed {
        let next = if stack == Stack::Local {
            let node = self.here.name.clone();
            Next::End(End::Node { node })
        } else {
            self.no_way("it is for many; where to is not followed")
        };
        Handed {
            stack,
            packet,
            onward: Onward::Next(next),
            translated: None,
        }
    }

    fn refused(&self, packet: Packet, why: &str) -> Handed {
        let words = format!("the stack: {why}");
        Handed {
            stack: Stack::Refused {
                why: why.to_owned(),
            },
            packet,
            onward: Onward::Next(self.no_way(&words)),
            translated: None,
        }
    }

    /// Why the stack does not send a packet that it has a way for.
    fn refusal(&self, packet: &Packet, is_own: bool, out: &Out) -> Result<Option<String>> {
        let is_ipv4 = packet.destination.is_ipv4();
        if !is_own {
            if !is_ipv4 && !stack_forwards_ipv6()? {
                return Ok(Some("the node does not forward IPv6".to_owned()));
            }
            if packet.ttl <= 1 {
                let why = "its time to live ends here, and the sender is told so";
                return Ok(Some(why.to_owned()));
            }
        }
        let mtu = self.kernel.borrow().mtu(out.index, out.mtu, is_ipv4);
        let is_long = packet.length() as u64 > u64::from(mtu);
        Ok(is_long.then(|| {
            format!(
                "{} bytes are more than the {mtu} of {}, and the sender is told so",
                packet.length(),
                self.here.link_name(out.index)
            )
        }))
    }

    fn send(&self, mut packet: Packet, is_own: bool, out: &Out) -> Result<Handed> {
        if let Some(why) = self.refusal(&packet, is_own, out)? {
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
            Onward::Next(Next::Leaves {
                interface: interface.clone(),
                next_hop,
                owner: None,
                packet: packet.clone(),
            })
        };
        let stack = Stack::Out {
            interface,
            ifindex: out.index,
            via: out.via,
            masqueraded,
            changed: out.changed,
        };
        let pod = before;
        Ok(Handed {
            stack,
            packet,
            onward,
            translated: masqueraded.map(|outside| Translated::Masquerade { pod, outside }),
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
