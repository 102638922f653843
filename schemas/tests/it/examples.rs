//! Events made from the table: the least and the most that a type can hold.

use std::time::Duration;

use chalkstream_schemas::fields::{Field, Kind};
use chalkstream_schemas::payload::TypeInfo;
use chalkstream_schemas::{
    EventType, LearningEvent, ParseContext, Rejection, SchoolId, Timestamp, Undated, parse_event,
};
use serde_json::{Map, Value, json};

pub(crate) const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
pub(crate) const RECEIVED: &str = "2026-03-02T10:00:00Z";

pub(crate) fn school() -> SchoolId {
    SchoolId::parse("lincoln").unwrap()
}

pub(crate) fn context(school: &SchoolId) -> ParseContext<'_> {
    ParseContext {
        school_id: school,
        received_at: Timestamp::parse_rfc3339(RECEIVED).unwrap(),
        batch_sent_at: None,
        undated: Undated::Rejected,
        max_age: Some(Duration::from_secs(400 * 86_400)),
        max_future: Duration::from_secs(600),
        max_event_bytes: 65_536,
    }
}

pub(crate) fn parse(event: &Value) -> Result<LearningEvent, Rejection> {
    parse_text(&event.to_string())
}

pub(crate) fn parse_text(event: &str) -> Result<LearningEvent, Rejection> {
    let school = school();
    parse_event(event.as_bytes(), &context(&school))
}

/// An envelope with only what every event needs.
pub(crate) fn envelope(type_name: &str, data: Value) -> Value {
    json!({
        "id": ID, "type": type_name, "user_id": "ada", "occurred_at": "2026-03-02T09:59:58.250Z",
        "data": data,
    })
}

/// A valid value of a field; several seeds give several values.
pub(crate) fn value(field: &Field) -> Value {
    match field.kind {
        Kind::Id => json!(format!("{}-1", field.name)),
        Kind::Text => json!("some \"text\" with 🎈 and \u{0} in it"),
        Kind::Word(words) => json!(words[words.len() - 1]),
        Kind::Bool => json!(true),
        Kind::Number { min, max } => json!(f64::midpoint(min, max)),
        Kind::Integer { max, .. } => json!(max),
        Kind::Millis => json!(1500),
        // `ended_at` must not be before `started_at`: both are the same.
        Kind::Time => json!("2026-03-02T09:00:00+01:00"),
        Kind::Ids => json!(["fractions", "decimals"]),
        Kind::Answer => json!(["a", 7, "b"]),
        Kind::SkillNumbers { min, max } => json!({ "fractions": f64::midpoint(min, max) }),
    }
}

/// The required fields of `data`, or all of them.
pub(crate) fn data(info: &TypeInfo, all: bool) -> Value {
    let mut data = Map::new();
    for field in info.fields {
        let wanted = field.name == "correct" && info.event_type == EventType::AnswerSubmitted;
        if all || field.required || wanted {
            let mut value = value(field);
            if field.name == "max_score" {
                value = json!(10);
            }
            data.insert(field.name.to_owned(), value);
        }
    }
    Value::Object(data)
}

pub(crate) fn minimal(info: &TypeInfo) -> Value {
    let mut event = envelope(info.name, data(info, false));
    for field in info.envelope {
        event[*field] = json!("of-the-envelope");
    }
    if event["data"] == json!({}) {
        event.as_object_mut().unwrap().remove("data");
    }
    event
}

pub(crate) fn full(info: &TypeInfo) -> Value {
    let mut event = envelope(info.name, data(info, true));
    for field in ["session_id", "course_id", "classroom_id", "app", "device_type", "app_version"] {
        event[field] = json!(format!("{field}-1"));
    }
    event["sent_at"] = json!("2026-03-02T09:59:59Z");
    event["user_role"] = json!("teacher");
    event
}

/// Every type's facts.
pub(crate) fn types() -> impl Iterator<Item = TypeInfo> {
    EventType::ALL.iter().map(|event_type| event_type.info().unwrap())
}
