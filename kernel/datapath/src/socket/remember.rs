//! What a socket asked for and was given: written when it is given a backend, read when the process
//! is told its peer.

use watari_abi::{
    Address, Frontend, SocketKey, SocketService, Talk, Talks, backend_flags, frontend_flags,
    socket_flags,
};

use super::{Call, SocketEnv, TCP, TalksPlace, UDP};
use crate::service::{Choice, ServiceTables};

/// The key of what was asked of that peer.
#[inline(always)]
fn key(cookie: u64, protocol: u8, address: &Address, port: u16) -> SocketKey {
    SocketKey {
        cookie,
        address: *address,
        port,
        protocol,
        pad: [0; 5],
    }
}

/// The key of a stream socket, which has one peer. It stands without that one's address, so that it
/// is found when the socket is closed: a connection that failed has no peer any more.
#[inline(always)]
fn stream(cookie: u64) -> SocketKey {
    key(cookie, TCP, &Address::UNSPECIFIED, 0)
}

/// What was asked for, if `call` is what was given for it.
#[inline(always)]
pub(super) fn recorded<T: ServiceTables>(
    tables: &T,
    cookie: u64,
    call: &Call,
) -> Option<SocketService> {
    if call.protocol == UDP {
        return tables.socket(&key(cookie, UDP, &call.address, call.port));
    }
    if call.protocol != TCP {
        return None;
    }
    let service = tables.socket(&stream(cookie))?;
    // The socket may have been connected to somebody else since.
    let backend = tables.backend(service.backend)?;
    let right_port = call.port == backend.port || call.port == service.port;
    if backend.address == call.address && right_port {
        Some(service)
    } else {
        None
    }
}

/// The talk with that Service that the socket has, if the backend still takes connections and user
/// space has not ended it.
#[inline(always)]
pub(super) fn ongoing<E: SocketEnv>(env: &mut E, call: &Call, frontend: &Frontend) -> Option<Talk> {
    let talks = env.talks(false)?;
    let mut at = 0;
    while at < Talks::MOST {
        let talk = talks.talk(at);
        if is_with(&talk, call) {
            return if talk.service == frontend.service && is_valid(env, &talk) {
                Some(talk)
            } else {
                None
            };
        }
        at += 1;
    }
    None
}

#[inline(always)]
fn is_with(talk: &Talk, call: &Call) -> bool {
    talk.backend != 0 && talk.asked_port == call.port && talk.asked == call.address
}

#[inline(always)]
fn is_valid<E: SocketEnv>(env: &E, talk: &Talk) -> bool {
    let Some(service) = env.socket(&key(env.cookie(), UDP, &talk.peer, talk.peer_port)) else {
        return false;
    };
    if service.backend != talk.backend
        || service.port != talk.asked_port
        || service.address != talk.asked
    {
        return false;
    }
    match env.backend(talk.backend) {
        // The number may be another's meanwhile.
        Some(backend) => backend.flags & backend_flags::READY != 0 && backend.address == talk.peer,
        None => false,
    }
}

/// Remembers what the socket is given.
#[inline(always)]
pub(super) fn remember<E: SocketEnv>(
    env: &mut E,
    call: &Call,
    frontend: &Frontend,
    choice: &Choice,
) {
    let counts = frontend.flags & frontend_flags::LEAST_CONNECTIONS != 0;
    let service = SocketService {
        address: call.address,
        port: call.port,
        flags: if counts { socket_flags::COUNTED } else { 0 },
        service: frontend.service,
        backend: choice.number,
    };
    let cookie = env.cookie();
    if call.protocol == TCP {
        let key = stream(cookie);
        // The connection that it had, or tried, is over.
        if counts {
            uncount_stream(env, &key);
        }
        if env.remember(&key, &service) && counts {
            env.add_load(choice.number, 1);
        }
        return;
    }
    let Some(talks) = env.talks(true) else { return };
    let at = place(&talks, call);
    let before = talks.talk(at);
    if before.backend != 0 {
        end(env, cookie, &before);
    }
    let (peer, peer_port) = (choice.backend.address, choice.backend.port);
    let recorded = env.remember(&key(cookie, UDP, &peer, peer_port), &service);
    let counted = recorded && counts;
    talks.set_talk(
        at,
        &Talk {
            asked: call.address,
            peer,
            asked_port: call.port,
            peer_port,
            service: service.service,
            backend: service.backend,
            flags: if counted {
                u32::from(socket_flags::COUNTED)
            } else {
                0
            },
        },
    );
    if counted {
        env.add_load(choice.number, 1);
    }
}

/// Where a talk is written: over the one with the same Service, else to a free place, else over the
/// oldest.
#[inline(always)]
fn place(talks: &impl TalksPlace, call: &Call) -> usize {
    let mut free = Talks::MOST;
    let mut at = 0;
    while at < Talks::MOST {
        let talk = talks.talk(at);
        if is_with(&talk, call) {
            return at;
        }
        if talk.backend == 0 && free == Talks::MOST {
            free = at;
        }
        at += 1;
    }
    if free == Talks::MOST {
        talks.next()
    } else {
        free
    }
}

/// A talk is over.
#[inline(always)]
fn end<E: SocketEnv>(env: &mut E, cookie: u64, talk: &Talk) {
    env.forget(&key(cookie, UDP, &talk.peer, talk.peer_port));
    if talk.flags & u32::from(socket_flags::COUNTED) != 0 {
        env.add_load(talk.backend, u64::MAX);
    }
}

#[inline(always)]
fn uncount_stream<E: SocketEnv>(env: &mut E, key: &SocketKey) {
    if let Some(before) = env.socket(key)
        && before.flags & socket_flags::COUNTED != 0
    {
        env.add_load(before.backend, u64::MAX);
    }
}

/// The process is told a peer's address: of a datagram's sender, or of its socket's other end. Gives
/// what it asked for in the place of it, if it did.
#[inline(always)]
pub fn seen<E: SocketEnv>(env: &mut E, call: &Call) -> Option<(Address, u16)> {
    if call.protocol != UDP {
        let service = recorded(env, env.cookie(), call)?;
        return Some((service.address, service.port));
    }
    let talks = env.talks(false)?;
    let mut at = 0;
    while at < Talks::MOST {
        let talk = talks.talk(at);
        if talk.backend != 0 && talk.peer_port == call.port && talk.peer == call.address {
            return Some((talk.asked, talk.asked_port));
        }
        at += 1;
    }
    None
}

/// A socket of that protocol is closed for good.
#[inline(always)]
pub fn release<E: SocketEnv>(env: &mut E, protocol: u8) {
    if protocol == TCP {
        let key = stream(env.cookie());
        if let Some(service) = env.socket(&key) {
            env.forget(&key);
            if service.flags & socket_flags::COUNTED != 0 {
                env.add_load(service.backend, u64::MAX);
            }
        }
    }
    if protocol != UDP {
        return;
    }
    let Some(talks) = env.talks(false) else {
        return;
    };
    let cookie = env.cookie();
    let mut at = 0;
    while at < Talks::MOST {
        let talk = talks.talk(at);
        if talk.backend != 0 {
            end(env, cookie, &talk);
        }
        at += 1;
    }
}
