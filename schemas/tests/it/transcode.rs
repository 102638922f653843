//! What comes as protobuf is the same event as its JSON.

use chalkstream_schemas::fields::{Field, Kind};
use chalkstream_schemas::parse::ENVELOPE;
use chalkstream_schemas::payload::TypeInfo;
use chalkstream_schemas::proto::DESCRIPTORS;
use chalkstream_schemas::proto::events::v1::{
    Answer, AnswerSubmitted, AttemptEvent, Custom, LearningEvent, Login, PlacementEvent,
    SessionEvent, answer, learning_event::Payload,
};
use chalkstream_schemas::transcode::EventList;
use chalkstream_schemas::{RejectReason, Timestamp};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MapKey};
use prost_types::Timestamp as ProtoTime;
use serde_json::{Value, json};

use crate::examples::{ID, envelope, full, minimal, parse, parse_text, types};

fn json_of(list: EventList, message: &[u8]) -> String {
    let mut json = Vec::new();
    list.write_json(message, &mut json).unwrap();
    String::from_utf8(json).unwrap()
}

fn of_event(event: &LearningEvent) -> String {
    json_of(EventList::Events, &event.encode_to_vec())
}

fn time(text: &str) -> ProtoTime {
    let ms = Timestamp::parse_rfc3339(text).unwrap().as_ms();
    let nanos = i32::try_from(ms % 1000).unwrap() * 1_000_000;
    ProtoTime { seconds: ms / 1000, nanos }
}

/// A JSON value as the protobuf value of its field.
fn proto_value(pool: &DescriptorPool, field: &Field, value: &Value) -> prost_reflect::Value {
    use prost_reflect::Value as Proto;
    let message = |name: &str, bytes: Vec<u8>| {
        let descriptor = pool.get_message_by_name(name).unwrap();
        Proto::Message(DynamicMessage::decode(descriptor, &*bytes).unwrap())
    };
    let text = || value.as_str().unwrap().to_owned();
    match field.kind {
        Kind::Id | Kind::Text | Kind::Word(_) => Proto::String(text()),
        Kind::Bool => Proto::Bool(value.as_bool().unwrap()),
        Kind::Number { .. } => Proto::F64(value.as_f64().unwrap()),
        Kind::Integer { max, .. } if max <= u64::from(u32::MAX) => {
            Proto::U32(value.as_u64().unwrap().try_into().unwrap())
        }
        Kind::Integer { .. } | Kind::Millis => Proto::U64(value.as_u64().unwrap()),
        Kind::Time => message("google.protobuf.Timestamp", time(&text()).encode_to_vec()),
        Kind::Ids => {
            let ids = value.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned());
            Proto::List(ids.map(Proto::String).collect())
        }
        Kind::Answer => {
            let parts = value.as_array().unwrap().iter().map(|part| part.as_str().unwrap().into());
            let many =
                chalkstream_schemas::proto::events::v1::AnswerParts { parts: parts.collect() };
            let answer = Answer { kind: Some(answer::Kind::Many(many)) };
            message("chalkstream.events.v1.Answer", answer.encode_to_vec())
        }
        Kind::SkillNumbers { .. } => {
            let numbers = value.as_object().unwrap().iter();
            let entry = |(skill, number): (&String, &Value)| {
                (MapKey::String(skill.clone()), Proto::F64(number.as_f64().unwrap()))
            };
            Proto::Map(numbers.map(entry).collect())
        }
    }
}

/// A JSON event as the bytes of a `LearningEvent`, field by field from the table.
fn encode(info: &TypeInfo, event: &Value) -> Vec<u8> {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let find =
        |name: &str| pool.get_message_by_name(&format!("chalkstream.events.v1.{name}")).unwrap();
    let set = |message: &mut DynamicMessage, fields: &[Field], values: &Value| {
        for field in fields {
            if let Some(value) = values.get(field.name) {
                message.set_field_by_name(field.name, proto_value(&pool, field, value));
            }
        }
    };
    let mut payload = DynamicMessage::new(find(info.message));
    set(&mut payload, info.fields, &event["data"]);
    let mut message = DynamicMessage::new(find("LearningEvent"));
    set(&mut message, &ENVELOPE, event);
    message.set_field_by_name(info.name, prost_reflect::Value::Message(payload));
    message.encode_to_vec()
}

#[test]
fn every_type_is_the_same_event_in_both_forms() {
    for info in types() {
        for mut event in [minimal(&info), full(&info)] {
            if event["data"]["answer"].is_array() {
                event["data"]["answer"] = json!(["a", "b"]);
            }
            let from_json = parse(&event).unwrap();
            let text = json_of(EventList::Events, &encode(&info, &event));
            let mut from_protobuf =
                parse_text(&text).unwrap_or_else(|error| panic!("{error} {text}"));
            assert_eq!(from_protobuf.content_hash, from_json.content_hash, "{event} {text}");
            from_protobuf.data = from_json.data.clone();
            assert_eq!(from_protobuf, from_json);
        }
    }
}

fn answered() -> LearningEvent {
    let answer = AnswerSubmitted {
        item_id: Some("q1".to_owned()),
        correct: Some(true),
        ..AnswerSubmitted::default()
    };
    LearningEvent {
        id: Some(ID.to_owned()),
        r#type: Some("answer_submitted".to_owned()),
        user_id: Some("ada".to_owned()),
        occurred_at: Some(time("2026-03-02T09:59:58.250Z")),
        payload: Some(Payload::AnswerSubmitted(answer)),
        ..LearningEvent::default()
    }
}

#[track_caller]
fn check_same(event: &LearningEvent, expected: &Value) {
    let found = parse_text(&of_event(event)).unwrap();
    let expected = parse(expected).unwrap();
    assert_eq!(found.content_hash, expected.content_hash, "{}", of_event(event));
    assert_eq!((found.type_name(), &found.extra), (expected.type_name(), &expected.extra));
}

#[track_caller]
fn check_rejected(event: &LearningEvent, reason: RejectReason, part: &str) {
    let rejection = parse_text(&of_event(event)).unwrap_err();
    assert_eq!(rejection.reason, reason, "{rejection}");
    assert!(rejection.message.contains(part), "{rejection}");
}

#[test]
fn the_type_may_be_left_to_the_payload_but_not_contradict_it() {
    let json = envelope("answer_submitted", json!({ "item_id": "q1", "correct": true }));
    check_same(&answered(), &json);
    check_same(&LearningEvent { r#type: None, ..answered() }, &json);
    let alias = Some("question_submitted".to_owned());
    check_same(&LearningEvent { r#type: alias, ..answered() }, &json);
    let other = LearningEvent { r#type: Some("login".to_owned()), ..answered() };
    check_rejected(&other, RejectReason::MalformedJson, "\"type\" more than once");
    let unknown = LearningEvent { r#type: Some("nonsense".to_owned()), ..answered() };
    check_rejected(&unknown, RejectReason::UnknownType, "nonsense");

    let custom = Payload::Custom(Custom { data: Some(" {\"a\": [1]} ".to_owned()) });
    let custom = LearningEvent { payload: Some(custom), ..answered() };
    let named = LearningEvent { r#type: Some("custom.quest".to_owned()), ..custom.clone() };
    check_same(&named, &envelope("custom.quest", json!({ "a": [1] })));
    check_rejected(
        &LearningEvent { r#type: None, ..custom.clone() },
        RejectReason::MissingField,
        "type",
    );
    check_rejected(&custom, RejectReason::MalformedJson, "\"type\" more than once");
    let bare = LearningEvent { r#type: Some("login".to_owned()), payload: None, ..answered() };
    check_same(&bare, &envelope("login", json!({})));
    check_same(
        &LearningEvent { payload: Some(Payload::Login(Login {})), ..bare },
        &envelope("login", json!({})),
    );
}

#[test]
fn members_beyond_the_messages_are_kept() {
    let mut json =
        envelope("answer_submitted", json!({ "item_id": "q1", "correct": true, "b": { "c": 2 } }));
    json["a"] = json!([1, "x"]);
    let event = LearningEvent {
        extra: Some("{\"a\":[1,\"x\"]}".to_owned()),
        data_extra: Some("{ \"b\" : {\"c\":2} }".to_owned()),
        ..answered()
    };
    check_same(&event, &json);
    for text in ["{}", " { } "] {
        let text = Some(text.to_owned());
        let event = LearningEvent { extra: text.clone(), data_extra: text, ..answered() };
        check_same(
            &event,
            &envelope("answer_submitted", json!({ "item_id": "q1", "correct": true })),
        );
    }
    // What is no object cannot reach beyond its place.
    for text in
        ["", "1", "[1]", "{\"a\":1", "\"a\":1", "{\"a\":1},\"user_id\":\"eve\",\"b\":{}", "x\"}"]
    {
        let event = LearningEvent { extra: Some(text.to_owned()), ..answered() };
        check_rejected(&event, RejectReason::MalformedJson, "");
        let event = LearningEvent { data_extra: Some(text.to_owned()), ..answered() };
        check_rejected(&event, RejectReason::MalformedJson, "");
    }
    let twice = LearningEvent { extra: Some("{\"user_id\":\"eve\"}".to_owned()), ..answered() };
    check_rejected(&twice, RejectReason::MalformedJson, "user_id");
}

#[test]
fn what_json_cannot_say_is_rejected_with_its_field() {
    let with = |change: &dyn Fn(&mut AnswerSubmitted)| {
        let mut event = answered();
        let Some(Payload::AnswerSubmitted(answer)) = &mut event.payload else { unreachable!() };
        change(answer);
        event
    };
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let event = with(&|answer| answer.score = Some(number));
        check_rejected(&event, RejectReason::InvalidField, "data.score must be a number");
    }
    for (seconds, nanos) in
        [(0, -1), (0, 1_000_000_000), (i64::MAX, 0), (-1, 0), (i64::MIN, i32::MIN)]
    {
        let event = LearningEvent { occurred_at: Some(ProtoTime { seconds, nanos }), ..answered() };
        check_rejected(&event, RejectReason::InvalidTimestamp, "occurred_at");
    }
    let nothing = with(&|answer| answer.answer = Some(Answer { kind: None }));
    check_same(
        &nothing,
        &envelope("answer_submitted", json!({ "item_id": "q1", "correct": true })),
    );
    let number =
        with(&|answer| answer.answer = Some(Answer { kind: Some(answer::Kind::Number(2.5)) }));
    let json = json!({ "item_id": "q1", "correct": true, "answer": 2.5 });
    check_same(&number, &envelope("answer_submitted", json));
}

#[track_caller]
fn check_client(list: EventList, message: &[u8], expected: &Value) {
    let text = json_of(list, message);
    let found = parse_text(&text).unwrap_or_else(|error| panic!("{error} {text}"));
    assert_eq!(found.content_hash, parse(expected).unwrap().content_hash, "{text}");
    let empty = parse_text(&json_of(list, &[])).unwrap_err();
    assert_eq!((empty.reason, empty.field.as_deref()), (RejectReason::MissingField, Some("id")));
}

#[test]
fn the_messages_of_client_teams_are_events() {
    let text = |text: &str| Some(text.to_owned());
    let happened = Some(time("2026-03-02T09:59:58.250Z"));
    let common = |mut event: Value| {
        event["session_id"] = json!("s1");
        event["device_type"] = json!("tablet");
        event["app_version"] = json!("4.2");
        event
    };
    let attempt = AttemptEvent {
        user_id: text("ada"),
        item_id: text("q1"),
        session_id: text("s1"),
        client_attempt_id: text(ID),
        selected: text("b"),
        correct: Some(false),
        quality: Some(2),
        time_taken_ms: Some(5_200),
        hints_used: Some(0),
        device_type: text("tablet"),
        app_version: text("4.2"),
        timestamp: happened,
    };
    let data = json!({
        "item_id": "q1", "answer": "b", "correct": false, "quality": 2, "time_taken_ms": 5200,
        "hints_used": 0,
    });
    let expected = common(envelope("answer_submitted", data));
    check_client(EventList::Attempts, &attempt.encode_to_vec(), &expected);

    let session = SessionEvent {
        user_id: text("ada"),
        session_id: text("s1"),
        id: text(ID),
        started_at: Some(time("2026-03-02T09:00:00Z")),
        ended_at: Some(time("2026-03-02T09:59:00Z")),
        session_type: text("practice"),
        items_attempted: Some(20),
        correct_count: Some(15),
        total_time_ms: Some(900_000),
        skills_practiced: vec!["fractions".to_owned()],
        average_difficulty: Some(0.4),
        device_type: text("tablet"),
        app_version: text("4.2"),
        timestamp: happened,
    };
    let data = json!({
        "started_at": "2026-03-02T09:00:00Z", "ended_at": "2026-03-02T09:59:00Z",
        "session_type": "practice", "items_attempted": 20, "correct_count": 15,
        "total_time_ms": 900_000, "skills_practiced": ["fractions"], "average_difficulty": 0.4,
    });
    let expected = common(envelope("session", data));
    check_client(EventList::Sessions, &session.encode_to_vec(), &expected);

    let placement = PlacementEvent {
        user_id: text("ada"),
        session_id: text("s1"),
        id: text(ID),
        abilities: [("fractions".to_owned(), -0.5), ("decimals".to_owned(), 2.0)].into(),
        mastery: [("fractions".to_owned(), 0.25)].into(),
        device_type: text("tablet"),
        app_version: text("4.2"),
        timestamp: happened,
    };
    let data = json!({
        "abilities": { "fractions": -0.5, "decimals": 2 }, "mastery": { "fractions": 0.25 },
    });
    let expected = common(envelope("placement", data));
    check_client(EventList::Placements, &placement.encode_to_vec(), &expected);
}

#[test]
fn damaged_messages_are_errors() {
    for (list, bytes) in
        EventList::ALL.into_iter().zip([[0x0a, 1, 0xff], [0x0a, 5, 0], [0x08, 1, 0], [0x0b, 0, 0]])
    {
        assert!(list.write_json(&bytes, &mut Vec::new()).is_err(), "{list:?}");
    }
}
