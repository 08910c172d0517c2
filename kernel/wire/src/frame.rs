use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{Outcome, Sum, Walk};

/// The kernel, or the end of the packet, does not let these bytes be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// The bytes of a packet, from its link header on. Nothing is read or written past its end.
pub trait Frame {
    /// Bytes of the packet, of all its segments.
    fn length(&self) -> u32;

    /// Reads at an offset that is known when this is compiled: the cheap way.
    fn fixed<T: FromBytes + Copy>(&self, offset: u32) -> Option<T>;

    /// Reads at any offset.
    fn load<T: FromBytes + Copy>(&self, offset: u32) -> Option<T>;

    /// Writes at an offset that is known when this is compiled.
    fn store_fixed<T: IntoBytes + Immutable + Copy>(
        &mut self,
        offset: u32,
        value: T,
    ) -> Result<(), Refused>;

    /// Writes at any offset.
    fn store<T: IntoBytes + Immutable + Copy>(
        &mut self,
        offset: u32,
        value: T,
    ) -> Result<(), Refused>;

    /// Goes along the extension headers. The kernel has a function of its own for it.
    #[inline(always)]
    fn walk(&self, walk: &mut Walk) -> Outcome
    where
        Self: Sized,
    {
        walk.run(self)
    }

    /// Says that the bytes past the link header now sum up to `difference` more, with nothing in
    /// them to make up for it: a sum that the NIC took over the packet has to follow.
    fn uncompensated(&mut self, difference: Sum);

    /// Brings a transport checksum after a change of `difference` in what it covers.
    ///
    /// The kernel does it where the sum is only finished by the NIC. `pseudo`: the change is in the
    /// pseudo header. `optional`: zero means that there is none (UDP, RFC 768).
    fn correct(
        &mut self,
        offset: u32,
        difference: Sum,
        pseudo: bool,
        optional: bool,
    ) -> Result<(), Refused>;
}
