//! What a field is: its kind and range, and how its value is read.
//!
//! In: one JSON value and the field's [`Kind`]. Out: a Rust value, or what is wrong with it.
//! Always true: what [`Kind`] says is what is checked, and what JSON Schema publishes.
//! Not here: which fields there are ([`crate::payload`]).

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::columns::ColumnValue;
use crate::ids::{self, SkillId};
use crate::json::{Reader, Text, Value};
use crate::number;
use crate::payload::Answer;
use crate::time::Timestamp;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// An opaque id: 1 to 128 bytes of UTF-8 without control characters.
    Id,
    /// Any text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
    /// A finite number within these bounds, both allowed.
    Number {
        /// The smallest.
        min: f64,
        /// The largest.
        max: f64,
    },
    /// A whole number within these bounds, both allowed.
    Integer {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// A whole number of milliseconds; the field's aliases count seconds.
    Millis,
    /// RFC 3339 with an offset.
    Time,
    /// An array of ids.
    Ids,
    /// What a learner answered: a string, a number, or an array of them.
    Answer,
    /// An object from skill to a number within these bounds.
    SkillNumbers {
        /// The smallest.
        min: f64,
        /// The largest.
        max: f64,
    },
}

/// The largest absolute value of a number without a narrower range: sums of them stay finite.
pub const NUMBER_MAX: f64 = 1e15;
/// A year in seconds: the longest duration.
pub const SECONDS_MAX: f64 = 31_536_000.0;
/// A year in milliseconds: the longest [`Kind::Millis`].
pub const MILLIS_MAX: u64 = 31_536_000_000;

/// A number without a range of its own.
pub(crate) const NUMBER: Kind = Kind::Number { min: -NUMBER_MAX, max: NUMBER_MAX };
/// A number from 0.
pub(crate) const POSITIVE: Kind = Kind::Number { min: 0.0, max: NUMBER_MAX };
/// A share of one.
pub(crate) const SHARE: Kind = Kind::Number { min: 0.0, max: 1.0 };
/// A duration in seconds, at most a year.
pub(crate) const SECONDS: Kind = Kind::Number { min: 0.0, max: SECONDS_MAX };
/// A count.
pub(crate) const COUNT: Kind = Kind::Integer { min: 0, max: u32::MAX as u64 };

/// One field of the envelope or of `data`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field {
    /// Its canonical name, the same in JSON, protobuf, Rust and SQL.
    pub name: &'static str,
    /// Its number in protobuf; never used again for another field.
    pub number: u32,
    /// What it holds.
    pub kind: Kind,
    /// Whether an event without it is rejected.
    pub required: bool,
    /// Other names that are accepted.
    pub aliases: &'static [&'static str],
    /// What it means, as a phrase.
    pub doc: &'static str,
    /// Its place among [`crate::columns::PAYLOAD_COLUMNS`], if it has a column in `events`.
    pub column: Option<usize>,
}

impl Kind {
    /// What is expected, for messages: "data.x must be …".
    pub fn expected(&self) -> Cow<'static, str> {
        match self {
            Self::Id => "a string of 1 to 128 bytes".into(),
            Self::Text => "a string".into(),
            Self::Word(words) => format!("one of {}", words.join(", ")).into(),
            Self::Bool => "true or false, without quotes".into(),
            Self::Number { min, max } if (*min, *max) == (-NUMBER_MAX, NUMBER_MAX) => {
                "a number between -1e15 and 1e15".into()
            }
            Self::Number { min, max } => format!("a number from {min} to {max}").into(),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}").into(),
            Self::Millis => format!("a whole number of milliseconds from 0 to {MILLIS_MAX}").into(),
            Self::Time => "an RFC 3339 time with an offset, such as 2026-01-31T09:30:00Z".into(),
            Self::Ids => "an array of strings of 1 to 128 bytes each".into(),
            Self::Answer => "a string, a number, or an array of strings and numbers".into(),
            Self::SkillNumbers { min, max } if (*min, *max) == (-NUMBER_MAX, NUMBER_MAX) => {
                "an object that names a number for each skill".into()
            }
            Self::SkillNumbers { min, max } => {
                format!("an object that names a number from {min} to {max} for each skill").into()
            }
        }
    }
}

/// What is wrong with a value; its text ends the sentence that begins with the field's name.
#[derive(Debug)]
pub(crate) enum Wrong {
    /// [`crate::RejectReason::InvalidField`].
    Value(String),
    /// [`crate::RejectReason::InvalidTimestamp`].
    Time(String),
}

/// "must be a, not b", with a hint for the commonest mistake, ids sent as numbers.
pub(crate) fn mismatch(kind: &Kind, value: &Value<'_>) -> Wrong {
    let (expected, found) = (kind.expected(), value.describe());
    let hint = match (kind, value) {
        (Kind::Id | Kind::Text, Value::Number(digits)) => {
            format!("; send it as a string: \"{digits}\"")
        }
        (Kind::Bool, Value::String(_) | Value::Number(_)) => "; send true or false".to_owned(),
        (Kind::Number { .. } | Kind::Integer { .. } | Kind::Millis, Value::String(_)) => {
            "; send it without quotes".to_owned()
        }
        _ => String::new(),
    };
    Wrong::Value(format!("must be {expected}, not {found}{hint}"))
}

/// A Rust type that a field can have.
pub(crate) trait FieldType: Sized {
    /// Reads a JSON value; never called with `null`.
    fn read(value: &Value<'_>, kind: &Kind) -> Result<Self, Wrong>;
    /// Whether `read` takes the value, without keeping it.
    fn check(value: &Value<'_>, kind: &Kind) -> Result<(), Wrong> {
        Self::read(value, kind).map(|_value| ())
    }
    /// The value for a typed column of `events`.
    fn column(&self) -> ColumnValue<'_>;
}

#[inline]
pub(crate) fn read_id_text<'a>(value: &Value<'a>) -> Result<Cow<'a, str>, Wrong> {
    match value {
        Value::String(text) => match text.plain() {
            Some(plain) if ids::has_id_length(plain) => Ok(Cow::Borrowed(plain)),
            _ => read_unusual_id(*text),
        },
        other => Err(mismatch(&Kind::Id, other)),
    }
}

#[cold]
fn read_unusual_id(text: Text<'_>) -> Result<Cow<'_, str>, Wrong> {
    let id = text.read();
    match ids::check_id(&id) {
        Ok(()) => Ok(id),
        Err(error) => Err(Wrong::Value(error.to_string())),
    }
}

macro_rules! id_fields {
    ($($name:ident)*) => {$(
        impl FieldType for crate::ids::$name {
            fn read(value: &Value<'_>, _kind: &Kind) -> Result<Self, Wrong> {
                Self::parse(&read_id_text(value)?).map_err(|error| Wrong::Value(error.to_string()))
            }
            fn check(value: &Value<'_>, _kind: &Kind) -> Result<(), Wrong> {
                read_id_text(value).map(|_id| ())
            }
            fn column(&self) -> ColumnValue<'_> {
                ColumnValue::Str(self.as_str())
            }
        }
    )*};
}

id_fields! {
    SkillId ItemId LessonId QuizId QuizRunId QuizAttemptId ContentId AssignmentId DiscussionId
    ResourceId VideoId ExperimentId RecommendationId UserId
}

fn read_text<'a>(value: &Value<'a>, kind: &Kind) -> Result<Cow<'a, str>, Wrong> {
    match (value, kind) {
        (Value::String(text), Kind::Word(words)) if !words.contains(&&*text.read()) => {
            Err(mismatch(kind, value))
        }
        (_, Kind::Id) => read_id_text(value),
        (Value::String(text), _) => Ok(text.read()),
        (other, _) => Err(mismatch(kind, other)),
    }
}

impl FieldType for Box<str> {
    fn read(value: &Value<'_>, kind: &Kind) -> Result<Self, Wrong> {
        read_text(value, kind).map(Into::into)
    }
    fn check(value: &Value<'_>, kind: &Kind) -> Result<(), Wrong> {
        read_text(value, kind).map(|_text| ())
    }
    fn column(&self) -> ColumnValue<'_> {
        ColumnValue::Str(self)
    }
}

impl FieldType for bool {
    fn read(value: &Value<'_>, kind: &Kind) -> Result<Self, Wrong> {
        match value {
            Value::Bool(truth) => Ok(*truth),
            other => Err(mismatch(kind, other)),
        }
    }
    fn column(&self) -> ColumnValue<'_> {
        ColumnValue::Bool(*self)
    }
}

impl FieldType for f64 {
    fn read(value: &Value<'_>, kind: &Kind) -> Result<Self, Wrong> {
        let Value::Number(text) = value else { return Err(mismatch(kind, value)) };
        let (min, max) = match kind {
            Kind::Number { min, max } | Kind::SkillNumbers { min, max } => (*min, *max),
            _ => (-NUMBER_MAX, NUMBER_MAX),
        };
        match number::finite(text) {
            // A negative zero would be another row in every comparison of bytes.
            Some(number) if (min..=max).contains(&number) => Ok(number + 0.0),
            _ => Err(mismatch(kind, value)),
        }
    }
    fn column(&self) -> ColumnValue<'_> {
        ColumnValue::F64(*self)
    }
}

impl FieldType for u64 {
    fn read(value: &Value<'_>, kind: &Kind) -> Result<Self, Wrong> {
        let (min, max) = match kind {
            Kind::Integer { min, max } => (*min, *max),
            Kind::Millis => (0, MILLIS_MAX),
            _ => (0, u64::MAX),
        };
        let number = match value {
            Value::Number(text) => number::whole(text).and_then(|whole| Self::try_from(whole).ok()),
            Value::Millis(ms) => Some(*ms),
            _ => None,
        };
        match number {
            Some(number) if (min..=max).contains(&number) => Ok(number),
            _ => Err(mismatch(kind, value)),
        }
    }
    fn column(&self) -> ColumnValue<'_> {
        ColumnValue::U64(*self)
    }
}

macro_rules! narrow_integers {
    ($($name:ident)*) => {$(
        impl FieldType for $name {
            fn read(value: &Value<'_>, kind: &Kind) -> Result<Self, Wrong> {
                Self::try_from(u64::read(value, kind)?).map_err(|_too_large| mismatch(kind, value))
            }
            fn column(&self) -> ColumnValue<'_> {
                ColumnValue::U32(u32::from(*self))
            }
        }
    )*};
}

narrow_integers! { u8 u32 }

impl FieldType for Timestamp {
    fn read(value: &Value<'_>, kind: &Kind) -> Result<Self, Wrong> {
        match value {
            Value::String(text) => {
                Self::parse_rfc3339(&text.read()).map_err(|error| Wrong::Time(error.to_string()))
            }
            // Read before, and given its canonical form since.
            Value::Millis(ms) => {
                let time = i64::try_from(*ms).ok().and_then(Self::try_from_ms);
                time.ok_or_else(|| mismatch(kind, value))
            }
            other => Err(mismatch(kind, other)),
        }
    }
    fn column(&self) -> ColumnValue<'_> {
        ColumnValue::Time(*self)
    }
}

/// Arrays; one value that is not an array is no array.
fn elements<'a, T>(
    value: &Value<'a>,
    kind: &Kind,
    mut read: impl FnMut(&Value<'a>) -> Option<T>,
) -> Result<Vec<T>, Wrong> {
    let Value::Array(text) = value else { return Err(mismatch(kind, value)) };
    let mut list = Vec::new();
    let mut wrong = None;
    let scanned = Reader::new(text).array(|reader| {
        let element = reader.value()?;
        match read(&element) {
            Some(read) => list.push(read),
            None if wrong.is_none() => wrong = Some(element.describe()),
            None => {}
        }
        Ok(())
    });
    match (wrong, scanned) {
        (None, Ok(())) => Ok(list),
        (Some(found), _) => {
            Err(Wrong::Value(format!("must be {}; it holds {found}", kind.expected())))
        }
        (None, Err(broken)) => Err(Wrong::Value(broken.what.to_owned())),
    }
}

impl FieldType for Vec<SkillId> {
    fn read(value: &Value<'_>, kind: &Kind) -> Result<Self, Wrong> {
        elements(value, kind, |element| SkillId::parse(&read_id_text(element).ok()?).ok())
    }
    fn check(value: &Value<'_>, kind: &Kind) -> Result<(), Wrong> {
        elements(value, kind, |element| read_id_text(element).ok().map(|_id| ())).map(|_all| ())
    }
    fn column(&self) -> ColumnValue<'_> {
        ColumnValue::Skills(self)
    }
}

impl FieldType for Answer {
    fn read(value: &Value<'_>, kind: &Kind) -> Result<Self, Wrong> {
        match value {
            Value::String(text) => Ok(Self::Text(text.read().into())),
            Value::Number(_) => f64::read(value, &NUMBER).map(Self::Number),
            Value::Array(_) => elements(value, kind, |element| match element {
                Value::String(text) => Some(text.read().into()),
                Value::Number(text) => number::finite(text).map(|_finite| (*text).into()),
                _ => None,
            })
            .map(Self::Many),
            other => Err(mismatch(kind, other)),
        }
    }
    fn check(value: &Value<'_>, kind: &Kind) -> Result<(), Wrong> {
        // An array is rare, and read like any other.
        if let Value::String(_) = value { Ok(()) } else { Self::read(value, kind).map(|_all| ()) }
    }
    fn column(&self) -> ColumnValue<'_> {
        ColumnValue::Null
    }
}

impl FieldType for BTreeMap<SkillId, f64> {
    fn read(value: &Value<'_>, kind: &Kind) -> Result<Self, Wrong> {
        let Value::Object(text) = value else { return Err(mismatch(kind, value)) };
        let mut map = Self::new();
        let mut wrong = None;
        let scanned = Reader::new(text).object(|reader, key| {
            let (name, element) = (key.read(), reader.value()?);
            let entry = SkillId::parse(&name).ok().zip(f64::read(&element, kind).ok());
            match entry {
                Some((skill, number)) => {
                    if map.insert(skill, number).is_some() {
                        wrong.get_or_insert_with(|| format!("{name:?} twice"));
                    }
                }
                None => {
                    wrong.get_or_insert_with(|| format!("{name:?}: {}", element.describe()));
                }
            }
            Ok(())
        });
        match (wrong, scanned) {
            (None, Ok(())) => Ok(map),
            (Some(found), _) => {
                Err(Wrong::Value(format!("must be {}; it holds {found}", kind.expected())))
            }
            (None, Err(broken)) => Err(Wrong::Value(broken.what.to_owned())),
        }
    }
    fn column(&self) -> ColumnValue<'_> {
        ColumnValue::Null
    }
}
