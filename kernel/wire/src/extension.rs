//! Extension headers of IPv6 (RFC 8200 section 4).

use watari_abi::Reason;

use crate::{Fragment, Frame};

/// Extension headers that are looked at; more are refused.
const LIMIT: u32 = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// The routing type that RFC 5095 forbids.
const SOURCE_ROUTE: u8 = 0;

/// Whether this number names an extension header rather than a protocol above IP.
#[inline(always)]
pub const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HIP | SHIM6
    )
}

/// A walk along the headers. Its parts are plain: the kernel refuses to read what Rust makes of
/// an `Option` of several parts, where a function's type shows one.
#[derive(Clone, Copy)]
pub struct Walk {
    /// What stands at `offset`.
    pub next: u8,
    /// From the first byte of the frame.
    pub offset: u32,
    /// A fragment header was passed.
    pub fragmented: bool,
    /// What it said.
    pub fragment: Fragment,
    whole: bool,
}

/// How a walk ended.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// At a header that is none of these.
    Done,
    /// The packet ended first.
    Malformed,
    /// There were too many.
    TooMany,
    /// A source route.
    SourceRoute,
}

impl Outcome {
    /// The reason to drop the packet, if there is one.
    #[inline(always)]
    pub const fn refused(self) -> Result<(), Reason> {
        match self {
            Self::Done => Ok(()),
            Self::Malformed => Err(Reason::Malformed),
            Self::TooMany => Err(Reason::TooManyHeaders),
            Self::SourceRoute => Err(Reason::RoutingHeader),
        }
    }
}

impl Walk {
    #[inline(always)]
    pub const fn start(next: u8, offset: u32, whole: bool) -> Self {
        Self {
            next,
            offset,
            fragmented: false,
            fragment: Fragment {
                id: 0,
                protocol: 0,
                first: false,
            },
            whole,
        }
    }

    /// The fragment header that was passed.
    #[inline(always)]
    pub const fn fragment(&self) -> Option<Fragment> {
        if self.fragmented {
            Some(self.fragment)
        } else {
            None
        }
    }

    /// To the first header that is none of them, or that is not in this fragment. A function of
    /// its own in the object: few packets need it.
    #[inline(never)]
    pub fn run(&mut self, frame: &impl Frame) -> Outcome {
        let mut steps = 0;
        while steps < LIMIT {
            if self.is_done() {
                return Outcome::Done;
            }
            let outcome = self.step(frame);
            if outcome != Outcome::Done {
                return outcome;
            }
            steps += 1;
        }
        if self.is_done() {
            Outcome::Done
        } else {
            Outcome::TooMany
        }
    }

    #[inline(always)]
    const fn is_done(&self) -> bool {
        !is_extension(self.next) || (self.fragmented && !self.fragment.first)
    }

    #[inline(always)]
    fn step(&mut self, frame: &impl Frame) -> Outcome {
        let Some([first, second]) = frame.load::<[u32; 2]>(self.offset) else {
            return Outcome::Malformed;
        };
        let [next, length, third, fourth] = first.to_ne_bytes();
        let length = u32::from(length);
        match self.next {
            FRAGMENT => {
                let place = u16::from_be_bytes([third, fourth]);
                // Neither an offset nor more to come: a whole datagram (RFC 6946).
                if place & !0x6 != 0 {
                    self.fragmented = true;
                    self.fragment = Fragment {
                        id: second,
                        protocol: next,
                        first: place >> 3 == 0,
                    };
                }
                self.offset += 8;
            }
            ROUTING if third == SOURCE_ROUTE && self.whole => return Outcome::SourceRoute,
            AUTHENTICATION => self.offset += (length + 2) * 4,
            _ => self.offset += (length + 1) * 8,
        }
        self.next = next;
        Outcome::Done
    }
}
