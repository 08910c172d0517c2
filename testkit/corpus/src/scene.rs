use watari_abi::{Address, Connection, ConnectionKey, Hook, Side, State, Tuple, flags};
use watari_datapath::desk::Input;
use watari_datapath::{Route, Table, Verdict};

use crate::packets::{Body, Packet};
use crate::world::{Net, Place, Who, World};

/// A sequence of packets in one world.
#[derive(Clone)]
pub struct Case {
    /// What it shows, with the family.
    pub name: String,
    /// The tables before.
    pub world: World,
    /// The packets, in order.
    pub shots: Vec<Shot>,
}

/// A packet, and what becomes of it.
#[derive(Clone)]
pub struct Shot {
    /// Where it is seen.
    pub hook: Hook,
    /// The frame.
    pub input: Input,
    /// What is decided.
    pub verdict: Verdict,
    /// The frame afterwards.
    pub bytes: Vec<u8>,
    /// What the tables hold afterwards, of some connections.
    pub entries: Vec<(ConnectionKey, Option<Entry>)>,
}

/// What is kept of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Where.
    pub table: Table,
    /// A [`State`].
    pub state: u8,
    /// [`flags`].
    pub flags: u16,
    /// Packets by direction.
    pub packets: [u64; 2],
}

impl Entry {
    /// What there is to see of a connection.
    pub fn of(table: Table, connection: &Connection) -> Self {
        let [original, reply] = &connection.directions;
        Self {
            table,
            state: connection.state,
            flags: connection.flags,
            packets: [original.packets, reply.packets],
        }
    }
}

/// What the frame is afterwards.
#[derive(Clone, Debug)]
pub enum Out {
    /// As it was.
    Same,
    /// As it enters that pod: one hop less, other MACs.
    Into(Who),
    /// As it leaves: one hop less.
    Onward,
    /// Another packet.
    Packet(Box<Packet>),
}

impl Case {
    /// It can only be run where the node's routes lead to the other node.
    pub fn needs_routes(&self) -> bool {
        let forwards = |shot: &Shot| matches!(shot.verdict, Verdict::Forward { .. });
        !self.world.routes.is_empty() || self.shots.iter().any(forwards)
    }

    /// It can only be run where the size of a table may be chosen, or the kernel's knowledge of a
    /// frame, or where a frame may end within its network header, which `BPF_PROG_TEST_RUN`
    /// refuses: on the desk.
    pub fn needs_desk(&self) -> bool {
        let special = |shot: &Shot| {
            let input = &shot.input;
            let least = match input.bytes.get(12..14) {
                Some([0x08, 0x00]) => 14 + 20,
                Some([0x86, 0xdd]) => 14 + 40,
                _ => 14,
            };
            let short = input.bytes.len() < least;
            short || input.tagged || input.segment != 0 || !input.for_this_host
        };
        self.world.established_full || self.shots.iter().any(special)
    }
}

/// Where a case is put together.
pub struct Scene {
    /// The family.
    pub net: Net,
    /// What the runner has.
    pub place: Place,
    /// The case so far.
    pub case: Case,
}

impl Scene {
    /// An empty case in the usual world.
    pub fn new(place: &Place, net: Net, name: &str) -> Self {
        Self {
            net,
            place: *place,
            case: Case {
                name: format!("{name}/{}", net.name()),
                world: World::usual(place),
                shots: Vec::new(),
            },
        }
    }

    /// A packet between two, with the MACs that it has at that hook.
    pub fn packet(&self, hook: Hook, from: Who, to: Who, body: Body) -> Packet {
        let packet = Packet::new(self.net.of(from), self.net.of(to), body);
        match hook {
            Hook::FromPod | Hook::FromUplink => packet.macs(from.mac(), self.place.host_mac),
            Hook::ToPod => packet.macs(to.host_mac(), to.mac()),
        }
    }

    /// The link at which somebody's packets are seen.
    pub fn link(&self, hook: Hook, from: Who, to: Who) -> u32 {
        let of = |who| match who {
            Who::A => self.place.link_a,
            _ => self.place.link_b,
        };
        match hook {
            Hook::FromPod => of(from),
            Hook::ToPod => of(to),
            Hook::FromUplink => self.place.uplink,
        }
    }

    /// A packet between two, and what becomes of it.
    #[must_use]
    pub fn shot(self, hook: Hook, from: Who, to: Who, body: Body, verdict: Verdict) -> Self {
        let packet = self.packet(hook, from, to, body);
        let out = match verdict {
            Verdict::Deliver { .. } => Out::Into(to),
            Verdict::Forward { .. } => Out::Onward,
            _ => Out::Same,
        };
        self.shot_packet(hook, from, to, &packet, verdict, &out)
    }

    /// A packet that was built by hand, and what becomes of it.
    #[must_use]
    pub fn shot_packet(
        self,
        hook: Hook,
        from: Who,
        to: Who,
        packet: &Packet,
        verdict: Verdict,
        out: &Out,
    ) -> Self {
        let ifindex = self.link(hook, from, to);
        let hop = |packet: &Packet| packet.clone().hops(packet.hops - 1);
        let after = match out {
            Out::Same => packet.bytes(),
            Out::Into(pod) => hop(packet).macs(pod.host_mac(), pod.mac()).bytes(),
            Out::Onward => hop(packet).bytes(),
            Out::Packet(other) => other.bytes(),
        };
        self.shot_bytes(hook, Input::new(ifindex, packet.bytes()), verdict, after)
    }

    /// Any frame, and what becomes of it.
    #[must_use]
    pub fn shot_bytes(
        mut self,
        hook: Hook,
        input: Input,
        verdict: Verdict,
        bytes: Vec<u8>,
    ) -> Self {
        self.case.shots.push(Shot {
            hook,
            input,
            verdict,
            bytes,
            entries: Vec::new(),
        });
        self
    }

    /// A frame that is left as it is.
    #[must_use]
    pub fn shot_same(self, hook: Hook, input: Input, verdict: Verdict) -> Self {
        let bytes = input.bytes.clone();
        self.shot_bytes(hook, input, verdict, bytes)
    }

    /// What is kept afterwards of the connection that the first of these opened.
    #[must_use]
    pub fn kept(
        mut self,
        opened: &Tuple,
        table: Table,
        state: State,
        bits: u16,
        packets: [u64; 2],
    ) -> Self {
        let (key, side) = opened.key();
        let low = if side == Side::Low {
            flags::LOW_IS_ORIGINATOR
        } else {
            0
        };
        let entry = Entry {
            table,
            state: state as u8,
            flags: bits | low,
            packets,
        };
        self.last().entries.push((key, Some(entry)));
        self
    }

    /// Nothing is kept afterwards of that connection.
    #[must_use]
    pub fn forgotten(mut self, opened: &Tuple) -> Self {
        let (key, _) = opened.key();
        self.last().entries.push((key, None));
        self
    }

    fn last(&mut self) -> &mut Shot {
        self.case.shots.last_mut().expect("a shot before")
    }

    /// With a connection that is there before.
    #[must_use]
    pub fn with(mut self, table: Table, opened: &Tuple, mut connection: Connection) -> Self {
        let (key, side) = opened.key();
        if side == Side::Low {
            connection.flags |= flags::LOW_IS_ORIGINATOR;
        }
        connection.family = if key.low.is_mapped() { 4 } else { 6 };
        self.case.world.connections.push((table, key, connection));
        self
    }

    /// With a way to the other node.
    #[must_use]
    pub fn with_route(mut self, answer: Route) -> Self {
        let next_hop: Address = self.net.of(Who::OtherNode).into();
        self.case.world.routes.push((next_hop, answer));
        self
    }

    /// A connection in that state that has an hour left.
    pub fn connection(&self, state: State, bits: u16) -> Connection {
        Connection {
            created: self.place.now,
            expires: self.place.now + 3600 * 1_000_000_000,
            flags: bits,
            state: state as u8,
            ..Connection::default()
        }
    }

    /// Into that pod.
    pub fn deliver(&self, who: Who) -> Verdict {
        Verdict::Deliver {
            ifindex: self.link(Hook::ToPod, Who::World, who),
        }
    }

    /// The case.
    pub fn done(self) -> Case {
        self.case
    }
}
