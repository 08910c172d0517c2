//! The states of connections, and how long each is kept.

use watari_abi::{Flow, State};
use watari_wire::{Kind, protocol, sctp, tcp};

/// One second, in ns.
pub const SECOND: u64 = 1_000_000_000;

/// TCP and SCTP before the handshake is complete, or found mid-stream in one direction.
pub const OPENING: u64 = 60 * SECOND;
/// TCP and SCTP that idle. RFC 5382 asks for at least two hours and four minutes.
pub const ESTABLISHED: u64 = 24 * 3600 * SECOND;
/// One side has sent FIN.
pub const CLOSING: u64 = 120 * SECOND;
/// Both sides have: stray packets still belong to it.
pub const TIME_WAIT: u64 = 30 * SECOND;
/// Reset.
pub const CLOSED: u64 = 10 * SECOND;
/// UDP that nobody answered.
pub const UDP_NEW: u64 = 60 * SECOND;
/// UDP that was answered.
pub const UDP_ANSWERED: u64 = 180 * SECOND;
/// ICMP.
pub const ICMP: u64 = 30 * SECOND;
/// Other protocols that nobody answered.
pub const OTHER_NEW: u64 = 60 * SECOND;
/// Other protocols that were answered.
pub const OTHER_ANSWERED: u64 = 600 * SECOND;
/// How long the ports of a first fragment are remembered.
pub const FRAGMENT: u64 = 60 * SECOND;
/// How long an unknown packet to a port may be a reply that the stack translates.
pub const STACK_PORT: u64 = UDP_ANSWERED;
/// Such a use is noted again when the last note is older than this.
pub const STACK_PORT_REFRESH: u64 = 10 * SECOND;
/// A time in a table is written again when it is off by more than this.
pub const REFRESH: u64 = SECOND;

/// Whether `then` is less than so many ns ago. It may be a tick ahead: each CPU has its own `now`.
#[inline(always)]
pub const fn is_recent(now: u64, then: u64, within: u64) -> bool {
    now.wrapping_sub(then).cast_signed() < within.cast_signed()
}

/// How long an idle connection is kept, in ns.
#[inline(always)]
pub const fn timeout(number: u8, state: State) -> u64 {
    match number {
        protocol::TCP | protocol::SCTP => match state {
            State::New | State::Replied | State::PickedUp => OPENING,
            State::Established => ESTABLISHED,
            State::Closing => CLOSING,
            State::TimeWait => TIME_WAIT,
            State::Closed => CLOSED,
        },
        protocol::UDP => match state {
            State::Established => UDP_ANSWERED,
            _ => UDP_NEW,
        },
        protocol::ICMP | protocol::ICMPV6 => ICMP,
        _ => match state {
            State::Established => OTHER_ANSWERED,
            _ => OTHER_NEW,
        },
    }
}

/// Whether a protocol has a handshake, and its established connections a table of their own.
#[inline(always)]
pub const fn has_handshake(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::SCTP)
}

/// A packet, as far as the state of its connection is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What it is.
    pub kind: Kind,
    /// TCP flags, or type of the SCTP chunk.
    pub control: u8,
    /// Which way it goes.
    pub flow: Flow,
    /// Packets of the other direction were seen before.
    pub answered: bool,
}

/// What becomes of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nothing.
    Keep,
    /// It takes this state, and these sides have sent FIN.
    To(State, u8),
    /// It is over, and the packet begins a new one.
    Restart,
}

/// What a packet makes of a connection in that state.
#[inline(always)]
pub const fn next(event: &Event, state: State, closed: u8) -> Next {
    match event.kind {
        Kind::Tcp => tcp_next(event, state, closed),
        Kind::Sctp => sctp_next(event, state, closed),
        _ => match (state, event.flow) {
            (State::New, Flow::Reply) => Next::To(State::Established, closed),
            _ => Next::Keep,
        },
    }
}

#[inline(always)]
const fn tcp_next(event: &Event, state: State, closed: u8) -> Next {
    let over = matches!(state, State::TimeWait | State::Closed);
    if has_flag(event, tcp::RST) {
        return if over {
            Next::Keep
        } else {
            Next::To(State::Closed, closed)
        };
    }
    if has_flag(event, tcp::SYN) {
        return match (has_flag(event, tcp::ACK), state, event.flow) {
            (false, State::TimeWait | State::Closed | State::PickedUp, _) => Next::Restart,
            (true, State::New, Flow::Reply) => Next::To(State::Replied, closed),
            _ => Next::Keep,
        };
    }
    if over {
        return Next::Keep;
    }
    if has_flag(event, tcp::FIN) {
        let closed = closed | (1 << event.flow as u8);
        return if closed == 3 {
            Next::To(State::TimeWait, closed)
        } else if matches!(state, State::Closing) {
            Next::Keep
        } else {
            Next::To(State::Closing, closed)
        };
    }
    if !has_flag(event, tcp::ACK) {
        return Next::Keep;
    }
    acknowledged(event, state, closed)
}

#[inline(always)]
const fn has_flag(event: &Event, flag: u8) -> bool {
    event.control & flag != 0
}

/// A packet that only comes after the handshake's last step.
#[inline(always)]
const fn acknowledged(event: &Event, state: State, closed: u8) -> Next {
    match (state, event.flow) {
        (State::New, Flow::Reply) | (State::Replied, Flow::Original) => {
            Next::To(State::Established, closed)
        }
        (State::PickedUp, _) if event.answered => Next::To(State::Established, closed),
        _ => Next::Keep,
    }
}

#[inline(always)]
const fn sctp_next(event: &Event, state: State, closed: u8) -> Next {
    let over = matches!(state, State::TimeWait | State::Closed);
    match event.control {
        sctp::INIT if over || matches!(state, State::PickedUp) => Next::Restart,
        sctp::INIT => Next::Keep,
        _ if over => Next::Keep,
        sctp::ABORT | sctp::SHUTDOWN_COMPLETE => Next::To(State::Closed, closed),
        sctp::INIT_ACK => match (state, event.flow) {
            (State::New, Flow::Reply) => Next::To(State::Replied, closed),
            _ => Next::Keep,
        },
        sctp::SHUTDOWN | sctp::SHUTDOWN_ACK => {
            if matches!(state, State::Closing) {
                Next::Keep
            } else {
                Next::To(State::Closing, closed | (1 << event.flow as u8))
            }
        }
        _ => acknowledged(event, state, closed),
    }
}
