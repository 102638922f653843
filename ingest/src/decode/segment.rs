//! Segment's messages as events: what existing Segment SDKs send, read into a [`Batch`].
//!
//! In: the body of `POST /v1/batch` or `/v1/track`. Out: the JSON of one event for each `track`,
//! `page` and `screen`; how many messages have no meaning here and were skipped (`identify`, `group`,
//! `alias`: who a learner is comes from the roster, and traits hold personal data).
//! Always true: a message never sinks its batch; what a message lacks is missing in its event, so
//! that validation names it; of `context` only application and device are kept, each by itself. What SDKs
//! fill in by themselves is no reason to reject an event: a `sentAt` that cannot be read is as if it was
//! not there, wherever it stands. It is no part of what an event says: at each retry it is another one.
//! Not here: which names are types ([`event_name`]), credentials and answers (`routes::segment`).

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;
use chalkstream_access::{Permit, Problem, ProblemKind};
use chalkstream_schemas::ids::ID_MAX_BYTES;
use chalkstream_schemas::transcode::Object;
use chalkstream_schemas::{Timestamp, Undated};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::batch::{Batch, too_many};
use crate::body::Stop;
use crate::options::IngestOptions;

mod event_name;

/// What is kept of a `context`, as fields of the envelope. All else in it (addresses, places, traits) is
/// left out.
const LABELS: [(&str, [&str; 2]); 3] = [
    ("app", ["app", "name"]),
    ("app_version", ["app", "version"]),
    ("device_type", ["device", "type"]),
];

/// Properties that belong into the envelope.
const ENVELOPE: [&str; 3] = ["course_id", "classroom_id", "session_id"];

/// Which of Segment's routes was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Several messages.
    Batch,
    /// One `track` message.
    Track,
}

/// A body whose messages have not been looked into.
pub(crate) struct Messages<'a> {
    call: Call,
    messages: Vec<&'a RawValue>,
    sent_at: Option<&'a RawValue>,
    context: Option<&'a RawValue>,
    /// The write key, where the SDK sends it in the body.
    pub(crate) write_key: Option<String>,
}

/// The events of a body.
#[derive(Debug)]
pub(crate) struct Translated {
    pub(crate) batch: Batch,
    /// For each event: the place of its message in the body.
    pub(crate) places: Vec<usize>,
    /// Messages that have no meaning here.
    pub(crate) skipped: usize,
}

/// Finds the messages of a body.
pub(crate) fn read<'a>(
    body: &'a [u8],
    call: Call,
    options: &IngestOptions,
) -> Result<Messages<'a>, Problem> {
    let max_events = options.max_events.get();
    let over = Cell::new(false);
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let shape = Body { call, list: List { max_events, over: &over } };
    let read = shape.deserialize(&mut deserializer).and_then(|read| {
        deserializer.end()?;
        if call == Call::Track {
            let whole = serde_json::from_slice::<&RawValue>(body)?;
            return Ok(Messages { messages: std::iter::once(whole).collect(), ..read });
        }
        Ok(read)
    });
    read.map_err(|error| {
        if over.get() {
            return too_many(max_events);
        }
        let detail = format!("the body is not valid: {error}");
        Problem::new(ProblemKind::BrokenBody, detail).at(error.line(), error.column())
    })
}

impl Messages<'_> {
    /// Makes events of the messages. The permit grows by the JSON that they become.
    pub(crate) fn translate(
        &self,
        body_bytes: usize,
        options: &IngestOptions,
        permit: &mut Permit,
    ) -> Result<Translated, Problem> {
        let (mut json, mut events, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let of_batch = labels(self.context.map(RawValue::get));
        for (place, message) in self.messages.iter().enumerate() {
            let start = json.len();
            if self.event(message.get(), &of_batch, options.max_event.get(), &mut json) {
                events.push(start..json.len());
                places.push(place);
            }
            let held = body_bytes.saturating_add(json.len());
            permit.cover(held).map_err(|full| Stop::Full(full).problem(options))?;
        }
        let skipped = self.messages.len() - events.len();
        let sent_at = self.sent_at.and_then(|raw| time(raw.get()));
        let undated = Undated::WhenSent;
        let batch = Batch { body: Bytes::from(json), events, sent_at, undated, ..Batch::default() };
        Ok(Translated { batch, places, skipped })
    }

    /// Appends the event of a message, unless it has no meaning here. What its own context lacks is the
    /// batch's.
    fn event(&self, message: &str, of_batch: &Labels, max_bytes: usize, out: &mut Vec<u8>) -> bool {
        // What is too large, no object, or names a member twice is rejected for just that.
        let members = if message.len() > max_bytes { None } else { Members::of(message) };
        let Some(members) = members.filter(Members::differ) else {
            out.extend_from_slice(message.as_bytes());
            return true;
        };
        let get = |name: &str| members.get(name);
        let kind = match (get("type"), self.call) {
            (None, Call::Track) => Some("track".to_owned()),
            (raw, _) => raw.and_then(text),
        };
        let is_page = match kind.as_deref() {
            Some("identify" | "group" | "alias") => return false,
            Some("page" | "screen") => true,
            _ => false,
        };
        let name = get("event").and_then(text);
        let properties = get("properties").map(|raw| Members::of(raw).ok_or(raw));

        let mut event = Object::begin(out);
        copy(&mut event, "id", get("messageId"));
        match kind.as_deref() {
            Some("page" | "screen") => event.text("type", "page_view"),
            Some("track") => {
                if let Some(name) = &name {
                    event.text("type", &event_name::type_name(name));
                }
            }
            _ => copy(&mut event, "type", get("type")),
        }
        let user = get("userId").filter(|raw| *raw != "\"\"").or_else(|| get("anonymousId"));
        copy(&mut event, "user_id", user);
        let happened = get("originalTimestamp").or_else(|| get("timestamp"));
        copy(&mut event, "occurred_at", happened);
        copy(&mut event, "sent_at", get("sentAt").filter(|raw| time(raw).is_some()));
        let own = labels(get("context"));
        for ((name, _), (own, of_batch)) in LABELS.into_iter().zip(own.iter().zip(of_batch)) {
            if let Some(label) = own.as_ref().or(of_batch.as_ref()) {
                event.text(name, label);
            }
        }
        match properties {
            Some(Err(raw)) => event.raw("data", raw),
            Some(Ok(properties)) => {
                // A number under such a name is another library's own.
                let (lifted, data): (Vec<_>, Vec<_>) =
                    properties.0.into_iter().partition(|(name, raw)| {
                        ENVELOPE.contains(&name.as_str()) && raw.get().starts_with('"')
                    });
                for (name, raw) in &lifted {
                    event.raw(name, raw.get());
                }
                write_data(&mut event, is_page.then_some(&members), &Members(data));
            }
            None => write_data(&mut event, is_page.then_some(&members), &Members::default()),
        }
        if let Some(name) = name.filter(|_| !is_page) {
            // What a custom event's type may have lost of its name.
            event.text("event", &name);
        }
        event.end();
        true
    }
}

/// Writes `data`; for a page or screen (`page`: its message) with the members of `page_view`.
fn write_data(event: &mut Object<'_>, page: Option<&Members<'_>>, properties: &Members<'_>) {
    let mut data = event.object("data");
    for (name, raw) in &properties.0 {
        data.raw(name, raw.get());
    }
    if let Some(message) = page {
        let absent = |name: &str| !properties.0.iter().any(|(known, _)| known == name);
        for name in ["name", "category"].into_iter().filter(|name| absent(name)) {
            copy(&mut data, name, message.get(name));
        }
        if absent("page") {
            let named = || message.get("name").or_else(|| properties.get("name"));
            let page = properties.get("path").or_else(named).or_else(|| properties.get("url"));
            copy(&mut data, "page", page);
        }
    }
    data.end();
}

fn copy(object: &mut Object<'_>, name: &str, raw: Option<&str>) {
    if let Some(raw) = raw {
        object.raw(name, raw);
    }
}

fn text(raw: &str) -> Option<String> {
    serde_json::from_str(raw).ok()
}

fn time(raw: &str) -> Option<Timestamp> {
    text(raw).and_then(|text| Timestamp::parse_rfc3339(&text).ok())
}

/// The texts of a context, in the order of [`LABELS`].
type Labels = [Option<String>; LABELS.len()];

/// Each text is taken or left by itself: SDKs fill a context in, and what is strange about one member is
/// neither the others' fault nor a reason to reject the event.
fn labels(context: Option<&str>) -> Labels {
    let context = context.and_then(Members::of).unwrap_or_default();
    LABELS.map(|(_, [group, name])| {
        let group = Members::of(context.get(group)?)?;
        text(group.get(name)?).filter(|text| {
            (1..=ID_MAX_BYTES).contains(&text.len()) && !text.contains(char::is_control)
        })
    })
}

/// The members of an object, in order.
#[derive(Default)]
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    fn of(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// A member's value, unless it is null.
    fn get(&self, name: &str) -> Option<&'a str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, raw)| raw.get()).filter(|raw| *raw != "null")
    }

    /// Whether no two have one name.
    fn differ(&self) -> bool {
        let names = self.0.iter().map(|(name, _)| name).collect::<HashSet<_>>();
        names.len() == self.0.len()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(All).map(Self)
    }
}

/// Reads a body's outer shape alone.
struct Body<'l> {
    call: Call,
    list: List<'l>,
}

impl<'de> DeserializeSeed<'de> for Body<'_> {
    type Value = Messages<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Messages<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Body<'_> {
    type Value = Messages<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.call {
            Call::Batch => "an object with the array `batch`",
            Call::Track => "a message, which is an object",
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Messages<'de>, A::Error> {
        let mut messages = None;
        let mut read = Messages {
            call: self.call,
            messages: Vec::new(),
            sent_at: None,
            context: None,
            write_key: None,
        };
        let of_batch = self.call == Call::Batch;
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "batch" if of_batch && messages.is_none() => {
                    messages = Some(map.next_value_seed(self.list)?);
                }
                "sentAt" if of_batch && read.sent_at.is_none() => {
                    read.sent_at = Some(map.next_value()?);
                }
                "context" if of_batch && read.context.is_none() => {
                    read.context = Some(map.next_value()?);
                }
                "writeKey" if read.write_key.is_none() => read.write_key = map.next_value()?,
                "batch" | "sentAt" | "context" if of_batch => {
                    return Err(A::Error::custom(format!("the body names `{name}` twice")));
                }
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        match messages {
            Some(messages) => read.messages = messages,
            None if of_batch => return Err(A::Error::custom("the body has no array `batch`")),
            None => {}
        }
        Ok(read)
    }
}

/// The array of messages; stops one past the limit.
#[derive(Clone, Copy)]
struct List<'l> {
    max_events: usize,
    over: &'l Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = Vec<&'de RawValue>;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`batch` to be an array of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut messages = Vec::new();
        while let Some(raw) = seq.next_element::<&RawValue>()? {
            if messages.len() == self.max_events {
                self.over.set(true);
                return Err(A::Error::custom("too many messages"));
            }
            messages.push(raw);
        }
        Ok(messages)
    }
}

#[cfg(test)]
mod tests;
