//! What Services have to do with connections: how many each backend has, and the end of those to who left.

use std::collections::HashMap;

use watari_abi::{
    Connection, ConnectionKey, Side, SocketKey, SocketService, State, Translation, Tuple, flags,
    translation,
};

use crate::balance::Departed;
use crate::error::BpfError;
use crate::map::Map;

/// How old an alias is before it is missed that its connection is not there: a program makes one after
/// the other. In ns.
const YOUNG: u64 = 1_000_000_000;

/// The two tables of connections.
pub(crate) type Tables<'a> = [&'a Map<ConnectionKey, Connection>; 2];

/// What was ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    /// Connections that were forgotten; their aliases are not counted.
    pub connections: usize,
    /// Sockets of this node that were given to who left, each with what it asked for: they are to be told.
    pub sockets: Vec<(SocketKey, SocketService)>,
}

/// The tuple that a translation says.
fn tuple_of(translation: &Translation, protocol: u8) -> Tuple {
    Tuple {
        source: translation.source,
        destination: translation.destination,
        source_port: translation.source_port,
        destination_port: translation.destination_port,
        protocol,
        pad: [0; 3],
    }
}

/// True for an entry that is no connection, but says where one is.
pub(crate) fn is_alias(connection: &Connection) -> bool {
    connection.flags & flags::ALIAS != 0
}

/// Whether packets of it are rewritten, so that it has an alias.
fn is_rewritten(connection: &Connection) -> bool {
    let bits = translation::DESTINATION | translation::SOURCE;
    connection.translation.kind & bits != 0
}

/// Whether an alias has lost its connection.
pub(crate) fn is_lost(
    tables: Tables<'_>,
    key: &ConnectionKey,
    alias: &Connection,
    now: u64,
) -> Result<bool, BpfError> {
    if alias.created.saturating_add(YOUNG) > now {
        return Ok(false);
    }
    let (far, _) = tuple_of(&alias.translation, key.protocol).key();
    for table in tables {
        let Some(connection) = table.get(&far)? else {
            continue;
        };
        let (near, _) = tuple_of(&connection.translation, far.protocol).key();
        if connection.expires > now && !is_alias(&connection) && near == *key {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whom the opener of a connection was given to.
fn far_end(key: &ConnectionKey, connection: &Connection) -> Tuple {
    let low_opened = connection.flags & flags::LOW_IS_ORIGINATOR != 0;
    key.tuple(if low_opened { Side::Low } else { Side::High })
}

fn is_to(departed: &Departed, key: &ConnectionKey, connection: &Connection) -> bool {
    let far = far_end(key, connection);
    let port = departed.at.port();
    connection.translation.service == departed.service
        && key.protocol == departed.protocol.number()
        && far.destination == departed.at.ip().into()
        && (port == 0 || far.destination_port == port.to_be())
}

/// Forgets connections that a Service has given to who left, with their aliases; finds sockets that it has
/// given to them. Who comes back to the Service is given to another one.
pub(crate) fn end(
    tables: Tables<'_>,
    sockets: &Map<SocketKey, SocketService>,
    departed: &[Departed],
) -> Result<Ended, BpfError> {
    let mut by_service: HashMap<u32, Vec<&Departed>> = HashMap::new();
    for of in departed {
        by_service.entry(of.service).or_default().push(of);
    }
    let mut ended = Ended::default();
    if by_service.is_empty() {
        return Ok(ended);
    }
    let mut aliases = Vec::new();
    for table in tables {
        let mut keys = Vec::new();
        table.for_each(|key, connection| {
            let of = by_service.get(&connection.translation.service);
            let is_gone = of.is_some_and(|of| of.iter().any(|of| is_to(of, &key, &connection)));
            if is_alias(&connection) || !is_gone {
                return;
            }
            keys.push(key);
            if is_rewritten(&connection) {
                aliases.push(tuple_of(&connection.translation, key.protocol).key().0);
            }
        })?;
        table.remove_all(&keys)?;
        ended.connections += keys.len();
    }
    for table in tables {
        let mut keys = Vec::new();
        for key in &aliases {
            if table.get(key)?.is_some_and(|entry| is_alias(&entry)) {
                keys.push(*key);
            }
        }
        table.remove_all(&keys)?;
    }
    sockets.for_each(|key, socket| {
        let of = by_service.get(&socket.service);
        let is =
            |of: &&&Departed| of.backend == socket.backend && of.protocol.number() == key.protocol;
        if of.is_some_and(|of| of.iter().any(|of| is(&of))) {
            ended.sockets.push((key, socket));
        }
    })?;
    Ok(ended)
}

/// How many living connections each backend has of each Service's port: those that are rewritten packet by
/// packet, and sockets that were given to it.
pub(crate) fn counts(
    tables: Tables<'_>,
    sockets: &Map<SocketKey, SocketService>,
    now: u64,
) -> Result<HashMap<(u32, u32), u64>, BpfError> {
    let mut counts: HashMap<(u32, u32), u64> = HashMap::new();
    let ended = [State::TimeWait as u8, State::Closed as u8];
    for table in tables {
        table.for_each(|_, connection| {
            let translation = &connection.translation;
            if is_rewritten(&connection)
                && !is_alias(&connection)
                && translation.service != 0
                && connection.expires > now
                && !ended.contains(&connection.state)
            {
                *counts
                    .entry((translation.service, translation.backend))
                    .or_default() += 1;
            }
        })?;
    }
    sockets.for_each(|_, socket| {
        if socket.service != 0 {
            *counts.entry((socket.service, socket.backend)).or_default() += 1;
        }
    })?;
    Ok(counts)
}
