//! Stored records: what is decoded equals what was encoded, and nothing else decodes.

use bytes::Bytes;
use chalkstream_schemas::control::{check_time_zone, decode_bkt, encode_bkt};
use chalkstream_schemas::{
    BktSkill, BktTableError, ControlBody, ControlPayload, ControlRecord, DecodeError, EventOutcome,
    LogRecord, OutcomeCounts, OutcomeSeries, RejectReason, RejectedEntry, RejectedRecord, SchoolId,
    SkillId, Timestamp, proto, record_key,
};
use proptest::prelude::*;
use prost::Message;
use uuid::Uuid;

use crate::examples::{envelope, full, minimal, parse, parse_text, school, types};

/// The key that a record is stored under.
fn key_of(record: &LogRecord) -> Bytes {
    match record {
        LogRecord::Event(event) => record_key(&event.school_id, &event.user_id),
        LogRecord::Control(_) => Bytes::new(),
    }
}

#[track_caller]
fn round_trip(record: &LogRecord) {
    let decoded = LogRecord::decode(&key_of(record), &record.encode()).unwrap();
    assert_eq!(&decoded, record);
}

#[test]
fn every_type_of_event_comes_back_equal() {
    for info in types() {
        for event in [minimal(&info), full(&info)] {
            round_trip(&LogRecord::Event(Box::new(parse(&event).unwrap())));
        }
    }
    let mut odd = envelope("custom.odd", serde_json::json!({ "b": 1, "a": [null, "🎈\u{0}"] }));
    odd["id"] = "not a uuid".into();
    odd["extra"] = serde_json::json!({ "deep": [[[]]] });
    round_trip(&LogRecord::Event(Box::new(parse(&odd).unwrap())));
    let spaced = odd.to_string().replace("\"b\":1", " \"b\" : 1.50 ");
    round_trip(&LogRecord::Event(Box::new(parse_text(&spaced).unwrap())));
}

/// Events are written by hand; the generated types must read and write the very same bytes.
#[test]
fn the_bytes_of_an_event_are_those_of_the_protobuf_file() {
    for info in types() {
        for event in [minimal(&info), full(&info)] {
            let bytes = LogRecord::Event(Box::new(parse(&event).unwrap())).encode();
            let record = proto::log::v1::Record::decode(bytes.as_slice()).unwrap();
            assert_eq!(record.encode_to_vec(), bytes, "{}", info.name);
        }
    }
}

/// An event, and the record that this version writes of it, its content hash included: logs and indexes
/// hold such.
const GOLDEN_EVENT: &str = r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","type":"answer_submitted","user_id":"learner-004711","occurred_at":"2026-03-02T09:59:58.250Z","session_id":"session-004711","course_id":"algebra-1","app":"bench","data":{"item_id":"item-01234","skill_ids":["skill-17"],"correct":true,"time_taken_ms":8250,"attempt_number":1}}"#;
const GOLDEN_FORMAT_1: &str = "\
    080112fb010a1001890a5dac96774bbcceb302099a80571a076c696e636f6c6e220e6c6561726e65722d3030\
    343731312801312a82fdad9c010000410089fdad9c010000492a82fdad9c010000520e73657373696f6e2d30\
    30343731315a09616c67656272612d316a0562656e6368820110616e737765725f7375626d69747465648a01\
    687b226974656d5f6964223a226974656d2d3031323334222c22736b696c6c5f696473223a5b22736b696c6c\
    2d3137225d2c22636f7272656374223a747275652c2274696d655f74616b656e5f6d73223a383235302c2261\
    7474656d70745f6e756d626572223a317d9a0110211e64c9463e7bcfdbb58fa8738a92ba";

const GOLDEN_RECORD: &str = "\
    080212c9010a1001890a5dac96774bbcceb302099a80572801312a82fdad9c010000410089fdad9c01000052\
    0e73657373696f6e2d3030343731315a09616c67656272612d316a0562656e63688a01687b226974656d5f69\
    64223a226974656d2d3031323334222c22736b696c6c5f696473223a5b22736b696c6c2d3137225d2c22636f\
    7272656374223a747275652c2274696d655f74616b656e5f6d73223a383235302c22617474656d70745f6e75\
    6d626572223a317d9a0110211e64c9463e7bcfdbb58fa8738a92baa0016e";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.as_bytes().chunks(2).map(byte).collect()
}

#[test]
fn an_event_is_stored_as_ever_and_once_without_its_key() {
    let record = LogRecord::Event(Box::new(parse_text(GOLDEN_EVENT).unwrap()));
    assert_eq!(hex(&record.encode()), GOLDEN_RECORD);
    let first = bytes_of(GOLDEN_FORMAT_1);
    assert_eq!(LogRecord::decode(&[], &first).unwrap(), record, "as format 1 was written");
}

#[test]
fn an_event_without_its_key_is_nobodys() {
    let record = LogRecord::Event(Box::new(parse_text(GOLDEN_EVENT).unwrap()));
    let key = key_of(&record);
    for wrong in [&[][..], &key[1..], &key[..key.len() - 1], b"\xff\xffcontrol"] {
        let error = LogRecord::decode(wrong, &record.encode()).unwrap_err();
        assert!(matches!(error, DecodeError::Key), "{error}");
    }
}

fn control(body: ControlBody) -> LogRecord {
    LogRecord::Control(ControlRecord {
        control_id: Uuid::from_u128(7),
        issued_at: Timestamp::from_ms(1_772_445_600_000),
        body,
    })
}

#[test]
fn every_control_record_comes_back_equal() {
    let tables = [
        ControlPayload::Inline(encode_bkt(&[skill("a", 0.3)]).unwrap()),
        ControlPayload::Blob { hash: [7; 32], bytes: 1 << 40 },
    ];
    for table in tables {
        for school_id in [None, Some(school())] {
            let model_version = "2026-03".to_owned();
            round_trip(&control(ControlBody::BktParameters {
                school_id,
                model_version,
                table: table.clone(),
            }));
        }
    }
    round_trip(&control(ControlBody::SchoolSettings {
        school_id: school(),
        name: "Lincoln High".to_owned(),
        time_zone: "Europe/Berlin".to_owned(),
    }));
}

#[test]
fn a_rejected_event_comes_back_equal() {
    for (reason, replayed_at) in
        RejectReason::ALL.iter().zip([None, Some(Timestamp::MIN)].iter().cycle())
    {
        let record = RejectedRecord {
            school_id: school(),
            key_id: "k1".to_owned(),
            app: None,
            type_name: Some("login".to_owned()),
            reason: *reason,
            field: Some("data.x".to_owned()),
            message: "a sentence".to_owned(),
            received_at: Timestamp::MAX,
            raw: vec![0, 255, 10],
            replayed_at: *replayed_at,
        };
        let decoded = RejectedEntry::decode(&record.encode()).unwrap();
        assert_eq!(decoded, RejectedEntry::Event(Box::new(record)));
    }
}

#[test]
fn counts_of_outcomes_come_back_equal() {
    let series = |outcome| OutcomeSeries {
        hour: Timestamp::from_ms(1_772_445_600_000),
        school_id: school(),
        key_id: "k1".into(),
        app: "".into(),
        type_name: "login".into(),
        outcome,
    };
    let counts = vec![
        (series(EventOutcome::Accepted), u64::MAX),
        (series(EventOutcome::Rejected(RejectReason::TooOld)), 1),
    ];
    for counts in [counts, Vec::new()] {
        let counts = OutcomeCounts { instance: Uuid::from_u128(7), counts };
        let decoded = RejectedEntry::decode(&counts.encode()).unwrap();
        assert_eq!(decoded, RejectedEntry::Outcomes(counts));
    }
}

#[test]
fn another_format_is_refused_and_never_defaults() {
    let event = parse(&minimal(&types().next().unwrap())).unwrap();
    let event = LogRecord::Event(Box::new(event));
    let (key, bytes) = (key_of(&event), event.encode());
    let mut record = proto::log::v1::Record::decode(bytes.as_slice()).unwrap();
    record.format = 3;
    let error = LogRecord::decode(&key, &record.encode_to_vec()).unwrap_err();
    assert!(matches!(error, DecodeError::Format { found: 3 }), "{error}");
    assert!(LogRecord::decode(&key, &[]).is_err(), "an empty record has format 0");
    let body = |record: &mut proto::log::v1::Record,
                change: &dyn Fn(&mut proto::log::v1::StoredEvent)| {
        match record.body.as_mut().unwrap() {
            proto::log::v1::record::Body::Event(event) => change(event),
            proto::log::v1::record::Body::Control(_) => unreachable!(),
        }
    };
    record.format = 1;
    let error = LogRecord::decode(&key, &record.encode_to_vec()).unwrap_err().to_string();
    assert!(error.contains("field school_id "), "format 1 names its learner itself: {error}");
    record.format = 2;
    let check = |change: &dyn Fn(&mut proto::log::v1::StoredEvent), says: &str| {
        let mut record = record.clone();
        body(&mut record, change);
        let error = LogRecord::decode(&key, &record.encode_to_vec()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    check(&|event| event.id.truncate(3), "field id ");
    check(&|event| event.user_role = 9, "field user_role ");
    check(&|event| event.occurred_at_ms = -1, "field occurred_at_ms ");
    check(&|event| event.content_hash.clear(), "field content_hash ");
    check(&|event| event.data = "[]".to_owned(), "payload is not valid");
    check(&|event| event.type_number = 98, "field type_number ");
    let named = |event: &mut proto::log::v1::StoredEvent| {
        event.type_number = 0;
        event.r#type = "of_the_future".to_owned();
    };
    check(&named, "no event type");
}

fn skill(id: &str, p_init: f64) -> BktSkill {
    let skill_id = SkillId::parse(id).unwrap();
    BktSkill { skill_id, p_init, p_learn: 0.1, p_guess: 0.2, p_slip: 0.1, p_forget: 0.0 }
}

#[test]
fn a_table_of_parameters_holds_probabilities_once_a_skill() {
    let table = [skill("a", 0.0), skill("b", 1.0), skill("c", 0.1 + 0.2)];
    assert_eq!(decode_bkt(&encode_bkt(&table).unwrap()).unwrap(), table);
    assert_eq!(decode_bkt(&[]).unwrap(), []);
    for wrong in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let error = encode_bkt(&[skill("a", 0.5), skill("b", wrong)]).unwrap_err();
        assert!(error.to_string().contains("row 2: p_init of skill b"), "{error}");
    }
    let error = encode_bkt(&[skill("a", 0.5), skill("a", 0.5)]).unwrap_err();
    assert_eq!(error, BktTableError::Repeated { row: 2, skill_id: "a".to_owned() });
    assert_eq!(decode_bkt(b"\xff"), Err(BktTableError::Malformed));
}

#[test]
fn time_zones_are_of_the_iana_database() {
    assert!(check_time_zone("America/Argentina/Buenos_Aires").is_ok());
    assert!(check_time_zone("UTC").is_ok());
    let error = check_time_zone("Berlin").unwrap_err();
    assert!(error.to_string().contains("such as Europe/Berlin"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(LogRecord::decode(b"\0\x01a\0\x01b", &bytes).is_err() || !bytes.is_empty());
        prop_assert!(RejectedEntry::decode(&bytes).is_err() || !bytes.is_empty());
    }

    /// A record with one bit turned decodes to something valid, or not at all.
    #[test]
    fn a_damaged_record_never_panics(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let all: Vec<_> = types().collect();
        let event = parse(&full(which.get(&all))).unwrap();
        let event = LogRecord::Event(Box::new(event));
        let (key, mut bytes) = (key_of(&event), event.encode());
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(record) = LogRecord::decode(&key, &bytes) {
            prop_assert_eq!(LogRecord::decode(&key_of(&record), &record.encode()).unwrap(), record);
        }
    }

    #[test]
    fn texts_of_any_kind_come_back(user in "[^\\p{Cc}]{1,32}", id in "[^\\p{Cc}]{1,32}", text in ".*") {
        let mut event = envelope("custom.any", serde_json::json!({ "text": text }));
        event["user_id"] = user.into();
        event["id"] = id.into();
        event["mine"] = text.into();
        if let Ok(event) = parse(&event) {
            let record = LogRecord::Event(Box::new(event));
            prop_assert_eq!(LogRecord::decode(&key_of(&record), &record.encode()).unwrap(), record);
        }
    }
}

#[test]
fn a_school_id_is_kept_to_its_rules_in_stored_bytes() {
    let wire = proto::log::v1::Rejected { format: 1, ..Default::default() };
    assert!(RejectedEntry::decode(&wire.encode_to_vec()).is_err());
    assert!(SchoolId::parse("").is_err());
}
