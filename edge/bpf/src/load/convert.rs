//! How entries of another ABI become entries of this one.

use watari_abi::{OTHER_ABI, maps};

/// From the bytes of an old value to those of a new one; none for a value that makes no sense.
pub(super) type Convert = fn(&[u8]) -> Option<Vec<u8>>;

/// Bytes that [`OTHER_ABI`] has more in a connection.
const OTHER_MORE: usize = 8;

/// Every conversion that is known: from which ABI, to which, of which map.
///
/// A map that is not named here and has the same layout in both is taken over as it is; one of
/// another layout starts empty. So whoever raises the ABI version names here what goes on living.
const KNOWN: &[(u32, u32, &str, Convert)] = &[
    (1, OTHER_ABI, maps::ESTABLISHED, longer),
    (1, OTHER_ABI, maps::TRANSIENT, longer),
    (OTHER_ABI, 1, maps::ESTABLISHED, shorter),
    (OTHER_ABI, 1, maps::TRANSIENT, shorter),
];

/// The conversion of a map's values, if there is one.
pub(super) fn conversion(from: u32, to: u32, map: &str) -> Option<Convert> {
    let mut known = KNOWN.iter();
    known
        .find(|(old, new, name, _)| (*old, *new, *name) == (from, to, map))
        .map(|(.., convert)| *convert)
}

fn longer(value: &[u8]) -> Option<Vec<u8>> {
    let mut longer = vec![0; value.len().checked_add(OTHER_MORE)?];
    longer[..value.len()].copy_from_slice(value);
    Some(longer)
}

fn shorter(value: &[u8]) -> Option<Vec<u8>> {
    let left = value.len().checked_sub(OTHER_MORE)?;
    Some(value[..left].to_vec())
}
