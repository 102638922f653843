//! From when until when a certificate is valid: the one thing of it that rustls does not tell.
//!
//! Not here: whether the certificate is otherwise in order. What cannot be read gives `None`.

use chalkstream_schemas::Timestamp;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
/// `[0] EXPLICIT`, the version of all but the oldest certificates.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The first and the last moment, from a certificate in DER (RFC 5280, 4.1).
pub(super) fn validity(certificate: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut rest, _) = element(certificate, SEQUENCE)?;
    if let Some((_version, after)) = element(rest, VERSION) {
        rest = after;
    }
    let (_serial_number, rest) = element(rest, INTEGER)?;
    let (_signature, rest) = element(rest, SEQUENCE)?;
    let (_issuer, rest) = element(rest, SEQUENCE)?;
    let (validity, _) = element(rest, SEQUENCE)?;
    let (from, rest) = time(validity)?;
    let (until, _) = time(rest)?;
    Some((from, until))
}

/// The content of an element with this tag, and what follows it.
fn element(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let [tag, first, rest @ ..] = der else { return None };
    if *tag != wanted {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        // That many bytes of length follow.
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

fn time(der: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (digits, rest, century) = match element(der, UTC_TIME) {
        Some((digits, rest)) => {
            let recent = digits.first().is_some_and(|decade| *decade < b'5');
            (digits, rest, if recent { "20" } else { "19" })
        }
        None => {
            let (digits, rest) = element(der, GENERALIZED_TIME)?;
            (digits, rest, "")
        }
    };
    let text = format!("{century}{}", std::str::from_utf8(digits).ok()?);
    let part = |range: std::ops::Range<usize>| text.get(range);
    let (year, month, day) = (part(0..4)?, part(4..6)?, part(6..8)?);
    let (hour, minute, second) = (part(8..10)?, part(10..12)?, part(12..14)?);
    let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
    Some((Timestamp::parse_rfc3339(&text).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_time_are_read() {
        let at = |text: &str| Timestamp::parse_rfc3339(text).unwrap();
        for (tag, digits, expected) in [
            (UTC_TIME, "260302093000Z", "2026-03-02T09:30:00Z"),
            (UTC_TIME, "991231235959Z", "1999-12-31T23:59:59Z"),
            (GENERALIZED_TIME, "20500101000000Z", "2050-01-01T00:00:00Z"),
        ] {
            let length = u8::try_from(digits.len()).unwrap();
            let der = [&[tag, length], digits.as_bytes(), b"rest"].concat();
            assert_eq!(time(&der), Some((at(expected), &b"rest"[..])));
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_times() {
        for der in [&b""[..], b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x30\x02\x30\x80", b"text"] {
            assert_eq!(validity(der), None);
        }
    }
}
