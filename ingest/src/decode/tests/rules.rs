//! Bodies are cut into events as a plain implementation of the rules cuts them.
//!
//! `CHALKSTREAM_PROPERTY_CASES` says how many bodies are compared (`make soak`: a million).

use std::collections::HashSet;
use std::fmt;

use chalkstream_schemas::Timestamp;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::*;

/// How many bodies `make test` compares.
const CASES: u32 = 20_000;
const MAX_EVENTS: usize = 3;

fn cases() -> u32 {
    let text = std::env::var("CHALKSTREAM_PROPERTY_CASES");
    text.map_or(CASES, |text| text.parse().expect("CHALKSTREAM_PROPERTY_CASES is a number"))
}

type Events = Vec<Vec<u8>>;

/// The members of an object, in order.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(All).map(Entries)
    }
}

fn elements(text: &str) -> Option<Events> {
    let elements = serde_json::from_str::<Vec<&RawValue>>(text).ok()?;
    let events = elements.iter().map(|raw| raw.get().as_bytes().to_vec()).collect::<Events>();
    (events.len() <= MAX_EVENTS).then_some(events)
}

/// The events of a JSON body and its `sent_at`; nothing where the whole of it is refused.
fn json_rules(body: &[u8]) -> Option<(Events, Option<Timestamp>)> {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let text = std::str::from_utf8(body).ok()?.trim_matches([' ', '\n', '\r', '\t']);
    serde_json::from_str::<&RawValue>(text).ok()?;
    match text.as_bytes().first()? {
        b'[' => Some((elements(text)?, None)),
        b'{' => {
            let Entries(entries) = serde_json::from_str(text).ok()?;
            let find = |wanted: &str| entries.iter().find(|(name, _)| name == wanted);
            let Some((_, events)) = find("events") else {
                return Some((vec![text.as_bytes().to_vec()], None));
            };
            let names = entries.iter().map(|(name, _)| name).collect::<HashSet<_>>();
            if names.len() < entries.len() || names.len() > 64 {
                return None;
            }
            let sent_at = match find("sent_at") {
                Some((_, raw)) => serde_json::from_str::<Option<String>>(raw.get()).ok()?,
                None => None,
            };
            let sent_at = match sent_at {
                Some(text) => Some(Timestamp::parse_rfc3339(&text).ok()?),
                None => None,
            };
            Some((elements(events.get())?, sent_at))
        }
        _ => None,
    }
}

fn line_rules(body: &[u8]) -> Option<(Events, Option<Timestamp>)> {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let lines = body.split(|byte| *byte == b'\n').map(|line| line.trim_ascii().to_vec());
    let events = lines.filter(|line| !line.is_empty()).collect::<Events>();
    (events.len() <= MAX_EVENTS).then_some((events, None))
}

fn piece() -> impl Strategy<Value = &'static [u8]> {
    let values: Vec<&'static [u8]> = vec![
        b"{}",
        b"[]",
        b"null",
        b"7",
        b"1e999",
        b"\"text\"",
        b"\"\\ud800\"",
        b"\"\xff\"",
        b"[{}]",
        b"{\"id\":1,\"id\":2}",
        b"{\"events\":[]}",
        b"{\"a\":[1,{\"b\":\"]}\"}]}",
        b" ",
        b"\n",
        b"\r\n",
        b"\t",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"",
        b"\\",
        b"\x0c",
        b"\0",
        b"\xef\xbb\xbf",
        b"\"events\":",
        b"\"events\":[]",
        b"\"events\":[{},{}]",
        b"\"events\":{}",
        b"\"\\u0065vents\":[1]",
        b"\"sent_at\":",
        b"\"sent_at\":null",
        b"\"sent_at\":\"2026-01-02T03:04:05Z\"",
        b"\"sent_at\":5",
        b"\"sent_at\":\"\\ud800\"",
        b"\"x\":1",
        b"\"x\":{\"y\":[]}",
    ];
    select(values)
}

/// Bodies of each shape, joined from pieces that are often, but not always, in their place.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let pieces = |most| prop::collection::vec(piece(), 0..most);
    let joined = |open: &'static [u8], close: &'static [u8]| {
        move |(pieces, damage): (Vec<&'static [u8]>, Option<(Index, u8)>)| {
            let mut body = [open, &pieces.join(&b","[..]), close].concat();
            if let Some((at, byte)) = damage.filter(|_| !body.is_empty()) {
                *at.get_mut(&mut body) ^= byte;
            }
            body
        }
    };
    let damage = || prop::option::weighted(0.2, (any::<Index>(), any::<u8>()));
    prop_oneof![
        3 => (pieces(6), damage()).prop_map(joined(b"[", b"]")),
        3 => (pieces(6), damage()).prop_map(joined(b" {", b"} ")),
        2 => (pieces(4), damage()).prop_map(joined(b"{\"events\":[", b"],\"x\":{}}")),
        1 => pieces(8).prop_map(|pieces| pieces.concat()),
        1 => (0_usize..70).prop_map(|count| {
            let members = (0..count).map(|n| format!("\"m{n}\":0,")).collect::<String>();
            format!("{{{members}\"events\":[1]}}").into_bytes()
        }),
    ]
}

#[track_caller]
fn check(
    format: Format,
    body: &[u8],
    expected: Option<(Events, Option<Timestamp>)>,
) -> Result<(), TestCaseError> {
    let found = split(Bytes::copy_from_slice(body), format, MAX_EVENTS).ok().map(|batch| {
        let events = (0..batch.events.len()).map(|index| batch.raw(index).to_vec());
        (events.collect::<Events>(), batch.sent_at)
    });
    if format == Format::Json && std::str::from_utf8(body).is_err() {
        // Refused, or left to the one event that it is.
        let lone = |(events, _): (Events, _)| events == [body.trim_ascii().to_vec()];
        prop_assert!(found.is_none_or(lone), "{}", String::from_utf8_lossy(body));
        return Ok(());
    }
    prop_assert_eq!(found, expected, "{:?} {}", format, String::from_utf8_lossy(body));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn bodies_are_cut_as_the_rules_cut_them(body in body()) {
        check(Format::Json, &body, json_rules(&body))?;
        check(Format::Ndjson, &body, line_rules(&body))?;
    }
}
