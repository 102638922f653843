//! Plain text, found eight bytes at once.
//!
//! Always true: plain is printable ASCII but the quote and the backslash, which need escapes in JSON.

const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = 0x8080_8080_8080_8080;

/// How many bytes stand before the first that is not plain.
#[inline]
pub(crate) fn plain_length(bytes: &[u8]) -> usize {
    let mut place = 0;
    let mut rest = bytes;
    while let Some((eight, after)) = rest.split_first_chunk() {
        let found = unusual(u64::from_le_bytes(*eight));
        if found != 0 {
            return place + found.trailing_zeros() as usize / 8;
        }
        place += 8;
        rest = after;
    }
    place + rest.iter().position(|byte| !is_plain(*byte)).unwrap_or(rest.len())
}

const fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..0x7f) && !matches!(byte, b'"' | b'\\')
}

/// Has the top bit of the first byte (in little endian) that is not plain, and of none before; what
/// it says of the bytes after that one means nothing. A byte beyond ASCII has its top bit itself; of
/// the others each kind gets it from one of the sums.
const fn unusual(word: u64) -> u64 {
    let control = word.wrapping_sub(ONES * 0x20);
    let quote = (word ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
    let backslash = (word ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    let delete = word.wrapping_add(ONES);
    (word | control | quote | backslash | delete) & TOPS
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
