//! What clients and stored events rely on never breaks: the table against `compat/events.v1.json`.

use std::path::PathBuf;

use chalkstream_schemas::columns::EVENT_COLUMNS;
use chalkstream_schemas::fields::{Field, Kind};
use chalkstream_schemas::parse::ENVELOPE;
use serde_json::{Map, Value, json};

use crate::examples::types;

fn kind(kind: &Kind) -> (&'static str, Value, Value, Value) {
    let none = Value::Null;
    match kind {
        Kind::Id => ("id", none.clone(), none.clone(), none),
        Kind::Text => ("text", none.clone(), none.clone(), none),
        Kind::Word(words) => ("word", none.clone(), none, json!(words)),
        Kind::Bool => ("bool", none.clone(), none.clone(), none),
        Kind::Number { min, max } => ("number", json!(min), json!(max), none),
        Kind::Integer { min, max } => ("integer", json!(min), json!(max), none),
        Kind::Millis => ("millis", none.clone(), none.clone(), none),
        Kind::Time => ("time", none.clone(), none.clone(), none),
        Kind::Ids => ("ids", none.clone(), none.clone(), none),
        Kind::Answer => ("answer", none.clone(), none.clone(), none),
        Kind::SkillNumbers { min, max } => ("skill_numbers", json!(min), json!(max), none),
    }
}

fn fields(fields: &[Field]) -> Value {
    let entry = |field: &Field| {
        let (kind, min, max, words) = kind(&field.kind);
        let mut entry = json!({
            "number": field.number, "kind": kind, "required": field.required,
            "aliases": field.aliases, "min": min, "max": max, "words": words,
        });
        entry.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        (field.name.to_owned(), entry)
    };
    Value::Object(fields.iter().map(entry).collect())
}

fn table() -> Value {
    let mut all = Map::new();
    let envelope =
        json!({ "number": 0, "aliases": [], "envelope": [], "fields": fields(&ENVELOPE) });
    all.insert("(envelope)".to_owned(), envelope);
    for info in types() {
        let entry = json!({
            "number": info.number, "aliases": info.aliases, "envelope": info.envelope,
            "fields": fields(info.fields),
        });
        all.insert(info.name.to_owned(), entry);
    }
    let columns = EVENT_COLUMNS.iter().map(|column| {
        let kind = format!("{:?}", column.kind);
        (column.name.to_owned(), json!({ "kind": kind, "nullable": column.nullable }))
    });
    json!({ "types": all, "columns": Value::Object(columns.collect()) })
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// What `old` lists and `new` does not.
fn lost(old: &Value, new: &Value) -> Vec<String> {
    let new = new.as_array().cloned().unwrap_or_default();
    let old = old.as_array().into_iter().flatten().filter(|item| !new.contains(item));
    old.map(Value::to_string).collect()
}

/// Every way in which `new` breaks what `old` promised, each with what to do.
fn breaks(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (type_name, was) in entries(&old["types"]) {
        let Some(is) = new["types"].get(type_name) else {
            found.push(format!(
                "event type {type_name} is gone: put it back; stored events have it"
            ));
            continue;
        };
        if is["number"] != was["number"] {
            found.push(format!(
                "event type {type_name} has another number: restore {}",
                was["number"]
            ));
        }
        for alias in lost(&was["aliases"], &is["aliases"]) {
            found.push(format!(
                "event type {type_name} lost its alias {alias}: clients send it; put it back"
            ));
        }
        for field in lost(&is["envelope"], &was["envelope"]) {
            found.push(format!("{type_name} now requires {field} in the envelope: make it optional; older clients leave it out"));
        }
        for (name, was) in entries(&was["fields"]) {
            let field = format!("{type_name}.{name}");
            match is["fields"].get(name) {
                None => {
                    found.push(format!("{field} is gone: put it back, optional if nothing uses it"))
                }
                Some(is) => found.extend(field_breaks(&field, was, is)),
            }
        }
        for (name, is) in entries(&is["fields"]) {
            if was["fields"].get(name).is_none() && is["required"] == true {
                found.push(format!("{type_name}.{name} is new and required: make it optional; older clients do not send it"));
            }
        }
    }
    for (name, was) in entries(&old["columns"]) {
        match new["columns"].get(name) {
            None => found
                .push(format!("column {name} is gone: put it back; tables and queries have it")),
            Some(is) if is != was => found.push(format!(
                "column {name} changed from {was} to {is}: add another column instead"
            )),
            Some(_) => {}
        }
    }
    found
}

fn field_breaks(field: &str, was: &Value, is: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if is["number"] != was["number"] {
        found.push(format!("{field} has another number: restore {}", was["number"]));
    }
    if is["kind"] != was["kind"] {
        found.push(format!(
            "{field} changed its kind from {} to {}: add another field instead",
            was["kind"], is["kind"]
        ));
    }
    if is["required"] == true && was["required"] == false {
        found
            .push(format!("{field} became required: make it optional; older clients leave it out"));
    }
    if is["min"].as_f64() > was["min"].as_f64() {
        found.push(format!(
            "{field} has a higher minimum: restore {}; stored events lie below",
            was["min"]
        ));
    }
    if is["max"].as_f64() < was["max"].as_f64() {
        found.push(format!(
            "{field} has a lower maximum: restore {}; stored events lie above",
            was["max"]
        ));
    }
    for word in lost(&was["words"], &is["words"]) {
        found.push(format!("{field} no longer allows {word}: put it back; clients send it"));
    }
    for alias in lost(&was["aliases"], &is["aliases"]) {
        found.push(format!("{field} lost its alias {alias}: clients send it; put it back"));
    }
    found
}

#[test]
fn nothing_that_was_promised_breaks() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("compat/events.v1.json");
    let new = table();
    let old = std::fs::read_to_string(&path)
        .map_or(json!({}), |text| serde_json::from_str(&text).unwrap());
    let breaks = breaks(&old, &new);
    assert!(
        breaks.is_empty(),
        "the event table breaks what was promised:\n  {}",
        breaks.join("\n  ")
    );
    if std::env::var_os("CHALKSTREAM_BLESS").is_some() {
        std::fs::write(&path, format!("{new:#}\n")).unwrap();
    } else {
        assert!(
            old == new,
            "the event table has something new, which breaks nothing; record it as a promise with \
             `CHALKSTREAM_BLESS=1 cargo test -p chalkstream-schemas` and commit {}",
            path.display(),
        );
    }
}

#[track_caller]
fn check_break(change: impl Fn(&mut Value), wanted: &str) {
    let old = table();
    let mut new = old.clone();
    change(&mut new);
    assert_ne!(old, new, "the change changed nothing");
    let found = breaks(&old, &new);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains(wanted), "{:?} does not say {wanted:?}", found[0]);
}

#[test]
fn every_kind_of_break_is_found_and_says_what_to_do() {
    fn answer(table: &mut Value) -> &mut Value {
        &mut table["types"]["answer_submitted"]
    }
    let remove = |value: &mut Value, key: &str| {
        value.as_object_mut().unwrap().remove(key).unwrap();
    };
    check_break(|t| remove(&mut t["types"], "login"), "login is gone: put it back");
    check_break(|t| answer(t)["number"] = json!(7), "restore 110");
    check_break(|t| answer(t)["aliases"] = json!([]), "lost its alias \"question_submitted\"");
    check_break(|t| answer(t)["envelope"] = json!(["course_id"]), "make it optional");
    check_break(|t| remove(&mut answer(t)["fields"], "score"), "answer_submitted.score is gone");
    check_break(|t| answer(t)["fields"]["score"]["number"] = json!(99), "restore 8");
    check_break(|t| answer(t)["fields"]["score"]["kind"] = json!("text"), "add another field");
    check_break(|t| answer(t)["fields"]["score"]["required"] = json!(true), "became required");
    check_break(|t| answer(t)["fields"]["score"]["min"] = json!(0.5), "restore 0");
    check_break(|t| answer(t)["fields"]["score"]["max"] = json!(0.5), "restore 1");
    check_break(|t| answer(t)["fields"]["item_id"]["aliases"] = json!([]), "\"question_id\"");
    check_break(
        |t| {
            t["types"]["video_watch"]["fields"]["action"]["words"] =
                json!(["play", "pause", "seek"])
        },
        "no longer allows \"complete\"",
    );
    check_break(
        |t| answer(t)["fields"]["new"] = json!({ "number": 40, "kind": "text", "required": true }),
        "new and required: make it optional",
    );
    check_break(|t| remove(&mut t["columns"], "item_id"), "column item_id is gone");
    check_break(|t| t["columns"]["item_id"]["nullable"] = json!(false), "add another column");
}

#[test]
fn additions_and_wider_ranges_break_nothing() {
    let old = table();
    let mut new = old.clone();
    new["types"]["hologram_shown"] = new["types"]["login"].clone();
    new["types"]["login"]["fields"]["method"] =
        json!({ "number": 1, "kind": "text", "required": false });
    new["types"]["answer_submitted"]["fields"]["score"]["max"] = json!(2.0);
    new["types"]["answer_submitted"]["fields"]["item_id"]["required"] = json!(false);
    new["types"]["video_watch"]["fields"]["action"]["words"]
        .as_array_mut()
        .unwrap()
        .push(json!("mute"));
    new["columns"]["hologram_id"] = json!({ "kind": "Str", "nullable": true });
    assert_eq!(breaks(&old, &new), Vec::<String>::new());
}
