//! Extension headers of IPv6 (RFC 8200 section 4).

use watari_abi::Reason;
use zerocopy::{FromZeros, Immutable, KnownLayout};

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
pub(crate) const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HIP | SHIM6
    )
}

/// A walk along the headers. The caller lends the memory: where it is a map's, the verifier knows
/// nothing of it, and follows the loop once and not once for each way through it.
#[derive(Clone, Copy, Debug, FromZeros, Immutable, KnownLayout)]
#[repr(C)]
pub struct Walk {
    /// From the first byte of the frame.
    pub(crate) offset: u32,
    /// What the fragment header said.
    fragment: Fragment,
    /// What stands at `offset`.
    pub(crate) next: u8,
    /// A fragment header was passed.
    fragmented: bool,
    whole: bool,
}

/// How a walk ended.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// At a header that is none of these.
    Done = 0,
    /// The packet ended first.
    Malformed = 1,
    /// There were too many.
    TooMany = 2,
    /// A source route.
    SourceRoute = 3,
}

impl Outcome {
    /// The outcome of that number.
    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        match number {
            0 => Self::Done,
            2 => Self::TooMany,
            3 => Self::SourceRoute,
            _ => Self::Malformed,
        }
    }

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
    /// Begins at the first of them.
    #[inline(always)]
    pub(crate) const fn start(&mut self, next: u8, offset: u32, whole: bool) {
        self.next = next;
        self.offset = offset;
        self.fragmented = false;
        self.whole = whole;
    }

    /// The fragment header that was passed.
    #[inline(always)]
    pub(crate) const fn fragment(&self) -> Option<Fragment> {
        if self.fragmented {
            Some(self.fragment)
        } else {
            None
        }
    }

    /// To the first header that is none of them, or that is not in this fragment.
    #[inline(always)]
    pub fn run(&mut self, frame: &impl Frame) -> Outcome {
        let mut steps = 0;
        while steps < LIMIT {
            if !is_extension(self.next) {
                return Outcome::Done;
            }
            match self.step(frame) {
                Step::On => {}
                Step::End(outcome) => return outcome,
            }
            steps += 1;
        }
        if is_extension(self.next) {
            Outcome::TooMany
        } else {
            Outcome::Done
        }
    }

    #[inline(always)]
    fn step(&mut self, frame: &impl Frame) -> Step {
        let Some([first, second]) = frame.load::<[u32; 2]>(self.offset) else {
            return Step::End(Outcome::Malformed);
        };
        let [next, length, third, fourth] = first.to_ne_bytes();
        let length = u32::from(length);
        let current = self.next;
        self.next = next;
        match current {
            FRAGMENT => {
                self.offset += 8;
                let place = u16::from_be_bytes([third, fourth]);
                // Neither an offset nor more to come: a whole datagram (RFC 6946).
                if place & !0x6 != 0 {
                    self.fragmented = true;
                    self.fragment = Fragment {
                        id: second,
                        protocol: next,
                        first: place >> 3 == 0,
                    };
                    if place >> 3 != 0 {
                        return Step::End(Outcome::Done);
                    }
                }
            }
            ROUTING if third == SOURCE_ROUTE && self.whole => {
                return Step::End(Outcome::SourceRoute);
            }
            AUTHENTICATION => self.offset += (length + 2) * 4,
            _ => self.offset += (length + 1) * 8,
        }
        Step::On
    }
}

/// What follows a header.
enum Step {
    /// Another one, perhaps.
    On,
    /// The end of the walk.
    End(Outcome),
}
