//! From the protobuf messages that clients send to the JSON of the same event.
//!
//! In: the bytes of one message of an `EventBatch`. Out: one JSON object as a client of the JSON
//! form would have sent it, so that both forms have one validation, one content hash and one raw
//! form for rejected events.
//! Always true: a message that can be decoded becomes an object, never an error; what JSON cannot
//! say (a number that is not finite, a time out of range) becomes a string that validation refuses;
//! the same message gives the same text.
//! Not here: batches and their limits (ingest), and what an event must hold ([`crate::parse`]).

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat};
use prost::{DecodeError, Message};
use prost_types::Timestamp;

use crate::payload::EventType;
use crate::proto::events::v1::{
    Answer, AttemptEvent, LearningEvent, PlacementEvent, SessionEvent, answer, learning_event,
};

/// A list of events in an `EventBatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventList {
    /// Events of any type: `LearningEvent`.
    Events,
    /// Answers: `AttemptEvent`.
    Attempts,
    /// Sessions: `SessionEvent`.
    Sessions,
    /// Placements: `PlacementEvent`.
    Placements,
}

impl EventList {
    /// Every list, in the order in which their events are counted.
    pub const ALL: [Self; 4] = [Self::Events, Self::Attempts, Self::Sessions, Self::Placements];

    /// The number of the list's field in `EventBatch`.
    pub const fn number(self) -> u32 {
        match self {
            Self::Events => 2,
            Self::Attempts => 3,
            Self::Sessions => 4,
            Self::Placements => 5,
        }
    }

    /// The name of the list's messages.
    pub const fn message_name(self) -> &'static str {
        match self {
            Self::Events => "LearningEvent",
            Self::Attempts => "AttemptEvent",
            Self::Sessions => "SessionEvent",
            Self::Placements => "PlacementEvent",
        }
    }

    /// Appends the JSON of one message of the list; nothing of one that cannot be decoded.
    pub fn write_json(self, message: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        match self {
            Self::Events => learning_event(LearningEvent::decode(message)?, out),
            Self::Attempts => attempt(&AttemptEvent::decode(message)?, out),
            Self::Sessions => session(&SessionEvent::decode(message)?, out),
            Self::Placements => placement(&PlacementEvent::decode(message)?, out),
        }
        Ok(())
    }
}

fn learning_event(message: LearningEvent, out: &mut Vec<u8>) {
    let mut event = Object::begin(out);
    message.id.write("id", &mut event);
    message.r#type.write("type", &mut event);
    let named = message.r#type.as_deref();
    if let Some(implied) = message.payload.as_ref().map(learning_event::Payload::event_type)
        && match named.map(EventType::from_name) {
            None => implied != EventType::Custom,
            // Two types: the event is rejected, because it says `type` twice.
            Some(known) => known.is_some_and(|known| known != implied),
        }
    {
        event.value("type", implied.as_str());
    }
    message.user_id.write("user_id", &mut event);
    message.user_role.write("user_role", &mut event);
    message.occurred_at.write("occurred_at", &mut event);
    message.sent_at.write("sent_at", &mut event);
    message.session_id.write("session_id", &mut event);
    message.course_id.write("course_id", &mut event);
    message.classroom_id.write("classroom_id", &mut event);
    message.app.write("app", &mut event);
    message.device_type.write("device_type", &mut event);
    message.app_version.write("app_version", &mut event);
    if message.payload.is_some() || message.data_extra.is_some() {
        let mut data = event.object("data");
        if let Some(payload) = &message.payload {
            payload.write(&mut data);
        }
        data.splice(message.data_extra.as_deref());
        data.end();
    }
    event.splice(message.extra.as_deref());
    event.end();
}

fn attempt(message: &AttemptEvent, out: &mut Vec<u8>) {
    let mut event = Object::begin(out);
    message.client_attempt_id.write("client_attempt_id", &mut event);
    event.value("type", EventType::AnswerSubmitted.as_str());
    message.user_id.write("user_id", &mut event);
    message.timestamp.write("timestamp", &mut event);
    message.session_id.write("session_id", &mut event);
    message.device_type.write("device_type", &mut event);
    message.app_version.write("app_version", &mut event);
    let mut data = event.object("data");
    message.item_id.write("item_id", &mut data);
    message.selected.write("selected", &mut data);
    message.correct.write("correct", &mut data);
    message.quality.write("quality", &mut data);
    message.time_taken_ms.write("time_taken_ms", &mut data);
    message.hints_used.write("hints_used", &mut data);
    data.end();
    event.end();
}

fn session(message: &SessionEvent, out: &mut Vec<u8>) {
    let mut event = Object::begin(out);
    message.id.write("id", &mut event);
    event.value("type", EventType::Session.as_str());
    message.user_id.write("user_id", &mut event);
    message.timestamp.write("timestamp", &mut event);
    message.session_id.write("session_id", &mut event);
    message.device_type.write("device_type", &mut event);
    message.app_version.write("app_version", &mut event);
    let mut data = event.object("data");
    message.started_at.write("started_at", &mut data);
    message.ended_at.write("ended_at", &mut data);
    message.session_type.write("session_type", &mut data);
    message.items_attempted.write("items_attempted", &mut data);
    message.correct_count.write("correct_count", &mut data);
    message.total_time_ms.write("total_time_ms", &mut data);
    message.skills_practiced.write("skills_practiced", &mut data);
    message.average_difficulty.write("average_difficulty", &mut data);
    data.end();
    event.end();
}

fn placement(message: &PlacementEvent, out: &mut Vec<u8>) {
    let mut event = Object::begin(out);
    message.id.write("id", &mut event);
    event.value("type", EventType::Placement.as_str());
    message.user_id.write("user_id", &mut event);
    message.timestamp.write("timestamp", &mut event);
    message.session_id.write("session_id", &mut event);
    message.device_type.write("device_type", &mut event);
    message.app_version.write("app_version", &mut event);
    let mut data = event.object("data");
    message.abilities.write("abilities", &mut data);
    message.mastery.write("mastery", &mut data);
    data.end();
    event.end();
}

/// A JSON object that is being written.
#[derive(Debug)]
pub struct Object<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
}

impl<'o> Object<'o> {
    /// Opens an object at the end of `out`.
    pub fn begin(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    /// Adds a text.
    pub fn text(&mut self, name: &str, text: &str) {
        self.value(name, text);
    }

    /// Adds a value that is JSON already.
    pub fn raw(&mut self, name: &str, json: &str) {
        self.name(name).extend_from_slice(json.as_bytes());
    }

    /// Opens an object inside this one.
    pub fn object(&mut self, name: &str) -> Object<'_> {
        Object::begin(self.name(name))
    }

    /// Closes it.
    pub fn end(self) {
        self.out.push(b'}');
    }

    fn comma(&mut self) {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
    }

    fn name(&mut self, name: &str) -> &mut Vec<u8> {
        self.comma();
        name.put(self.out);
        self.out.push(b':');
        self.out
    }

    fn value(&mut self, name: &str, value: &(impl Json + ?Sized)) {
        value.put(self.name(name));
    }

    /// Appends the members of an object's text. A text that is no object becomes a name without a
    /// value, so that the event is rejected as malformed, whatever the text is.
    pub(crate) fn splice(&mut self, text: Option<&str>) {
        let Some(text) = text else { return };
        let object = serde_json::from_str::<&serde_json::value::RawValue>(text)
            .ok()
            .and_then(|raw| raw.get().strip_prefix('{')?.strip_suffix('}'));
        match object.map(str::trim) {
            Some("") => {}
            Some(members) => {
                self.comma();
                self.out.extend_from_slice(members.as_bytes());
            }
            None => {
                self.comma();
                text.put(self.out);
            }
        }
    }
}

/// A value in JSON.
trait Json {
    fn put(&self, out: &mut Vec<u8>);
}

impl Json for str {
    fn put(&self, out: &mut Vec<u8>) {
        // A string into memory: it cannot fail.
        serde_json::to_writer(out, self).unwrap_or_default();
    }
}

impl Json for String {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_str().put(out);
    }
}

impl Json for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if *self { b"true" } else { b"false" });
    }
}

macro_rules! whole_numbers {
    ($($name:ident)*) => {$(
        impl Json for $name {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(self.to_string().as_bytes());
            }
        }
    )*};
}

whole_numbers! { u32 u64 }

impl Json for f64 {
    fn put(&self, out: &mut Vec<u8>) {
        if self.is_finite() {
            serde_json::to_writer(out, self).unwrap_or_default();
        } else {
            self.to_string().put(out);
        }
    }
}

impl Json for Timestamp {
    fn put(&self, out: &mut Vec<u8>) {
        time_text(self).put(out);
    }
}

/// A time as RFC 3339, or as a text that is no time.
pub fn time_text(time: &Timestamp) -> String {
    let Timestamp { seconds, nanos } = *time;
    // More nanoseconds than a second has would be read as a leap second.
    let nanos_of_second = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    nanos_of_second
        .and_then(|nanos| DateTime::from_timestamp(seconds, nanos))
        .map(|time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
        .unwrap_or_else(|| format!("{seconds} s and {nanos} ns after 1970"))
}

impl Json for Answer {
    fn put(&self, out: &mut Vec<u8>) {
        match &self.kind {
            None => out.extend_from_slice(b"null"),
            Some(answer::Kind::Text(text)) => text.put(out),
            Some(answer::Kind::Number(number)) => number.put(out),
            Some(answer::Kind::Many(many)) => many.parts.put(out),
        }
    }
}

impl<T: Json> Json for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (index, value) in self.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            value.put(out);
        }
        out.push(b']');
    }
}

impl Json for BTreeMap<String, f64> {
    fn put(&self, out: &mut Vec<u8>) {
        let mut object = Object::begin(out);
        for (name, number) in self {
            object.value(name, number);
        }
        object.end();
    }
}

/// A field of a message, which may be absent.
pub(crate) trait ProtoField {
    fn write(&self, name: &str, object: &mut Object<'_>);
}

impl<T: Json> ProtoField for Option<T> {
    fn write(&self, name: &str, object: &mut Object<'_>) {
        if let Some(value) = self {
            object.value(name, value);
        }
    }
}

impl<T: Json> ProtoField for Vec<T> {
    fn write(&self, name: &str, object: &mut Object<'_>) {
        if !self.is_empty() {
            object.value(name, self);
        }
    }
}

impl ProtoField for BTreeMap<String, f64> {
    fn write(&self, name: &str, object: &mut Object<'_>) {
        if !self.is_empty() {
            object.value(name, self);
        }
    }
}
