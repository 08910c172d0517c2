//! The cases, by what they are about. Each is written once, for both families.

mod admission;
mod datagrams;
mod errors;
mod headers;
mod stack;
mod tcp;
mod translation;

use crate::packets::Body;
use crate::scene::Case;
use crate::world::{Net, Place};

/// Every case.
pub fn cases(place: &Place) -> Vec<Case> {
    let mut all = Vec::new();
    for net in Net::ALL {
        admission::add(&mut all, place, net);
        tcp::add(&mut all, place, net);
        datagrams::add(&mut all, place, net);
        stack::add(&mut all, place, net);
        errors::add(&mut all, place, net);
        headers::add(&mut all, place, net);
        translation::add(&mut all, place, net);
    }
    all
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// Client's port and server's.
const CLIENT: u16 = 40_000;
const SERVER: u16 = 80;

/// From client to server.
fn to_server(flags: u8) -> Body {
    Body::Tcp {
        source: CLIENT,
        destination: SERVER,
        flags,
    }
}

/// From server to client.
fn to_client(flags: u8) -> Body {
    Body::Tcp {
        source: SERVER,
        destination: CLIENT,
        flags,
    }
}

fn udp(source: u16, destination: u16) -> Body {
    Body::Udp {
        source,
        destination,
        checksum: true,
    }
}
