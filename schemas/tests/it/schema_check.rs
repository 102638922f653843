//! The published JSON Schemas judge events as the parser does.
//!
//! The judge here knows the keywords that the schemas use, and panics at any other.

use chalkstream_schemas::json_schema::json_schema;
use chalkstream_schemas::{RejectReason, Timestamp};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};

use crate::examples::{full, minimal, parse, types};

fn is_type(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no such type: {other}"),
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap_or_else(|| panic!("not an array: {value}")).iter()
}

fn members(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// Whether the schema takes the value.
fn takes(schema: &Value, value: &Value) -> bool {
    let schema = schema.as_object().unwrap();
    let number = value.as_f64();
    let chars = value.as_str().map(|text| text.chars().count() as f64);
    schema.iter().all(|(keyword, want)| match keyword.as_str() {
        "$schema" | "$id" | "$comment" | "title" | "description" | "x-alias-of" | "else" => true,
        "type" => match want {
            Value::String(name) => is_type(name, value),
            names => list(names).any(|name| is_type(name.as_str().unwrap(), value)),
        },
        "enum" => list(want).any(|word| word == value),
        "const" => want == value,
        "minimum" => number.is_none_or(|number| number >= want.as_f64().unwrap()),
        "maximum" => number.is_none_or(|number| number <= want.as_f64().unwrap()),
        "minLength" => chars.is_none_or(|chars| chars >= want.as_f64().unwrap()),
        "maxLength" => chars.is_none_or(|chars| chars <= want.as_f64().unwrap()),
        "pattern" => value.as_str().is_none_or(|text| match want.as_str().unwrap() {
            "^[^\\u0000-\\u001F\\u007F-\\u009F]*$" => !text.contains(char::is_control),
            other => panic!("no such pattern: {other}"),
        }),
        "format" => value.as_str().is_none_or(|text| Timestamp::parse_rfc3339(text).is_ok()),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| takes(want, item))),
        "properties" => members(value)
            .iter()
            .all(|(name, value)| want.get(name).is_none_or(|schema| takes(schema, value))),
        "propertyNames" => members(value).keys().all(|name| takes(want, &json!(name))),
        "additionalProperties" => members(value).values().all(|value| takes(want, value)),
        "required" => {
            !value.is_object() || list(want).all(|name| value.get(name.as_str().unwrap()).is_some())
        }
        "allOf" => list(want).all(|schema| takes(schema, value)),
        "anyOf" => list(want).any(|schema| takes(schema, value)),
        "if" => takes(want, value) || takes(&schema["else"], value),
        other => panic!("the judge does not know the keyword {other}"),
    })
}

/// Rules over several fields, which a schema cannot say; they stand in its `$comment`.
const RULES: [&str; 4] =
    ["data.max_score", "data.ended_at", "data.correct_count", "data.correct_answers"];

#[track_caller]
fn check(event: &Value, schema: &Value) {
    let by_schema = takes(schema, event);
    match parse(event) {
        Ok(_) => assert!(by_schema, "the parser takes what the schema refuses: {event}"),
        Err(rejection) => {
            let beyond = match rejection.reason {
                RejectReason::TooOld | RejectReason::InFuture => true,
                RejectReason::InvalidField => {
                    RULES.contains(&rejection.field.as_deref().unwrap_or_default())
                }
                _ => false,
            };
            assert!(!by_schema || beyond, "the schema takes {event}, but: {rejection}");
        }
    }
}

#[test]
fn schemas_take_the_least_and_the_fullest_event() {
    for info in types() {
        let schema = json_schema(info.event_type);
        for event in [minimal(&info), full(&info)] {
            assert!(takes(&schema, &event), "{event}");
            check(&event, &schema);
        }
    }
}

fn odd_value() -> impl Strategy<Value = Value> {
    select(vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(-1),
        json!(2.5),
        json!(3.0),
        json!(5),
        json!(6),
        json!(1e16),
        json!(31_536_000),
        json!(31_536_001),
        json!(4_294_967_296_u64),
        json!(31_536_000_001_u64),
        json!(""),
        json!("a"),
        json!("a\n"),
        json!("pause"),
        json!("hint"),
        json!("2026-03-02T08:00:00Z"),
        json!("2026-03-02"),
        json!([]),
        json!(["a"]),
        json!([1]),
        json!([""]),
        json!([null]),
        json!([[]]),
        json!({}),
        json!({ "a": 0.5 }),
        json!({ "a": 7 }),
        json!({ "": 0.5 }),
        json!({ "a": "b" }),
        json!("x".repeat(128)),
        json!("x".repeat(129)),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Events with some members set to odd values, or taken away, or renamed to an alias.
    #[test]
    fn schema_and_parser_agree(
        which in any::<Index>(),
        is_full in any::<bool>(),
        changes in prop::collection::vec((any::<Index>(), prop::option::of(odd_value())), 0..4),
        renamed in any::<bool>(),
    ) {
        let all: Vec<_> = types().collect();
        let info = which.get(&all);
        let mut event = if is_full { full(info) } else { minimal(info) };
        let mut places: Vec<_> = info.fields.iter().map(|field| ("data", field.name)).collect();
        let envelope = ["id", "user_id", "user_role", "occurred_at", "sent_at", "course_id",
                        "classroom_id", "app", "data"];
        places.extend(envelope.map(|name| ("", name)));
        for (place, value) in changes {
            let (parent, name) = *place.get(&places);
            let target = if parent.is_empty() { Some(&mut event) } else { event.get_mut(parent) };
            let Some(Value::Object(target)) = target else { continue };
            match value {
                Some(value) => drop(target.insert(name.to_owned(), value)),
                None => drop(target.remove(name)),
            }
        }
        if renamed && let Some(Value::Object(data)) = event.get_mut("data") {
            for field in info.fields {
                if let [alias] = field.aliases && let Some(value) = data.remove(field.name) {
                    data.insert((*alias).to_owned(), value);
                }
            }
        }
        check(&event, &json_schema(info.event_type));
    }
}
