//! Protobuf, JSON Schema, Arrow and the Rust structs agree, field by field.

use std::collections::{BTreeMap, BTreeSet};

use arrow_schema::DataType;
use chalkstream_schemas::arrow::{data_type, events_schema};
use chalkstream_schemas::columns::{
    ColumnKind, ColumnValue, EVENT_COLUMNS, PAYLOAD_COLUMNS, event_values,
};
use chalkstream_schemas::fields::{Field, Kind, MILLIS_MAX, SECONDS_MAX};
use chalkstream_schemas::json_schema::json_schema;
use chalkstream_schemas::parse::ENVELOPE;
use chalkstream_schemas::payload::CUSTOM_NUMBER;
use chalkstream_schemas::{EventType, LogOffset, PartitionId, proto};
use prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, MessageDescriptor};
use serde_json::{Value, json};

use crate::examples::{full, parse, types};
use crate::proto_text::proto_type;

fn pool() -> DescriptorPool {
    DescriptorPool::decode(proto::DESCRIPTORS).unwrap()
}

fn message(pool: &DescriptorPool, name: &str) -> MessageDescriptor {
    let full_name = format!("chalkstream.events.v1.{name}");
    pool.get_message_by_name(&full_name).unwrap_or_else(|| panic!("no message {full_name}"))
}

/// A descriptor as the proto file writes it.
fn written(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        _ if field.is_map() => return "map<string, double>".to_owned(),
        prost_reflect::Kind::Message(message) => {
            let name = message.full_name().to_owned();
            name.strip_prefix("chalkstream.events.v1.").unwrap_or(&name).to_owned()
        }
        other => format!("{other:?}"),
    };
    let label = match field.cardinality() {
        Cardinality::Repeated => "repeated",
        Cardinality::Optional | Cardinality::Required => "optional",
    };
    assert!(field.cardinality() == Cardinality::Repeated || field.supports_presence());
    format!("{label} {kind}")
}

#[track_caller]
fn same_fields(message: &MessageDescriptor, fields: &[Field], beside: &[&str]) {
    let wanted: BTreeMap<_, _> = fields
        .iter()
        .map(|field| (field.name.to_owned(), (field.number, proto_type(field).to_owned())))
        .collect();
    let found: BTreeMap<_, _> = message
        .fields()
        .filter(|field| field.containing_oneof().is_none_or(|oneof| oneof.is_synthetic()))
        .filter(|field| !beside.contains(&field.name()))
        .map(|field| (field.name().to_owned(), (field.number(), written(&field))))
        .collect();
    assert_eq!(found, wanted, "protobuf message {}", message.name());
}

#[test]
fn protobuf_has_the_fields_of_the_table() {
    let pool = pool();
    let event = message(&pool, "LearningEvent");
    same_fields(&event, &ENVELOPE, &["extra", "data_extra"]);
    let payloads: BTreeMap<_, _> = event
        .oneofs()
        .find(|oneof| oneof.name() == "payload")
        .unwrap()
        .fields()
        .map(|field| (field.number(), field.name().to_owned()))
        .collect();
    let mut wanted: BTreeMap<_, _> =
        types().map(|info| (info.number, info.name.to_owned())).collect();
    assert_eq!(wanted.len(), EventType::ALL.len(), "two types share a number");
    wanted.insert(CUSTOM_NUMBER, "custom".to_owned());
    assert_eq!(payloads, wanted);
    for info in types() {
        same_fields(&message(&pool, info.message), info.fields, &[]);
    }
}

/// What JSON Schema says of a field's values, without null, description and alias mark.
fn wanted_schema(kind: &Kind) -> Value {
    let id = json!({
        "type": "string", "minLength": 1, "maxLength": 128,
        "pattern": "^[^\\u0000-\\u001F\\u007F-\\u009F]*$",
    });
    match kind {
        Kind::Id => id,
        Kind::Text => json!({ "type": "string" }),
        Kind::Word(words) => json!({ "enum": words }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Number { min, max } => json!({ "type": "number", "minimum": min, "maximum": max }),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Millis => json!({ "type": "integer", "minimum": 0, "maximum": MILLIS_MAX }),
        Kind::Time => json!({ "type": "string", "format": "date-time" }),
        Kind::Ids => json!({ "type": "array", "items": id }),
        Kind::Answer => {
            json!({ "type": ["string", "number", "array"], "items": { "type": ["string", "number"] } })
        }
        Kind::SkillNumbers { min, max } => json!({
            "type": "object", "propertyNames": id,
            "additionalProperties": { "type": "number", "minimum": min, "maximum": max },
        }),
    }
}

/// A published property without description and alias mark; optional ones without null.
fn bare(mut schema: Value, required: bool) -> Value {
    let object = schema.as_object_mut().unwrap();
    assert!(object.remove("description").is_some(), "a property without a description");
    object.remove("x-alias-of");
    if !required {
        let words = object.contains_key("enum");
        let nullable = match (object.get_mut("type"), words) {
            (Some(Value::Array(types)), _) => {
                let nullable = types.pop() == Some(json!("null"));
                if let [one] = types.as_slice() {
                    let one = one.clone();
                    object.insert("type".to_owned(), one);
                }
                nullable
            }
            (None, true) => object["enum"].as_array_mut().unwrap().pop() == Some(Value::Null),
            _ => false,
        };
        assert!(nullable, "an optional field must allow null");
    }
    schema
}

#[track_caller]
fn same_properties(schema: &Value, fields: &[Field], beside: &[&str], context: &str) {
    let properties = schema["properties"].as_object().unwrap();
    let mut known: BTreeSet<_> = beside.iter().copied().collect();
    for field in fields {
        let names = [field.name].into_iter().chain(field.aliases.iter().copied());
        for name in names {
            known.insert(name);
            if beside.contains(&name) {
                continue;
            }
            let wanted = match field.kind {
                Kind::Millis if name != field.name => {
                    wanted_schema(&Kind::Number { min: 0.0, max: SECONDS_MAX })
                }
                kind => wanted_schema(&kind),
            };
            let found = bare(properties[name].clone(), field.required);
            assert_eq!(found, wanted, "JSON Schema of {context}: {name}");
        }
    }
    let found: BTreeSet<_> = properties.keys().map(String::as_str).collect();
    assert_eq!(found, known, "JSON Schema of {context}");
    assert!(schema.get("additionalProperties").is_none(), "unknown members are kept");
}

/// The names that a schema requires, aliases apart.
fn required(schema: &Value) -> BTreeSet<String> {
    let plain = schema["required"].as_array().into_iter().flatten();
    let either = schema["allOf"].as_array().into_iter().flatten();
    let either = either.map(|either| &either["anyOf"][0]["required"][0]);
    plain.chain(either).map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn json_schema_has_the_fields_of_the_table() {
    for info in types() {
        let schema = json_schema(info.event_type);
        assert_eq!(schema["$id"], format!("/v1/schemas/{}", info.name));
        let envelope = ENVELOPE.map(|field| Field {
            required: field.required || info.envelope.contains(&field.name),
            ..field
        });
        same_properties(&schema, &envelope, &["type", "data"], info.name);
        let data = &schema["properties"]["data"];
        same_properties(data, info.fields, &[], info.name);

        let names: BTreeSet<_> =
            [info.name].into_iter().chain(info.aliases.iter().copied()).collect();
        let published: BTreeSet<_> = schema["properties"]["type"]["enum"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect();
        assert_eq!(published, names);

        let mut envelope: BTreeSet<_> = ["id", "type", "user_id", "occurred_at"].into();
        envelope.extend(info.envelope);
        let fields: BTreeSet<_> = info
            .fields
            .iter()
            .filter(|field| field.required)
            .map(|field| field.name.to_owned())
            .collect();
        if !fields.is_empty() || info.event_type == EventType::AnswerSubmitted {
            envelope.insert("data");
        }
        assert_eq!(required(&schema), envelope.into_iter().map(str::to_owned).collect());
        assert_eq!(required(data), fields, "required data of {}", info.name);
    }
    let custom = json_schema(EventType::Custom);
    assert_eq!(custom["properties"]["data"]["properties"], json!({}));
}

#[test]
fn arrow_has_the_columns_of_events_in_their_order() {
    let schema = events_schema();
    assert_eq!(schema.fields().len(), EVENT_COLUMNS.len());
    for (field, column) in schema.fields().iter().zip(&EVENT_COLUMNS) {
        assert_eq!(field.name(), column.name);
        assert_eq!(field.data_type(), &data_type(column.kind), "{}", column.name);
        assert_eq!(field.is_nullable(), column.nullable, "{}", column.name);
    }
    let envelope: BTreeSet<_> = ENVELOPE.iter().map(|field| field.name).collect();
    let columns: BTreeSet<_> = EVENT_COLUMNS.iter().map(|column| column.name).collect();
    assert!(envelope.is_subset(&columns), "every envelope field is a column");
    assert_eq!(columns.len(), EVENT_COLUMNS.len(), "two columns share a name");
}

/// The column that a field of this kind needs.
fn column_kind(field: &Field) -> ColumnKind {
    match field.kind {
        Kind::Id | Kind::Text | Kind::Word(_) => ColumnKind::Str,
        Kind::Bool => ColumnKind::Bool,
        Kind::Number { .. } => ColumnKind::F64,
        Kind::Integer { .. } => ColumnKind::U32,
        Kind::Millis => ColumnKind::U64,
        Kind::Time => ColumnKind::Time,
        Kind::Ids => ColumnKind::StrList,
        Kind::Answer | Kind::SkillNumbers { .. } => panic!("{} cannot be a column", field.name),
    }
}

fn kind_of(value: &ColumnValue<'_>) -> Option<ColumnKind> {
    Some(match value {
        ColumnValue::Null => return None,
        ColumnValue::Str(_) => ColumnKind::Str,
        ColumnValue::Uuid(_) => ColumnKind::Uuid,
        ColumnValue::Time(_) => ColumnKind::Time,
        ColumnValue::Bool(_) => ColumnKind::Bool,
        ColumnValue::F64(_) => ColumnKind::F64,
        ColumnValue::U32(_) => ColumnKind::U32,
        ColumnValue::U64(_) => ColumnKind::U64,
        ColumnValue::Skills(_) => ColumnKind::StrList,
        ColumnValue::Hash(_) => ColumnKind::Hash,
    })
}

/// The Rust side: a full event of each type fills exactly its own columns, with values of the
/// column's kind, and shows each of its fields once.
#[test]
fn the_structs_fill_the_columns_of_the_table() {
    let mut filled = BTreeSet::new();
    for info in types() {
        let event = parse(&full(&info)).unwrap();
        let mut seen = Vec::new();
        event.payload.visit(|field, _value| seen.push(*field));
        assert_eq!(seen, info.fields, "{}", info.name);

        let values = event_values(&event, PartitionId::new(3), LogOffset::new(9));
        let of_payload: BTreeMap<_, _> = info
            .fields
            .iter()
            .filter(|field| PAYLOAD_COLUMNS.iter().any(|column| column.name == field.name))
            .map(|field| (field.name, field))
            .collect();
        for (column, value) in EVENT_COLUMNS.iter().zip(&values) {
            match kind_of(value) {
                Some(kind) => assert_eq!(kind, column.kind, "{} of {}", column.name, info.name),
                None => assert!(column.nullable, "{} of {}", column.name, info.name),
            }
            if let Some(field) = of_payload.get(column.name) {
                assert_eq!(column_kind(field), column.kind, "{} of {}", column.name, info.name);
                assert_ne!(*value, ColumnValue::Null, "{} of {}", column.name, info.name);
                filled.insert(column.name);
            } else if PAYLOAD_COLUMNS.contains(column) {
                let empty = matches!(value, ColumnValue::Null | ColumnValue::Skills([]));
                assert!(empty, "{} has a {}", info.name, column.name);
            }
        }
    }
    let payload: BTreeSet<_> = PAYLOAD_COLUMNS.iter().map(|column| column.name).collect();
    assert_eq!(filled, payload, "a column that no event type fills");
}

/// Delta Lake knows these types; others would be refused when the table is made.
#[test]
fn the_lake_can_hold_every_column() {
    for field in events_schema().fields() {
        let allowed = matches!(
            field.data_type(),
            DataType::Utf8
                | DataType::Boolean
                | DataType::Float64
                | DataType::Int64
                | DataType::Binary
                | DataType::List(_)
                | DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, Some(_))
        );
        assert!(allowed, "{}: {:?}", field.name(), field.data_type());
    }
}
