//! Reading events: every type, every alias, every reason, and anything at all.

use std::time::Duration;

use chalkstream_schemas::payload::AnswerSubmitted;
use chalkstream_schemas::{
    Answer, EventType, LearningEvent, ParseContext, Payload, RefuseReason, RejectReason, Rejection,
    Timestamp, UserRole, parse_event,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::examples::{ID, context, envelope, full, minimal, parse, parse_text, school, types};

fn answer(data: Value) -> Value {
    envelope("answer_submitted", data)
}

fn answer_of(event: &LearningEvent) -> &AnswerSubmitted {
    match &event.payload {
        Payload::AnswerSubmitted(answer) => answer,
        other => panic!("{other:?}"),
    }
}

/// The event is rejected for this reason and field, and the message says this.
#[track_caller]
fn rejects(event: &Value, reason: RejectReason, field: Option<&str>, says: &str) {
    check_rejection(parse(event), reason, field, says);
}

#[track_caller]
fn check_rejection(
    found: Result<LearningEvent, Rejection>,
    reason: RejectReason,
    field: Option<&str>,
    says: &str,
) {
    let rejection = found.unwrap_err();
    assert_eq!((rejection.reason, rejection.field.as_deref()), (reason, field), "{rejection}");
    assert!(rejection.message.contains(says), "{:?} does not say {says:?}", rejection.message);
}

#[test]
fn every_type_is_taken_at_its_least_and_at_its_fullest() {
    for info in types() {
        for event in [minimal(&info), full(&info)] {
            let read = parse(&event).unwrap_or_else(|rejection| panic!("{event}: {rejection}"));
            assert_eq!(read.event_type(), info.event_type);
            assert_eq!(read.type_name(), info.name);
            assert_eq!(&*read.extra, "");
            assert_eq!(&*read.data, event.get("data").map_or("{}".to_owned(), Value::to_string));
        }
    }
}

#[test]
fn every_required_field_is_missed_by_name() {
    for info in types() {
        let whole = minimal(&info);
        for field in info.fields.iter().filter(|field| field.required) {
            for absent in [None, Some(Value::Null)] {
                let mut event = whole.clone();
                match absent {
                    Some(null) => event["data"][field.name] = null,
                    None => drop(event["data"].as_object_mut().unwrap().remove(field.name)),
                }
                let name = format!("data.{}", field.name);
                let says = format!("{} needs {name}: ", info.name);
                rejects(&event, RejectReason::MissingField, Some(&name), &says);
            }
        }
        let mandatory = ["id", "type", "user_id", "occurred_at"].into_iter();
        for field in mandatory.chain(info.envelope.iter().copied()) {
            let mut event = whole.clone();
            event.as_object_mut().unwrap().remove(field);
            rejects(&event, RejectReason::MissingField, Some(field), "needs ");
        }
    }
    let event = answer(json!({ "correct": true }));
    let says = "answer_submitted needs data.item_id: the question that was answered";
    rejects(&event, RejectReason::MissingField, Some("data.item_id"), says);
}

#[test]
fn every_field_refuses_other_kinds_of_values() {
    for info in types() {
        for field in info.fields {
            for alias in [field.name].iter().chain(field.aliases) {
                // No field is an object of objects.
                let mut event = full(&info);
                event["data"].as_object_mut().unwrap().remove(field.name);
                event["data"][*alias] = json!({ "a": {} });
                let name = format!("data.{}", field.name);
                let says = if field.name == *alias { "must be " } else { alias };
                rejects(&event, RejectReason::InvalidField, Some(&name), says);
            }
        }
    }
}

#[test]
fn type_aliases_become_the_canonical_type() {
    for (alias, event_type) in [
        ("question_submitted", EventType::AnswerSubmitted),
        ("student_login", EventType::Login),
        ("student_logout", EventType::Logout),
        ("lesson_started", EventType::LessonStart),
        ("content_viewed", EventType::ResourceAccess),
    ] {
        let mut event = minimal(&event_type.info().unwrap());
        event["type"] = json!(alias);
        let read = parse(&event).unwrap();
        assert_eq!((read.event_type(), read.type_name()), (event_type, event_type.as_str()));
    }
}

#[test]
fn field_aliases_fill_the_canonical_fields() {
    let read = parse(&json!({
        "client_attempt_id": ID, "type": "answer_submitted", "user_id": "ada",
        "timestamp": "2026-03-02T09:00:00Z",
        "data": { "question_id": "q1", "topics": ["a", "b"], "selected": "C", "time_spent": 1.2345,
                  "correct": false },
    }))
    .unwrap();
    assert_eq!(read.id.to_string(), ID);
    assert_eq!(read.occurred_at.to_string(), "2026-03-02T09:00:00.000Z");
    let answer = answer_of(&read);
    assert_eq!(answer.item_id.as_str(), "q1");
    assert_eq!(answer.skill_ids.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["a", "b"]);
    assert_eq!(answer.answer, Some(Answer::Text("C".into())));
    assert_eq!(answer.time_taken_ms, Some(1235));
    assert_eq!(answer.outcome(), Some(false));
}

#[test]
fn an_alias_beside_its_name_is_refused_unless_one_is_null() {
    let both = answer(json!({ "item_id": "q", "question_id": "q", "correct": true }));
    rejects(&both, RejectReason::InvalidField, Some("data.item_id"), "question_id");
    let mut event = answer(json!({ "item_id": "q", "question_id": null, "correct": true }));
    assert_eq!(answer_of(&parse(&event).unwrap()).item_id.as_str(), "q");
    event["timestamp"] = event["occurred_at"].clone();
    rejects(&event, RejectReason::InvalidField, Some("occurred_at"), "timestamp");
    event["occurred_at"] = Value::Null;
    assert!(parse(&event).is_ok());
    event["client_attempt_id"] = json!("x");
    rejects(&event, RejectReason::InvalidField, Some("id"), "client_attempt_id");
}

#[test]
fn ids_are_strings() {
    let mut event = answer(json!({ "item_id": 42, "correct": true }));
    rejects(
        &event,
        RejectReason::InvalidField,
        Some("data.item_id"),
        "send it as a string: \"42\"",
    );
    event["data"]["item_id"] = json!("q");
    event["user_id"] = json!(7);
    rejects(&event, RejectReason::InvalidField, Some("user_id"), "send it as a string: \"7\"");
    event["user_id"] = json!("");
    rejects(&event, RejectReason::InvalidField, Some("user_id"), "must not be empty");
    event["user_id"] = json!("x".repeat(129));
    rejects(&event, RejectReason::InvalidField, Some("user_id"), "has 129 bytes; at most 128");
    event["user_id"] = json!("a\nb");
    rejects(&event, RejectReason::InvalidField, Some("user_id"), "control character U+000A");
    event["user_id"] = json!("ada");
    event["id"] = json!(12);
    rejects(&event, RejectReason::InvalidField, Some("id"), "send it as a string: \"12\"");
    event["id"] = json!("attempt-12");
    assert_eq!(parse(&event).unwrap().original_id.as_deref(), Some("attempt-12"));
    event["user_role"] = json!("pupil");
    let says = "one of student, teacher, parent, admin";
    rejects(&event, RejectReason::InvalidField, Some("user_role"), says);
    event["user_role"] = Value::Null;
    event["course_id"] = json!("");
    rejects(&event, RejectReason::InvalidField, Some("course_id"), "leave it out");
    event["course_id"] = Value::Null;
    assert_eq!(parse(&event).unwrap().user_role, UserRole::Student);
    event["data"] = json!([1]);
    rejects(
        &event,
        RejectReason::InvalidField,
        Some("data"),
        "data must be an object, not an array",
    );
}

#[test]
fn values_outside_their_range_are_refused() {
    let check = |type_name: &str, field: &str, good: &[Value], bad: &[Value]| {
        let info = EventType::from_name(type_name).unwrap().info().unwrap();
        let name = format!("data.{field}");
        for value in good {
            let mut event = full(&info);
            event["data"][field] = value.clone();
            parse(&event).unwrap_or_else(|rejection| panic!("{name} = {value}: {rejection}"));
        }
        for value in bad {
            let mut event = full(&info);
            event["data"][field] = value.clone();
            rejects(&event, RejectReason::InvalidField, Some(&name), &name);
        }
    };
    let share =
        (vec![json!(0), json!(1), json!(0.5), json!(-0.0)], vec![json!(-0.1), json!(1.001)]);
    for (type_name, field) in [
        ("lesson_complete", "progress"),
        ("progress_updated", "progress"),
        ("answer_submitted", "score"),
    ] {
        check(type_name, field, &share.0, &share.1);
    }
    let whole = [json!(0), json!(5), json!(3.0)];
    check("answer_submitted", "quality", &whole, &[json!(6), json!(-1), json!(2.5), json!("3")]);
    check("answer_submitted", "confidence", &[json!(1), json!(5)], &[json!(0), json!(6)]);
    check("content_rated", "rating", &[json!(1), json!(4.5), json!(5)], &[json!(0.9), json!(5.1)]);
    let year = json!(31_536_000);
    check(
        "video_watch",
        "duration_seconds",
        &[json!(0), year],
        &[json!(-1), json!(31_536_001), json!("5")],
    );
    check(
        "answer_submitted",
        "time_taken_ms",
        &[json!(0), json!(1e3)],
        &[json!(-1), json!(0.5), json!(1e300)],
    );
    check("answer_submitted", "attempt_number", &[json!(1)], &[json!(0), json!(u64::MAX)]);
    check("answer_submitted", "correct", &[json!(false)], &[json!(1), json!("true")]);
    check(
        "answer_submitted",
        "skill_ids",
        &[json!([])],
        &[json!("a"), json!([1]), json!([""]), json!([null])],
    );
    check(
        "answer_submitted",
        "answer",
        &[json!(2.5), json!(["a", 1])],
        &[json!(true), json!([true]), json!([[]])],
    );
    check("quiz_complete", "max_score", &[json!(0.5)], &[json!(0), json!(-1)]);
    check("course_enrollment", "status", &[json!("enrolled")], &[json!("Enrolled"), json!(1)]);
    check(
        "placement",
        "mastery",
        &[json!({}), json!({"a": 1})],
        &[json!({"a": 1.5}), json!({"": 0.5}), json!([])],
    );
    // Numbers that no f64 or integer holds.
    for number in ["1e400", "-1e400", "123456789012345678901234567890", "1e15000000000"] {
        for field in ["time_taken_ms", "points", "time_spent"] {
            let event = answer(json!({ "item_id": "q", "correct": true, "X": 0 })).to_string();
            let event = event.replace("\"X\":0", &format!("\"{field}\":{number}"));
            let name =
                if field == "time_spent" { "data.time_taken_ms" } else { &format!("data.{field}") };
            check_rejection(parse_text(&event), RejectReason::InvalidField, Some(name), name);
        }
        let text = answer(json!({ "item_id": "q", "correct": true })).to_string();
        let text = text.replace("\"correct\"", &format!("\"unknown\":{number},\"correct\""));
        assert!(parse_text(&text).unwrap().data.contains(number), "an unknown member is kept");
    }
    let twice = answer(json!({ "item_id": "q", "correct": true })).to_string();
    let twice = twice
        .replace("answer_submitted", "placement")
        .replace("\"correct\":true", "\"abilities\":{\"a\":1,\"a\":2}");
    check_rejection(
        parse_text(&twice),
        RejectReason::InvalidField,
        Some("data.abilities"),
        "\"a\" twice",
    );
}

#[test]
fn rules_over_several_fields_hold() {
    let missing = answer(json!({ "item_id": "q" }));
    rejects(&missing, RejectReason::MissingField, Some("data.correct"), "\"graded\": false");
    let ungraded =
        parse(&answer(json!({ "item_id": "q", "graded": false, "correct": true }))).unwrap();
    assert_eq!(answer_of(&ungraded).outcome(), None);
    let session = |start: &str, end: &str| {
        envelope("session", json!({ "started_at": start, "ended_at": end }))
    };
    assert!(parse(&session("2026-03-02T09:00:00Z", "2026-03-02T10:00:00+01:00")).is_ok());
    let backwards = session("2026-03-02T09:00:00Z", "2026-03-02T08:59:59Z");
    rejects(
        &backwards,
        RejectReason::InvalidField,
        Some("data.ended_at"),
        "before data.started_at",
    );
    let no_time = session("yesterday", "2026-03-02T08:59:59Z");
    rejects(&no_time, RejectReason::InvalidTimestamp, Some("data.started_at"), "RFC 3339");
    let quiz = envelope(
        "quiz_complete",
        json!({ "quiz_id": "q", "score": 1, "correct_answers": 3, "total_questions": 2 }),
    );
    rejects(&quiz, RejectReason::InvalidField, Some("data.correct_answers"), "total_questions");
    let mut session = session("2026-03-02T09:00:00Z", "2026-03-02T09:10:00Z");
    session["data"]["items_attempted"] = json!(2);
    session["data"]["correct_count"] = json!(3);
    rejects(&session, RejectReason::InvalidField, Some("data.correct_count"), "items_attempted");
}

#[test]
fn types_are_known_or_custom() {
    let custom = parse(&envelope("custom.robot-arm.moved", json!({ "x": [1, {}] }))).unwrap();
    assert_eq!(custom.event_type(), EventType::Custom);
    assert_eq!(custom.type_name(), "custom.robot-arm.moved");
    assert_eq!(&*custom.data, r#"{"x":[1,{}]}"#);
    for name in ["answerSubmitted", "Login", "custom", "custom.", "custom.a b", "custom.ü"] {
        rejects(
            &envelope(name, json!({})),
            RejectReason::UnknownType,
            Some("type"),
            "custom.<name>",
        );
    }
    let long = format!("custom.{}", "x".repeat(65));
    rejects(&envelope(&long, json!({})), RejectReason::UnknownType, Some("type"), "1 to 64");
}

#[test]
fn times_are_checked_and_corrected() {
    let mut event = minimal(&EventType::Login.info().unwrap());
    for wrong in [json!("2026-03-02 09:00:00"), json!("2026-03-02T09:00:00"), json!(1_772_445_600)]
    {
        event["occurred_at"] = wrong;
        rejects(&event, RejectReason::InvalidTimestamp, Some("occurred_at"), "occurred_at ");
    }
    event["occurred_at"] = json!("2026-03-02T09:00:00Z");
    event["sent_at"] = json!("soon");
    rejects(&event, RejectReason::InvalidTimestamp, Some("sent_at"), "\"soon\" is not RFC 3339");

    // Received at 10:00:00: a clock that is up to five minutes off is left alone.
    let mut check = |sent_at: Option<&str>, wanted: &str| {
        event["sent_at"] = json!(sent_at);
        let read = parse(&event).unwrap();
        assert_eq!(read.event_time.to_string(), wanted);
        assert_eq!(read.occurred_at.to_string(), "2026-03-02T09:00:00.000Z", "kept as sent");
        assert_eq!(read.sent_at.is_some(), sent_at.is_some());
    };
    check(None, "2026-03-02T09:00:00.000Z");
    check(Some("2026-03-02T09:55:00Z"), "2026-03-02T09:00:00.000Z");
    check(Some("2026-03-02T09:54:59.999Z"), "2026-03-02T09:05:00.001Z");
    check(Some("2026-03-02T10:05:00Z"), "2026-03-02T09:00:00.000Z");
    check(Some("2026-03-02T11:00:00Z"), "2026-03-02T08:00:00.000Z");

    let school = school();
    let batch_sent_at = Some(Timestamp::parse_rfc3339("2026-03-02T11:00:00Z").unwrap());
    let cx = ParseContext { batch_sent_at, ..context(&school) };
    event["sent_at"] = Value::Null;
    let read = parse_event(event.to_string().as_bytes(), &cx).unwrap();
    assert_eq!(
        (read.sent_at, read.event_time.to_string().as_str()),
        (batch_sent_at, "2026-03-02T08:00:00.000Z")
    );
    event["sent_at"] = json!("2026-03-02T10:00:00Z");
    let read = parse_event(event.to_string().as_bytes(), &cx).unwrap();
    assert_eq!(read.event_time, read.occurred_at, "the event's own sent_at wins");
}

#[test]
fn old_and_future_events_are_judged_by_the_corrected_time() {
    let mut event = minimal(&EventType::Login.info().unwrap());
    event["occurred_at"] = json!("2026-03-02T10:10:00Z");
    assert!(parse(&event).is_ok(), "max_future itself is allowed");
    event["occurred_at"] = json!("2026-03-02T10:10:00.001Z");
    rejects(&event, RejectReason::InFuture, Some("occurred_at"), "send sent_at");
    event["sent_at"] = json!("2026-03-02T10:10:01Z");
    assert!(parse(&event).is_ok(), "the clock was ten minutes ahead");
    event["sent_at"] = Value::Null;

    event["occurred_at"] = json!("2025-01-26T10:00:00Z");
    assert!(parse(&event).is_ok(), "max_age itself is allowed");
    event["occurred_at"] = json!("2025-01-26T09:59:59.999Z");
    rejects(&event, RejectReason::TooOld, Some("occurred_at"), "more than 400 days");
    let school = school();
    let cx = ParseContext { max_age: None, ..context(&school) };
    event["occurred_at"] = json!("1970-01-01T00:00:00Z");
    assert!(parse_event(event.to_string().as_bytes(), &cx).is_ok(), "backfill has no limit");
    let cx = ParseContext { max_future: Duration::MAX, max_age: Some(Duration::MAX), ..cx };
    assert!(parse_event(event.to_string().as_bytes(), &cx).is_ok());
}

#[test]
fn too_many_bytes_are_refused_before_they_are_read() {
    let school = school();
    let event = minimal(&EventType::Login.info().unwrap()).to_string();
    let cx = ParseContext { max_event_bytes: event.len(), ..context(&school) };
    assert!(parse_event(event.as_bytes(), &cx).is_ok());
    let found = parse_event(format!("{event} ").as_bytes(), &cx);
    check_rejection(found, RejectReason::EventTooLarge, None, "at most ");
}

#[test]
fn broken_json_is_malformed_and_says_where() {
    let check = |text: &[u8], says: &str| {
        let school = school();
        let found = parse_event(text, &context(&school));
        check_rejection(found, RejectReason::MalformedJson, None, says);
    };
    check(b"", "line 1, column 1");
    check(b"{\"id\":\n  x}", "line 2, column 3");
    check(b"42", "an event is a JSON object, not the number 42");
    check(b"[{}]", "not an array");
    check(b"\"\xff\"", "not UTF-8 at byte 1");
    check(b"{} {}", "more text after the end");
    check(br#"{"data":{"a":1,"a":2}}"#, "data names the member \"a\" more than once");
    check(br#"{"data":{"a":1,"\u0061":2}}"#, "more than once");
    check(br#"{"id":"a","id":"a"}"#, "the event names the member \"id\" more than once");
    check(br#"{"x":1,"id":"a","x":2}"#, "the event names the member \"x\" more than once");
    check(br#"{"data":{},"data":null}"#, "\"data\" more than once");
    check(br#"{"data":{"item_id":null,"item_id":"a"}}"#, "\"item_id\" more than once");
    let deep = format!("{{\"data\":{{\"a\":{}1{}}}}}", "[".repeat(63), "]".repeat(63));
    check(deep.as_bytes(), "64 levels");
    check("[".repeat(60_000).as_bytes(), "not valid JSON");
    let many: Vec<_> = (0..3000).map(|n| format!("\"k{n}\":{n}")).collect();
    let many = format!("{{\"data\":{{{},\"k7\":0}}}}", many.join(","));
    check(many.as_bytes(), "\"k7\" more than once");
}

/// The deepest event that is taken can also be hashed, stored and read again.
#[test]
fn nesting_up_to_64_levels_is_taken() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = format!("{}1{}", open.repeat(62), close.repeat(62));
        let text = envelope("custom.deep", json!({ "a": "X" })).to_string();
        let event = parse_text(&text.replace("\"X\"", &nested)).unwrap();
        assert_eq!(&*event.data, format!("{{\"a\":{nested}}}"));
        assert_eq!(Payload::parse(event.type_name(), &event.data).unwrap(), event.payload);
    }
}

#[test]
fn members_of_nested_values_may_repeat_and_stay_as_they_are() {
    let text = envelope("custom.x", json!({ "a": 0 })).to_string();
    let text = text.replace("{\"a\":0}", "{\"a\":{\"b\":1,\"b\":2}}");
    assert_eq!(&*parse_text(&text).unwrap().data, r#"{"a":{"b":1,"b":2}}"#);
}

#[test]
fn unknown_members_survive_as_they_came() {
    let text = r#" { "id":"01890a5d-ac96-774b-bcce-b302099a8057" , "type":"login","user_id":"ada",
        "occurred_at":"2026-03-02T09:00:00Z", "school_id" : "washington", "mood\u0021": { "a" : [ 1.50 ] },
        "data": { "browser" :"Firefox" , "big": 1e400 }, "n": null } "#;
    let read = parse_text(text).unwrap();
    assert_eq!(&*read.data, r#"{ "browser" :"Firefox" , "big": 1e400 }"#);
    assert_eq!(
        &*read.extra,
        r#"{"school_id":"washington","mood\u0021":{ "a" : [ 1.50 ] },"n":null}"#
    );
    assert_eq!(read.school_id.as_str(), "lincoln", "the school comes from the credential");
}

#[test]
fn a_rejection_names_the_event_where_it_can() {
    let mut event = answer(json!({ "correct": true }));
    event["app"] = json!("whiteboard");
    let rejection = parse(&event).unwrap_err();
    assert_eq!(rejection.id.as_deref(), Some(ID));
    assert_eq!(rejection.type_name.as_deref(), Some("answer_submitted"));
    assert_eq!(rejection.app.as_deref(), Some("whiteboard"));
    let rejection = parse(&json!({ "client_attempt_id": 12 })).unwrap_err();
    assert_eq!(rejection.id.as_deref(), Some("12"));
    assert_eq!(parse(&json!({})).unwrap_err().id, None);
}

#[test]
fn reasons_keep_their_public_names() {
    let names: Vec<_> = RejectReason::ALL.iter().map(|reason| reason.as_str()).collect();
    let public = "malformed_json missing_field invalid_field unknown_type invalid_timestamp too_old \
                  in_future event_too_large id_conflict not_permitted unknown_user";
    assert_eq!(names.join(" "), public);
    let names: Vec<_> = RefuseReason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(names, ["rate_limited", "quota_exceeded", "too_many_users", "unavailable"]);
    for reason in RejectReason::ALL {
        assert_eq!(RejectReason::from_name(reason.as_str()), Some(*reason));
    }
}

#[test]
fn a_stored_payload_reads_as_it_did_at_first() {
    for info in types() {
        let event = parse(&full(&info)).unwrap();
        assert_eq!(Payload::parse(event.type_name(), &event.data).unwrap(), event.payload);
    }
    let error = Payload::parse("answer_submitted", "{}").unwrap_err();
    assert_eq!(error.field.as_deref(), Some("data.item_id"));
    assert_eq!(Payload::parse("nonsense", "{}").unwrap_err().reason, RejectReason::UnknownType);
    assert_eq!(Payload::parse("login", "{} x").unwrap_err().reason, RejectReason::MalformedJson);
}

/// A float in JSON becomes the nearest f64, as JavaScript and Python read it.
#[test]
fn numbers_are_rounded_correctly() {
    for text in
        ["0.1", "9007199254740993e-20", "0.30000000000000004", "5e-324", "2.2250738585072011e-308"]
    {
        let event = answer(json!({ "item_id": "q", "correct": true, "points": 7 })).to_string();
        let event = event.replace("\"points\":7", &format!("\"points\":{text}"));
        let points = answer_of(&parse_text(&event).unwrap()).points.unwrap();
        assert_eq!(points.to_bits(), text.parse::<f64>().unwrap().to_bits(), "{text}");
    }
}

/// Anything at all, and real events with a few bytes changed.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let real: Vec<_> = types().map(|info| full(&info).to_string().into_bytes()).collect();
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..3_u8);
    let mutated = (prop::sample::select(real), prop::collection::vec(change, 1..5)).prop_map(
        |(mut bytes, changes)| {
            for (at, byte, how) in changes {
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => drop(bytes.split_off(at.max(1))),
                }
            }
            bytes
        },
    );
    prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..200), 4 => mutated]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// Every input is taken or rejected; what is taken was JSON, and its data reads again.
    #[test]
    fn no_bytes_panic(bytes in hostile()) {
        let school = school();
        if let Ok(event) = parse_event(&bytes, &context(&school)) {
            prop_assert!(serde_json::from_slice::<Value>(&bytes).is_ok());
            prop_assert!(serde_json::from_str::<Value>(&event.data).is_ok());
            prop_assert_eq!(Payload::parse(event.type_name(), &event.data).unwrap(), event.payload);
        }
    }
}
