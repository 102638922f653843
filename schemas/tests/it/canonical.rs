//! The content hash: the same for every spelling of one event, another for any other event.

use std::collections::BTreeSet;
use std::fmt::Write;

use chalkstream_schemas::{ContentHash, ParseContext, Timestamp, Undated, parse_event};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use crate::examples::{ID, context, envelope, full, minimal, parse, parse_text, school, types};

fn hash(event: &Value) -> ContentHash {
    parse(event).unwrap().content_hash
}

fn event() -> Value {
    let mut event = envelope(
        "answer_submitted",
        json!({ "item_id": "q", "correct": true, "time_taken_ms": 1500, "skill_ids": ["a", "b"],
                "mine": { "x": [1, 2.5, null], "y": "é" } }),
    );
    event["unknown"] = json!({ "k": [true, {}] });
    event
}

#[test]
fn aliases_and_defaults_do_not_show() {
    let one = hash(&event());
    let mut other = event();
    other["type"] = json!("question_submitted");
    other["client_attempt_id"] = other["id"].take();
    other["timestamp"] = json!("2026-03-02T10:59:58.25+01:00");
    other["occurred_at"] = Value::Null;
    other["user_role"] = json!("student");
    other["course_id"] = Value::Null;
    let data = other["data"].as_object_mut().unwrap();
    data.insert("question_id".to_owned(), json!("q"));
    data.insert("topics".to_owned(), json!(["a", "b"]));
    data.insert("time_spent".to_owned(), json!(1.5));
    for name in ["item_id", "skill_ids", "time_taken_ms"] {
        data.remove(name);
    }
    data.insert("score".to_owned(), Value::Null);
    assert_eq!(hash(&other), one);
}

#[test]
fn the_spelling_of_a_time_in_data_does_not_show() {
    let session = |start: &str, end: &str| {
        hash(&envelope("session", json!({ "started_at": start, "ended_at": end })))
    };
    let one = session("2026-03-02T08:00:00Z", "2026-03-02T09:00:00Z");
    assert_eq!(session("2026-03-02T09:00:00.000+01:00", "2026-03-02t09:00:00.0001z"), one);
    assert_ne!(session("2026-03-02T08:00:00.001Z", "2026-03-02T09:00:00Z"), one);
}

#[test]
fn stamps_of_sending_and_receiving_do_not_show() {
    let mut late = event();
    late["sent_at"] = json!("2026-03-02T11:00:00Z");
    assert_ne!(parse(&late).unwrap().event_time, parse(&event()).unwrap().event_time);
    assert_eq!(hash(&late), hash(&event()));
    let school = school();
    let received_at = Timestamp::parse_rfc3339("2026-04-02T10:00:00Z").unwrap();
    let cx = ParseContext { received_at, ..context(&school) };
    let again = parse_event(event().to_string().as_bytes(), &cx).unwrap();
    assert_eq!(again.content_hash, hash(&event()));
}

/// Who names no time says nothing of when it happened; who names that very time does.
#[test]
fn a_time_that_the_transport_supplied_does_not_show() {
    let school = school();
    let mut undated = event();
    undated.as_object_mut().unwrap().remove("occurred_at");
    let sent = |own: Option<&str>, batch: Option<&str>| {
        let mut event = undated.clone();
        event["sent_at"] = json!(own);
        let batch_sent_at = batch.map(|text| Timestamp::parse_rfc3339(text).unwrap());
        let cx = ParseContext { batch_sent_at, undated: Undated::WhenSent, ..context(&school) };
        parse_event(event.to_string().as_bytes(), &cx)
    };
    let (first, later) = ("2026-03-02T09:59:00Z", "2026-03-02T10:00:30Z");
    let one = sent(None, Some(first)).unwrap();
    assert_eq!(one.occurred_at.to_string(), "2026-03-02T09:59:00.000Z");
    for again in [sent(None, Some(later)), sent(Some(later), None), sent(Some(first), Some(later))]
    {
        assert_eq!(again.unwrap().content_hash, one.content_hash);
    }
    let mut dated = undated.clone();
    dated["occurred_at"] = json!(first);
    assert_ne!(hash(&dated), one.content_hash);
    let missing = sent(None, None).unwrap_err();
    assert_eq!(missing.field.as_deref(), Some("occurred_at"));
    assert_eq!(parse(&undated).unwrap_err().field.as_deref(), Some("occurred_at"));
}

/// Stored hashes are compared with those of events to come, so the form must never change. These
/// bytes were written down from the description of the form.
#[test]
fn the_form_is_the_documented_one() {
    let mut event = envelope("custom.x", json!({ "b": [1, 2.5, "é"], "a": null }));
    event["app"] = json!("notebook");
    event["z"] = json!({ "t": true, "f": false });
    let mut form = vec![1];
    let text = |form: &mut Vec<u8>, text: &str| {
        form.push(b's');
        form.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        form.extend(text.as_bytes());
    };
    let whole = |form: &mut Vec<u8>, number: i64| {
        form.push(b'i');
        form.extend(number.to_le_bytes());
    };
    text(&mut form, "lincoln");
    text(&mut form, "ada");
    form.extend(uuid::Uuid::parse_str(ID).unwrap().as_bytes());
    text(&mut form, "custom.x");
    text(&mut form, "student");
    whole(&mut form, 1_772_445_598_250);
    form.extend(b"nnn");
    text(&mut form, "notebook");
    form.extend(b"nno");
    text(&mut form, "a");
    form.push(b'n');
    text(&mut form, "b");
    form.push(b'a');
    whole(&mut form, 1);
    form.push(b'd');
    form.extend(2.5_f64.to_bits().to_le_bytes());
    text(&mut form, "é");
    form.extend(b"eeo");
    text(&mut form, "z");
    form.push(b'o');
    text(&mut form, "f");
    form.push(b'f');
    text(&mut form, "t");
    form.push(b't');
    form.extend(b"ee");
    assert_eq!(*hash(&event).as_bytes(), xxhash_rust::xxh3::xxh3_128(&form).to_be_bytes());
}

#[test]
fn every_change_of_content_shows() {
    let mut hashes = BTreeSet::from([hash(&event())]);
    let mut check = |change: &dyn Fn(&mut Value)| {
        let mut changed = event();
        change(&mut changed);
        assert!(hashes.insert(hash(&changed)), "this has the hash of another: {changed}");
    };
    check(&|e| e["user_id"] = json!("bob"));
    check(&|e| e["user_role"] = json!("teacher"));
    check(&|e| e["occurred_at"] = json!("2026-03-02T09:59:58.251Z"));
    for name in ["session_id", "course_id", "classroom_id", "app", "device_type", "app_version"] {
        check(&|e| e[name] = json!("x"));
    }
    check(&|e| e["data"]["correct"] = json!(false));
    check(&|e| e["data"]["skill_ids"] = json!(["b", "a"]));
    check(&|e| e["data"]["skill_ids"] = json!(["ab"]));
    check(&|e| e["data"]["mine"]["x"] = json!([1, 2.5]));
    check(&|e| e["data"]["mine"]["x"] = json!([1, 2.5, "null"]));
    check(&|e| e["data"]["mine"]["y"] = json!("e"));
    check(&|e| e["data"]["new"] = Value::Null);
    check(&|e| e["unknown"]["k"] = json!([true, []]));
    check(&|e| e["other"] = json!(1));
    check(&|e| e["other"] = json!("1"));
    for info in types() {
        check(&|e| *e = minimal(&info));
    }
}

/// A JSON text of a value with the members in any order, any white space and escapes.
fn spell(value: &Value, dice: &mut impl FnMut(usize) -> usize, out: &mut String) {
    let space = |dice: &mut dyn FnMut(usize) -> usize| ["", " ", "\n\t", "  "][dice(4)];
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            for at in (1..members.len()).rev() {
                members.swap(at, dice(at + 1));
            }
            out.push('{');
            for (at, (name, value)) in members.into_iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                out.push_str(space(dice));
                spell(&json!(name), dice, out);
                out.push_str(space(dice));
                out.push(':');
                spell(value, dice, out);
                out.push_str(space(dice));
            }
            out.push('}');
        }
        Value::Array(elements) => {
            out.push('[');
            for (at, element) in elements.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                out.push_str(space(dice));
                spell(element, dice, out);
                out.push_str(space(dice));
            }
            out.push(']');
        }
        Value::String(text) => {
            out.push('"');
            for c in text.chars() {
                if c.is_control() || matches!(c, '"' | '\\') || dice(8) == 0 {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(out, "\\u{unit:04x}").unwrap();
                    }
                } else {
                    out.push(c);
                }
            }
            out.push('"');
        }
        Value::Number(number) if number.is_u64() && dice(2) == 0 => {
            write!(out, "{number}{}", [".0", "e0", "E+0", ".00"][dice(4)]).unwrap();
        }
        other => write!(out, "{other}").unwrap(),
    }
}

proptest! {
    /// Order, white space, escapes and the spelling of whole numbers never show.
    #[test]
    fn spelling_does_not_show(which in any::<Index>(), dice in prop::collection::vec(any::<Index>(), 64)) {
        let all: Vec<_> = types().collect();
        for event in [full(which.get(&all)), event()] {
            let mut thrown = dice.iter().cycle();
            let mut text = String::new();
            spell(&event, &mut |sides| thrown.next().unwrap().index(sides), &mut text);
            prop_assert_eq!(parse_text(&text).unwrap().content_hash, hash(&event), "{}", text);
        }
    }
}
