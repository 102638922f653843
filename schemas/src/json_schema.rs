//! The JSON Schemas (draft 2020-12) of the event types, as published at `/v1/schemas/{type}`.
//!
//! In: an event type. Out: a schema of the whole event, envelope and `data`.
//! Always true: it follows the same table as the checks of [`crate::parse_event`]. What a schema
//! cannot say (bytes of an id, age, an alias beside its name) stands in `$comment` or is left to
//! the server.

use serde_json::{Map, Value, json};

use crate::envelope::ENVELOPE;
use crate::fields::{Field, Kind, MILLIS_MAX, SECONDS_MAX};
use crate::ids::ID_MAX_BYTES;
use crate::payload::{EventType, TypeInfo};

/// The schema of one event type.
pub fn json_schema(event_type: EventType) -> Value {
    let info = event_type.info();
    let name = event_type.as_str();
    let mut properties = Map::new();
    let required_by_type = info.map_or(&[][..], |info| info.envelope);
    for field in &ENVELOPE {
        let required = field.required || required_by_type.contains(&field.name);
        insert(&mut properties, &Field { required, ..*field });
    }
    properties.insert("type".to_owned(), type_schema(info.as_ref()));
    properties.insert("data".to_owned(), data_schema(event_type, info.as_ref()));

    let mut required: Vec<&Field> = ENVELOPE.iter().collect();
    required.retain(|field| field.required || required_by_type.contains(&field.name));
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": format!("/v1/schemas/{name}"),
        "title": name,
        "description": info.map_or("An event that an application defined.", |info| info.doc).trim(),
        "type": "object",
        "properties": properties,
    });
    require(&mut schema, &required);
    let data_required = info.is_some_and(|info| info.fields.iter().any(|field| field.required));
    if (data_required || event_type == EventType::AnswerSubmitted)
        && let Some(Value::Array(names)) = schema.get_mut("required")
    {
        names.push(json!("data"));
    }
    schema
}

fn type_schema(info: Option<&TypeInfo>) -> Value {
    match info {
        Some(info) => {
            let names: Vec<_> = std::iter::once(&info.name).chain(info.aliases).collect();
            json!({ "description": "The event type; other names are aliases of the first.", "enum": names })
        }
        None => json!({
            "description": "A name of the application's own.",
            "type": "string",
            "pattern": "^custom\\.[A-Za-z0-9_.-]{1,64}$",
        }),
    }
}

fn data_schema(event_type: EventType, info: Option<&TypeInfo>) -> Value {
    let fields = info.map_or(&[][..], |info| info.fields);
    let mut properties = Map::new();
    for field in fields {
        insert(&mut properties, field);
    }
    let required: Vec<_> = fields.iter().filter(|field| field.required).collect();
    let mut schema = json!({
        "description": "What happened. Members that are not named here are kept.",
        "type": if required.is_empty() { json!(["object", "null"]) } else { json!("object") },
        "properties": properties,
    });
    require(&mut schema, &required);
    let Some(object) = schema.as_object_mut() else { return schema };
    match event_type {
        EventType::AnswerSubmitted => {
            object.insert("type".to_owned(), json!("object"));
            object.insert(
                "if".to_owned(),
                json!({ "properties": { "graded": { "const": false } }, "required": ["graded"] }),
            );
            object.insert(
                "else".to_owned(),
                json!({ "properties": { "correct": { "type": "boolean" } }, "required": ["correct"] }),
            );
        }
        EventType::Session => {
            object.insert(
                "$comment".to_owned(),
                json!(
                    "ended_at is not before started_at; correct_count is at most items_attempted"
                ),
            );
        }
        EventType::QuizComplete => {
            object.insert(
                "$comment".to_owned(),
                json!("max_score is more than 0; correct_answers is at most total_questions"),
            );
        }
        EventType::AssignmentSubmit => {
            object.insert("$comment".to_owned(), json!("max_score is more than 0"));
        }
        _ => {}
    }
    schema
}

/// Requires each field, by its name or one of its aliases.
fn require(schema: &mut Value, fields: &[&Field]) {
    let Some(object) = schema.as_object_mut() else { return };
    let plain = fields.iter().filter(|field| field.aliases.is_empty()).map(|field| field.name);
    object.insert("required".to_owned(), plain.collect());
    let either = fields.iter().filter(|field| !field.aliases.is_empty()).map(|field| {
        let names = [field.name].into_iter().chain(field.aliases.iter().copied());
        let branches: Vec<_> = names.map(|name| json!({ "required": [name] })).collect();
        json!({ "anyOf": branches })
    });
    let either: Vec<_> = either.collect();
    if !either.is_empty() {
        object.insert("allOf".to_owned(), Value::Array(either));
    }
}

fn insert(properties: &mut Map<String, Value>, field: &Field) {
    properties.insert(field.name.to_owned(), described(field, &field.kind, field.doc.trim()));
    for alias in field.aliases {
        let (kind, doc) = match field.kind {
            Kind::Millis => {
                let seconds = Kind::Number { min: 0.0, max: SECONDS_MAX };
                (seconds, format!("Alias of {}, in seconds.", field.name))
            }
            kind => (kind, format!("Alias of {}.", field.name)),
        };
        let mut schema = described(field, &kind, &doc);
        if let Some(object) = schema.as_object_mut() {
            object.insert("x-alias-of".to_owned(), json!(field.name));
        }
        properties.insert((*alias).to_owned(), schema);
    }
}

/// A field's schema; an optional field may also be null, which is the same as absent.
fn described(field: &Field, kind: &Kind, doc: &str) -> Value {
    let mut schema = kind_schema(kind);
    let Some(object) = schema.as_object_mut() else { return schema };
    if !field.required {
        match (object.get("type").cloned(), object.get_mut("enum")) {
            (_, Some(Value::Array(words))) => words.push(Value::Null),
            (Some(Value::String(one)), _) => {
                object.insert("type".to_owned(), json!([one, "null"]));
            }
            (Some(Value::Array(mut many)), _) => {
                many.push(json!("null"));
                object.insert("type".to_owned(), Value::Array(many));
            }
            _ => {}
        }
    }
    object.insert("description".to_owned(), json!(doc));
    schema
}

const ID_PATTERN: &str = "^[^\\u0000-\\u001F\\u007F-\\u009F]*$";

fn kind_schema(kind: &Kind) -> Value {
    let id = || json!({ "type": "string", "minLength": 1, "maxLength": ID_MAX_BYTES, "pattern": ID_PATTERN });
    match kind {
        Kind::Id => id(),
        Kind::Text => json!({ "type": "string" }),
        Kind::Word(words) => json!({ "enum": words }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Number { min, max } => json!({ "type": "number", "minimum": min, "maximum": max }),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Millis => json!({ "type": "integer", "minimum": 0, "maximum": MILLIS_MAX }),
        Kind::Time => json!({ "type": "string", "format": "date-time" }),
        Kind::Ids => json!({ "type": "array", "items": id() }),
        Kind::Answer => json!({
            "type": ["string", "number", "array"],
            "items": { "type": ["string", "number"] },
        }),
        Kind::SkillNumbers { min, max } => json!({
            "type": "object",
            "propertyNames": id(),
            "additionalProperties": { "type": "number", "minimum": min, "maximum": max },
        }),
    }
}
