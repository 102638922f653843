//! Eight bytes at once: tests on the bytes of a 64-bit word.
//!
//! Always true: a test sets the top bit of the first byte (in little endian) that passes it, and of
//! none before; what it says of the bytes after that one means nothing.

const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = 0x8080_8080_8080_8080;

/// Bytes below `limit`, which is at most 128.
pub(crate) const fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES * limit as u64) & !word & TOPS
}

/// Bytes that are `byte`.
pub(crate) const fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (ONES * byte as u64), 1)
}

/// Bytes beyond ASCII.
pub(crate) const fn beyond_ascii(word: u64) -> u64 {
    word & TOPS
}

/// Whether all bytes are printable ASCII.
pub(crate) fn is_printable(bytes: &[u8]) -> bool {
    let printable = |eight: [u8; 8]| {
        let word = u64::from_le_bytes(eight);
        below(word, 0x20) | equal(word, 0x7f) | beyond_ascii(word) == 0
    };
    let (words, rest) = bytes.as_chunks();
    let mut last = [b' '; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    words.iter().all(|word| printable(*word)) && printable(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn printable_is_what_it_is_byte_by_byte(
            bytes in prop::collection::vec(prop_oneof![8 => 0x20..0x7f_u8, 1 => any::<u8>()], 0..40),
        ) {
            let plain = bytes.iter().all(|byte| (0x20..0x7f).contains(byte));
            prop_assert_eq!(is_printable(&bytes), plain);
        }
    }
}
