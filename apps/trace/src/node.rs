//! What becomes of a packet on the node that this runs on.

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use watari_abi::Hook;
use watari_datapath::desk::Input;
use watari_datapath::{Step, Verdict};
use watari_model::MacAddr;
use watari_netlink::Handle;
use watari_nft::masquerade::Masquerading;
use watari_nft::portmap::{Mapping, PortMaps};
use watari_tables::{Hook as TableHook, HookAt, Masquerade};

use crate::here::{Here, Pod};
use crate::model::{Answer, Arrival, Ask, Decided, End, Hop, Next, Place, Translated};
use crate::packet::Packet;
use crate::routes::{Kernel, routes};
use crate::snapshot::Snapshot;
use crate::told::{Context, tell};

/// Places on one node that a packet comes by: at most from a pod, by the stack, to a pod.
const PLACES: usize = 4;

/// Where a node keeps what is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its name; none: its host name.
    pub name: Option<String>,
    /// Where its datapath is pinned.
    pub bpf_root: PathBuf,
    /// The directory of its node store.
    pub data_dir: PathBuf,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            name: None,
            bpf_root: watari_bpf::ROOT.into(),
            data_dir: watari_store::DEFAULT_DIR.into(),
        }
    }
}

/// Answers for the node of the calling thread's namespaces. Changes nothing there.
pub fn answer(site: &Site, ask: &Ask) -> Result<Answer> {
    let mut node = Node::open(site)?;
    for arrival in &ask.before {
        node.travel(arrival)?;
    }
    node.travel(&ask.now)
}

/// A node, and what traced packets have left on it.
pub struct Node {
    pub(crate) here: Here,
    pub(crate) kernel: Rc<RefCell<Kernel>>,
    pub(crate) masquerade: Option<Masquerade>,
    pub(crate) ports: Vec<Mapping>,
    snapshot: Option<Snapshot>,
}

/// A packet at a place of the node.
pub(crate) struct At {
    /// None: it is the node's own.
    pub hook: Option<Hook>,
    pub index: u32,
    pub packet: Packet,
}

/// What follows from a place.
pub(crate) enum Onward {
    /// Another place.
    At(At),
    /// It leaves the node, or ends.
    Next(Next),
}

/// What a program said.
struct Said {
    verdict: Verdict,
    packet: Packet,
    steps: Vec<Step>,
    note: Option<String>,
}

const fn table_hook(hook: Hook) -> TableHook {
    match hook {
        Hook::FromPod => TableHook::FromPod,
        Hook::ToPod => TableHook::ToPod,
        Hook::FromUplink => TableHook::FromUplink,
    }
}

impl Node {
    /// Opens the node of the calling thread's namespaces.
    pub fn open(site: &Site) -> Result<Self> {
        let mut handle = Handle::open()?;
        let mut here = Here::look(&mut handle, &site.data_dir)?;
        if let Some(name) = &site.name {
            here.name.clone_from(name);
        }
        let snapshot = Snapshot::take(&site.bpf_root)?;
        if let Some(snapshot) = &snapshot {
            here.learn(&snapshot.desk.endpoints);
        }
        let masquerade = Masquerading::open().and_then(|mut open| open.observe());
        let mut ports = PortMaps::open().context("ask for host ports")?;
        let ports = ports.list().context("ask for host ports")?;
        let links = here.links.clone();
        Ok(Self {
            here,
            kernel: Rc::new(RefCell::new(Kernel::new(handle, links))),
            masquerade: masquerade.context("ask who is masqueraded")?,
            ports: ports.into_iter().map(|(mapping, _)| mapping).collect(),
            snapshot,
        })
    }

    /// Who is where on the node.
    pub fn here(&self) -> &Here {
        &self.here
    }

    /// Follows a packet to its end on this node.
    pub fn travel(&mut self, arrival: &Arrival) -> Result<Answer> {
        let mut answer = Answer {
            hops: Vec::new(),
            next: self.no_way("it comes by the same places again and again"),
            translated: None,
        };
        let mut at = self.start(arrival)?;
        for _ in 0..PLACES {
            let (hop, onward, translated) = self.decide(at, arrival.translated)?;
            answer.hops.push(hop);
            answer.translated = answer.translated.or(translated);
            match onward {
                Onward::At(next) => at = next,
                Onward::Next(next) => {
                    answer.next = next;
                    break;
                }
            }
        }
        Ok(answer)
    }

    fn start(&self, arrival: &Arrival) -> Result<At> {
        let mut packet = arrival.packet.clone();
        Ok(match arrival.place {
            Place::Pod { address } => {
                let (pod, index) = self.pod(address)?;
                packet.source_mac.get_or_insert(pod.mac);
                packet.destination_mac.get_or_insert(pod.host_mac);
                let hook = Some(Hook::FromPod);
                At {
                    hook,
                    index,
                    packet,
                }
            }
            Place::Uplink { address } => {
                let index = self
                    .here
                    .link_with(address)
                    .with_context(|| format!("node {} has no address {address}", self.here.name))?;
                let link = self.here.links.get(&index);
                packet.destination_mac = link.and_then(|link| link.mac);
                let hook = Some(Hook::FromUplink);
                At {
                    hook,
                    index,
                    packet,
                }
            }
            Place::Node => At {
                hook: None,
                index: 0,
                packet,
            },
        })
    }

    fn pod(&self, address: IpAddr) -> Result<(&Pod, u32)> {
        let name = &self.here.name;
        let Some(pod) = self.here.pod_with(address) else {
            bail!(
                "node {name} has no pod {address}: neither its store nor its datapath knows one; \
                 `watari flows` and `ip route` show who is there"
            );
        };
        let index = self.here.index_of(&pod.link).with_context(|| {
            format!(
                "the interface {} of the pod {address} is gone from node {name}",
                pod.link
            )
        })?;
        Ok((pod, index))
    }

    /// Runs the program of the place, if there is one.
    fn run(&mut self, at: &At) -> Result<Said> {
        let silent = |verdict, note: Option<String>| Said {
            verdict,
            packet: at.packet.clone(),
            steps: Vec::new(),
            note,
        };
        let Some(hook) = at.hook else {
            return Ok(silent(Verdict::Stack, None));
        };
        let otherwise = match hook {
            Hook::ToPod => Verdict::Pass,
            Hook::FromPod | Hook::FromUplink => Verdict::Stack,
        };
        let name = self.here.link_name(at.index);
        let Some(snapshot) = &mut self.snapshot else {
            let note = format!(
                "no datapath is loaded on {} (`watari agent` loads it): the ordinary road, by the \
                 kernel's routes",
                self.here.name
            );
            return Ok(silent(otherwise, Some(note)));
        };
        let attached = snapshot
            .hooks
            .iter()
            .any(|place| place.link.as_str() == name && place.hook == table_hook(hook));
        if !attached {
            let note = format!(
                "{} is not attached at {name}: the ordinary road, by the kernel's routes",
                hook.program()
            );
            return Ok(silent(otherwise, Some(note)));
        }
        let frame = at.packet.frame();
        let frame = frame.context("there is no such packet: too long, or of two families")?;
        snapshot.desk.routes = routes(&self.kernel, at.index);
        let output = snapshot.desk.run(hook, Input::new(at.index, frame));
        self.kernel.borrow_mut().failure()?;
        let packet = at.packet.rewritten(&output.bytes);
        Ok(Said {
            verdict: output.verdict,
            packet: packet.context("the datapath made no packet of it")?,
            steps: output.steps,
            note: None,
        })
    }

    fn decide(
        &mut self,
        at: At,
        known: Option<Translated>,
    ) -> Result<(Hop, Onward, Option<Translated>)> {
        let Said {
            verdict,
            packet,
            steps,
            note,
        } = self.run(&at)?;
        let mut translated = None;
        let (decided, stack, went, onward) = match verdict {
            Verdict::Stack => {
                let handed = self.stack(&at, packet, known)?;
                translated = handed.translated;
                let stack = Some(handed.stack);
                (Decided::Stack, stack, handed.packet, handed.onward)
            }
            other => {
                let (decided, went, next) = self.conclude(other, at.index, packet, &steps);
                (decided, None, went, Onward::Next(next))
            }
        };
        let link = |index| self.here.link_name(index);
        let context = Context {
            source: at.packet.source,
            ifindex: at.index,
            from_pod: at.hook == Some(Hook::FromPod),
            link: &link,
        };
        let hop = Hop {
            node: self.here.name.clone(),
            interface: at.hook.map(|_| link(at.index)).unwrap_or_default(),
            ifindex: at.index,
            hook: at.hook.map(|hook| hook.program().to_owned()),
            attached: at.hook.is_some() && note.is_none(),
            steps: tell(&steps, &context),
            came: at.packet,
            verdict: decided,
            stack,
            went,
            notes: note.into_iter().collect(),
        };
        Ok((hop, onward, translated))
    }

    /// What follows from a verdict that leaves the stack nothing to do.
    fn conclude(
        &self,
        verdict: Verdict,
        index: u32,
        mut packet: Packet,
        steps: &[Step],
    ) -> (Decided, Packet, Next) {
        let node = self.here.name.clone();
        let pod_at = |index| {
            let pod = self.here.pod_behind(index);
            pod.and_then(|pod| pod.name.clone())
        };
        match verdict {
            Verdict::Deliver { ifindex } => {
                let pod = pod_at(ifindex);
                let decided = Decided::Deliver {
                    interface: self.here.link_name(ifindex),
                    ifindex,
                    pod: pod.clone(),
                };
                (decided, packet, Next::End(End::Delivered { node, pod }))
            }
            Verdict::Forward { ifindex, next_hop } => {
                let next_hop = IpAddr::from(next_hop);
                let interface = self.here.link_name(ifindex);
                (packet.source_mac, packet.destination_mac) = self.macs(ifindex, next_hop);
                let decided = Decided::Forward {
                    interface: interface.clone(),
                    ifindex,
                    next_hop,
                };
                let next = Next::Leaves {
                    interface,
                    next_hop,
                    owner: owner_of(steps),
                    packet: packet.clone(),
                };
                (decided, packet, next)
            }
            Verdict::Drop(reason) => {
                let reason = reason.name().to_owned();
                let end = End::Dropped {
                    node,
                    reason: reason.clone(),
                };
                (Decided::Drop { reason }, packet, Next::End(end))
            }
            Verdict::Pass | Verdict::Stack => {
                let pod = pod_at(index);
                (
                    Decided::Pass,
                    packet,
                    Next::End(End::Delivered { node, pod }),
                )
            }
        }
    }

    /// The MACs of a packet that leaves by a link: the link's, and the neighbour's if it is known.
    pub(crate) fn macs(&self, index: u32, neighbour: IpAddr) -> (Option<MacAddr>, Option<MacAddr>) {
        let own = self.here.links.get(&index).and_then(|link| link.mac);
        (own, self.here.mac_of(index, neighbour))
    }

    pub(crate) fn no_way(&self, why: &str) -> Next {
        Next::End(End::NoWay {
            node: self.here.name.clone(),
            why: why.to_owned(),
        })
    }

    /// Where programs are, and what is wrong with them.
    pub fn notes(&self) -> &[String] {
        let snapshot = self.snapshot.as_ref();
        snapshot.map_or(&[], |snapshot| &snapshot.notes)
    }

    /// Whether a program of that hook is attached at a link.
    pub(crate) fn is_attached(&self, index: u32, hook: Hook) -> bool {
        let Some((snapshot, link)) = self.snapshot.as_ref().zip(self.here.links.get(&index)) else {
            return false;
        };
        snapshot.hooks.contains(&HookAt {
            link: link.name.clone(),
            hook: table_hook(hook),
        })
    }
}

/// The node that owns the destination, as the table of remotes told the program.
fn owner_of(steps: &[Step]) -> Option<IpAddr> {
    steps.iter().rev().find_map(|step| match step {
        Step::Remote { found, .. } => found.map(|found| IpAddr::from(found.next_hop)),
        _ => None,
    })
}
