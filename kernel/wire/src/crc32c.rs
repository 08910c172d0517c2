//! The checksum of SCTP (RFC 9260 appendix A), after a change near its beginning.

/// The polynomial of `CRC32c`, lowest power first.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `x` to the power of eight times the index-th power of two: what a remainder is multiplied with
/// when so many bytes follow. As many as the length of a packet has bits.
const POWERS: [u32; 16] = powers();

/// Two remainders multiplied. Without branches, which a verifier would follow one by one.
#[inline(always)]
const fn multiply(mut one: u32, mut other: u32) -> u32 {
    let mut product = 0;
    let mut bit = 0;
    while bit < 32 {
        // The highest bit stands for one, the next for `x`.
        product ^= other & (one >> 31).wrapping_neg();
        one <<= 1;
        other = (other >> 1) ^ (POLYNOMIAL & (other & 1).wrapping_neg());
        bit += 1;
    }
    product
}

const fn powers() -> [u32; 16] {
    let mut powers = [0; 16];
    // `x` to the eighth.
    let mut power = 1 << 23;
    let mut index = 0;
    while index < 16 {
        powers[index] = power;
        power = multiply(power, power);
        index += 1;
    }
    powers
}

/// The checksum of a packet of `length` bytes after its first word changed. All as they are in
/// memory.
///
/// The checksum is linear: what changes is the remainder of the difference, followed by the bytes
/// behind it.
#[inline(always)]
#[must_use]
pub fn correct(checksum: u32, before: u32, after: u32, length: u32) -> u32 {
    let mut remainder = u32::from_le(before ^ after);
    let mut index = 0;
    while index < 16 {
        // All ones where the length has that bit; else the power is one.
        let power = if length >> index & 1 == 0 {
            1 << 31
        } else {
            POWERS[index]
        };
        remainder = multiply(remainder, power);
        index += 1;
    }
    checksum ^ remainder.to_le()
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    /// Bit by bit, as the appendix has it.
    fn crc(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
            }
        }
        (!crc).to_le()
    }

    #[test]
    fn the_known_one() {
        assert_eq!(u32::from_le(crc(b"123456789")), 0xe306_9283);
    }

    #[test]
    fn a_change_gives_what_the_whole_gives() {
        for length in [12_u16, 13, 16, 100, 1452, 9000, u16::MAX] {
            let byte = |at: u16| at.wrapping_mul(7).wrapping_add(length).to_le_bytes()[0];
            let mut bytes: Vec<u8> = (0..length).map(byte).collect();
            let (old, first) = (crc(&bytes), [bytes[0], bytes[1], bytes[2], bytes[3]]);
            let changed = [0x12, 0x34, 0xee, 0xff];
            bytes[..4].copy_from_slice(&changed);
            let told = correct(
                old,
                u32::from_ne_bytes(first),
                u32::from_ne_bytes(changed),
                length.into(),
            );
            assert_eq!(told, crc(&bytes), "{length} bytes");
        }
    }
}
