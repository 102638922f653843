//! The rules of acceptance, written a second time: plainly, over serde_json, without the parser.
//!
//! In: the bytes of an event. Out: whether they are an event that is taken.
//! Always true: nothing of the parser's code is used but the table of types and fields, which is the
//! specification of both.
#![expect(clippy::string_slice, reason = "times are known to be ASCII before they are cut")]

use chalkstream_schemas::fields::{Field, Kind, MILLIS_MAX, NUMBER_MAX, SECONDS_MAX};
use chalkstream_schemas::payload::TypeInfo;
use chalkstream_schemas::{ParseContext, UserRole};
use chrono::NaiveDate;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::examples::types;

/// How deep a member's value may be nested: 64 levels with the event and its `data`.
const NESTED_MAX: usize = 62;

/// A JSON value with all that was written: every member, every digit.
#[derive(Clone, Debug, PartialEq)]
enum Json {
    Null,
    Bool(bool),
    Number(String),
    String(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

impl Json {
    /// Reads a text whose values are nested at most `levels` deep.
    fn read(text: &str, levels: usize) -> Option<Self> {
        let text = serde_json::from_str::<&RawValue>(text).ok()?.get();
        Some(match text.as_bytes().first()? {
            b'{' => {
                let Entries(entries) = serde_json::from_str(text).ok()?;
                let inner = levels.checked_sub(1)?;
                let entry =
                    |(name, raw): (String, &RawValue)| Some((name, Self::read(raw.get(), inner)?));
                Self::Object(entries.into_iter().map(entry).collect::<Option<_>>()?)
            }
            b'[' => {
                let elements = serde_json::from_str::<Vec<&RawValue>>(text).ok()?;
                let inner = levels.checked_sub(1)?;
                let elements = elements.into_iter().map(|raw| Self::read(raw.get(), inner));
                Self::Array(elements.collect::<Option<_>>()?)
            }
            b'"' => Self::String(serde_json::from_str(text).ok()?),
            b't' => Self::Bool(true),
            b'f' => Self::Bool(false),
            b'n' => Self::Null,
            _ => Self::Number(text.to_owned()),
        })
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    fn finite(&self) -> Option<f64> {
        match self {
            Self::Number(text) => text.parse::<f64>().ok().filter(|number| number.is_finite()),
            _ => None,
        }
    }

    fn within(&self, min: f64, max: f64) -> bool {
        self.finite().is_some_and(|number| number >= min && number <= max)
    }
}

type Members = Vec<(String, Json)>;

fn repeats(members: &Members) -> bool {
    members.iter().enumerate().any(|(at, (name, _))| members[..at].iter().any(|(n, _)| n == name))
}

/// The value under one of the names. `Err` if two of them have one.
fn find<'m>(members: &'m Members, names: &[&str]) -> Result<Option<(&'m str, &'m Json)>, ()> {
    let mut found = members
        .iter()
        .filter(|(name, value)| names.contains(&name.as_str()) && *value != Json::Null)
        .map(|(name, value)| (name.as_str(), value));
    let first = found.next();
    if found.next().is_some() { Err(()) } else { Ok(first) }
}

fn is_id(text: &str) -> bool {
    (1..=128).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn digits(text: &str) -> Option<i64> {
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| text.parse().ok()).flatten()
}

/// Milliseconds since 1970 of an RFC 3339 time, from 1970 to 2261.
pub(crate) fn time_ms(text: &str) -> Option<i64> {
    if !text.is_ascii() || text.len() < 20 {
        return None;
    }
    let (date, rest) = text.split_at(10);
    let (year, month, day) = (digits(&date[..4])?, digits(&date[5..7])?, digits(&date[8..])?);
    let (time, zone) = rest.split_at(9);
    let (hour, minute, second) = (digits(&time[1..3])?, digits(&time[4..6])?, digits(&time[7..])?);
    let marks = [&date[4..5], &date[7..8], &time[..1], &time[3..4], &time[6..7]];
    if marks != ["-", "-", "T", ":", ":"] && marks != ["-", "-", "t", ":", ":"] {
        return None;
    }
    let (fraction, zone) = match zone.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?),
        None => ("000", zone),
    };
    digits(&fraction[..fraction.len().min(15)])?;
    let ms = digits(&format!("{fraction}00")[..3])?;
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let sign = match zone.get(..1)? {
                "+" => 1,
                "-" => -1,
                _ => return None,
            };
            let (hours, minutes) = zone[1..].split_once(':')?;
            let (h, m) = (digits(hours)?, digits(minutes)?);
            if hours.len() != 2 || minutes.len() != 2 || h > 23 || m > 59 {
                return None;
            }
            sign * (h * 60 + m)
        }
    };
    let date = NaiveDate::from_ymd_opt(
        i32::try_from(year).ok()?,
        u32::try_from(month).ok()?,
        u32::try_from(day).ok()?,
    )?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = date.signed_duration_since(NaiveDate::from_ymd_opt(1970, 1, 1)?).num_days();
    let minutes = days * 1440 + hour * 60 + minute - offset;
    // A leap second ends a day of UTC, and counts as the next day's first instant.
    if second == 60 && minutes.rem_euclid(1440) != 1439 {
        return None;
    }
    let ms = minutes * 60_000 + second * 1000 + if second == 60 { 0 } else { ms };
    let end = NaiveDate::from_ymd_opt(2262, 1, 1)?.and_hms_opt(0, 0, 0)?.and_utc();
    (0..end.timestamp_millis()).contains(&ms).then_some(ms)
}

/// Whether a value, which is not null, fits its field. Aliases of milliseconds count seconds.
fn fits(field: &Field, sent_as: &str, value: &Json) -> bool {
    match field.kind {
        Kind::Id => value.text().is_some_and(is_id),
        Kind::Text => value.text().is_some(),
        Kind::Word(words) => value.text().is_some_and(|text| words.contains(&text)),
        Kind::Bool => matches!(value, Json::Bool(_)),
        Kind::Number { min, max } => value.within(min, max),
        Kind::Integer { min, max } => {
            value.within(min as f64, max as f64) && value.finite().is_some_and(|n| n.fract() == 0.0)
        }
        Kind::Millis if sent_as != field.name => value.within(0.0, SECONDS_MAX),
        Kind::Millis => {
            value.within(0.0, MILLIS_MAX as f64) && value.finite().is_some_and(|n| n.fract() == 0.0)
        }
        Kind::Time => value.text().and_then(time_ms).is_some(),
        Kind::Ids => match value {
            Json::Array(ids) => ids.iter().all(|id| id.text().is_some_and(is_id)),
            _ => false,
        },
        Kind::Answer => match value {
            Json::String(_) => true,
            Json::Array(parts) => {
                parts.iter().all(|part| part.text().is_some() || part.finite().is_some())
            }
            number => number.within(-NUMBER_MAX, NUMBER_MAX),
        },
        Kind::SkillNumbers { min, max } => match value {
            Json::Object(skills) => {
                !repeats(skills)
                    && skills.iter().all(|(skill, number)| is_id(skill) && number.within(min, max))
            }
            _ => false,
        },
    }
}

/// The rules over several fields of a type, as its schema's `$comment` has them.
fn rules_hold(info: &TypeInfo, data: &Members) -> bool {
    let get = |name: &str| {
        let field = info.fields.iter().find(|field| field.name == name)?;
        let names = [field.name].into_iter().chain(field.aliases.iter().copied());
        find(data, &names.collect::<Vec<_>>()).ok()?.map(|(_, value)| value)
    };
    let number = |name: &str| get(name).and_then(Json::finite);
    let at_most = |part: &str, whole: &str| match (number(part), number(whole)) {
        (Some(part), Some(whole)) => part <= whole,
        _ => true,
    };
    let positive = |name: &str| number(name).is_none_or(|number| number > 0.0);
    match info.name {
        "answer_submitted" => get("correct").is_some() || get("graded") == Some(&Json::Bool(false)),
        "session" => {
            let time = |name: &str| get(name).and_then(Json::text).and_then(time_ms);
            time("ended_at") >= time("started_at") && at_most("correct_count", "items_attempted")
        }
        "quiz_complete" => at_most("correct_answers", "total_questions") && positive("max_score"),
        "assignment_submit" => positive("max_score"),
        _ => true,
    }
}

fn is_custom(name: &str) -> bool {
    name.strip_prefix("custom.").is_some_and(|rest| {
        (1..=64).contains(&rest.len())
            && rest.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
    })
}

/// Whether the bytes are an event that is taken.
pub(crate) fn accepts(raw: &[u8], cx: &ParseContext<'_>) -> bool {
    decide(raw, cx) == Some(true)
}

fn decide(raw: &[u8], cx: &ParseContext<'_>) -> Option<bool> {
    if raw.len() > cx.max_event_bytes {
        return None;
    }
    let text = std::str::from_utf8(raw).ok()?;
    let Entries(entries) = serde_json::from_str(text).ok()?;
    let mut event = Members::new();
    let mut data = Members::new();
    for (name, raw) in entries {
        let is_data = name == "data" && raw.get().starts_with('{');
        if is_data {
            let Entries(entries) = serde_json::from_str(raw.get()).ok()?;
            for (name, raw) in entries {
                data.push((name, Json::read(raw.get(), NESTED_MAX)?));
            }
            event.push((name, Json::Object(Vec::new())));
        } else {
            event.push((name, Json::read(raw.get(), NESTED_MAX)?));
        }
    }
    if repeats(&event) || repeats(&data) {
        return None;
    }
    let get = |names: &[&str]| find(&event, names).ok().map(|found| found.map(|(_, value)| value));
    let text = |names: &[&str]| match get(names)? {
        Some(value) => value.text().filter(|text| is_id(text)).map(Some),
        None => Some(None),
    };
    let time = |names: &[&str]| match get(names)? {
        Some(value) => value.text().and_then(time_ms).map(Some),
        None => Some(None),
    };
    text(&["id", "client_attempt_id"])??;
    text(&["user_id"])??;
    let occurred_ms = time(&["occurred_at", "timestamp"])??;
    let sent_ms = time(&["sent_at"])?.or(cx.batch_sent_at.map(|time| time.as_ms()));
    for label in ["session_id", "course_id", "classroom_id", "app", "device_type", "app_version"] {
        text(&[label])?;
    }
    if let Some(role) = get(&["user_role"])? {
        role.text().filter(|role| UserRole::NAMES.contains(role))?;
    }
    if let Some(value) = get(&["data"])? {
        matches!(value, Json::Object(_)).then_some(())?;
    }
    let name = text(&["type"])??;
    let info = types().find(|info| info.name == name || info.aliases.contains(&name));
    match &info {
        None => is_custom(name).then_some(())?,
        Some(info) => {
            for label in info.envelope {
                text(&[label])??;
            }
            for field in info.fields {
                let names = [field.name].into_iter().chain(field.aliases.iter().copied());
                match find(&data, &names.collect::<Vec<_>>()).ok()? {
                    Some((sent_as, value)) => fits(field, sent_as, value).then_some(())?,
                    None => (!field.required).then_some(())?,
                }
            }
            rules_hold(info, &data).then_some(())?;
        }
    }
    let received_ms = cx.received_at.as_ms();
    let skew_ms = sent_ms.map_or(0, |sent| received_ms - sent);
    let corrected = if skew_ms.abs() > 300_000 { occurred_ms + skew_ms } else { occurred_ms };
    // What lies beyond the ends of time is kept at them.
    let event_ms = corrected.clamp(0, 9_214_646_399_999);
    let max_future_ms = i64::try_from(cx.max_future.as_millis()).unwrap();
    let old = cx.max_age.map(|age| received_ms - i64::try_from(age.as_millis()).unwrap());
    Some(event_ms <= received_ms + max_future_ms && old.is_none_or(|oldest| event_ms >= oldest))
}
