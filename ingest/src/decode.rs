//! From a body to the events in it, each as a range of the body's bytes.
//!
//! In: decompressed bytes and a content type. Out: [`Batch`], or a problem with the request.
//! Always true: a JSON body is scanned once and nothing is copied; what is inside an event is
//! nobody's business here, so one event's fault cannot sink its batch; at most `max_events` are
//! collected; what is not JSON becomes JSON here, so that all that follows is one path.
//! Not here: what an event means (`parse_event` of the schemas).

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use chalkstream_schemas::Timestamp;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::admission::Permit;
use crate::body::printable;
use crate::options::IngestOptions;
use crate::problem::{Problem, ProblemKind};

mod format;
pub(crate) mod protobuf;
pub(crate) mod segment;

pub(crate) use format::Format;

/// Most members of a batch object; an event may have more.
const BATCH_MEMBERS_MAX: usize = 64;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The events of a request, as they stand in its body.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) body: Bytes,
    pub(crate) events: Vec<Range<usize>>,
    /// When the batch was sent, by the device's clock.
    pub(crate) sent_at: Option<Timestamp>,
}

impl Batch {
    /// The bytes of one event.
    pub(crate) fn raw(&self, index: usize) -> &[u8] {
        self.events.get(index).and_then(|range| self.body.get(range.clone())).unwrap_or_default()
    }
}

/// Finds the events of a body. The permit grows where reading them takes memory beyond the body.
pub(crate) fn split(
    body: Bytes,
    format: Format,
    options: &IngestOptions,
    permit: &mut Permit,
) -> Result<Batch, Problem> {
    let max_events = options.max_events.get();
    let body = match body.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) if format != Format::Protobuf => body.slice_ref(rest),
        _ => body,
    };
    let (events, sent_at) = match format {
        Format::Json => split_json(&body, max_events)?,
        Format::Ndjson => (split_lines(&body, max_events)?, None),
        Format::Protobuf => return protobuf::batch(&body, options, permit),
    };
    Ok(Batch { body, events, sent_at })
}

fn too_many(max_events: usize) -> Problem {
    let detail =
        format!("a request holds at most {max_events} events; send them in several requests");
    Problem::new(ProblemKind::TooManyEvents, detail)
}

fn split_lines(body: &[u8], max_events: usize) -> Result<Vec<Range<usize>>, Problem> {
    let mut events = Vec::new();
    let mut start = 0;
    for line in body.split(|byte| *byte == b'\n') {
        let next = start + line.len() + 1;
        let text = line.trim_ascii_start();
        let from = start + (line.len() - text.len());
        let text = text.trim_ascii_end();
        if !text.is_empty() {
            if events.len() == max_events {
                return Err(too_many(max_events));
            }
            events.push(from..from + text.len());
        }
        start = next;
    }
    Ok(events)
}

type Found = (Vec<Range<usize>>, Option<Timestamp>);

fn split_json(body: &[u8], max_events: usize) -> Result<Found, Problem> {
    if body.trim_ascii().is_empty() {
        let detail = "the body is empty; an empty batch is `[]`";
        return Err(Problem::new(ProblemKind::BrokenBody, detail).at(1, 0));
    }
    let over = Cell::new(false);
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let shape = Shape { max_events, over: &over };
    let read =
        shape.deserialize(&mut deserializer).and_then(|top| deserializer.end().map(|()| top));
    let top = read.map_err(|error| {
        if over.get() {
            return too_many(max_events);
        }
        let hint = if error.is_syntax() && error.to_string().starts_with("trailing characters") {
            "; for one event a line send the content type application/x-ndjson"
        } else {
            ""
        };
        let detail = format!("the body is not valid: {error}{hint}");
        Problem::new(ProblemKind::BrokenBody, detail).at(error.line(), error.column())
    })?;
    let range = |text: &str| {
        // Both point into `body`, because nothing but borrowed text is collected.
        let from = (text.as_ptr() as usize).saturating_sub(body.as_ptr() as usize);
        from..from + text.len()
    };
    Ok(match top {
        Top::Event => {
            let from = body.len() - body.trim_ascii_start().len();
            (std::iter::once(from..from + body.trim_ascii().len()).collect(), None)
        }
        Top::Events { events, sent_at, ignored } => {
            // What is collected was seen to be text; what is ignored was not looked at so closely.
            if ignored && let Err(error) = std::str::from_utf8(body) {
                let detail = format!("the body is not UTF-8 at byte {}", error.valid_up_to());
                return Err(Problem::new(ProblemKind::BrokenBody, detail));
            }
            (events.into_iter().map(|raw| range(raw.get())).collect(), sent_at)
        }
    })
}

/// The three shapes of a JSON body.
enum Top<'de> {
    Event,
    /// `ignored`: the batch object has other members too.
    Events {
        events: Vec<&'de RawValue>,
        sent_at: Option<Timestamp>,
        ignored: bool,
    },
}

/// Reads a body's outer shape alone.
#[derive(Clone, Copy)]
struct Shape<'l> {
    max_events: usize,
    over: &'l Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Shape<'_> {
    type Value = Top<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Top<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Shape<'_> {
    type Value = Top<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event (an object), an array of events, or {\"events\": […]}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Top<'de>, A::Error> {
        let events = Events(self).visit_seq(seq)?;
        Ok(Top::Events { events, sent_at: None, ignored: false })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Top<'de>, A::Error> {
        let mut events = None;
        let mut sent_at = None;
        let mut names = HashSet::new();
        let mut members = 0_usize;
        let mut ignored = false;
        let mut repeated = None;
        while let Some(name) = map.next_key::<String>()? {
            members += 1;
            if name == "events" && events.is_none() {
                events = Some(map.next_value_seed(Events(self))?);
            } else if name == "sent_at" && sent_at.is_none() {
                sent_at = Some(map.next_value::<&RawValue>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
                ignored = true;
            }
            // An event may have any number of members, and says itself if one is repeated.
            if members <= BATCH_MEMBERS_MAX && !names.contains(&name) {
                names.insert(name);
            } else if repeated.is_none() {
                repeated = Some(name);
            }
        }
        let Some(events) = events else { return Ok(Top::Event) };
        if members > BATCH_MEMBERS_MAX {
            let message = format!("a batch object has at most {BATCH_MEMBERS_MAX} members");
            return Err(A::Error::custom(message));
        }
        if let Some(name) = repeated {
            let message = format!("the batch object names `{}` twice", printable(&name));
            return Err(A::Error::custom(message));
        }
        let sent_at = sent_at.map(|raw| batch_time(raw.get())).transpose();
        let sent_at = sent_at.map_err(A::Error::custom)?.flatten();
        Ok(Top::Events { events, sent_at, ignored })
    }
}

fn batch_time(raw: &str) -> Result<Option<Timestamp>, String> {
    let wrong = |why: String| format!("`sent_at` of the batch {why}");
    let text = serde_json::from_str::<Option<String>>(raw)
        .map_err(|_other_type| wrong("is not a string with an RFC 3339 time".to_owned()))?;
    text.map(|text| Timestamp::parse_rfc3339(&text))
        .transpose()
        .map_err(|error| wrong(error.to_string()))
}

/// The array of events; stops one past the limit.
struct Events<'l>(Shape<'l>);

impl<'de> DeserializeSeed<'de> for Events<'_> {
    type Value = Vec<&'de RawValue>;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Events<'_> {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`events` to be an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut events = Vec::new();
        while let Some(raw) = seq.next_element::<&RawValue>()? {
            if events.len() == self.0.max_events {
                self.0.over.set(true);
                return Err(A::Error::custom("too many events"));
            }
            events.push(raw);
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests;
