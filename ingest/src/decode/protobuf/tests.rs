use chalkstream_access::{Admission, ByteSize};
use chalkstream_schemas::proto::events::v1::{AttemptEvent, EventBatch, LearningEvent};

use super::*;

const ROOM_BYTES: usize = 1 << 20;

fn small() -> IngestOptions {
    IngestOptions {
        max_events: 3.try_into().unwrap(),
        max_event: ByteSize::kib(1),
        max_body: ByteSize::kib(4),
        ..IngestOptions::default()
    }
}

fn read_with_room(body: &Bytes, room_bytes: usize) -> Result<Batch, Problem> {
    let gate = Admission::new(room_bytes);
    let mut permit = crate::decode::tests::room_of(&gate, 0);
    let batch = batch(body, &small(), &mut permit)?;
    assert!(gate.in_flight_bytes() >= batch.body.len(), "the JSON is not covered");
    Ok(batch)
}

fn read(body: Vec<u8>) -> Result<Batch, Problem> {
    read_with_room(&Bytes::from(body), ROOM_BYTES)
}

#[track_caller]
fn check(body: Vec<u8>, expected: &[&str]) -> Batch {
    let batch = read(body).unwrap();
    let found = (0..batch.events.len())
        .map(|index| std::str::from_utf8(batch.raw(index)).unwrap())
        .collect::<Vec<_>>();
    assert_eq!(found, expected);
    batch
}

#[track_caller]
fn check_problem(body: Vec<u8>, kind: ProblemKind, part: &str) {
    let problem = read(body).unwrap_err();
    assert_eq!(problem.kind(), kind, "{problem:?}");
    assert!(problem.detail().contains(part), "{problem:?}");
}

fn event(id: &str) -> LearningEvent {
    LearningEvent { id: Some(id.to_owned()), ..LearningEvent::default() }
}

fn attempt(user: &str) -> AttemptEvent {
    AttemptEvent { user_id: Some(user.to_owned()), ..AttemptEvent::default() }
}

fn of_events(events: Vec<LearningEvent>) -> Vec<u8> {
    EventBatch { events, ..EventBatch::default() }.encode_to_vec()
}

const ATTEMPT: &str = r#"{"type":"answer_submitted","user_id":"ada","data":{}}"#;

#[test]
fn events_come_in_the_order_of_their_lists() {
    let time = prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 };
    let batch = EventBatch {
        sent_at: Some(time),
        events: vec![event("a"), event("b")],
        attempts: vec![attempt("ada")],
        ..EventBatch::default()
    };
    let found = check(batch.encode_to_vec(), &[r#"{"id":"a"}"#, r#"{"id":"b"}"#, ATTEMPT]);
    assert_eq!(found.sent_at, Some(Timestamp::from_ms(1_800_000_000_000)));
    // Two messages one after the other are one: the attempts of the first come after the events of
    // the second.
    let attempts = EventBatch { attempts: vec![attempt("ada")], ..EventBatch::default() };
    let joined = [attempts.encode_to_vec(), of_events(vec![event("a")])].concat();
    assert_eq!(check(joined, &[r#"{"id":"a"}"#, ATTEMPT]).sent_at, None);
    check(Vec::new(), &[]);
}

#[test]
fn fields_of_a_newer_version_are_skipped() {
    // Field 15 as bytes, field 16 as a number, and field 15 of an event.
    let batch = vec![0x7a, 3, 1, 2, 3, 0x80, 0x01, 7, 0x12, 5, 0x0a, 1, b'x', 0x78, 1];
    check(batch, &[r#"{"id":"x"}"#]);
}

#[test]
fn a_broken_message_says_where_and_what_to_do() {
    let broken = ProblemKind::BrokenBody;
    let bytes = of_events(vec![event("abc")]);
    for cut in 1..bytes.len() {
        check_problem(bytes[..cut].to_vec(), broken, "at byte 0");
    }
    check_problem(b"{\"id\": 1}".to_vec(), broken, "events.proto");
    check_problem(vec![0x10, 1], broken, "field 2 is no message");
    check_problem(vec![0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], broken, "ends");
    check_problem(vec![0x0a, 2, 0x08, 5, 0xff], broken, "at byte 4");
    let before_1970 = prost_types::Timestamp { seconds: -31_536_000, nanos: 0 };
    let batch = EventBatch { sent_at: Some(before_1970), ..EventBatch::default() };
    check_problem(batch.encode_to_vec(), broken, "`sent_at` of the batch lies outside");
}

#[test]
fn a_message_that_cannot_be_decoded_is_its_own_fault() {
    // Text that is not UTF-8; and JSON, which no protobuf is, though it would be a good event.
    let json = br#"{"id":"x","type":"login","user_id":"ada"}"#;
    let damaged: [&[u8]; 3] = [&[0x0a, 1, 0xff], json, &[0x0a, 9, b'x']];
    for damaged in damaged {
        let length = u8::try_from(damaged.len()).unwrap();
        let bytes = [
            of_events(vec![event("a")]),
            [&[0x12, length][..], damaged].concat(),
            of_events(vec![event("b")]),
        ];
        let batch = read(bytes.concat()).unwrap();
        let good = |index| std::str::from_utf8(batch.raw(index)).unwrap().to_owned();
        assert_eq!([good(0), good(2)], [r#"{"id":"a"}"#, r#"{"id":"b"}"#]);
        assert_eq!((batch.events.len(), batch.raw(1)), (3, damaged));
        let faults = batch.faults.iter().map(|(index, fault)| (*index, fault.reason));
        assert_eq!(faults.collect::<Vec<_>>(), [(1, RejectReason::MalformedJson)]);
        let message = &batch.faults[&1].message;
        assert!(
            message.contains("at byte 7 of the batch is no `chalkstream.events.v1.LearningEvent`"),
            "{message}"
        );
    }
    let attempt = [0x1a, 2, 0x0a, 0xff];
    assert!(read(attempt.to_vec()).unwrap().faults[&0].message.contains("v1.AttemptEvent`"));
}

#[test]
fn limits_hold_before_anything_is_decoded() {
    check_problem([0x12, 0].repeat(4), ProblemKind::TooManyEvents, "at most 3");
    // Half a million empty strings would take 12 MiB; the event is not decoded.
    let body = [&[0x22, 0x80, 0x80, 0x40][..], &[0x52, 0].repeat(512 << 10)].concat();
    check_problem(body, ProblemKind::BodyTooLarge, "4KiB as JSON");
    // Small enough for the body: rejected later, for its size.
    let large = of_events(vec![event(&"x".repeat(1_100))]);
    assert_eq!(read(large).unwrap().raw(0).len(), 1_103);
    // A control character takes six bytes in JSON.
    let expands = |times| Bytes::from(of_events(vec![event(&"\u{1}".repeat(times))]));
    check_problem(expands(1_000).to_vec(), ProblemKind::BodyTooLarge, "4KiB as JSON");
    assert_eq!(read_with_room(&expands(600), 4 << 10).unwrap_err().kind(), ProblemKind::Busy);
    assert!(read_with_room(&expands(600), 5 << 10).is_ok());
}
