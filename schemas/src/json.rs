//! A strict JSON reader that borrows from the text and recurses nowhere.
//!
//! In: UTF-8 text. Out: values whose strings and nested containers borrow from it.
//! Always true: it takes exactly the texts of RFC 8259 that are nested at most [`DEPTH_MAX`] deep
//! and whose escapes name characters; it neither recurses nor panics. [`Reader::skip_leniently`] takes
//! those too that are nested deeper, and halves of surrogate pairs.
//! Why not `serde_json`: its depth limit is fixed and does not hold for skipped values, its floats
//! are not rounded correctly by default, and one visit of `data` must give both text and members.
//! Not here: duplicate members (the callers see every one).

use std::borrow::Cow;
use std::ops::Range;

use crate::word;

mod text;

pub(crate) use text::Text;

/// The deepest nesting; the event itself is the first level.
pub(crate) const DEPTH_MAX: u32 = 64;
/// Levels above a nested value: the event, and its `data`.
const DEPTH_ABOVE: u32 = 2;

/// Where and why a text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// The byte at fault.
    pub(crate) at: usize,
    /// What is wrong, as the end of a sentence.
    pub(crate) what: &'static str,
}

impl Broken {
    /// Line and column, both from 1; a column counts bytes.
    pub(crate) fn place(&self, text: impl AsRef<[u8]>) -> (usize, usize) {
        let text = text.as_ref();
        let before = text.get(..self.at).unwrap_or(text);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        (line, column)
    }
}

/// One value, checked, and most often as it is written. Small, because each is moved several times.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    /// The number's text.
    Number(&'a str),
    /// Milliseconds: a duration converted from an alias that counts seconds, or a time since 1970.
    Millis(u64),
    String(Text<'a>),
    /// The array's text.
    Array(&'a str),
    /// The object's text.
    Object(&'a str),
}

impl Value<'_> {
    /// The value in a few words, for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(truth) => truth.to_string(),
            Self::Number(text) => format!("the number {}", shortened(text)),
            Self::Millis(ms) => format!("{ms} ms"),
            Self::String(text) => format!("the string {:?}", shortened(&text.read())),
            Self::Array(_) => "an array".to_owned(),
            Self::Object(_) => "an object".to_owned(),
        }
    }

    /// Appends the value as JSON: as it was written, unless it was converted since.
    pub(crate) fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
            Self::Number(text) | Self::Array(text) | Self::Object(text) => out.push_str(text),
            Self::Millis(ms) => out.push_str(&ms.to_string()),
            Self::String(text) => {
                out.push('"');
                out.push_str(text.raw());
                out.push('"');
            }
        }
    }
}

/// At most 40 characters of a text.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()).into(),
        None => text.into(),
    }
}

/// Reads values one after another.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// While a value is passed over that will be read again.
    lenient: bool,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(text: &'a str) -> Self {
        Self { text, at: 0, lenient: false }
    }

    /// The next byte's place.
    pub(crate) const fn at(&self) -> usize {
        self.at
    }

    /// The text from a place that [`Reader::at`] gave to here.
    pub(crate) fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// What has not been read.
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek();
        self.at += usize::from(byte.is_some());
        byte
    }

    #[inline]
    pub(crate) fn skip_space(&mut self) {
        while let Some(byte) = self.peek()
            && byte <= b' '
            && matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
        {
            self.at += 1;
        }
    }

    pub(crate) const fn broken(&self, what: &'static str) -> Broken {
        Broken { at: self.at, what }
    }

    /// Only white space may follow.
    pub(crate) fn end(&mut self) -> Result<(), Broken> {
        self.skip_space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.broken("there is more text after the end of the JSON value")),
        }
    }

    /// Visits the members of the object that stands here; `member` must read the value.
    #[inline]
    pub(crate) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, Text<'a>) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        self.skip_space();
        if self.peek() != Some(b'{') {
            return Err(self.broken("expected an object"));
        }
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.broken("expected a member's name in double quotes"));
            }
            let name = self.string()?;
            self.colon()?;
            member(self, name)?;
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(_) => return Err(self.broken("expected `,` or `}` after a member")),
                None => return Err(self.broken("the text ends inside an object")),
            }
        }
    }

    /// Visits the elements of the array that stands here; `element` must read each.
    pub(crate) fn array(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        self.skip_space();
        if self.peek() != Some(b'[') {
            return Err(self.broken("expected an array"));
        }
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.skip_space();
            element(self)?;
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(_) => return Err(self.broken("expected `,` or `]` after an element")),
                None => return Err(self.broken("the text ends inside an array")),
            }
        }
    }

    /// Reads one value.
    #[inline(always)]
    pub(crate) fn value(&mut self) -> Result<Value<'a>, Broken> {
        self.skip_space();
        let start = self.at;
        match self.peek() {
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => {
                self.skip_number()?;
                Ok(Value::Number(self.since(start)))
            }
            Some(b'{') => {
                self.skip_container()?;
                Ok(Value::Object(self.since(start)))
            }
            Some(b'[') => {
                self.skip_container()?;
                Ok(Value::Array(self.since(start)))
            }
            Some(b't') => self.word("true").map(|()| Value::Bool(true)),
            Some(b'f') => self.word("false").map(|()| Value::Bool(false)),
            Some(b'n') => self.word("null").map(|()| Value::Null),
            Some(_) => Err(self.broken("expected a JSON value")),
            None => Err(self.broken("the text ends where a value should stand")),
        }
    }

    /// Passes over a value that somebody else will read, and refuse for its depth or its escapes.
    pub(crate) fn skip_leniently(&mut self) -> Result<Range<usize>, Broken> {
        self.skip_space();
        let start = self.at;
        self.lenient = true;
        let skipped = self.value();
        self.lenient = false;
        skipped.map(|_value| start..self.at)
    }

    #[inline(always)]
    fn colon(&mut self) -> Result<(), Broken> {
        self.skip_space();
        match self.peek() {
            Some(b':') => {
                self.at += 1;
                Ok(())
            }
            _ => Err(self.broken("expected `:` after a member's name")),
        }
    }

    #[inline(always)]
    fn word(&mut self, word: &'static str) -> Result<(), Broken> {
        match self.text.as_bytes().get(self.at..self.at + word.len()) {
            Some(found) if found == word.as_bytes() => {
                self.at += word.len();
                Ok(())
            }
            _ => Err(self.broken("expected a JSON value")),
        }
    }

    #[inline(always)]
    fn digits(&mut self) -> bool {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        self.at > start
    }

    #[inline(always)]
    fn skip_number(&mut self) -> Result<(), Broken> {
        let what = "a number is not written as JSON writes numbers";
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let zero = self.peek() == Some(b'0');
        let start = self.at;
        if !self.digits() || (zero && self.at > start + 1) {
            return Err(self.broken(what));
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if !self.digits() {
                return Err(self.broken(what));
            }
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            if !self.digits() {
                return Err(self.broken(what));
            }
        }
        Ok(())
    }

    /// Reads the string that stands here.
    #[inline(always)]
    fn string(&mut self) -> Result<Text<'a>, Broken> {
        self.at += 1;
        let start = self.at;
        let rest = self.text.as_bytes().get(start..).unwrap_or_default();
        self.at += word::plain_length(rest);
        let plain = self.peek() == Some(b'"');
        if !plain {
            self.rest_of_string()?;
        }
        let raw = self.since(start);
        self.at += 1;
        Ok(Text::new(raw, plain))
    }

    /// Moves to the end of a string from its first byte that is not plain.
    #[cold]
    #[inline(never)]
    fn rest_of_string(&mut self) -> Result<(), Broken> {
        loop {
            match self.peek() {
                Some(b'"') => return Ok(()),
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                Some(0..0x20) => {
                    return Err(self.broken("a string holds a control character; escape it"));
                }
                Some(_) => {
                    let beyond =
                        |rest: &[u8]| rest.iter().take_while(|byte| **byte >= 0x7f).count();
                    let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
                    self.at += beyond(rest);
                    let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
                    self.at += word::plain_length(rest);
                }
                None => return Err(self.broken("the text ends inside a string")),
            }
        }
    }

    /// The character that an escape stands for, after its backslash.
    fn escape(&mut self) -> Result<char, Broken> {
        let what = "a string holds an escape that JSON does not know";
        match self.next() {
            Some(byte @ (b'"' | b'\\' | b'/')) => Ok(char::from(byte)),
            Some(b'b') => Ok('\u{8}'),
            Some(b'f') => Ok('\u{c}'),
            Some(b'n') => Ok('\n'),
            Some(b'r') => Ok('\r'),
            Some(b't') => Ok('\t'),
            Some(b'u') => {
                let half = "a string holds half of a surrogate pair";
                let first = self.hex()?;
                if self.lenient {
                    return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                let code = if (0xd800..0xdc00).contains(&first) {
                    if self.next() != Some(b'\\') || self.next() != Some(b'u') {
                        return Err(self.broken(half));
                    }
                    let second = self.hex()?;
                    if !(0xdc00..0xe000).contains(&second) {
                        return Err(self.broken(half));
                    }
                    0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                } else {
                    first
                };
                char::from_u32(code).ok_or(self.broken(half))
            }
            _ => Err(self.broken(what)),
        }
    }

    fn hex(&mut self) -> Result<u32, Broken> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.next().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.broken("a string holds a \\u without four hexadecimal digits"));
            };
            code = code * 16 + digit;
        }
        Ok(code)
    }

    /// Passes over the container that stands here. Nothing recurses.
    fn skip_container(&mut self) -> Result<(), Broken> {
        let mut open = Open::default();
        loop {
            // Here a value stands.
            self.skip_space();
            match self.peek() {
                Some(byte @ (b'{' | b'[')) => {
                    if open.depth + DEPTH_ABOVE >= DEPTH_MAX && !self.lenient {
                        return Err(self.broken("it is nested more than 64 levels deep"));
                    }
                    let is_object = byte == b'{';
                    open.push(is_object);
                    self.at += 1;
                    self.skip_space();
                    if self.peek() != Some(if is_object { b'}' } else { b']' }) {
                        if is_object {
                            self.member_name()?;
                        }
                        continue;
                    }
                }
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'-' | b'0'..=b'9') => self.skip_number()?,
                Some(b't') => self.word("true")?,
                Some(b'f') => self.word("false")?,
                Some(b'n') => self.word("null")?,
                Some(_) => return Err(self.broken("expected a JSON value")),
                None => return Err(self.broken("the text ends where a value should stand")),
            }
            // Here a value has ended, or its container is empty.
            loop {
                if open.depth == 0 {
                    return Ok(());
                }
                self.skip_space();
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if open.in_object() {
                            self.skip_space();
                            self.member_name()?;
                        }
                        break;
                    }
                    Some(b'}') if open.in_object() => {}
                    Some(b']') if !open.in_object() => {}
                    Some(_) => return Err(self.broken("expected `,` or the end of a container")),
                    None => return Err(self.broken("the text ends inside an object or array")),
                }
                self.at += 1;
                open.pop();
            }
        }
    }

    #[inline(always)]
    fn member_name(&mut self) -> Result<(), Broken> {
        if self.peek() != Some(b'"') {
            return Err(self.broken("expected a member's name in double quotes"));
        }
        self.string()?;
        self.colon()
    }
}

/// The containers that are open, one bit each: whether it is an object.
#[derive(Default)]
struct Open {
    depth: u32,
    /// The innermost is the lowest bit.
    objects: u64,
    /// Those beyond 64 levels, 64 in one.
    outer: Vec<u64>,
}

impl Open {
    fn push(&mut self, is_object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(u64::BITS) {
            self.outer.push(self.objects);
        }
        self.objects = self.objects << 1 | u64::from(is_object);
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.objects >>= 1;
        self.depth -= 1;
        if self.depth.is_multiple_of(u64::BITS) {
            self.objects = self.outer.pop().unwrap_or_default();
        }
    }

    const fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }
}

#[cfg(test)]
mod tests;
