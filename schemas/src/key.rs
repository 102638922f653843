//! The key of a learner's records: school and user, each after its length in two bytes.
//!
//! Always true: different learners have different keys; what was read from a key gives it again.
//! Not here: partitions (event-log).

use bytes::Bytes;

use crate::ids::{SchoolId, UserId};

/// The key of a learner's records.
pub fn record_key(school: &SchoolId, user: impl AsRef<str>) -> Bytes {
    let user = user.as_ref();
    let mut key = Vec::with_capacity(4 + school.as_str().len() + user.len());
    put_record_key(school, user, &mut key);
    key.into()
}

/// Appends the [`record_key`] of a learner to `out`.
pub fn put_record_key(school: &SchoolId, user: &str, out: &mut Vec<u8>) {
    for text in [school.as_str(), user] {
        // An id has at most 128 bytes, so the clamp is never reached; it keeps this total.
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }
}

/// The learner whose [`record_key`] this is.
pub fn learner_of_key(key: &[u8]) -> Option<(SchoolId, UserId)> {
    let (school, rest) = take_text(key)?;
    let (user, rest) = take_text(rest)?;
    let learner = (SchoolId::parse(school).ok()?, UserId::parse(user).ok()?);
    rest.is_empty().then_some(learner)
}

fn take_text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some((str::from_utf8(text).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learner(school: &str, user: &str) -> (SchoolId, UserId) {
        (SchoolId::parse(school).unwrap(), UserId::parse(user).unwrap())
    }

    fn key((school, user): &(SchoolId, UserId)) -> Bytes {
        record_key(school, user)
    }

    #[test]
    fn lengths_keep_neighbours_apart() {
        assert_ne!(key(&learner("ab", "c")), key(&learner("a", "bc")));
        assert_eq!(&key(&learner("ab", "c"))[..], b"\x00\x02ab\x00\x01c");
    }

    #[test]
    fn a_key_tells_its_learner_and_nothing_else_does() {
        let longest = "ü".repeat(64);
        for learner in [learner("ab", "c"), learner("a", "b c"), learner(&longest, &longest)] {
            let key = key(&learner);
            assert_eq!(learner_of_key(&key), Some(learner));
            for end in 0..key.len() {
                assert_eq!(learner_of_key(&key[..end]), None, "cut at {end}");
            }
            assert_eq!(learner_of_key(&[&key[..], b"x"].concat()), None);
        }
        assert_eq!(learner_of_key(b"\xff\xffcontrol"), None);
        assert_eq!(learner_of_key(b"\x00\x01\xff\x00\x01a"), None, "not UTF-8");
    }
}
