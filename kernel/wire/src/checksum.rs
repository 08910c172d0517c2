/// A sum in ones' complement of 16-bit words, as the checksums of IP, TCP, UDP and ICMP are (RFC
/// 1071). Words are taken as they are in memory: the sum then is, too, whatever the byte order.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// With one more 16-bit word.
    #[inline(always)]
    #[must_use]
    pub const fn plus16(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// With two more words.
    #[inline(always)]
    #[must_use]
    pub const fn plus32(self, words: u32) -> Self {
        Self(self.0 + words as u64)
    }

    /// With one word less.
    #[inline(always)]
    #[must_use]
    pub const fn minus16(self, word: u16) -> Self {
        Self(self.0 + (!word) as u64)
    }

    /// With two words less.
    #[inline(always)]
    #[must_use]
    pub const fn minus32(self, words: u32) -> Self {
        Self(self.0 + (!words) as u64)
    }

    /// Both together.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// With the bytes of a packet; an odd last one is followed by a zero.
    #[must_use]
    pub fn plus_bytes(mut self, bytes: &[u8]) -> Self {
        let mut pairs = bytes.chunks_exact(2);
        for pair in &mut pairs {
            if let [first, second] = pair {
                self = self.plus16(u16::from_ne_bytes([*first, *second]));
            }
        }
        if let [last] = pairs.remainder() {
            self = self.plus16(u16::from_ne_bytes([*last, 0]));
        }
        self
    }

    /// In 32 bits, as the kernel keeps it (`__wsum`).
    #[inline(always)]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "what is above was added twice: nothing is left there"
    )]
    pub const fn wide(self) -> u32 {
        let once = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let twice = (once & 0xffff_ffff) + (once >> 32);
        twice as u32
    }

    /// In 16 bits.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "as in `wide`")]
    pub const fn folded(self) -> u16 {
        let wide = self.wide();
        let once = (wide & 0xffff) + (wide >> 16);
        let twice = (once & 0xffff) + (once >> 16);
        twice as u16
    }

    /// The checksum to write when this is the sum of all that it covers.
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }

    /// A checksum after what it covers changed by this much (RFC 1624, equation 3).
    #[inline(always)]
    pub const fn correct(self, checksum: u16) -> u16 {
        self.plus16(!checksum).checksum()
    }
}
