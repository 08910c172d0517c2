use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use aya::maps::{MapData, RingBuf};
use ipnet::IpNet;
use watari_abi::{
    Address, Connection, ConnectionKey, Counter, DropEvent, DropKey, Endpoint, FlowEvent, Hook,
    Link, PrefixKey, Reason, Remote, Tally, maps,
};
use watari_model::{IfName, MacAddr};
use watari_tables::{Datapath as Tables, HookAt, LocalEndpoint};
use zerocopy::FromBytes;

use crate::attach::{Attachment, Found, Hooks};
use crate::datapath::{
    Applied, Change, Datapath, Drops, DropsAt, Event, Flow, OLDER, Observed, Stray, Swept, TWICE,
    abi_hook, difference, table_hook,
};
use crate::error::{BpfError, Doing};
use crate::links::{self, Names};
use crate::map::{Map, PerCpuMap};
use crate::pins::PinDir;
use crate::sweep::Sweep;
use crate::sys::{LinkFd, MapFd, Pinned, ProgramFd};

/// Bits of a v4-mapped address before the IPv4 part.
const MAPPED_BITS: u8 = 96;

/// The datapath of this node, in the kernel. Of the network and mount namespace of the thread
/// that opened it; used on threads of the same.
pub struct Node {
    hooks: Hooks,
    attachment: Attachment,
    endpoints: Map<Address, Endpoint>,
    links: Map<u32, Link>,
    remotes: Map<PrefixKey, Remote>,
    established: Map<ConnectionKey, Connection>,
    transient: Map<ConnectionKey, Connection>,
    drop_totals: PerCpuMap<u32>,
    drops_by_link: PerCpuMap<DropKey>,
    counters: PerCpuMap<u32>,
    flow_events: RingBuf<MapData>,
    drop_events: RingBuf<MapData>,
    sweep: Sweep,
}

fn ring(path: &Path) -> Result<RingBuf<MapData>, BpfError> {
    MapData::from_pin(path)
        .and_then(|data| RingBuf::try_from(aya::maps::Map::RingBuf(data)))
        .map_err(std::io::Error::other)
        .doing(|| format!("open the ring {}", path.display()))
}

impl Node {
    /// Opens the datapath that [`crate::load`] has loaded below `root`; `attachment` is what that
    /// said.
    pub fn open(root: &Path, attachment: Attachment) -> Result<Self, BpfError> {
        let dir = PinDir::current(root);
        Ok(Self {
            attachment,
            endpoints: Map::open(&dir.map(maps::ENDPOINTS))?,
            links: Map::open(&dir.map(maps::LINKS))?,
            remotes: Map::open(&dir.map(maps::REMOTES))?,
            established: Map::open(&dir.map(maps::ESTABLISHED))?,
            transient: Map::open(&dir.map(maps::TRANSIENT))?,
            drop_totals: PerCpuMap::open(&dir.map(maps::DROP_TOTALS))?,
            drops_by_link: PerCpuMap::open(&dir.map(maps::DROPS_BY_LINK))?,
            counters: PerCpuMap::open(&dir.map(maps::COUNTERS))?,
            flow_events: ring(&dir.map(maps::FLOW_EVENTS))?,
            drop_events: ring(&dir.map(maps::DROP_EVENTS))?,
            sweep: Sweep::default(),
            hooks: Hooks::new(dir),
        })
    }

    /// The pod of this node that has an address.
    pub fn endpoint(&self, address: IpAddr) -> Result<Option<Endpoint>, BpfError> {
        self.endpoints.get(&Address::from(address))
    }

    /// The maps themselves, for who runs the decisions over them: endpoints, links, remotes, the
    /// two tables of connections.
    pub fn tables(&self) -> NodeTables<'_> {
        NodeTables {
            endpoints: &self.endpoints,
            links: &self.links,
            remotes: &self.remotes,
            established: &self.established,
            transient: &self.transient,
        }
    }

    fn program_ids(&self) -> BTreeMap<Hook, u32> {
        let mut ids = BTreeMap::new();
        for hook in Hook::ALL {
            let info = ProgramFd::open(&self.hooks.dir().program(*hook)).and_then(|p| p.info());
            if let Ok(info) = info {
                ids.insert(*hook, info.id);
            }
        }
        ids
    }

    fn unpinned(&self, programs: &BTreeMap<Hook, u32>) -> Vec<String> {
        let mut missing: Vec<String> = Hook::ALL
            .iter()
            .filter(|hook| !programs.contains_key(hook))
            .map(|hook| hook.program().to_owned())
            .collect();
        let opened = [
            (maps::ENDPOINTS, self.endpoints.info().id),
            (maps::LINKS, self.links.info().id),
            (maps::REMOTES, self.remotes.info().id),
            (maps::ESTABLISHED, self.established.info().id),
            (maps::TRANSIENT, self.transient.info().id),
        ];
        for name in maps::ALL {
            let found = MapFd::open(&self.hooks.dir().map(name));
            let wanted = opened.iter().find(|(of, _)| of == name).map(|(_, id)| *id);
            let right = found.is_ok_and(|map| wanted.is_none_or(|id| id == map.info().id));
            if !right {
                missing.push((*name).to_owned());
            }
        }
        missing
    }

    fn observe_endpoints(&self, names: &Names, observed: &mut Observed) -> Result<(), BpfError> {
        let macs: BTreeMap<u32, [u8; 6]> = self
            .links
            .entries()?
            .into_iter()
            .map(|(ifindex, link)| (ifindex, link.mac))
            .collect();
        let mut used = BTreeSet::new();
        for (address, endpoint) in self.endpoints.entries()? {
            let address = IpAddr::from(address);
            let ifindex = endpoint.ifindex;
            used.insert(ifindex);
            let link = names.of(ifindex);
            match link {
                Some(link) if macs.get(&ifindex) == Some(&endpoint.mac) => {
                    let endpoint = LocalEndpoint {
                        link,
                        mac: MacAddr(endpoint.mac),
                        host_mac: MacAddr(endpoint.host_mac),
                    };
                    observed.tables.endpoints.insert(address, endpoint);
                }
                _ => observed.strays.push(Stray::Endpoint { address, ifindex }),
            }
        }
        for ifindex in macs.into_keys() {
            let link = names.of(ifindex);
            if link.is_none() || !used.contains(&ifindex) {
                observed.strays.push(Stray::Link { ifindex, link });
            }
        }
        Ok(())
    }

    fn observe_hooks(
        &mut self,
        programs: &BTreeMap<Hook, u32>,
        names: &Names,
        observed: &mut Observed,
    ) -> Result<(), BpfError> {
        for found in self.hooks.list_by(names)? {
            let (at, hook) = match &found {
                Found::Dead { pin } => {
                    let name = pin.file_name().unwrap_or_default();
                    let name = name.to_string_lossy().into_owned();
                    observed.strays.push(Stray::Pin(name));
                    continue;
                }
                Found::Link { at, .. } | Found::Filter { at, .. } => {
                    let hook = table_hook(at.hook);
                    (
                        at,
                        HookAt {
                            link: at.link.clone(),
                            hook,
                        },
                    )
                }
            };
            let why = if programs.get(&at.hook) != Some(&at.program) {
                OLDER
            } else if observed.tables.hooks.contains(&hook) {
                TWICE
            } else {
                observed.to_promote += usize::from(at.by != self.attachment);
                observed.tables.hooks.insert(hook);
                continue;
            };
            observed.strays.push(Stray::Hook { at: hook, why });
        }
        Ok(())
    }

    fn make(&mut self, change: &Change) -> Result<(), BpfError> {
        match change {
            Change::SetEndpoint(address, endpoint) => self.set_endpoint(*address, endpoint),
            Change::SetRemote(range, node) => {
                let remote = Remote {
                    next_hop: Address::from(*node),
                    ..Remote::default()
                };
                self.remotes.insert(&prefix_key(*range), &remote)
            }
            Change::RemoveRemote(range) => self.remotes.remove(&prefix_key(*range)).map(drop),
            Change::RemoveEndpoint(address) => {
                self.endpoints.remove(&Address::from(*address)).map(drop)
            }
            Change::Attach(at) => {
                let ifindex = links::index_of(&at.link)?;
                let hook = abi_hook(at.hook);
                let program = self.hooks.dir().open_program(hook)?;
                let place = (&at.link, ifindex);
                // Not quickly: the link may carry traffic, of which making a qdisc loses packets.
                self.hooks.attach(self.attachment, place, hook, &program)
            }
            Change::Detach(at) => self.detach(at),
            Change::RemoveStray(stray) => self.remove_stray(stray),
        }
    }

    fn set_endpoint(&self, address: IpAddr, endpoint: &LocalEndpoint) -> Result<(), BpfError> {
        let ifindex = links::index_of(&endpoint.link)?;
        let entry = Endpoint {
            ifindex,
            mac: endpoint.mac.0,
            host_mac: endpoint.host_mac.0,
            ..Endpoint::default()
        };
        let link = Link {
            mac: endpoint.mac.0,
            ..Link::default()
        };
        self.endpoints.insert(&Address::from(address), &entry)?;
        self.links.insert(&ifindex, &link)
    }

    fn detach(&mut self, at: &HookAt) -> Result<(), BpfError> {
        let hook = abi_hook(at.hook);
        for found in self.hooks.list()? {
            let there = found.at();
            if there.is_some_and(|there| there.link == at.link && there.hook == hook) {
                self.hooks.detach(&found)?;
            }
        }
        Ok(())
    }

    fn remove_stray(&mut self, stray: &Stray) -> Result<(), BpfError> {
        match stray {
            Stray::Endpoint { address, .. } => {
                self.endpoints.remove(&Address::from(*address)).map(drop)
            }
            Stray::Link { ifindex, .. } => self.links.remove(ifindex).map(drop),
            Stray::Hook { at, why } if *why == TWICE => self.detach_second(at),
            Stray::Hook { at, .. } => self.detach(at),
            Stray::Pin(name) => {
                let pin = self.hooks.dir().links().join(name);
                // What was attached meanwhile may be pinned there.
                let now = LinkFd::open(&pin).and_then(|link| link.info());
                let lives = now.is_ok_and(|now| links::name_of(now.ifindex).is_some());
                if !lives {
                    self.hooks.detach(&Found::Dead { pin })?;
                }
                self.hooks.forget_gone_qdiscs()
            }
        }
    }

    /// Attaches up to `most` of these otherwise; gives how many.
    fn promote_some(&mut self, attached: Vec<Found>, most: usize) -> Result<usize, BpfError> {
        let mut done = 0;
        for found in attached {
            let Some(at) = found.at().filter(|_| done < most) else {
                continue;
            };
            let program = self.hooks.dir().open_program(at.hook)?;
            let place = (&at.link, at.ifindex);
            // For a moment both are there, and both see what the first one passes on: rather
            // that than a moment with neither.
            match self.hooks.attach(self.attachment, place, at.hook, &program) {
                Err(error) if error.is_absent() => continue,
                other => other?,
            }
            self.hooks.detach_under_traffic(&found)?;
            done += 1;
        }
        Ok(done)
    }

    /// Of two attachments of one program, takes the one of the other kind away.
    fn detach_second(&mut self, at: &HookAt) -> Result<(), BpfError> {
        let (hook, attachment) = (abi_hook(at.hook), self.attachment);
        for found in self.hooks.list()? {
            let is_second = found.at().is_some_and(|there| {
                there.link == at.link && there.hook == hook && there.by != attachment
            });
            if is_second {
                self.hooks.detach_under_traffic(&found)?;
            }
        }
        Ok(())
    }

    /// Removes the entries of links that had endpoints and have none any more.
    fn drop_links(&self, observed: &Observed, desired: &Tables) -> Result<(), BpfError> {
        let in_use: BTreeSet<&IfName> = desired.endpoints.values().map(|e| &e.link).collect();
        for (address, endpoint) in &observed.tables.endpoints {
            let same = desired
                .endpoints
                .get(address)
                .is_some_and(|e| e.link == endpoint.link);
            if !same
                && !in_use.contains(&endpoint.link)
                && let Ok(ifindex) = links::index_of(&endpoint.link)
            {
                self.links.remove(&ifindex)?;
            }
        }
        Ok(())
    }
}

/// The tables of a node, to look into.
#[derive(Debug, Clone, Copy)]
pub struct NodeTables<'a> {
    /// [`maps::ENDPOINTS`].
    pub endpoints: &'a Map<Address, Endpoint>,
    /// [`maps::LINKS`].
    pub links: &'a Map<u32, Link>,
    /// [`maps::REMOTES`].
    pub remotes: &'a Map<PrefixKey, Remote>,
    /// [`maps::ESTABLISHED`].
    pub established: &'a Map<ConnectionKey, Connection>,
    /// [`maps::TRANSIENT`].
    pub transient: &'a Map<ConnectionKey, Connection>,
}

/// A range as the longest-prefix table has it.
fn prefix_key(range: IpNet) -> PrefixKey {
    let length = match range {
        IpNet::V4(v4) => MAPPED_BITS + v4.prefix_len(),
        IpNet::V6(v6) => v6.prefix_len(),
    };
    PrefixKey {
        length: u32::from(length),
        address: Address::from(range.network()),
    }
}

/// The range that a key stands for, if it is one.
fn range_of(key: &PrefixKey) -> Option<IpNet> {
    let length = u8::try_from(key.length).ok()?;
    let address = IpAddr::from(key.address);
    let length = match address {
        IpAddr::V4(_) => length.checked_sub(MAPPED_BITS)?,
        IpAddr::V6(_) => length,
    };
    IpNet::new(address, length).ok()
}

impl Datapath for Node {
    fn observe(&mut self) -> Result<Observed, BpfError> {
        let programs = self.program_ids();
        let mut observed = Observed {
            unpinned: self.unpinned(&programs),
            ..Observed::default()
        };
        let names = self.hooks.link_names()?;
        self.observe_endpoints(&names, &mut observed)?;
        for (key, remote) in self.remotes.entries()? {
            if let Some(range) = range_of(&key) {
                let node = IpAddr::from(remote.next_hop);
                observed.tables.remotes.insert(range, node);
            }
        }
        self.observe_hooks(&programs, &names, &mut observed)?;
        Ok(observed)
    }

    fn apply(&mut self, observed: &Observed, desired: &Tables) -> Applied {
        let mut applied = Applied::default();
        for change in difference(observed, desired) {
            match self.make(&change) {
                Ok(()) => applied.done.push(change),
                Err(error) => applied.failed.push((change, error)),
            }
        }
        if let Err(error) = self.drop_links(observed, desired) {
            let link = None;
            let change = Change::RemoveStray(Stray::Link { ifindex: 0, link });
            applied.failed.push((change, error));
        }
        applied
    }

    fn promote(&mut self, limit: usize) -> Result<usize, BpfError> {
        let names = Names::default();
        let mut done = 0;
        match self.attachment {
            // After a hundred pods came there are hundreds to promote, a few at each call: only
            // those links are read that are needed for these.
            Attachment::Tcx => {
                for ifindex in self.hooks.clsact_links()? {
                    if done == limit {
                        break;
                    }
                    let filters = self.hooks.filters_at(ifindex, &names)?;
                    done += self.promote_some(filters, limit - done)?;
                }
            }
            Attachment::Clsact => {
                let attached = self.hooks.list_tcx(&names)?;
                done = self.promote_some(attached, limit)?;
            }
        }
        Ok(done)
    }

    fn flows(&mut self, take: &mut dyn FnMut(Flow)) -> Result<(), BpfError> {
        for (map, established) in [(&self.established, true), (&self.transient, false)] {
            map.for_each(|key, connection| {
                take(Flow {
                    key,
                    connection,
                    established,
                });
            })?;
        }
        Ok(())
    }

    fn drops(&mut self) -> Result<Drops, BpfError> {
        let by_link = self.drops_by_link.sums()?.into_iter();
        let by_link = by_link.map(|(key, tally)| DropsAt {
            ifindex: key.ifindex,
            link: links::name_of(key.ifindex),
            hook: Hook::of(key.hook),
            reason: Reason::of(key.reason),
            tally,
        });
        Ok(Drops {
            totals: self.drop_totals.drops()?,
            by_link: by_link.collect(),
        })
    }

    fn counters(&mut self) -> Result<Vec<(Counter, Tally)>, BpfError> {
        self.counters.counters()
    }

    fn sweep(&mut self, now: u64, limit: usize) -> Result<Swept, BpfError> {
        let tables = [&self.established, &self.transient];
        self.sweep.run(tables, now, limit)
    }

    fn events(&mut self, limit: usize) -> Result<Vec<Event>, BpfError> {
        let mut events = Vec::new();
        while events.len() < limit
            && let Some(item) = self.drop_events.next()
        {
            // One of another length is of another version's program.
            events.extend(DropEvent::read_from_bytes(&item).map(Event::Drop));
        }
        while events.len() < limit
            && let Some(item) = self.flow_events.next()
        {
            events.extend(FlowEvent::read_from_bytes(&item).map(Event::Flow));
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<[u8; 4]>(), 0_u8..=32)
            .prop_map(|(octets, length)| IpNet::new(octets.into(), length).unwrap().trunc());
        let v6 = (any::<[u8; 16]>(), 0_u8..=128)
            .prop_map(|(octets, length)| IpNet::new(octets.into(), length).unwrap().trunc())
            // A mapped range is an IPv4 one.
            .prop_filter(
                "not mapped",
                |net| matches!(net, IpNet::V6(v6) if v6.network().to_ipv4_mapped().is_none()),
            );
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn ranges_survive_the_table(range in range()) {
            prop_assert_eq!(range_of(&prefix_key(range)), Some(range));
        }
    }
}
