//! Services at the socket: a process that connects to a Service's address is connected to a backend
//! in its place, and never learns of it. No packet is rewritten.
//!
//! [`connect`] and [`send`] give the backend, [`seen`] gives the Service's address back where the
//! kernel would tell the process of its peer, [`release`] forgets. They reach the socket and the
//! tables through [`SocketEnv`] alone. `docs/services.md` tells the rules in prose.

mod env;
mod remember;

use watari_abi::{
    Address, Client, Config, Counter, Frontend, SocketService, Tuple, config_flags, frontend_flags,
};

pub use env::{Call, SocketEnv, TalksPlace};
pub use remember::{release, seen};

use crate::service::{Choice, ServiceTables, Wish, choose, find_exact, find_range};

/// IANA numbers of the protocols whose sockets are translated.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// What becomes of a process' wish to talk to an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It talks to that very address.
    Untouched,
    /// It talks to another one.
    Redirected {
        /// The backend's address.
        address: Address,
        /// Its port, network order.
        port: u16,
    },
    /// It gets an error.
    Refused(Refusal),
}

/// The error that a process gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// `ECONNREFUSED`: the Service has no endpoint.
    NoEndpoint,
    /// `EHOSTUNREACH`: a packet would be dropped. The Service keeps to this node's endpoints and has
    /// none here, or does not take this client.
    Dropped,
}

/// A process connects a socket: a stream socket gets a backend for this connection; a datagram socket as
/// with [`send`].
#[inline(always)]
pub fn connect<E: SocketEnv>(env: &mut E, call: &Call) -> Answer {
    if matches!(call.protocol, TCP | UDP) {
        redirect(env, call)
    } else {
        Answer::Untouched
    }
}

/// A process sends a datagram to an address: its socket stays with the backend that it got before from
/// the same Service, while that takes connections.
#[inline(always)]
pub fn send<E: SocketEnv>(env: &mut E, call: &Call) -> Answer {
    if call.protocol == UDP {
        redirect(env, call)
    } else {
        Answer::Untouched
    }
}

#[inline(always)]
fn redirect<E: SocketEnv>(env: &mut E, call: &Call) -> Answer {
    let Some(frontend) = wanted(env, call) else {
        return Answer::Untouched;
    };
    if call.protocol == UDP
        && let Some(talk) = remember::ongoing(env, call, &frontend)
    {
        return Answer::Redirected {
            address: talk.peer,
            port: talk.peer_port,
        };
    }
    give(env, call, &frontend)
}

/// The Service's port that the address is. What is none costs one look-up: what becomes of other ports
/// and other addresses of Services is decided where the packet passes.
#[inline(always)]
fn wanted<E: SocketEnv>(env: &E, call: &Call) -> Option<Frontend> {
    let flags = env.config().flags;
    if flags & config_flags::SERVICES == 0 || is_local(&call.address) {
        return None;
    }
    if let Some(frontend) = find_exact(env, &call.address, call.port, call.protocol) {
        return Some(frontend);
    }
    if flags & config_flags::PORT_RANGES == 0 {
        return None;
    }
    let entry = find_exact(env, &call.address, 0, 0)?;
    if entry.flags & frontend_flags::HAS_RANGES == 0 {
        return None;
    }
    find_range(env, &call.address, call.port, call.protocol)
}

/// Loopback and unspecified addresses: never a Service's.
#[inline(always)]
fn is_local(address: &Address) -> bool {
    if address.is_mapped() {
        let [first, ..] = address.words[3].to_ne_bytes();
        return matches!(first, 0 | 127);
    }
    let [a, b, c, d] = address.words;
    a == 0 && b == 0 && c == 0 && matches!(u32::from_be(d), 0 | 1)
}

/// Chooses a backend, and remembers it.
#[inline(always)]
fn give<E: SocketEnv>(env: &mut E, call: &Call, frontend: &Frontend) -> Answer {
    if frontend.flags & frontend_flags::SOURCE_RANGES != 0
        && let Some(answer) = held_off(env, &call.address, frontend)
    {
        return answer;
    }
    let (client, now) = if frontend.affinity == 0 {
        (Address::UNSPECIFIED, 0)
    } else {
        (client(env, &call.address), env.now())
    };
    let wish = Wish {
        frontend,
        port: call.port,
        set: frontend.inside,
        hash: None,
        client: &client,
        now,
    };
    let Some(choice) = choose(env, &wish) else {
        return nobody(env, frontend);
    };
    remember::remember(env, call, frontend, &choice);
    env.count(Counter::BalancedAtSocket);
    let Choice { backend, .. } = choice;
    Answer::Redirected {
        address: backend.address,
        port: backend.port,
    }
}

/// By what the process' node or pod is known: its address of the Service's family, as packets have
/// it. A namespace that nobody registered is known by its cookie, in an address that no packet has.
#[inline(always)]
fn client<E: SocketEnv>(env: &E, service: &Address) -> Address {
    let netns = env.netns();
    let known = env.client(netns).unwrap_or_default();
    let address = if service.is_mapped() {
        known.v4
    } else {
        known.v6
    };
    if address != Address::UNSPECIFIED {
        return address;
    }
    // ff00::/8 is multicast, and nobody's source (RFC 4291 section 2.7).
    Address::v6([
        u32::MAX,
        u32::MAX,
        (netns & 0xffff_ffff) as u32,
        (netns >> 32) as u32,
    ])
}

/// The Service takes only some clients, and this is none of them, or may be none. A pod's packet is
/// judged where it leaves the pod; the node's own process is told at once.
#[inline(always)]
fn held_off<E: SocketEnv>(env: &E, service: &Address, frontend: &Frontend) -> Option<Answer> {
    let Some(client) = env.client(env.netns()) else {
        return Some(Answer::Untouched);
    };
    let address = if service.is_mapped() {
        client.v4
    } else {
        client.v6
    };
    if env.is_allowed_source(frontend.service, &address) {
        None
    } else if is_nodes(&client, &env.config()) {
        Some(Answer::Refused(Refusal::Dropped))
    } else {
        Some(Answer::Untouched)
    }
}

/// The Service has no backend. A pod's packet is refused or dropped where it leaves the pod, with its
/// reason; the node's own process is told at once.
#[inline(always)]
fn nobody<E: SocketEnv>(env: &mut E, frontend: &Frontend) -> Answer {
    let is_node = match env.client(env.netns()) {
        Some(client) => is_nodes(&client, &env.config()),
        None => false,
    };
    if !is_node {
        return Answer::Untouched;
    }
    if frontend.flags & frontend_flags::INSIDE_DROPS != 0 {
        return Answer::Refused(Refusal::Dropped);
    }
    env.count(Counter::Refused);
    Answer::Refused(Refusal::NoEndpoint)
}

#[inline(always)]
fn is_nodes(client: &Client, config: &Config) -> bool {
    client.v4 != Address::UNSPECIFIED && client.v4 == config.v4
        || client.v6 != Address::UNSPECIFIED && client.v6 == config.v6
}

/// What the socket with that cookie asked for, if the destination of its packet is what it was given
/// in the place of that.
#[inline(always)]
pub fn asked<T: ServiceTables>(tables: &T, cookie: u64, packet: &Tuple) -> Option<SocketService> {
    let call = Call {
        address: packet.destination,
        port: packet.destination_port,
        protocol: packet.protocol,
    };
    remember::recorded(tables, cookie, &call)
}

#[cfg(test)]
mod tests;
