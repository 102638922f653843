//! Members of `data` as they were read, and how one fills a field.
//!
//! Always true: a member is as it was written until it fills a field, which may give it another name
//! and another unit.

use std::borrow::Cow;
use std::marker::PhantomData;

use crate::columns::ColumnValue;
use crate::failure::{Failure, given_twice, repeated_member};
use crate::fields::{Field, FieldType, Kind, SECONDS, Wrong};
use crate::json::{Broken, Reader, Text, Value};
use crate::number;
use crate::time::Timestamp;

/// A member of `data`, or an unknown one of the envelope.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    pub(crate) key: Text<'a>,
    /// The canonical name, where the key is an alias of it.
    alias_of: Option<&'static str>,
    pub(crate) value: Value<'a>,
    /// A known field's null, which is the same as no member.
    pub(crate) absent: bool,
}

impl<'a> Member<'a> {
    #[inline]
    pub(crate) fn read(reader: &mut Reader<'a>, key: Text<'a>) -> Result<Self, Broken> {
        Ok(Self { key, alias_of: None, value: reader.value()?, absent: false })
    }

    #[inline]
    pub(crate) fn name(&self) -> Cow<'a, str> {
        self.alias_of.map_or_else(|| self.key.read(), Cow::Borrowed)
    }
}

/// A field whose value is checked and not kept.
pub(crate) struct Checked<T>(PhantomData<T>);

impl<T: FieldType> FieldType for Checked<T> {
    fn read(value: &Value<'_>, kind: &Kind) -> Result<Self, Wrong> {
        T::check(value, kind).map(|()| Self(PhantomData))
    }
    fn column(&self) -> ColumnValue<'_> {
        ColumnValue::Null
    }
}

/// Reads a member of `data` into its field, and gives it its canonical name and unit.
pub(crate) fn store<T: FieldType>(
    slot: &mut Option<T>,
    member: &mut Member<'_>,
    field: &'static Field,
    is_alias: bool,
) -> Result<(), Failure> {
    if is_alias {
        member.alias_of = Some(field.name);
    }
    if let Value::Null = member.value {
        member.absent = true;
        return Ok(());
    }
    if slot.is_some() {
        return Err(given_twice("data.", field));
    }
    let wrong = |wrong| {
        let name = format!("data.{}", field.name);
        Failure::wrong(name, &member.key.read(), wrong)
    };
    if is_alias && field.kind == Kind::Millis {
        let seconds = f64::read(&member.value, &SECONDS).map_err(wrong)?;
        let ms = number::whole_of((seconds * 1000.0).round()).and_then(|ms| u64::try_from(ms).ok());
        member.value = Value::Millis(ms.unwrap_or_default());
    }
    let value = T::read(&member.value, &field.kind).map_err(wrong)?;
    if field.kind == Kind::Time
        && let Value::String(text) = member.value
        && let Ok(time) = Timestamp::parse_rfc3339(&text.read())
    {
        // However it is spelled: another offset, or more digits, is the same time.
        member.value = Value::Millis(u64::try_from(time.as_ms()).unwrap_or_default());
    }
    *slot = Some(value);
    Ok(())
}

/// The first name that two members share.
fn repeated<'a>(members: &[Member<'a>]) -> Option<Text<'a>> {
    if members.len() <= 16 && members.iter().all(|member| member.key.plain().is_some()) {
        let mut rest = members;
        while let Some((first, others)) = rest.split_first() {
            if others.iter().any(|other| other.key == first.key) {
                return Some(first.key);
            }
            rest = others;
        }
        return None;
    }
    let mut names: Vec<_> = members.iter().map(|member| (member.key.read(), member.key)).collect();
    names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let pair = names.array_windows().find(|[(a, _), (b, _)]| a == b);
    pair.map(|[(_, key), _]| *key)
}

/// Refuses members of one name.
pub(crate) fn no_repeats(members: &[Member<'_>], whose: &str) -> Result<(), Failure> {
    match repeated(members) {
        None => Ok(()),
        Some(key) => Err(repeated_member(whose, &key.read())),
    }
}

/// The members as the text of one object, each value as it was written; empty if there are none.
pub(crate) fn object_text(members: &[Member<'_>]) -> String {
    let mut text = String::new();
    if members.is_empty() {
        return text;
    }
    text.reserve(64);
    for member in members {
        text.push_str(if text.is_empty() { "{\"" } else { ",\"" });
        text.push_str(member.key.raw());
        text.push_str("\":");
        member.value.write(&mut text);
    }
    text.push('}');
    text
}
