//! Members of `data` as they were read, and how one fills a field.
//!
//! Always true: a member keeps how it was written beside what it means.

use std::marker::PhantomData;

use crate::columns::ColumnValue;
use crate::failure::{Failure, given_twice, repeated_member};
use crate::fields::{Field, FieldType, Kind, SECONDS, Wrong};
use crate::json::{Broken, Key, Reader, Value};
use crate::number;
use crate::time::Timestamp;

/// A member of `data`, or an unknown one of the envelope.
#[derive(Debug)]
pub(crate) struct Member<'a> {
    pub(crate) key: Key<'a>,
    /// The canonical name, where the key is an alias of it.
    pub(crate) alias_of: Option<&'static str>,
    pub(crate) value: Value<'a>,
    /// The value as it was written.
    pub(crate) raw: &'a str,
    /// A known field's null, which is the same as no member.
    pub(crate) absent: bool,
}

impl<'a> Member<'a> {
    #[inline(always)]
    pub(crate) fn read(reader: &mut Reader<'a>, key: Key<'a>) -> Result<Self, Broken> {
        reader.skip_space();
        let start = reader.at();
        let value = reader.value()?;
        Ok(Self { key, alias_of: None, value, raw: reader.since(start), absent: false })
    }

    pub(crate) fn name(&self) -> &str {
        self.alias_of.unwrap_or(&self.key.text)
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
) -> Result<(), Failure> {
    let is_alias = member.key.text != field.name;
    if is_alias {
        member.alias_of = Some(field.name);
    }
    if member.value == Value::Null {
        member.absent = true;
        return Ok(());
    }
    if slot.is_some() {
        return Err(given_twice("data.", field));
    }
    let name = || format!("data.{}", field.name);
    if is_alias && field.kind == Kind::Millis {
        let seconds = f64::read(&member.value, &SECONDS)
            .map_err(|wrong| Failure::wrong(name(), &member.key.text, wrong))?;
        let ms = number::whole_of((seconds * 1000.0).round()).and_then(|ms| u64::try_from(ms).ok());
        member.value = Value::Millis(ms.unwrap_or_default());
    }
    let value = T::read(&member.value, &field.kind)
        .map_err(|wrong| Failure::wrong(name(), &member.key.text, wrong))?;
    if field.kind == Kind::Time
        && let Value::String(text) = &member.value
        && let Ok(time) = Timestamp::parse_rfc3339(text)
    {
        // However it is spelled: another offset, or more digits, is the same time.
        member.value = Value::Millis(u64::try_from(time.as_ms()).unwrap_or_default());
    }
    *slot = Some(value);
    Ok(())
}

/// The first name that two members share.
fn repeated<'m>(members: &'m [Member<'_>]) -> Option<&'m str> {
    if members.len() <= 16 {
        let mut rest = members;
        while let Some((first, others)) = rest.split_first() {
            if others.iter().any(|other| other.key.text == first.key.text) {
                return Some(&first.key.text);
            }
            rest = others;
        }
        return None;
    }
    let mut names: Vec<&str> = members.iter().map(|member| &*member.key.text).collect();
    names.sort_unstable();
    let pair = names.iter().zip(names.iter().skip(1)).find(|(a, b)| a == b);
    pair.map(|(name, _)| *name)
}

/// Refuses members of one name.
pub(crate) fn no_repeats(members: &[Member<'_>], whose: &str) -> Result<(), Failure> {
    match repeated(members) {
        None => Ok(()),
        Some(name) => Err(repeated_member(whose, name)),
    }
}

/// The members as the text of one object; empty if there are none.
pub(crate) fn object_text(members: &[Member<'_>]) -> String {
    let mut text = String::new();
    if members.is_empty() {
        return text;
    }
    text.reserve(64);
    for member in members {
        text.push(if text.is_empty() { '{' } else { ',' });
        text.push_str(member.key.raw);
        text.push(':');
        text.push_str(member.raw);
    }
    text.push('}');
    text
}
