//! Reading and changing the table.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;
use watari_model::{Attachment, NetworkName, Protocol};

use super::layout::{CHAINS, OWNERS, PerFamily, TABLE, V4, V6, create, rules, sets};
use super::{HostPort, Mapping, Masquerade, Owner, PortError, Wanted};
use crate::conntrack::Flows;
use crate::message::{EXCLUSIVE, Message};
use crate::object::{Element, get_generation, parse_elements, parse_generation};
use crate::{Batch, Error, Socket, check};

/// How often a reading is repeated because another transaction came between. Of those that
/// compete one always wins, so this is more than plugins ever run at once.
const ATTEMPTS: u32 = 1000;

/// An element and the set that it is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    set: &'static str,
    element: Element,
}

/// A place in a set.
type Key = (&'static str, Vec<u8>);

/// The port mappings of the network namespace in which it was opened.
#[derive(Debug)]
pub struct PortMaps {
    socket: Socket,
}

fn of(address: IpAddr) -> &'static PerFamily {
    if address.is_ipv4() { &V4 } else { &V6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn is_udp(host: &HostPort) -> bool {
    host.protocol == Protocol::Udp
}

/// Where the mapping of a host port is, for targets of one family.
fn key(host: &HostPort, family: &'static PerFamily) -> Key {
    let mut key = vec![host.protocol.number(), 0, 0, 0];
    key.extend(host.port.to_be_bytes());
    key.extend([0, 0]);
    match host.address.filter(|address| !address.is_unspecified()) {
        None => (family.hostports.name, key),
        Some(address) => (family.boundports.name, [octets(address), key].concat()),
    }
}

fn parse_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// The mapping that an element of a map is; none for a foreign one.
fn parse_mapping(set: &str, element: &Element) -> Option<Mapping> {
    let family = [&V4, &V6]
        .into_iter()
        .find(|family| family.maps().iter().any(|map| map.name == set))?;
    let (address, rest) = if set == family.boundports.name {
        let (address, rest) = element
            .key
            .split_at_checked(element.key.len().checked_sub(8)?)?;
        (Some(parse_address(address)?), rest)
    } else {
        (None, &element.key[..])
    };
    let &[number, 0, 0, 0, p0, p1, 0, 0] = rest else {
        return None;
    };
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| protocol.number() == number)?;
    let data = &element.data;
    let (target, port) = data.split_at_checked(data.len().checked_sub(4)?)?;
    Some(Mapping {
        host: HostPort {
            protocol,
            address,
            port: u16::from_be_bytes([p0, p1]),
        },
        target: parse_address(target)?,
        target_port: u16::from_be_bytes([port[0], port[1]]),
    })
}

/// Everything that an attachment should have.
fn entries(wanted: &Wanted) -> BTreeSet<Entry> {
    let mut entries = BTreeSet::new();
    let entry = |(set, key), data| Entry {
        set,
        element: Element {
            key,
            data,
            comment: wanted.owner.as_str().to_owned(),
        },
    };
    if !wanted.mappings.is_empty() {
        let key = Owner::key(wanted.owner.as_str());
        entries.insert(entry((OWNERS.name, key), Vec::new()));
    }
    for mapping in &wanted.mappings {
        let family = of(mapping.target);
        let target = octets(mapping.target);
        let mut data = target.clone();
        data.extend(mapping.target_port.to_be_bytes());
        data.extend([0, 0]);
        entries.insert(entry(key(&mapping.host, family), data));
        for key in family.masquerade_keys(&target, wanted.masquerade) {
            entries.insert(entry(key, Vec::new()));
        }
    }
    entries
}

/// The connection tracking entries that a change of a mapping makes stale.
fn flows(mapping: &Mapping, target: Option<IpAddr>) -> Flows {
    port_flows(&mapping.host, of(mapping.target), target)
}

fn port_flows(host: &HostPort, family: &PerFamily, target: Option<IpAddr>) -> Flows {
    Flows {
        family: family.family,
        protocol: host.protocol.number(),
        address: host.address.filter(|a| !a.is_unspecified()),
        port: host.port,
        target,
    }
}

impl PortMaps {
    /// Those of the current network namespace.
    pub fn open() -> Result<Self, Error> {
        let socket = Socket::open()?;
        Ok(Self { socket })
    }

    /// Ends it without waiting for the kernel to free what was removed.
    pub fn leave(self) {
        self.socket.close_behind();
    }

    /// Adds all mappings of an attachment, or none. Those that it has already stay; a mapping
    /// left by another attachment *of the same address* is replaced, since an address belongs to
    /// one. UDP flows that began before lose their connection tracking entries.
    pub fn add(&mut self, wanted: &Wanted) -> Result<(), PortError> {
        let entries = entries(wanted);
        let add = |entry: &Entry| TABLE.add_element(entry.set, &entry.element);
        match self.commit_or_create(entries.iter().map(add).collect(), None) {
            // ENOBUFS: so many elements exist already that the errors did not fit.
            Err(error) if matches!(error.errno(), Some(Errno::EEXIST | Errno::ENOBUFS)) => {
                self.add_to_what_is_there(&entries)?;
            }
            result => result?,
        }
        for mapping in wanted.mappings.iter().filter(|m| is_udp(&m.host)) {
            self.socket.forget_flows(&flows(mapping, None))?;
        }
        Ok(())
    }

    fn add_to_what_is_there(&mut self, entries: &BTreeSet<Entry>) -> Result<(), PortError> {
        let keys: Vec<Key> = entries
            .iter()
            .map(|entry| (entry.set, entry.element.key.clone()))
            .collect();
        self.change("add port mappings", |maps| {
            let (generation, found) = maps.look_up(&keys)?;
            let mut messages = Vec::new();
            for (entry, there) in entries.iter().zip(found) {
                match there {
                    Some(there) if there == entry.element => continue,
                    Some(there) => {
                        give_way(entry, &there)?;
                        messages.push(TABLE.delete_element(entry.set, &entry.element.key));
                    }
                    None => {}
                }
                messages.push(TABLE.add_element(entry.set, &entry.element));
            }
            Ok((generation, messages, ()))
        })
    }

    /// Removes the mappings of these host ports, and what belongs to them, as far as they are the
    /// owner's. The cost does not depend on other mappings. Returns what was removed.
    ///
    /// A predecessor may have been killed when the mappings were gone and the flows were not, so
    /// UDP flows to ports that are nobody's are forgotten, wherever they lead.
    pub fn remove(
        &mut self,
        owner: &Owner,
        ports: &BTreeSet<HostPort>,
    ) -> Result<Vec<Mapping>, PortError> {
        let keys: Vec<Key> = ports
            .iter()
            .flat_map(|port| {
                let serves = |v4| port.address.is_none_or(|address| address.is_ipv4() == v4);
                let families = [(true, &V4), (false, &V6)];
                families
                    .into_iter()
                    .filter(move |(v4, _)| serves(*v4))
                    .map(|(_, family)| key(port, family))
            })
            .collect();
        let removed = self.remove_keys(&keys, |comment| comment == owner.as_str())?;
        let done = |port: &HostPort, v4| {
            let same = |m: &&Mapping| m.host == *port && m.target.is_ipv4() == v4;
            removed.iter().any(|m| same(&m))
        };
        for port in ports.iter().filter(|port| is_udp(port)) {
            for (v4, family) in [(true, &V4), (false, &V6)] {
                let serves = port.address.is_none_or(|address| address.is_ipv4() == v4);
                if !serves || done(port, v4) {
                    continue;
                }
                let (_, found) = self.look_up(&[key(port, family)])?;
                if found.iter().all(Option::is_none) {
                    self.socket.forget_flows(&port_flows(port, family, None))?;
                }
            }
        }
        Ok(removed)
    }

    /// Removes all mappings of an owner, whatever they are. Reads the whole maps, but only if the
    /// owner has any.
    pub fn remove_all(&mut self, owner: &Owner) -> Result<Vec<Mapping>, PortError> {
        let (_, found) = self.look_up(&[(OWNERS.name, Owner::key(owner.as_str()))])?;
        if found.iter().all(Option::is_none) {
            return Ok(Vec::new());
        }
        self.remove_where(|comment| comment == owner.as_str())
    }

    /// Removes the mappings of a network whose attachment is none of the valid ones.
    pub fn prune(
        &mut self,
        network: &NetworkName,
        valid: &[Attachment],
    ) -> Result<Vec<Mapping>, PortError> {
        let prefix = Owner::prefix(network);
        let valid: BTreeSet<Owner> = valid
            .iter()
            .map(|attachment| Owner::new(network, attachment))
            .collect();
        self.remove_where(|comment| {
            comment.starts_with(&prefix) && !valid.iter().any(|owner| owner.as_str() == comment)
        })
    }

    fn remove_where(&mut self, mine: impl Fn(&str) -> bool) -> Result<Vec<Mapping>, PortError> {
        let mut keys = Vec::new();
        for set in sets() {
            for element in self.dump(set.name)? {
                if mine(&element.comment) {
                    keys.push((set.name, element.key));
                }
            }
        }
        self.remove_keys(&keys, mine)
    }

    fn remove_keys(
        &mut self,
        keys: &[Key],
        mine: impl Fn(&str) -> bool,
    ) -> Result<Vec<Mapping>, PortError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        self.forget_before(keys, &mine)?;
        let removed = self.change("remove port mappings", |maps| {
            let (generation, found) = maps.look_up(keys)?;
            let mut doomed = BTreeSet::new();
            let mut removed = Vec::new();
            let mut beside = BTreeSet::new();
            for (key, element) in keys.iter().zip(found) {
                let Some(element) = element.filter(|element| mine(&element.comment)) else {
                    continue;
                };
                doomed.insert(key.clone());
                beside.insert((OWNERS.name, Owner::key(&element.comment)));
                let Some(mapping) = parse_mapping(key.0, &element) else {
                    continue;
                };
                let target = octets(mapping.target);
                for masquerade in [Masquerade::Local, Masquerade::Everything] {
                    beside.extend(of(mapping.target).masquerade_keys(&target, masquerade));
                }
                removed.push(mapping);
            }
            let beside: Vec<Key> = beside.difference(&doomed).cloned().collect();
            let (_, found) = maps.look_up(&beside)?;
            for (key, element) in beside.into_iter().zip(found) {
                if element.is_some_and(|element| mine(&element.comment)) {
                    doomed.insert(key);
                }
            }
            let messages = doomed
                .iter()
                .map(|(set, key)| TABLE.delete_element(set, key));
            Ok((generation, messages.collect(), removed))
        })?;
        for mapping in removed.iter().filter(|mapping| is_udp(&mapping.host)) {
            self.socket
                .forget_flows(&flows(mapping, Some(mapping.target)))?;
        }
        Ok(removed)
    }

    /// Forgets the UDP flows of mappings that are about to be removed. They are forgotten once
    /// more behind the removal, since new ones begin until then; but who is killed in between
    /// leaves those of an instant only, and nobody who comes after knows where they led.
    fn forget_before(
        &mut self,
        keys: &[Key],
        mine: impl Fn(&str) -> bool,
    ) -> Result<(), PortError> {
        let (_, found) = self.look_up(keys)?;
        for (key, element) in keys.iter().zip(found) {
            let mapping = element
                .filter(|element| mine(&element.comment))
                .and_then(|element| parse_mapping(key.0, &element));
            if let Some(mapping) = mapping.filter(|mapping| is_udp(&mapping.host)) {
                self.socket
                    .forget_flows(&flows(&mapping, Some(mapping.target)))?;
            }
        }
        Ok(())
    }

    /// What differs from what an attachment should have; empty when nothing does.
    pub fn check(&mut self, wanted: &Wanted) -> Result<Vec<String>, PortError> {
        let entries = entries(wanted);
        let keys: Vec<Key> = entries
            .iter()
            .map(|entry| (entry.set, entry.element.key.clone()))
            .collect();
        let mut differences = self.check_layout()?;
        let (_, found) = self.look_up(&keys)?;
        for (entry, there) in entries.iter().zip(found) {
            let name = describe(entry.set, &entry.element);
            let difference = match there {
                None => format!("{name} is missing"),
                Some(there) if there.comment != entry.element.comment => {
                    format!("{name} belongs to {:?}", there.comment)
                }
                Some(there) if there.data != entry.element.data => {
                    format!("{name} is there as {}", describe(entry.set, &there))
                }
                Some(_) => continue,
            };
            differences.push(difference);
        }
        Ok(differences)
    }

    fn check_layout(&mut self) -> Result<Vec<String>, PortError> {
        let mut differences = Vec::new();
        if self.socket.find(&TABLE.get())?.is_none() {
            return Ok(vec![format!("table inet {} is missing", TABLE.name)]);
        }
        for set in sets() {
            if self.socket.find(&TABLE.get_set(set.name))?.is_none() {
                differences.push(format!("set {} is missing", set.name));
            }
        }
        for (chain, base) in CHAINS {
            let there = check::chain(&mut self.socket, &TABLE, chain, base, &rules(chain))?;
            differences.extend(there);
        }
        Ok(differences)
    }

    /// All mappings with their owners' comments.
    pub fn list(&mut self) -> Result<Vec<(Mapping, String)>, PortError> {
        let mut all = Vec::new();
        for map in V4.maps().into_iter().chain(V6.maps()) {
            for element in self.dump(map.name)? {
                if let Some(mapping) = parse_mapping(map.name, &element) {
                    all.push((mapping, element.comment));
                }
            }
        }
        Ok(all)
    }

    /// Whether port mappings can be made here: the table is there, or one like it can be created
    /// (and is deleted again in the same transaction, so that nobody ever sees it).
    pub fn probe(&mut self) -> Result<(), Error> {
        if self.socket.find(&TABLE.get())?.is_some() {
            return Ok(());
        }
        let mut batch = Batch::new();
        // Exclusive: a table that an ADD creates meanwhile is not ours to delete.
        batch.push(TABLE.create().with(EXCLUSIVE));
        batch.extend(create());
        batch.push(TABLE.delete());
        match self.socket.commit(&batch) {
            Err(error) if error.errno() == Some(Errno::EEXIST) => Ok(()),
            result => result,
        }
    }

    /// Reads, decides and writes, again until nobody else wrote in between. `decide` gives the
    /// generation that it read, the changes and what to return.
    fn change<R>(
        &mut self,
        what: &'static str,
        decide: impl Fn(&mut Self) -> Result<(u32, Vec<Message>, R), PortError>,
    ) -> Result<R, PortError> {
        for _ in 0..ATTEMPTS {
            let (generation, messages, outcome) = decide(self)?;
            match self.commit_or_create(messages, Some(generation)) {
                Ok(()) => return Ok(outcome),
                Err(error) if error.errno() == Some(Errno::ERESTART) => std::thread::yield_now(),
                Err(error) => return Err(error.into()),
            }
        }
        let attempts = ATTEMPTS;
        Err(PortError::Busy { what, attempts })
    }

    /// Commits changes of elements; creates the table in the same transaction if it, or a part
    /// of it, is missing.
    fn commit_or_create(
        &mut self,
        messages: Vec<Message>,
        generation: Option<u32>,
    ) -> Result<(), Error> {
        let start = || generation.map_or_else(Batch::new, |id| Batch::new().at(id));
        let mut batch = start();
        batch.extend(messages.iter().cloned());
        match self.socket.commit(&batch) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => {
                let mut batch = start();
                batch.extend(create());
                batch.extend(messages);
                self.socket.commit(&batch)
            }
            result => result,
        }
    }

    /// The generation, and what stood at these places at that time or later.
    fn look_up(&mut self, keys: &[Key]) -> Result<(u32, Vec<Option<Element>>), Error> {
        let mut requests = vec![get_generation()];
        requests.extend(keys.iter().map(|(set, key)| TABLE.get_element(set, key)));
        let mut replies = self.socket.get(&requests)?.into_iter().zip(&requests);
        let mut generation = 0;
        if let Some((reply, request)) = replies.next() {
            let reply = reply.map_err(|errno| Error::kernel(&request.what, errno))?;
            generation = parse_generation(&reply)
                .map_err(|source| Error::malformed(&request.what, source))?;
        }
        let found = replies
            .map(|(reply, request)| match reply {
                Err(Errno::ENOENT) => Ok(None),
                Err(errno) => Err(Error::kernel(&request.what, errno)),
                Ok(reply) => parse_elements(&reply)
                    .map(|elements| elements.into_iter().next())
                    .map_err(|source| Error::malformed(&request.what, source)),
            })
            .collect::<Result<_, _>>()?;
        Ok((generation, found))
    }

    /// The elements of a set; none if it or the table is missing.
    fn dump(&mut self, set: &str) -> Result<Vec<Element>, Error> {
        let request = TABLE.dump_elements(set);
        let replies = match self.socket.dump(&request) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => return Ok(Vec::new()),
            replies => replies?,
        };
        let mut elements = Vec::new();
        for reply in replies {
            elements.extend(
                parse_elements(&reply).map_err(|source| Error::malformed(&request.what, source))?,
            );
        }
        Ok(elements)
    }
}

/// Whether what is there may be replaced: it is the owner's own, or only says how an address is
/// masqueraded that is the owner's now, or leads to such an address.
fn give_way(entry: &Entry, there: &Element) -> Result<(), PortError> {
    let wanted = parse_mapping(entry.set, &entry.element);
    let found = parse_mapping(entry.set, there);
    match (wanted, found) {
        (Some(wanted), Some(found))
            if there.comment != entry.element.comment && found.target != wanted.target =>
        {
            Err(PortError::Taken {
                port: wanted.host,
                holder: there.comment.clone(),
            })
        }
        _ => Ok(()),
    }
}

fn describe(set: &str, element: &Element) -> String {
    if let Some(mapping) = parse_mapping(set, element) {
        let target = std::net::SocketAddr::new(mapping.target, mapping.target_port);
        return format!("element {} : {target} of map {set}", mapping.host);
    }
    if set == OWNERS.name {
        return format!("the element of {:?} in set {set}", element.comment);
    }
    let size = if set.ends_with('4') { 4 } else { 16 };
    let addresses: Vec<String> = element
        .key
        .chunks(size)
        .filter_map(|part| parse_address(part).map(|address| address.to_string()))
        .collect();
    format!("element {} of set {set}", addresses.join(" . "))
}
