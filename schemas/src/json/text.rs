//! A string of JSON as it is written, and what it says.

use std::borrow::Cow;

use super::Reader;

/// A string or a member's name as it stands between its quotes, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    raw: &'a str,
    /// Printable ASCII without escapes: it is what it says.
    plain: bool,
}

impl<'a> Text<'a> {
    /// What a [`Reader`] has checked.
    pub(super) const fn new(raw: &'a str, plain: bool) -> Self {
        Self { raw, plain }
    }

    /// As it is written, without its quotes.
    pub(crate) const fn raw(self) -> &'a str {
        self.raw
    }

    /// The text, if it is printable ASCII, written without escapes: nearly every one is.
    #[inline]
    pub(crate) const fn plain(self) -> Option<&'a str> {
        if self.plain { Some(self.raw) } else { None }
    }

    /// What it says.
    #[inline]
    pub(crate) fn read(self) -> Cow<'a, str> {
        if self.plain { Cow::Borrowed(self.raw) } else { unescaped(self.raw) }
    }
}

impl PartialEq for Text<'_> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        match (self.plain(), other.plain()) {
            (Some(a), Some(b)) => a == b,
            _ => self.read() == other.read(),
        }
    }
}

/// What a checked string says that is not plain.
#[cold]
fn unescaped(raw: &str) -> Cow<'_, str> {
    if !raw.contains('\\') {
        return Cow::Borrowed(raw);
    }
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((before, escaped)) = rest.split_once('\\') {
        text.push_str(before);
        let mut reader = Reader::new(escaped);
        let character = reader.escape();
        debug_assert!(character.is_ok(), "a string was checked when it was read");
        text.extend(character);
        rest = reader.rest();
    }
    text.push_str(rest);
    Cow::Owned(text)
}
