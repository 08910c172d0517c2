//! The decisions over ordinary collections: for tests, and for who wants to know why.
//!
//! [`Desk`] is a node's tables in memory, with a clock that is set by hand. A packet is put on it
//! with [`Desk::run`], which says what became of it and by which steps.

mod tables;

use std::boxed::Box;
use std::collections::BTreeMap;
use std::vec::Vec;

use watari_abi::{
    Address, Config, Connection, ConnectionKey, Counter, DropEvent, DropKey, Endpoint, FlowEvent,
    FlowEventKind, FragmentKey, FragmentPorts, HEADER_BYTES, Hook, Link, Reason, Remote, StackPort,
    maps,
};
use watari_wire::{Frame, Refused, Sum};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

pub use tables::{Kept, Lru, Prefixes, Shared, Tallies, Value};

use crate::{Dropped, Env, Packet, Route, RouteQuery, Step, Table, Verdict};

/// How the node's routes answer.
pub type Routes = Box<dyn Fn(&RouteQuery) -> Route>;

/// A node in memory.
pub struct Desk {
    /// The time, in ns.
    pub now: u64,
    /// Pods of this node.
    pub endpoints: BTreeMap<Address, Endpoint>,
    /// Host-side links.
    pub links: BTreeMap<u32, Link>,
    /// Nodes, by what they own.
    pub remotes: Prefixes,
    /// Established connections; evicts nothing.
    pub established: Lru<ConnectionKey, Shared<Connection>>,
    /// All others.
    pub transient: Lru<ConnectionKey, Shared<Connection>>,
    /// Ports of first fragments.
    pub fragments: Lru<FragmentKey, FragmentPorts>,
    /// Ports that the stack may translate.
    pub stack_ports: Lru<StackPort, u64>,
    /// What holds for the node.
    pub config: Config,
    /// The kernel's routes; none to begin with.
    pub routes: Routes,
    /// What was counted.
    pub counters: Tallies<Counter>,
    /// What was dropped, by reason.
    pub drop_totals: Tallies<Reason>,
    /// What was dropped, by link and reason.
    pub drops_by_link: Tallies<DropKey>,
    /// Events of connections, oldest first.
    pub flow_events: Vec<FlowEvent>,
    /// Events of drops.
    pub drop_events: Vec<DropEvent>,
}

/// A frame, and what the kernel knows beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The link at which it is seen.
    pub ifindex: u32,
    /// The frame, from its link header on.
    pub bytes: Vec<u8>,
    /// Bytes of payload in each segment; zero when it is one packet.
    pub segment: u32,
    /// It had an 802.1Q tag, which the kernel keeps beside it.
    pub tagged: bool,
    /// It is for the MAC of that link.
    pub for_this_host: bool,
}

impl Input {
    /// An ordinary frame.
    pub fn new(ifindex: u32, bytes: Vec<u8>) -> Self {
        Self {
            ifindex,
            bytes,
            segment: 0,
            tagged: false,
            for_this_host: true,
        }
    }
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// What was decided.
    pub verdict: Verdict,
    /// The frame as it is now.
    pub bytes: Vec<u8>,
    /// Why.
    pub steps: Vec<Step>,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            now: 1_000_000_000_000,
            endpoints: BTreeMap::default(),
            links: BTreeMap::default(),
            remotes: Prefixes::default(),
            established: Lru::keeping(maps::ESTABLISHED_MAX as usize),
            transient: Lru::evicting(maps::TRANSIENT_MAX as usize),
            fragments: Lru::evicting(maps::FRAGMENTS_MAX as usize),
            stack_ports: Lru::evicting(maps::STACK_PORTS_MAX as usize),
            config: Config::default(),
            routes: Box::new(|_| Route::None),
            counters: Tallies::default(),
            drop_totals: Tallies::default(),
            drops_by_link: Tallies::default(),
            flow_events: Vec::new(),
            drop_events: Vec::new(),
        }
    }
}

impl Desk {
    /// What becomes of a frame that is seen there.
    pub fn run(&mut self, hook: Hook, input: Input) -> Output {
        let mut seat = Seat {
            desk: self,
            input,
            steps: Vec::new(),
        };
        let mut packet = Packet::default();
        let verdict = match hook {
            Hook::FromPod => crate::from_pod(&mut seat, &mut packet),
            Hook::ToPod => crate::to_pod(&mut seat, &mut packet),
            Hook::FromUplink => crate::from_uplink(&mut seat, &mut packet),
        };
        Output {
            verdict,
            bytes: seat.input.bytes,
            steps: seat.steps,
        }
    }

    /// A connection and where it is kept, expired or not.
    pub fn connection(&self, key: &ConnectionKey) -> Option<(Table, Connection)> {
        let established = self.established.get(key).map(|kept| kept.get());
        let transient = self.transient.get(key).map(|kept| kept.get());
        established
            .map(|connection| (Table::Established, connection))
            .or(transient.map(|connection| (Table::Transient, connection)))
    }
}

/// The desk with a frame on it.
struct Seat<'a> {
    desk: &'a mut Desk,
    input: Input,
    steps: Vec<Step>,
}

impl Seat<'_> {
    fn read<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
        let bytes = self.input.bytes.get(offset..)?;
        T::read_from_prefix(bytes).ok().map(|(value, _)| value)
    }

    fn write<T: IntoBytes + Immutable>(&mut self, offset: usize, value: &T) -> Result<(), Refused> {
        let value = value.as_bytes();
        let place = self
            .input
            .bytes
            .get_mut(offset..offset + value.len())
            .ok_or(Refused)?;
        place.copy_from_slice(value);
        Ok(())
    }
}

impl Frame for Seat<'_> {
    fn length(&self) -> u32 {
        u32::try_from(self.input.bytes.len()).unwrap_or(u32::MAX)
    }

    fn fixed<T: FromBytes + Copy>(&self, offset: u32) -> Option<T> {
        self.read(offset as usize)
    }

    fn load<T: FromBytes + Copy>(&self, offset: u32) -> Option<T> {
        self.read(offset as usize)
    }

    fn store_fixed<T: IntoBytes + Immutable + Copy>(
        &mut self,
        offset: u32,
        value: T,
    ) -> Result<(), Refused> {
        self.write(offset as usize, &value)
    }

    fn store<T: IntoBytes + Immutable + Copy>(
        &mut self,
        offset: u32,
        value: T,
    ) -> Result<(), Refused> {
        self.write(offset as usize, &value)
    }

    fn uncompensated(&mut self, _: Sum) {}

    fn correct(
        &mut self,
        offset: u32,
        difference: Sum,
        _: bool,
        optional: bool,
    ) -> Result<(), Refused> {
        let before: u16 = self.load(offset).ok_or(Refused)?;
        if optional && before == 0 {
            return Ok(());
        }
        let after = difference.correct(before);
        let written = if optional && after == 0 {
            u16::MAX
        } else {
            after
        };
        self.store(offset, written)
    }
}

impl Env for Seat<'_> {
    type Entry = Kept;
    type Value<T: Copy + 'static> = Value<T>;

    fn ifindex(&self) -> u32 {
        self.input.ifindex
    }

    fn segment(&self) -> u32 {
        self.input.segment
    }

    fn tagged(&self) -> bool {
        self.input.tagged
    }

    fn for_this_host(&self) -> bool {
        self.input.for_this_host
    }

    fn now(&self) -> u64 {
        self.desk.now
    }

    fn endpoint(&self, address: &Address) -> Option<Value<Endpoint>> {
        self.desk.endpoints.get(address).copied().map(Value)
    }

    fn link(&self, ifindex: u32) -> Option<Value<Link>> {
        self.desk.links.get(&ifindex).copied().map(Value)
    }

    fn remote(&self, address: &Address) -> Option<Value<Remote>> {
        self.desk.remotes.find(address).map(Value)
    }

    fn config(&self) -> Config {
        self.desk.config
    }

    fn connection(&self, table: Table, key: &ConnectionKey) -> Option<Kept> {
        match table {
            Table::Established => self.desk.established.get(key),
            Table::Transient => self.desk.transient.get(key),
        }
        .map(Kept)
    }

    fn open(&mut self, fill: impl FnOnce(&mut FlowEvent), event: bool) -> bool {
        let mut made = FlowEvent::new_zeroed();
        fill(&mut made);
        if event {
            self.desk.flow_events.push(made);
        }
        self.desk
            .transient
            .insert(made.key, Shared::new(made.connection))
    }

    fn shift(&mut self, key: &ConnectionKey, entry: &Kept, to: Table) -> bool {
        let copy = Shared::new(entry.0.get());
        let (there, here) = match to {
            Table::Established => (&mut self.desk.established, &mut self.desk.transient),
            Table::Transient => (&mut self.desk.transient, &mut self.desk.established),
        };
        let moved = there.insert(*key, copy);
        if moved {
            here.remove(key);
        }
        moved
    }

    fn remove(&mut self, table: Table, key: &ConnectionKey) {
        match table {
            Table::Established => self.desk.established.remove(key),
            Table::Transient => self.desk.transient.remove(key),
        }
    }

    fn closed(&mut self, hook: Hook, key: &ConnectionKey, entry: &Kept, now: u64) {
        self.desk.flow_events.push(FlowEvent {
            time: now,
            kind: FlowEventKind::Closed as u32,
            hook: hook as u32,
            key: *key,
            connection: entry.0.get(),
        });
    }

    fn fragment(&self, key: &FragmentKey) -> Option<Value<FragmentPorts>> {
        self.desk.fragments.get(key).map(Value)
    }

    fn remember_fragment(&mut self, key: &FragmentKey, ports: &FragmentPorts) {
        self.desk.fragments.insert(*key, *ports);
    }

    fn stack_port(&self, port: &StackPort) -> Option<Value<u64>> {
        self.desk.stack_ports.get(port).map(Value)
    }

    fn remember_stack_port(&mut self, port: &StackPort, now: u64) {
        self.desk.stack_ports.insert(*port, now);
    }

    fn route(&mut self, query: &RouteQuery) -> Route {
        (self.desk.routes)(query)
    }

    fn count(&mut self, counter: Counter) {
        let length = self.length();
        self.desk.counters.add(counter, length);
    }

    fn dropped(&mut self, dropped: &Dropped) {
        let (length, ifindex) = (self.length(), self.ifindex());
        self.desk.drop_totals.add(dropped.reason, length);
        let key = DropKey {
            ifindex,
            reason: dropped.reason as u16,
            hook: dropped.hook as u8,
            pad: 0,
        };
        self.desk.drops_by_link.add(key, length);
        let mut headers = [0; HEADER_BYTES];
        let captured = self.input.bytes.len().min(HEADER_BYTES);
        if let (Some(place), Some(bytes)) = (
            headers.get_mut(..captured),
            self.input.bytes.get(..captured),
        ) {
            place.copy_from_slice(bytes);
        }
        self.desk.drop_events.push(DropEvent {
            time: self.desk.now,
            ifindex,
            length,
            reason: dropped.reason as u16,
            hook: dropped.hook as u8,
            captured: u8::try_from(captured).unwrap_or(u8::MAX),
            rule: dropped.rule,
            headers,
        });
    }

    fn step(&mut self, step: Step) {
        self.steps.push(step);
    }
}
