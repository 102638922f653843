//! From the JSON of a request to the events in it, each as a range of its bytes.
//!
//! In: bytes. Out: [`Batch`], or what is wrong with them as a whole.
//! Always true: nothing is copied; the bytes are JSON in UTF-8, but an event may be nested too deeply
//! or hold half of a surrogate pair, because one event's fault must not sink its batch; at most so
//! many events are collected as may be.
//! Not here: what an event means ([`crate::parse`]), and other formats (ingest).

use std::borrow::Cow;
use std::ops::Range;

use crate::json::{Broken, Reader, Value, shortened};
use crate::time::Timestamp;

/// Most members of a batch object; an event may have more.
const BATCH_MEMBERS_MAX: usize = 64;

/// The events of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Where each event stands in the body.
    pub events: Vec<Range<usize>>,
    /// When the batch was sent, by the device's clock.
    pub sent_at: Option<Timestamp>,
}

/// Why a body is no batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// It holds more events than it may.
    #[error("it holds more than {max_events} events")]
    TooManyEvents {
        /// How many are allowed.
        max_events: usize,
    },
    /// It is not JSON, or not of one of the three shapes.
    #[error("{message} at line {line} column {column}")]
    Invalid {
        /// What is wrong.
        message: String,
        /// The line, from 1.
        line: usize,
        /// The column, from 1, in bytes.
        column: usize,
    },
}

impl Batch {
    /// Finds the events of a body: one event, an array of events, or
    /// `{"events": […], "sent_at": …}`.
    pub fn find(body: &[u8], max_events: usize) -> Result<Self, BatchError> {
        let mut finder = Finder { max_events, over: false };
        finder.find(body).map_err(|Wrong { message, at }| {
            if finder.over {
                return BatchError::TooManyEvents { max_events };
            }
            let (line, column) = Broken { at, what: "" }.place(body);
            BatchError::Invalid { message: message.into_owned(), line, column }
        })
    }
}

/// What is wrong, and with which byte.
struct Wrong {
    message: Cow<'static, str>,
    at: usize,
}

impl From<Broken> for Wrong {
    fn from(broken: Broken) -> Self {
        Self { message: broken.what.into(), at: broken.at }
    }
}

struct Finder {
    max_events: usize,
    over: bool,
}

impl Finder {
    fn find(&mut self, body: &[u8]) -> Result<Batch, Wrong> {
        let text = std::str::from_utf8(body).map_err(|error| {
            let at = error.valid_up_to();
            Wrong { message: format!("it is not UTF-8 at byte {at},").into(), at }
        })?;
        let mut reader = Reader::new(text);
        let batch = self.top(text, &mut reader)?;
        let more = "there is more after the end of the JSON (for one event a line send the content \
                    type application/x-ndjson)";
        reader.end().map_err(|broken| Wrong { message: more.into(), at: broken.at })?;
        Ok(batch)
    }

    fn top(&mut self, text: &str, reader: &mut Reader<'_>) -> Result<Batch, Wrong> {
        reader.skip_space();
        let start = reader.at();
        match reader.peek() {
            Some(b'[') => Ok(Batch { events: self.events(reader)?, sent_at: None }),
            Some(b'{') => match self.object(text, reader)? {
                Some(batch) => Ok(batch),
                None => {
                    let event = start..reader.at();
                    Ok(Batch { events: std::iter::once(event).collect(), sent_at: None })
                }
            },
            _ => {
                let message = format!(
                    "expected an event (an object), an array of events, or {{\"events\": […]}}, not {}",
                    reader.value()?.describe()
                );
                Err(Wrong { message: message.into(), at: start })
            }
        }
    }

    fn events(&mut self, reader: &mut Reader<'_>) -> Result<Vec<Range<usize>>, Broken> {
        let mut events = Vec::new();
        reader.array(|reader| {
            if events.len() == self.max_events {
                self.over = true;
                return Err(reader.broken("too many events"));
            }
            events.push(reader.skip_leniently()?);
            Ok(())
        })?;
        Ok(events)
    }

    /// A batch, or nothing where the object is an event: without the member `events`.
    fn object(&mut self, text: &str, reader: &mut Reader<'_>) -> Result<Option<Batch>, Wrong> {
        let (mut events, mut sent_at, mut repeated) = (None, None, None);
        let mut names: Vec<Cow<'_, str>> = Vec::new();
        let mut members = 0_usize;
        reader.object(|reader, name| {
            reader.skip_space();
            let at = reader.at();
            let name = name.read();
            members += 1;
            match &*name {
                "events" if reader.peek() != Some(b'[') => {
                    return Err(reader.broken("expected `events` to be an array of events"));
                }
                "events" if events.is_none() => events = Some(self.events(reader)?),
                "sent_at" if sent_at.is_none() => sent_at = Some(reader.skip_leniently()?),
                _ => {
                    reader.skip_leniently()?;
                }
            }
            // An event may have any number of members, and says itself if one is repeated.
            if members <= BATCH_MEMBERS_MAX {
                if names.contains(&name) {
                    repeated.get_or_insert((name, at));
                } else {
                    names.push(name);
                }
            }
            Ok(())
        })?;
        let Some(events) = events else { return Ok(None) };
        if members > BATCH_MEMBERS_MAX {
            let message = format!("a batch object has at most {BATCH_MEMBERS_MAX} members");
            return Err(Wrong { message: message.into(), at: reader.at() });
        }
        if let Some((name, at)) = repeated {
            let message = format!("the batch object names `{}` twice", printable(&name));
            return Err(Wrong { message: message.into(), at });
        }
        let sent_at = sent_at.map(|place| batch_time(text, place)).transpose()?.flatten();
        Ok(Some(Batch { events, sent_at }))
    }
}

fn printable(name: &str) -> String {
    shortened(name).chars().filter(|c| !c.is_control()).collect()
}

fn batch_time(text: &str, place: Range<usize>) -> Result<Option<Timestamp>, Wrong> {
    let at = place.start;
    let wrong = |why: &str| Wrong { message: format!("`sent_at` of the batch {why}").into(), at };
    match Reader::new(text.get(place).unwrap_or_default()).value() {
        Ok(Value::Null) => Ok(None),
        Ok(Value::String(text)) => Timestamp::parse_rfc3339(&text.read())
            .map(Some)
            .map_err(|error| wrong(&error.to_string())),
        _ => Err(wrong("is not a string with an RFC 3339 time")),
    }
}
