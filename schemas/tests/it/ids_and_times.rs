//! Ids, positions and times.

use chalkstream_schemas::{
    EventId, EventIdentity, IdError, LogOffset, RowVersion, SchoolId, SkillId, Timestamp,
    TimestampError, UserId,
};
use chrono::{DateTime, SecondsFormat};
use proptest::prelude::*;

use crate::examples::{ID, school};

#[test]
fn an_id_has_1_to_128_bytes_and_no_control_character() {
    assert_eq!(SkillId::parse("Brüche 🎈").unwrap().as_str(), "Brüche 🎈");
    assert!(SkillId::parse(&"é".repeat(64)).is_ok());
    assert_eq!(SkillId::parse(""), Err(IdError::Empty));
    assert_eq!(SkillId::parse(&"é".repeat(65)), Err(IdError::TooLong { bytes: 130 }));
    for code in [0_u32, 9, 10, 0x1f, 0x7f, 0x80, 0x9f] {
        let text = format!("a{}", char::from_u32(code).unwrap());
        assert_eq!(SkillId::parse(&text), Err(IdError::Control { code }));
    }
    let json = serde_json::to_string(&SkillId::parse("a").unwrap()).unwrap();
    assert_eq!(serde_json::from_str::<SkillId>(&json).unwrap().as_str(), "a");
    assert!(serde_json::from_str::<SkillId>("\"\"").is_err());
}

#[test]
fn a_uuid_is_an_event_id_in_any_usual_spelling() {
    let user = UserId::parse("ada").unwrap();
    let spellings = [
        ID.to_owned(),
        ID.to_uppercase(),
        ID.replace('-', ""),
        format!("{{{ID}}}"),
        format!("urn:uuid:{ID}"),
    ];
    for spelling in spellings {
        let (id, original) = EventId::parse(&school(), &user, &spelling).unwrap();
        assert_eq!((id.to_string().as_str(), original), (ID, None), "{spelling}");
    }
}

/// Computed with Python: `uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([school, user, id],
/// ensure_ascii=False, separators=(",", ":")))`.
#[test]
fn any_other_text_becomes_a_uuid_v5_that_others_can_compute() {
    let check = |user: &str, text: &str, wanted: &str| {
        let user = UserId::parse(user).unwrap();
        let (id, original) = EventId::parse(&school(), &user, text).unwrap();
        assert_eq!((id.to_string().as_str(), original), (wanted, Some(text)));
    };
    check("ada", "attempt-1", "1369b748-8637-5acc-bc33-fede76c6883f");
    check("zoë \"q\" \\", "🎈/1", "e5d0bbdf-cfda-53ae-b3a7-f9121ebd0272");
}

#[test]
fn identity_tells_where_one_text_ends_and_the_next_begins() {
    let identity = |school: &str, user: &str| {
        let (school, user) = (SchoolId::parse(school).unwrap(), UserId::parse(user).unwrap());
        let (id, _) = EventId::parse(&school, &user, ID).unwrap();
        EventIdentity::of(&school, &user, id)
    };
    assert_eq!(identity("ab", "c"), identity("ab", "c"));
    assert_ne!(identity("ab", "c"), identity("a", "bc"));
    let mut input = b"\x07\0\0\0\0\0\0\0lincoln\x03\0\0\0\0\0\0\0ada".to_vec();
    input.extend(uuid::Uuid::parse_str(ID).unwrap().as_bytes());
    let hash = blake3::hash(&input);
    assert_eq!(identity("lincoln", "ada").as_bytes()[..], hash.as_bytes()[..16]);
}

#[test]
fn a_version_is_the_offset_plus_one() {
    assert_eq!(RowVersion::of(LogOffset::ZERO), RowVersion::new(1));
    assert_eq!(LogOffset::ZERO.next(), LogOffset::new(1));
    assert_eq!(LogOffset::new(u64::MAX).next(), LogOffset::new(u64::MAX));
}

#[track_caller]
fn check_time(text: &str, wanted: Result<&str, TimestampError>) {
    let found = Timestamp::parse_rfc3339(text).map(|time| time.to_string());
    assert_eq!(found, wanted.map(str::to_owned), "{text}");
}

#[test]
fn times_are_rfc_3339_and_nothing_else() {
    check_time("2026-03-02T10:00:00Z", Ok("2026-03-02T10:00:00.000Z"));
    check_time("2026-03-02t10:00:00.5z", Ok("2026-03-02T10:00:00.500Z"));
    check_time("2026-03-02T10:00:00.123999999999Z", Ok("2026-03-02T10:00:00.123Z"));
    check_time("2026-03-02T00:30:00+05:30", Ok("2026-03-01T19:00:00.000Z"));
    check_time("2026-03-02T10:00:00-00:00", Ok("2026-03-02T10:00:00.000Z"));
    check_time("2024-02-29T23:59:59.999-23:59", Ok("2024-03-01T23:58:59.999Z"));
    check_time("1970-01-01T00:00:00Z", Ok("1970-01-01T00:00:00.000Z"));
    check_time("2261-12-31T23:59:59.999Z", Ok("2261-12-31T23:59:59.999Z"));
    check_time("2016-12-31T23:59:60Z", Ok("2017-01-01T00:00:00.000Z"));
    check_time("2017-01-01T00:59:60.9+01:00", Ok("2017-01-01T00:00:00.000Z"));

    check_time("2026-03-02T10:00:00", Err(TimestampError::NoOffset));
    for text in [
        "",
        "2026-03-02",
        "2026-03-02 10:00:00Z",
        "2026-3-2T10:00:00Z",
        "2026-03-02T10:00Z",
        "2026-03-02T10:00:00.Z",
        "2026-03-02T10:00:00+01",
        "2026-03-02T10:00:00+0100",
        "2026-03-02T10:00:00Zx",
        "1772445600",
        "2026-03-02T10:00:00,5Z",
        " 2026-03-02T10:00:00Z",
        "2026-03-02T10:00:00ZZ",
        "+2026-03-02T10:00:00Z",
        "２026-03-02T10:00:00Z",
    ] {
        check_time(text, Err(TimestampError::Syntax));
    }
    for text in [
        "2026-02-29T10:00:00Z",
        "2100-02-29T10:00:00Z",
        "2026-13-01T10:00:00Z",
        "2026-00-01T10:00:00Z",
        "2026-04-31T10:00:00Z",
        "2026-01-00T10:00:00Z",
        "2026-03-02T24:00:00Z",
        "2026-03-02T10:60:00Z",
        "2026-03-02T10:00:61Z",
        "2026-03-02T10:00:60Z",
        "2026-03-02T10:00:00+24:00",
        "2026-03-02T10:00:00+01:60",
    ] {
        check_time(text, Err(TimestampError::NoSuchTime));
    }
    check_time("1969-12-31T23:59:59.999Z", Err(TimestampError::OutOfRange));
    check_time("1970-01-01T00:00:00+00:01", Err(TimestampError::OutOfRange));
    check_time("2262-01-01T00:00:00Z", Err(TimestampError::OutOfRange));
    check_time("9999-12-31T23:59:59Z", Err(TimestampError::OutOfRange));
}

#[test]
fn times_stay_within_their_range() {
    assert_eq!(Timestamp::from_ms(-1), Timestamp::MIN);
    assert_eq!(Timestamp::from_ms(i64::MAX), Timestamp::MAX);
    assert_eq!(Timestamp::try_from_ms(-1), None);
    assert_eq!(Timestamp::MAX.plus_ms(i64::MAX), Timestamp::MAX);
    assert_eq!(Timestamp::MIN.minus(std::time::Duration::MAX), Timestamp::MIN);
}

proptest! {
    /// chrono is the reference for the calendar.
    #[test]
    fn times_agree_with_chrono(ms in 0..=Timestamp::MAX.as_ms()) {
        let time = Timestamp::from_ms(ms);
        let chrono = DateTime::from_timestamp_millis(ms).unwrap();
        prop_assert_eq!(time.to_string(), chrono.to_rfc3339_opts(SecondsFormat::Millis, true));
        prop_assert_eq!(Timestamp::parse_rfc3339(&time.to_string()), Ok(time));
    }

    #[test]
    fn no_text_panics(text in ".{0,40}") {
        if let Ok(time) = Timestamp::parse_rfc3339(&text) {
            let chrono = DateTime::parse_from_rfc3339(&text).unwrap();
            prop_assert_eq!(time.as_ms(), chrono.timestamp_millis());
        }
    }
}
