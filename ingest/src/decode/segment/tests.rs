use std::time::Duration;

use chalkstream_access::{Admission, ByteSize};
use chalkstream_schemas::{
    ContentHash, EventIdentity, EventReader, ParseContext, RejectReason, SchoolId,
};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::*;

fn options() -> IngestOptions {
    IngestOptions {
        max_events: 3.try_into().unwrap(),
        max_event: ByteSize::kib(1),
        ..IngestOptions::default()
    }
}

fn translate(call: Call, body: &str) -> Result<Translated, Problem> {
    let options = options();
    let mut permit = crate::decode::tests::room_of(&Admission::new(1 << 20), 0);
    read(body.as_bytes(), call, &options)?.translate(body.len(), &options, &mut permit)
}

/// The event of one message; `None` if it is skipped.
fn event(message: &Value) -> Option<Value> {
    let body = json!({ "batch": [message], "sentAt": "2026-03-02T10:00:05Z" }).to_string();
    let read = translate(Call::Batch, &body).unwrap();
    assert_eq!(read.batch.events.len() + read.skipped, 1);
    (read.skipped == 0).then(|| serde_json::from_slice(read.batch.raw(0)).unwrap())
}

#[track_caller]
fn check(message: Value, expected: Value) {
    assert_eq!(event(&message), Some(expected));
}

#[test]
fn a_track_message_becomes_an_event() {
    let message = json!({
        "type": "track", "event": "Answer Submitted", "userId": "ada", "anonymousId": "anon",
        "messageId": "m-1", "timestamp": "2026-03-02T10:00:00.123+00:00", "integrations": {},
        "properties": { "item_id": "q1", "correct": true, "course_id": "c", "session_id": "s", "n": 1e2 },
        "context": {
            "app": { "name": "whiteboard", "version": "4.2", "build": 7 }, "ip": "10.0.0.1",
            "device": { "type": "ios", "id": "x" }, "traits": { "email": "ada@example.org" },
            "library": { "name": "analytics-python", "version": "2.4.0" },
        },
    });
    let expected = json!({
        "id": "m-1", "type": "answer_submitted", "user_id": "ada", "event": "Answer Submitted",
        "occurred_at": "2026-03-02T10:00:00.123+00:00", "app": "whiteboard", "app_version": "4.2",
        "device_type": "ios", "course_id": "c", "session_id": "s",
        "data": { "item_id": "q1", "correct": true, "n": 1e2 },
    });
    check(message, expected);
    let anonymous = json!({
        "type": "track", "event": "Order Completed", "userId": null, "anonymousId": "anon",
        "messageId": "m", "originalTimestamp": "2026-03-02T09:00:00Z", "sentAt": "2026-03-02T09:00:01Z",
        "timestamp": "2026-03-02T10:00:00Z",
    });
    let expected = json!({
        "id": "m", "type": "custom.order_completed", "event": "Order Completed", "user_id": "anon",
        "occurred_at": "2026-03-02T09:00:00Z", "sent_at": "2026-03-02T09:00:01Z", "data": {},
    });
    check(anonymous, expected);
}

#[test]
fn a_number_is_no_session_of_ours() {
    let message = json!({
        "type": "track", "event": "Login", "messageId": "m", "userId": "ada",
        "timestamp": "2026-03-02T10:00:00Z", "properties": { "session_id": 1_772_445_600 },
    });
    let expected = json!({
        "id": "m", "type": "login", "user_id": "ada", "event": "Login",
        "occurred_at": "2026-03-02T10:00:00Z", "data": { "session_id": 1_772_445_600 },
    });
    check(message, expected);
}

#[test]
fn pages_and_screens_are_page_views() {
    let page = |kind: &str, name: Value, properties: Value| {
        let message = json!({
            "type": kind, "messageId": "m", "userId": "ada", "timestamp": "2026-03-02T10:00:00Z",
            "name": name, "category": "Help", "properties": properties,
        });
        let event = event(&message).unwrap();
        assert_eq!(event["type"], "page_view");
        event["data"].clone()
    };
    let properties = json!({ "path": "/a", "url": "https://x/a", "referrer": "" });
    let expected = json!({
        "path": "/a", "url": "https://x/a", "referrer": "", "name": "Start", "category": "Help", "page": "/a",
    });
    assert_eq!(page("page", json!("Start"), properties), expected);
    let expected = json!({ "name": "Start", "category": "Help", "page": "Start" });
    assert_eq!(page("screen", json!("Start"), Value::Null), expected);
    let properties = json!({ "page": "own", "path": "/a", "category": 1 });
    let expected = json!({ "page": "own", "path": "/a", "category": 1 });
    assert_eq!(page("page", Value::Null, properties), expected);
}

#[test]
fn what_has_no_meaning_is_skipped_and_what_is_broken_is_left_to_validation() {
    for kind in ["identify", "group", "alias"] {
        assert_eq!(event(&json!({ "type": kind, "userId": "ada", "traits": {} })), None);
    }
    // No time, no id, no known type.
    check(
        json!({ "type": "nonsense", "userId": 7 }),
        json!({ "type": "nonsense", "user_id": 7, "data": {} }),
    );
    check(
        json!({ "userId": "" , "anonymousId": "a", "properties": [1] }),
        json!({ "user_id": "a", "data": [1] }),
    );
    check(json!({ "context": 7, "sentAt": null }), json!({ "data": {} }));
    let odd = json!({ "context": { "app": { "name": "", "version": "\n" }, "device": { "type": "x".repeat(200) } } });
    check(odd, json!({ "data": {} }));
    for raw in [
        "7",
        "null",
        "[{}]",
        r#"{"type":"track","type":"page"}"#,
        &format!("{{\"a\":\"{}\"}}", "x".repeat(1_100)),
    ] {
        let read = translate(Call::Batch, &format!("{{\"batch\":[{raw}]}}")).unwrap();
        assert_eq!(read.batch.raw(0), raw.as_bytes());
    }
}

#[test]
fn places_are_those_of_the_messages() {
    let body = json!({
        "writeKey": "csk_x", "context": { "app": { "name": "all" } }, "sentAt": "2026-03-02T10:00:05Z",
        "batch": [{ "type": "identify" }, { "type": "track" }, { "type": "group" }],
    });
    let read = translate(Call::Batch, &body.to_string()).unwrap();
    assert_eq!((read.places.as_slice(), read.skipped), (&[1][..], 2));
    assert!(read.batch.sent_at.is_some());
    assert!(read.batch.raw(0).windows(11).any(|found| found == br#""app":"all""#));
    let body = body.to_string();
    let key = super::read(body.as_bytes(), Call::Batch, &options()).unwrap().write_key;
    assert_eq!(key.as_deref(), Some("csk_x"));
}

#[test]
fn one_track_message_is_the_body() {
    let body = r#" {"event": "Login", "userId": "ada", "messageId": "m", "writeKey": "csk_x"} "#;
    let read = translate(Call::Track, body).unwrap();
    let event = serde_json::from_slice::<Value>(read.batch.raw(0)).unwrap();
    assert_eq!(
        event,
        json!({
            "id": "m", "type": "login", "user_id": "ada", "event": "Login", "data": {},
        })
    );
}

#[test]
fn broken_bodies_say_where() {
    let check = |call: Call, body: &str, kind: ProblemKind, part: &str| {
        let problem = translate(call, body).unwrap_err();
        assert_eq!(problem.kind(), kind, "{problem:?}");
        assert!(problem.detail().contains(part), "{problem:?}");
    };
    let broken = ProblemKind::BrokenBody;
    check(Call::Batch, "{}", broken, "no array `batch`");
    check(Call::Batch, "[]", broken, "an object with the array `batch`");
    check(Call::Batch, "{\"batch\": {}}", broken, "line 1 column");
    check(Call::Batch, "{\"batch\": [], \"batch\": []}", broken, "`batch` twice");
    check(Call::Batch, "{\"batch\": []} x", broken, "line 1 column 15");
    check(Call::Batch, "{\"batch\": [{]}", broken, "line 1 column");
    check(Call::Batch, "{\"batch\": [1,2,3,4]}", ProblemKind::TooManyEvents, "at most 3");
    check(Call::Track, "[]", broken, "a message");
    check(Call::Track, "{\"a\": }", broken, "line 1 column");
}

/// A time of a call's day.
fn at(second: u32) -> String {
    format!("2026-03-02T{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

/// What may stand as a `sentAt`, and whether it can be read.
fn sent_at() -> impl Strategy<Value = Value> {
    let odd = [json!(null), json!("soon"), json!(""), json!(1_772_445_605), json!({}), json!([])];
    prop_oneof![select(odd.to_vec()), (0_u32..86_400).prop_map(|second| json!(at(second)))]
}

fn readable(sent_at: &Value) -> bool {
    sent_at.as_str().is_some_and(|text| Timestamp::parse_rfc3339(text).is_ok())
}

/// A message with an id, and with none, one or both of the members that say when it happened.
fn message() -> impl Strategy<Value = Value> {
    let base = prop_oneof![
        Just(json!({ "type": "track", "event": "Answer Submitted",
                     "properties": { "item_id": "q1", "correct": true } })),
        Just(
            json!({ "type": "track", "event": "Badge Earned", "context": { "app": { "name": "a" } } })
        ),
        Just(json!({ "type": "page", "name": "Start" })),
        Just(json!({ "type": "screen", "name": "Start", "properties": { "duration_seconds": 3 } })),
    ];
    let happened = prop::option::of(0_u32..86_400);
    (base, happened.clone(), happened).prop_map(|(mut message, original, timestamp)| {
        message["messageId"] = json!("m-1");
        message["userId"] = json!("ada");
        for (name, second) in [("originalTimestamp", original), ("timestamp", timestamp)] {
            if let Some(second) = second {
                message[name] = json!(at(second));
            }
        }
        message
    })
}

/// One delivery of a message: the `sentAt` of message and batch, and the second of its receipt.
type Delivery = (Value, Value, u32);

/// Whose event it is and what it says, or why it is rejected.
fn deliver(
    message: &Value,
    (own, of_batch, received): &Delivery,
) -> Result<(EventIdentity, ContentHash), RejectReason> {
    let mut message = message.clone();
    message["sentAt"] = own.clone();
    let body = json!({ "batch": [message], "sentAt": of_batch }).to_string();
    let batch = translate(Call::Batch, &body).unwrap().batch;
    let school_id = SchoolId::parse("lincoln").unwrap();
    let cx = ParseContext {
        school_id: &school_id,
        received_at: Timestamp::parse_rfc3339(&at(*received)).unwrap(),
        batch_sent_at: batch.sent_at,
        undated: batch.undated,
        max_age: Some(Duration::from_secs(400 * 86_400)),
        max_future: Duration::from_secs(2 * 86_400),
        max_event_bytes: 1 << 10,
    };
    let read = EventReader::new().read(batch.raw(0), &cx);
    read.map(|event| (event.identity(), event.content_hash)).map_err(|rejection| rejection.reason)
}

proptest! {
    /// When it was sent, and whether that can be read, is the transport's word: no retry says anything
    /// else than the first delivery did.
    #[test]
    fn a_retry_is_never_a_conflict(
        message in message(),
        first in (sent_at(), sent_at(), 0_u32..86_400),
        again in (sent_at(), sent_at(), 0_u32..86_400),
    ) {
        let dated = ["originalTimestamp", "timestamp"].iter().any(|name| message.get(name).is_some());
        let deliveries = [first, again];
        for delivery @ (own, of_batch, _) in &deliveries {
            let read = deliver(&message, delivery);
            let known = dated || readable(own) || readable(of_batch);
            prop_assert_eq!(read.err(), (!known).then_some(RejectReason::MissingField));
        }
        let [one, other] = deliveries.map(|delivery| deliver(&message, &delivery));
        if let (Ok(one), Ok(other)) = (one, other) {
            prop_assert_eq!(one, other);
        }
    }

    /// Whatever stands in one place of a context, the labels elsewhere in it are kept.
    #[test]
    fn one_odd_member_of_a_context_costs_no_other(
        place in select(PLACES.to_vec()),
        odd in select(vec![json!(null), json!(7), json!(true), json!(""), json!("text"), json!("\n"),
                           json!("x".repeat(200)), json!([]), json!(["a"]), json!({}),
                           json!({ "name": 1, "version": 1, "type": 1 })]),
        of_batch in any::<bool>(),
    ) {
        let mut context = json!({
            "app": { "name": "whiteboard", "version": "4.2", "build": 7 },
            "device": { "type": "ios", "id": "x" }, "library": { "name": "l" }, "ip": "10.0.0.1",
        });
        let target = place.iter().fold(&mut context, |value, name| &mut value[*name]);
        *target = odd.clone();
        let message = json!({ "type": "track", "event": "Login" });
        let body = match of_batch {
            true => json!({ "batch": [message], "context": context }),
            false => json!({ "batch": [{ "type": "track", "event": "Login", "context": context }] }),
        };
        let batch = translate(Call::Batch, &body.to_string()).unwrap().batch;
        let event = serde_json::from_slice::<Value>(batch.raw(0)).unwrap();
        let mut expected = json!({ "type": "login", "event": "Login", "data": {} });
        for (name, label, path) in [
            ("app", "whiteboard", ["app", "name"]),
            ("app_version", "4.2", ["app", "version"]),
            ("device_type", "ios", ["device", "type"]),
        ] {
            if !path.starts_with(place) {
                expected[name] = json!(label);
            } else if place.len() == 2 && odd == "text" {
                expected[name] = odd.clone();
            }
        }
        prop_assert_eq!(event, expected);
    }
}

const PLACES: [&[&str]; 9] = [
    &[],
    &["app"],
    &["app", "name"],
    &["app", "version"],
    &["app", "build"],
    &["device"],
    &["device", "type"],
    &["library"],
    &["ip"],
];

#[test]
fn what_a_messages_context_lacks_is_the_batchs() {
    let body = json!({
        "context": { "app": { "name": "all", "version": "1" }, "device": { "type": "ios" } },
        "batch": [
            { "context": { "app": { "name": "own", "version": 7 }, "device": null } },
            { "context": null },
        ],
    });
    let batch = translate(Call::Batch, &body.to_string()).unwrap().batch;
    let event = |index| serde_json::from_slice::<Value>(batch.raw(index)).unwrap();
    let labels =
        |app: &str| json!({ "app": app, "app_version": "1", "device_type": "ios", "data": {} });
    assert_eq!((event(0), event(1)), (labels("own"), labels("all")));
}
