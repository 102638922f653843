//! Takes a file apart into events: NDJSON by lines, a JSON array by its elements, or one object.
//!
//! Always true: an event is passed on as the bytes that stand in the file; a line that is no JSON is
//! an event too, which the server rejects with its reason; line breaks inside an element of an array
//! become spaces (JSON has none inside strings), so that an event is always one line.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::failure::Advice;

const BUFFER_BYTES: usize = 256 * 1024;
/// A line or element above this is no event of any server.
const EVENT_MAX_BYTES: usize = 64 << 20;
/// One JSON object is read whole; larger files are NDJSON or an array.
const OBJECT_MAX_BYTES: u64 = 1 << 30;

/// One event of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Counted from 0.
    pub(super) number: u64,
    /// Its line in NDJSON, else its number counted from 1.
    pub(super) place: u64,
    pub(super) raw: Vec<u8>,
    learner: u64,
}

impl Item {
    /// A learner's events all go through the same worker.
    pub(super) fn worker(&self, workers: usize) -> usize {
        let workers = workers.max(1) as u64;
        usize::try_from(self.learner % workers).unwrap_or(0)
    }
}

enum Form {
    Lines { first: Option<Vec<u8>>, line: u64 },
    Array { ended: bool },
    Whole { rest: VecDeque<Vec<u8>> },
}

/// The events of a file, in order.
pub(super) struct Events<'a> {
    source: Box<dyn BufRead + Send>,
    form: Form,
    number: u64,
    sent_at: Option<Box<RawValue>>,
    /// Names the file in the ids that are made for events without one.
    ids: Option<&'a str>,
}

/// What sending has to know of an event.
#[derive(Deserialize)]
struct Peek<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    client_attempt_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    user_id: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    sent_at: Option<Box<RawValue>>,
    events: Vec<Box<RawValue>>,
}

impl<'a> Events<'a> {
    /// Looks at the first bytes to tell gzip from plain, and NDJSON from JSON.
    pub(super) fn open(source: Box<dyn Read + Send>, ids: Option<&'a str>) -> Result<Self> {
        let mut source = BufReader::with_capacity(BUFFER_BYTES, source);
        let gzip = source.fill_buf()?.starts_with(&[0x1f, 0x8b]);
        let mut source: Box<dyn BufRead + Send> = if gzip {
            let plain = flate2::bufread::MultiGzDecoder::new(source);
            Box::new(BufReader::with_capacity(BUFFER_BYTES, plain))
        } else {
            Box::new(source)
        };
        let (form, sent_at) = recognise(&mut source)?;
        Ok(Self { source, form, number: 0, sent_at, ids })
    }

    /// `sent_at` of the whole file, where it is one object with `events`.
    pub(super) fn sent_at(&self) -> Option<Box<RawValue>> {
        self.sent_at.clone()
    }

    pub(super) fn next_item(&mut self) -> Result<Option<Item>> {
        let number = self.number;
        let next = match &mut self.form {
            Form::Lines { first, line } => match first.take() {
                Some(raw) => Some((raw, *line)),
                None => next_line(&mut self.source, line)?.map(|raw| (raw, *line)),
            },
            Form::Array { ended: true } => None,
            Form::Array { ended } => {
                let element = next_element(&mut self.source, number)?;
                *ended = element.is_none();
                element.map(|raw| (raw, number + 1))
            }
            Form::Whole { rest } => rest.pop_front().map(|raw| (raw, number + 1)),
        };
        let Some((raw, place)) = next else { return Ok(None) };
        self.number += 1;
        Ok(Some(self.item(number, place, raw)))
    }

    fn item(&self, number: u64, place: u64, mut raw: Vec<u8>) -> Item {
        let mut hasher = DefaultHasher::new();
        let mut made = None;
        if let Ok(peek) = serde_json::from_slice::<Peek<'_>>(&raw) {
            peek.user_id.hash(&mut hasher);
            if let Some(file) = self.ids
                && peek.id.is_none()
                && peek.client_attempt_id.is_none()
            {
                made = Some(made_id(file, number, &raw));
            }
        }
        if let Some(id) = made {
            raw = with_id(&raw, id);
        }
        Item { number, place, raw, learner: hasher.finish() }
    }
}

/// The same for the same event at the same place of a file of the same name.
fn made_id(file: &str, number: u64, raw: &[u8]) -> Uuid {
    let mut name = format!("{}:{file}:{number}:", file.len()).into_bytes();
    name.extend_from_slice(raw);
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &name)
}

/// The object with `id` as its first member.
fn with_id(raw: &[u8], id: Uuid) -> Vec<u8> {
    let Some(open) = raw.iter().position(|byte| *byte == b'{') else { return raw.to_vec() };
    let (head, tail) = raw.split_at(open + 1);
    let empty = tail.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}');
    let mut event = head.to_vec();
    event.extend_from_slice(format!("\"id\":\"{id}\"{}", if empty { "" } else { "," }).as_bytes());
    event.extend_from_slice(tail);
    event
}

fn recognise(source: &mut Box<dyn BufRead + Send>) -> Result<(Form, Option<Box<RawValue>>)> {
    let mut line = 1;
    skip_bom(source)?;
    // Blank lines before the first event count as lines.
    while let Some(byte) = peek_byte(source)? {
        match byte {
            b'\n' => line += 1,
            byte if byte.is_ascii_whitespace() => {}
            b'[' => {
                source.consume(1);
                return Ok((Form::Array { ended: false }, None));
            }
            _ => break,
        }
        source.consume(1);
    }
    let first_line = line;
    let Some(first) = next_line_from(source, &mut line)? else {
        return Ok((Form::Lines { first: None, line }, None));
    };
    if let Ok(Envelope { sent_at, events }) = serde_json::from_slice(&first) {
        return Ok((whole(events), sent_at));
    }
    let complete = serde_json::from_slice::<&RawValue>(&first).is_ok();
    if complete || !first.starts_with(b"{") {
        return Ok((Form::Lines { first: Some(first), line: first_line }, None));
    }
    // An object over several lines, or NDJSON whose first line is broken.
    let mut text = first.clone();
    text.push(b'\n');
    let mut rest = Vec::new();
    source
        .by_ref()
        .take(OBJECT_MAX_BYTES)
        .read_to_end(&mut rest)
        .context("could not read the file")?;
    text.extend_from_slice(&rest);
    if let Ok(Envelope { sent_at, events }) = serde_json::from_slice(&text) {
        return Ok((whole(events), sent_at));
    }
    if let Ok(event) = serde_json::from_slice::<Box<RawValue>>(&text) {
        return Ok((whole(vec![event]), None));
    }
    let after: Box<dyn BufRead + Send> = Box::new(BufReader::new(
        std::io::Cursor::new(rest).chain(std::mem::replace(source, Box::new(std::io::empty()))),
    ));
    *source = after;
    Ok((Form::Lines { first: Some(first), line: first_line }, None))
}

fn whole(events: Vec<Box<RawValue>>) -> Form {
    let rest = events.iter().map(|event| one_line(event.get().as_bytes())).collect();
    Form::Whole { rest }
}

fn skip_bom(source: &mut Box<dyn BufRead + Send>) -> Result<()> {
    if source.fill_buf().context("could not read the file")?.starts_with(b"\xef\xbb\xbf") {
        source.consume(3);
    }
    Ok(())
}

fn peek_byte(source: &mut Box<dyn BufRead + Send>) -> Result<Option<u8>> {
    Ok(source.fill_buf().context("could not read the file")?.first().copied())
}

/// The next line that is not blank; `line` becomes its number.
fn next_line(source: &mut Box<dyn BufRead + Send>, line: &mut u64) -> Result<Option<Vec<u8>>> {
    *line += 1;
    next_line_from(source, line)
}

/// As [`next_line`], where `line` is the number of the line that begins here.
fn next_line_from(source: &mut Box<dyn BufRead + Send>, line: &mut u64) -> Result<Option<Vec<u8>>> {
    loop {
        let mut raw = Vec::new();
        let limit = EVENT_MAX_BYTES as u64 + 1;
        let read = source.by_ref().take(limit).read_until(b'\n', &mut raw);
        read.with_context(|| format!("could not read line {line}"))?;
        if raw.is_empty() {
            return Ok(None);
        }
        if raw.len() > EVENT_MAX_BYTES {
            return Err(too_large(&format!("line {line}")));
        }
        let trimmed = raw.trim_ascii();
        if !trimmed.is_empty() {
            return Ok(Some(trimmed.to_vec()));
        }
        *line += 1;
    }
}

fn too_large(place: &str) -> anyhow::Error {
    Advice::new(
        format!("{place} is longer than 64 MiB"),
        "send NDJSON (an event a line) or a JSON array of events",
    )
    .into()
}

/// The next element of the array whose `[` was read; none at its `]`.
fn next_element(source: &mut Box<dyn BufRead + Send>, number: u64) -> Result<Option<Vec<u8>>> {
    let mut element = Vec::new();
    let (mut depth, mut in_string, mut escaped) = (0_u32, false, false);
    loop {
        let buffer = source.fill_buf().context("could not read the file")?;
        if buffer.is_empty() {
            bail!(Advice::new(
                format!(
                    "the JSON array is not closed: the file ends in or after event {}",
                    number + 1
                ),
                "the file was cut off, or a bracket or quote is missing before its end",
            ));
        }
        let mut used = 0;
        let mut done = None;
        for &byte in buffer {
            used += 1;
            if in_string {
                in_string = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
            } else {
                match byte {
                    b'"' => in_string = true,
                    b'{' | b'[' => depth += 1,
                    b']' if depth == 0 => {
                        done = Some(true);
                        break;
                    }
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    b',' if depth == 0 => {
                        done = Some(false);
                        break;
                    }
                    _ => {}
                }
            }
            element.push(byte);
        }
        source.consume(used);
        if element.len() > EVENT_MAX_BYTES {
            return Err(too_large(&format!("event {}", number + 1)));
        }
        let blank = element.trim_ascii().is_empty();
        match done {
            None => {}
            // `[]`, and the end after the last element, which was returned at its `]` already.
            Some(true) if blank => return Ok(None),
            Some(true) => {
                // The array's end is seen again by the next call.
                let rest = std::mem::replace(source, Box::new(std::io::empty()));
                *source = Box::new(BufReader::new(std::io::Cursor::new(b"]").chain(rest)));
                return Ok(Some(one_line(&element)));
            }
            // Two commas in a row: an event that is nothing, which the server will say.
            Some(false) if blank => return Ok(Some(b",".to_vec())),
            Some(false) => return Ok(Some(one_line(&element))),
        }
    }
}

fn one_line(raw: &[u8]) -> Vec<u8> {
    let flat = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
    raw.trim_ascii().iter().map(flat).collect()
}

#[cfg(test)]
mod tests;
