//! The parser takes exactly the events that a plain implementation of the rules takes.
//!
//! Events are made from the table, changed as values, written in an odd way, and their bytes
//! damaged; `CHALKSTREAM_PROPERTY_CASES` says how many (`make soak`: a million).

use chalkstream_schemas::parse_event;
use chalkstream_schemas::payload::TypeInfo;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use crate::examples::{context, full, minimal, school, types};

mod reference;

/// How many events `make test` compares.
const CASES: u32 = 20_000;

fn cases() -> u32 {
    let text = std::env::var("CHALKSTREAM_PROPERTY_CASES");
    text.map_or(CASES, |text| text.parse().expect("CHALKSTREAM_PROPERTY_CASES is a number"))
}

/// Values as JSON text that fields take, or nearly take.
fn value() -> impl Strategy<Value = String> {
    let texts = [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1",
        "1.0",
        "10e-1",
        "1e0",
        "5",
        "6",
        "0.5",
        "-1",
        "2.5",
        "1e15",
        "1.000000001e15",
        "1e16",
        "-1e15",
        "1e400",
        "-1e400",
        "1e-400",
        "4294967295",
        "4294967296",
        "31536000",
        "31536000.1",
        "31536000000",
        "31536000001",
        "9007199254740993",
        "18446744073709551615",
        "99999999999999999999999",
        "0.1e1",
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "NaN",
        "Infinity",
        "\"\"",
        "\"a\"",
        "\"a\\n\"",
        "\"\\u0061\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83d\"",
        "\"\\ude00\"",
        "\"\\u00\"",
        "\"\\x\"",
        "\"\u{7f}\"",
        "\"\u{85}\"",
        "\"é\"",
        "\"\u{1}\"",
        "\"\\u0000\"",
        "\"student\"",
        "\"play\"",
        "\"hint\"",
        "\"practice\"",
        "\"login\"",
        "\"custom.x\"",
        "\"custom.\"",
        "\"custom.ü\"",
        "\"question_submitted\"",
        "\"2026-03-02T08:00:00Z\"",
        "\"2026-03-02T10:10:00.001Z\"",
        "\"2026-03-02T10:10:00Z\"",
        "\"2025-01-26T10:00:00Z\"",
        "\"2025-01-26T09:59:59.999Z\"",
        "\"2026-03-02t08:00:00.5z\"",
        "\"2026-03-02T08:00:00.123456789123456789+01:00\"",
        "\"2026-02-29T08:00:00Z\"",
        "\"2024-02-29T08:00:00Z\"",
        "\"2026-03-02 08:00:00Z\"",
        "\"2026-03-02T08:00:00\"",
        "\"2026-03-02T08:00:60Z\"",
        "\"2026-03-01T23:59:60Z\"",
        "\"2026-03-02T00:59:60.9+01:00\"",
        "\"2026-03-02T08:00:00.Z\"",
        "\"2026-03-02T08:00:00+24:00\"",
        "\"2026-03-02T08:00:00+0100\"",
        "\"2026-03-02T24:00:00Z\"",
        "\"1969-12-31T23:59:59Z\"",
        "\"2261-12-31T23:59:59.999Z\"",
        "\"2262-01-01T00:00:00Z\"",
        "\"9999-12-31T23:59:59-23:59\"",
        "\"0000-01-01T00:00:00Z\"",
        "[]",
        "[\"a\"]",
        "[1]",
        "[1e999]",
        "[\"\"]",
        "[null]",
        "[[]]",
        "[{}]",
        "[1,]",
        "{}",
        "{\"a\":0.5}",
        "{\"a\":7}",
        "{\"a\":0.5,\"a\":0.6}",
        "{\"\":0.5}",
        "{\"a\":\"b\"}",
        "{\"a\":1,}",
        "{\"a\":{\"b\":[{}]}}",
        "{a:1}",
        "[",
        "{",
        "\"",
    ];
    let listed = select(texts.map(str::to_owned).to_vec());
    let long = (120_usize..135).prop_map(|length| format!("\"{}\"", "x".repeat(length)));
    let wide = (40_usize..70).prop_map(|length| format!("\"{}\"", "é".repeat(length)));
    let deep = (55_usize..70, any::<bool>()).prop_map(|(levels, objects)| {
        let (open, close) = if objects { ("{\"a\":", "}") } else { ("[", "]") };
        format!("{}1{}", open.repeat(levels), close.repeat(levels))
    });
    prop_oneof![20 => listed, 1 => long, 1 => wide, 1 => deep]
}

/// What is done to an event, in `data` or beside it.
#[derive(Clone, Debug)]
enum Change {
    Set(String),
    Remove,
    /// Under the other name that the field has.
    Rename,
    /// Once more, under its own name or the other, with this value.
    Again {
        renamed: bool,
        value: String,
    },
    /// With an escape in its name.
    Escape,
    Unknown(String),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => value().prop_map(Change::Set),
        2 => Just(Change::Remove),
        3 => Just(Change::Rename),
        2 => (any::<bool>(), value()).prop_map(|(renamed, value)| Change::Again { renamed, value }),
        1 => Just(Change::Escape),
        1 => value().prop_map(Change::Unknown),
    ]
}

/// What is done to the bytes.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Cut(Index),
    Drop(Index, usize),
    Double(Index, usize),
    Insert(Index, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let piece = select(vec![
        &b"\""[..],
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b"0",
        b"-",
        b"e",
        b"\0",
        b"\n",
        b" ",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\\u0000",
        b"\\ud800",
        b"null",
        b"//",
        b"\"data\":{},",
        b"\"id\":null,",
        b"\"x\":1,",
        b"\r\n\t",
    ]);
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Flip(at, byte)),
        any::<Index>().prop_map(Damage::Cut),
        (any::<Index>(), 1_usize..20).prop_map(|(at, length)| Damage::Drop(at, length)),
        (any::<Index>(), 1_usize..40).prop_map(|(at, length)| Damage::Double(at, length)),
        (any::<Index>(), piece).prop_map(|(at, piece)| Damage::Insert(at, piece.to_vec())),
    ]
}

fn break_bytes(bytes: &mut Vec<u8>, damage: &Damage) {
    if bytes.is_empty() {
        return;
    }
    let end = |at: usize, length: usize| (at + length).min(bytes.len());
    match damage {
        Damage::Flip(at, byte) => *at.get_mut(bytes) ^= byte,
        Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Damage::Drop(at, length) => {
            let at = at.index(bytes.len());
            drop(bytes.drain(at..end(at, *length)));
        }
        Damage::Double(at, length) => {
            let at = at.index(bytes.len());
            let copy = bytes[at..end(at, *length)].to_vec();
            bytes.splice(at..at, copy);
        }
        Damage::Insert(at, piece) => {
            let at = at.index(bytes.len());
            bytes.splice(at..at, piece.iter().copied());
        }
    }
}

/// Members in order, each as its name and value in JSON.
type Written = Vec<(String, String)>;

fn members(value: &Value) -> Written {
    let members = value.as_object().into_iter().flatten();
    members.map(|(name, value)| (json!(name).to_string(), value.to_string())).collect()
}

fn write(members: &Written, space: &str) -> String {
    let members =
        members.iter().map(|(name, value)| format!("{space}{name}{space}:{space}{value}{space}"));
    format!("{space}{{{}{space}}}{space}", members.collect::<Vec<_>>().join(","))
}

/// The other name of a field, where it has one.
fn other_name(info: &TypeInfo, in_data: bool, name: &str) -> Option<&'static str> {
    let envelope = chalkstream_schemas::parse::ENVELOPE;
    let fields = if in_data { info.fields } else { &envelope };
    let bare = name.trim_matches('"');
    fields.iter().find_map(|field| match field.aliases {
        [alias] if field.name == bare => Some(*alias),
        [alias] if *alias == bare => Some(field.name),
        _ => None,
    })
}

fn apply(
    members: &mut Written,
    at: Index,
    change: Change,
    other: impl Fn(&str) -> Option<&'static str>,
) {
    if let Change::Unknown(value) = change {
        let place = at.index(members.len() + 1);
        return members.insert(place, ("\"unknown\"".to_owned(), value));
    }
    if members.is_empty() {
        return;
    }
    let place = at.index(members.len());
    let name = members[place].0.clone();
    match change {
        Change::Set(value) => members[place].1 = value,
        Change::Remove => drop(members.remove(place)),
        Change::Rename => {
            if let Some(other) = other(&name) {
                members[place].0 = json!(other).to_string();
            }
        }
        Change::Again { renamed, value } => {
            let other = if renamed { other(&name) } else { None };
            members.push((other.map_or(name, |other| json!(other).to_string()), value));
        }
        Change::Escape => {
            let rest = name.chars().skip(2).collect::<String>();
            members[place].0 = format!("\"\\u{:04x}{rest}", name.as_bytes()[1]);
        }
        Change::Unknown(_) => {}
    }
}

#[track_caller]
fn check(bytes: &[u8]) -> Result<bool, TestCaseError> {
    let school = school();
    let cx = context(&school);
    let parsed = parse_event(bytes, &cx);
    let expected = reference::accepts(bytes, &cx);
    prop_assert_eq!(
        parsed.is_ok(),
        expected,
        "{:?} of {}",
        parsed.err().map(|rejection| rejection.to_string()),
        String::from_utf8_lossy(bytes)
    );
    Ok(expected)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn the_parser_takes_what_the_rules_take(
        which in any::<Index>(),
        is_full in any::<bool>(),
        changes in prop::collection::vec((any::<bool>(), any::<Index>(), change()), 0..4),
        space in select(vec!["", "", " ", "\n\t", "\r"]),
        damages in prop::collection::vec(damage(), 0..2),
    ) {
        let all = types().collect::<Vec<_>>();
        let info = which.get(&all);
        let event = if is_full { full(info) } else { minimal(info) };
        let mut envelope = members(&event);
        let mut data = members(&event["data"]);
        let mut own_data = true;
        for (in_data, at, change) in changes {
            if in_data {
                apply(&mut data, at, change, |name| other_name(info, true, name));
            } else {
                let before = envelope.iter().filter(|(name, _)| name == "\"data\"").cloned().collect::<Vec<_>>();
                apply(&mut envelope, at, change, |name| other_name(info, false, name));
                let after = envelope.iter().filter(|(name, _)| name == "\"data\"").cloned().collect::<Vec<_>>();
                own_data &= before == after;
            }
        }
        if own_data {
            for (name, value) in &mut envelope {
                if name == "\"data\"" {
                    *value = write(&data, space);
                }
            }
        }
        let mut bytes = write(&envelope, space).into_bytes();
        check(&bytes)?;
        for damage in &damages {
            break_bytes(&mut bytes, damage);
            check(&bytes)?;
        }
    }
}

#[test]
fn the_rules_take_the_least_and_the_fullest_event_and_refuse_others() {
    for info in types() {
        for event in [minimal(&info), full(&info)] {
            assert!(check(event.to_string().as_bytes()).unwrap(), "{event}");
            let mut event = event;
            event.as_object_mut().unwrap().remove("user_id");
            assert!(!check(event.to_string().as_bytes()).unwrap(), "{event}");
        }
    }
}

/// Every way to give a field up to three times, under its name and its alias, null and not.
#[test]
fn names_and_aliases_count_the_same_in_every_order() {
    let info = types().find(|info| info.name == "answer_submitted").unwrap();
    let full = full(&info);
    let mut checked = 0;
    for (in_data, fields) in
        [(false, &chalkstream_schemas::parse::ENVELOPE[..]), (true, info.fields)]
    {
        for field in fields.iter().filter(|field| !field.aliases.is_empty()) {
            let (mut envelope, mut data) = (members(&full), members(&full["data"]));
            let own = json!(field.name).to_string();
            let own_value = |members: &Written| {
                members.iter().find(|(name, _)| *name == own).unwrap().1.clone()
            };
            let value = own_value(if in_data { &data } else { &envelope });
            // An alias of milliseconds counts seconds, which this value is, too.
            let given = [field.name, field.aliases[0]].into_iter().flat_map(|name| {
                ["null", &value].map(|value| (json!(name).to_string(), value.to_owned()))
            });
            let given = given.collect::<Vec<_>>();
            for choice in 0..5_usize.pow(3) {
                let picks = [choice % 5, choice / 5 % 5, choice / 25];
                let target = if in_data { &mut data } else { &mut envelope };
                target.retain(|(name, _)| given.iter().all(|(given, _)| given != name));
                target.extend(picks.iter().filter_map(|pick| given.get(*pick).cloned()));
                let mut event = envelope.clone();
                for (name, value) in &mut event {
                    if name == "\"data\"" {
                        *value = write(&data, "");
                    }
                }
                check(write(&event, "").as_bytes()).unwrap();
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 125 * 6);
}
