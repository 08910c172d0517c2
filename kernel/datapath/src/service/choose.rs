use watari_abi::{
    Address, Affinity, AffinityKey, Backend, Frontend, backend_flags, frontend_flags,
};

use super::ServiceTables;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// A backend that was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice {
    /// Its number.
    pub number: u32,
    /// Where it is. The port is the one to use: for a range of ports the one that the client asked
    /// for.
    pub backend: Backend,
}

/// Who wants a backend of what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish<'a> {
    /// The Service's port.
    pub frontend: &'a Frontend,
    /// The port that the client asked for, network order.
    pub port: u16,
    /// The set to choose from: one of the frontend's.
    pub set: u32,
    /// A number by which the member is taken, so that the same one gives the same member: of a table
    /// of Maglev. None: any member.
    pub hash: Option<u32>,
    /// Who asks, for a Service with affinity.
    pub client: &'a Address,
    /// Now, in ns of `CLOCK_MONOTONIC`.
    pub now: u64,
}

/// Chooses a backend for a new connection, and remembers it for a client that shall stay. None: the
/// set is empty.
///
/// A client stays with its backend while it comes within the Service's timeout, and the backend
/// takes connections. Else it gets the member of `hash`; or of two random ones the one with fewer
/// connections, where the Service wants that; or a random one.
#[inline(always)]
pub fn choose(tables: &mut impl ServiceTables, wish: &Wish<'_>) -> Option<Choice> {
    let key = AffinityKey {
        client: *wish.client,
        service: wish.frontend.service,
    };
    let stays = wish.frontend.affinity != 0;
    let known = if stays {
        remembered(tables, wish, &key)
    } else {
        None
    };
    let mut choice = match known {
        Some(choice) => choice,
        None => fresh(tables, wish)?,
    };
    if stays {
        let affinity = Affinity {
            seen: wish.now,
            backend: choice.number,
            pad: 0,
        };
        tables.remember_affinity(&key, &affinity);
    }
    if wish.frontend.flags & frontend_flags::KEEPS_PORT != 0 {
        choice.backend.port = wish.port;
    }
    Some(choice)
}

/// The backend that the client was given before, if it may have it again.
#[inline(always)]
fn remembered(tables: &impl ServiceTables, wish: &Wish<'_>, key: &AffinityKey) -> Option<Choice> {
    let known = tables.affinity(key)?;
    let until = known.seen + u64::from(wish.frontend.affinity) * SECOND;
    // The clocks of two CPUs may differ by a tick, so it may be later than now.
    if wish.now >= until {
        return None;
    }
    // Nobody is there, who was there before: the set decides.
    if tables.set(wish.set).count == 0 {
        return None;
    }
    let choice = numbered(tables, known.backend)?;
    let ready = choice.backend.flags & backend_flags::READY != 0;
    if ready { Some(choice) } else { None }
}

#[inline(always)]
fn fresh(tables: &mut impl ServiceTables, wish: &Wish<'_>) -> Option<Choice> {
    if let Some(hash) = wish.hash {
        return member(tables, wish.set, hash);
    }
    let spread = tables.random();
    let first = member(tables, wish.set, spread)?;
    if wish.frontend.flags & frontend_flags::LEAST_CONNECTIONS == 0 {
        return Some(first);
    }
    let spread = tables.random();
    match member(tables, wish.set, spread) {
        Some(second) if tables.load_of(second.number) < tables.load_of(first.number) => {
            Some(second)
        }
        _ => Some(first),
    }
}

/// The member of a set that a number falls on, of all `u32` evenly; the same for the same number.
/// A backend of weight two is in two slots, so it gets twice as many numbers.
#[inline(always)]
pub fn member(tables: &impl ServiceTables, set: u32, spread: u32) -> Option<Choice> {
    if set == 0 {
        return None;
    }
    let set = tables.set(set);
    if set.count == 0 {
        return None;
    }
    let offset = (u64::from(spread) * u64::from(set.count)) >> 32;
    let number = tables.slot(set.base.wrapping_add(offset as u32));
    numbered(tables, number)
}

#[inline(always)]
fn numbered(tables: &impl ServiceTables, number: u32) -> Option<Choice> {
    if number == 0 {
        return None;
    }
    let backend = tables.backend(number)?;
    Some(Choice { number, backend })
}
