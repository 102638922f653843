//! Plain text, found sixteen bytes at once.
//!
//! Always true: plain is printable ASCII but the quote and the backslash, which need escapes in JSON.

use wide::i8x16;

/// How many bytes stand before the first that is not plain.
#[inline]
pub(crate) fn plain_length(bytes: &[u8]) -> usize {
    let mut place = 0;
    let mut rest = bytes;
    while let Some((sixteen, after)) = rest.split_first_chunk() {
        let found = unusual(*sixteen);
        if found != 0 {
            return place + found.trailing_zeros() as usize;
        }
        place += 16;
        rest = after;
    }
    place + rest.iter().position(|byte| !is_plain(*byte)).unwrap_or(rest.len())
}

const fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..0x7f) && !matches!(byte, b'"' | b'\\')
}

/// One bit for each byte that is not plain. Bytes beyond ASCII are negative numbers, and so below
/// the first that is printable.
#[inline(always)]
fn unusual(bytes: [u8; 16]) -> u32 {
    let bytes = i8x16::new(bytes.map(u8::cast_signed));
    let splat = |byte: u8| i8x16::splat(byte.cast_signed());
    let unusual = bytes.simd_lt(splat(b' '))
        | bytes.simd_eq(splat(b'"'))
        | bytes.simd_eq(splat(b'\\'))
        | bytes.simd_eq(splat(0x7f));
    unusual.to_bitmask()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_plain_length_is_what_it_is_byte_by_byte(
            bytes in prop::collection::vec(prop_oneof![20 => 0x20..0x7f_u8, 1 => any::<u8>()], 0..40),
        ) {
            let one_by_one = bytes.iter().take_while(|byte| is_plain(**byte)).count();
            prop_assert_eq!(plain_length(&bytes), one_by_one);
        }
    }
}
