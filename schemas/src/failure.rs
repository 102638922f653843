//! Rejections in the making: the reason, the field, and the sentence for its developer.
//!
//! Always true: a message names the field by its canonical name, and what was sent where that
//! differs.

use std::borrow::Cow;

use crate::fields::{Field, Wrong};
use crate::json::{Broken, shortened};
use crate::reason::{RejectReason, Rejection};

/// A rejection in the making.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) reason: RejectReason,
    pub(crate) field: Cow<'static, str>,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(
        reason: RejectReason,
        field: impl Into<Cow<'static, str>>,
        message: String,
    ) -> Self {
        Self { reason, field: field.into(), message }
    }

    /// "answer_submitted needs data.item_id: the question that was answered".
    pub(crate) fn missing(type_name: &str, prefix: &str, field: &Field) -> Self {
        let name = format!("{prefix}{}", field.name);
        let meaning = phrase(field.doc);
        let message = format!("{type_name} needs {name}: {meaning}");
        Self::new(RejectReason::MissingField, name, message)
    }

    pub(crate) fn wrong(name: String, sent_as: &str, wrong: Wrong) -> Self {
        let (reason, what) = match wrong {
            Wrong::Value(what) => (RejectReason::InvalidField, what),
            Wrong::Time(what) => (RejectReason::InvalidTimestamp, what),
        };
        let message = if name.ends_with(sent_as) {
            format!("{name} {what}")
        } else {
            format!("{name} (sent as {sent_as}) {what}")
        };
        Self::new(reason, name, message)
    }

    pub(crate) fn malformed(message: String) -> Self {
        Self::new(RejectReason::MalformedJson, "", message)
    }
}

impl From<Failure> for Rejection {
    fn from(failure: Failure) -> Self {
        let field = Some(&*failure.field).filter(|field| !field.is_empty());
        Self::new(failure.reason, field, failure.message)
    }
}

/// A doc sentence as the end of another: " The item." becomes "the item".
pub(crate) fn phrase(doc: &str) -> String {
    let doc = doc.trim().trim_end_matches('.');
    let mut chars = doc.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

/// A field and its alias both have a value.
pub(crate) fn given_twice(prefix: &str, field: &Field) -> Failure {
    let name = format!("{prefix}{}", field.name);
    let aliases = field.aliases.join(" and ");
    let message = format!("{name} and its alias {aliases} are both given; send one of them");
    Failure::new(RejectReason::InvalidField, name, message)
}

/// Two members share a name.
pub(crate) fn repeated_member(whose: &str, name: &str) -> Failure {
    let name = shortened(name);
    Failure::malformed(format!("{whose} names the member {name:?} more than once"))
}

/// The text is not JSON.
pub(crate) fn broken_json(text: &str, broken: Broken) -> Failure {
    let (line, column) = broken.place(text);
    Failure::malformed(format!(
        "the event is not valid JSON: {} (line {line}, column {column})",
        broken.what
    ))
}
