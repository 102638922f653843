//! From the bytes of one event to a [`LearningEvent`], or one typed [`Rejection`].
//!
//! In: one JSON object and what the server knows beside it ([`ParseContext`]). Out: the event with
//! all that was received, or the first thing wrong with it: broken JSON first, then the envelope,
//! then `data`, then the times.
//! Always true: no input panics; each member is visited once; a member named twice in the envelope
//! or at the top of `data` rejects the event (inside nested values it is left as it is); unknown
//! members are kept in `extra` and in the text of `data`.
//! Not here: batches, content types and sizes of bodies (ingest), duplicates of events.

use std::borrow::Cow;
use std::time::Duration;

use crate::canonical;
use crate::event::{LearningEvent, UserRole};
use crate::fields::{Field, FieldType, Kind, SECONDS, Wrong, mismatch, read_id_text};
use crate::ids::{ContentHash, EventId, SchoolId, UserId};
use crate::json::{Broken, Key, Reader, Value, shortened};
use crate::number;
use crate::payload::{EventType, Payload};
use crate::reason::{RejectReason, Rejection};
use crate::rules;
use crate::time::Timestamp;

/// A device clock is taken as right while it differs from the server's by at most this.
pub const CLOCK_TOLERANCE_MS: i64 = 5 * 60 * 1000;

/// What the server knows about an event beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct ParseContext<'a> {
    /// The school of the credential.
    pub school_id: &'a SchoolId,
    /// When the server took the event in.
    pub received_at: Timestamp,
    /// The `sent_at` of the batch, for events without their own.
    pub batch_sent_at: Option<Timestamp>,
    /// How long ago an event may have happened; no limit for backfill.
    pub max_age: Option<Duration>,
    /// How far ahead of the server's clock an event may claim to happen.
    pub max_future: Duration,
    /// How many bytes one event may have.
    pub max_event_bytes: usize,
}

const fn envelope_field(
    name: &'static str,
    number: u32,
    kind: Kind,
    required: bool,
    aliases: &'static [&'static str],
    doc: &'static str,
) -> Field {
    Field { name, number, kind, required, aliases, doc, column: None }
}

/// The envelope's fields beside `data`.
pub const ENVELOPE: [Field; 12] = [
    envelope_field(
        "id",
        1,
        Kind::Id,
        true,
        &["client_attempt_id"],
        "The event's own id, best a UUID; the same again when it is sent again.",
    ),
    envelope_field("type", 2, Kind::Id, true, &[], "What happened: an event type."),
    envelope_field("user_id", 3, Kind::Id, true, &[], "Who acted."),
    envelope_field(
        "user_role",
        4,
        Kind::Word(UserRole::NAMES),
        false,
        &[],
        "In which role; student if absent.",
    ),
    envelope_field(
        "occurred_at",
        5,
        Kind::Time,
        true,
        &["timestamp"],
        "When it happened, by the device's clock.",
    ),
    envelope_field(
        "sent_at",
        6,
        Kind::Time,
        false,
        &[],
        "When it was sent, by the device's clock.",
    ),
    envelope_field("session_id", 7, Kind::Id, false, &[], "The session, as the client counts it."),
    envelope_field("course_id", 8, Kind::Id, false, &[], "The course."),
    envelope_field("classroom_id", 9, Kind::Id, false, &[], "The class."),
    envelope_field("app", 10, Kind::Id, false, &[], "The application, such as whiteboard."),
    envelope_field("device_type", 11, Kind::Id, false, &[], "The kind of device."),
    envelope_field("app_version", 12, Kind::Id, false, &[], "The application's version."),
];

/// The place of an envelope field in [`ENVELOPE`], and of its value among the slots.
#[derive(Clone, Copy)]
enum Slot {
    Id,
    Type,
    UserId,
    UserRole,
    OccurredAt,
    SentAt,
    SessionId,
    CourseId,
    ClassroomId,
    App,
    DeviceType,
    AppVersion,
    Data,
}

const SLOTS: usize = 13;

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
    fn read(reader: &mut Reader<'a>, key: Key<'a>) -> Result<Self, Broken> {
        reader.skip_space();
        let start = reader.at();
        let value = reader.value()?;
        Ok(Self { key, alias_of: None, value, raw: reader.since(start), absent: false })
    }

    pub(crate) fn name(&self) -> &str {
        self.alias_of.unwrap_or(&self.key.text)
    }
}

/// A rejection in the making.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) reason: RejectReason,
    pub(crate) field: Cow<'static, str>,
    pub(crate) message: String,
}

impl Failure {
    fn new(reason: RejectReason, field: impl Into<Cow<'static, str>>, message: String) -> Self {
        Self { reason, field: field.into(), message }
    }

    /// "answer_submitted needs data.item_id: the question that was answered".
    pub(crate) fn missing(type_name: &str, prefix: &str, field: &Field) -> Self {
        let name = format!("{prefix}{}", field.name);
        let meaning = phrase(field.doc);
        let message = format!("{type_name} needs {name}: {meaning}");
        Self::new(RejectReason::MissingField, name, message)
    }

    fn wrong(name: String, sent_as: &str, wrong: Wrong) -> Self {
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

    fn malformed(message: String) -> Self {
        Self::new(RejectReason::MalformedJson, "", message)
    }

    fn into_rejection(self) -> Rejection {
        let field = Some(&*self.field).filter(|field| !field.is_empty());
        Rejection::new(self.reason, field, self.message)
    }
}

/// A doc sentence as the end of another: " The item." becomes "the item".
pub(crate) fn phrase(doc: &str) -> String {
    let doc = doc.trim().trim_end_matches('.');
    let mut chars = doc.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
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
    *slot = Some(value);
    Ok(())
}

fn given_twice(prefix: &str, field: &Field) -> Failure {
    let name = format!("{prefix}{}", field.name);
    let aliases = field.aliases.join(" and ");
    let message = format!("{name} and its alias {aliases} are both given; send one of them");
    Failure::new(RejectReason::InvalidField, name, message)
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

fn no_repeats(members: &[Member<'_>], whose: &str) -> Result<(), Failure> {
    match repeated(members) {
        None => Ok(()),
        Some(name) => Err(repeated_member(whose, name)),
    }
}

fn repeated_member(whose: &str, name: &str) -> Failure {
    let name = shortened(name);
    Failure::malformed(format!("{whose} names the member {name:?} more than once"))
}

fn broken_json(text: &str, broken: Broken) -> Failure {
    let (line, column) = broken.place(text);
    Failure::malformed(format!(
        "the event is not valid JSON: {} (line {line}, column {column})",
        broken.what
    ))
}

/// All members of an event's text.
struct Raw<'a> {
    slots: [Option<(Value<'a>, &'static str)>; SLOTS],
    data_text: &'a str,
    data: Vec<Member<'a>>,
    extra: Vec<Member<'a>>,
    /// The first envelope field that was given twice.
    twice: Option<Failure>,
}

impl<'a> Raw<'a> {
    fn empty() -> Self {
        Self {
            slots: [const { None }; SLOTS],
            data_text: "{}",
            data: Vec::new(),
            extra: Vec::new(),
            twice: None,
        }
    }

    fn read(&mut self, text: &'a str) -> Result<(), Broken> {
        let mut reader = Reader::new(text);
        reader.object(|reader, key| {
            let (slot, name) = match &*key.text {
                "id" => (Slot::Id, "id"),
                "client_attempt_id" => (Slot::Id, "client_attempt_id"),
                "type" => (Slot::Type, "type"),
                "user_id" => (Slot::UserId, "user_id"),
                "user_role" => (Slot::UserRole, "user_role"),
                "occurred_at" => (Slot::OccurredAt, "occurred_at"),
                "timestamp" => (Slot::OccurredAt, "timestamp"),
                "sent_at" => (Slot::SentAt, "sent_at"),
                "session_id" => (Slot::SessionId, "session_id"),
                "course_id" => (Slot::CourseId, "course_id"),
                "classroom_id" => (Slot::ClassroomId, "classroom_id"),
                "app" => (Slot::App, "app"),
                "device_type" => (Slot::DeviceType, "device_type"),
                "app_version" => (Slot::AppVersion, "app_version"),
                "data" => (Slot::Data, "data"),
                _ => {
                    let member = Member::read(reader, key)?;
                    self.extra.push(member);
                    return Ok(());
                }
            };
            reader.skip_space();
            let start = reader.at();
            let value = if matches!(slot, Slot::Data) && reader.peek() == Some(b'{') {
                let data = &mut self.data;
                reader.object(|reader, key| {
                    data.push(Member::read(reader, key)?);
                    Ok(())
                })?;
                self.data_text = reader.since(start);
                Value::Object(self.data_text)
            } else {
                reader.value()?
            };
            self.put(slot, value, name);
            Ok(())
        })?;
        reader.end()
    }

    fn put(&mut self, slot: Slot, value: Value<'a>, name: &'static str) {
        let Some(place) = self.slots.get_mut(slot as usize) else { return };
        match place {
            Some((_, before)) if *before == name => {
                self.twice.get_or_insert_with(|| repeated_member("the event", name));
            }
            // A null under one name leaves the other to count.
            Some((before, _)) if *before == Value::Null => *place = Some((value, name)),
            Some(_) if value == Value::Null => {}
            Some(_) => {
                let field = ENVELOPE.get(slot as usize);
                self.twice = self.twice.take().or(field.map(|field| given_twice("", field)));
            }
            None => *place = Some((value, name)),
        }
    }

    /// The value of a field, where it is not null, and the name that it came under.
    fn get(&self, slot: Slot) -> Option<(&Value<'a>, &'static str)> {
        match self.slots.get(slot as usize) {
            Some(Some((value, name))) if *value != Value::Null => Some((value, name)),
            _ => None,
        }
    }

    /// A field's text as it was sent, for answers about events that cannot be taken.
    fn sent_text(&self, slot: Slot) -> Option<String> {
        match self.get(slot)?.0 {
            Value::String(text) => Some(text.chars().take(256).collect()),
            Value::Number(text) => Some(text.chars().take(256).collect()),
            _ => None,
        }
    }

    fn text(&self, slot: Slot) -> Result<Option<&str>, Failure> {
        let Some((value, sent_as)) = self.get(slot) else { return Ok(None) };
        read_id_text(value).map(Some).map_err(|wrong| {
            let name = ENVELOPE.get(slot as usize).map_or(sent_as, |field| field.name);
            Failure::wrong(name.to_owned(), sent_as, wrong)
        })
    }

    fn required(&self, slot: Slot) -> Result<&str, Failure> {
        self.text(slot)?.ok_or_else(|| missing("an event", slot))
    }

    fn label(&self, slot: Slot) -> Result<Option<Box<str>>, Failure> {
        Ok(self.text(slot)?.map(Into::into))
    }

    fn id<T: std::str::FromStr<Err = crate::ids::IdError>>(
        &self,
        slot: Slot,
    ) -> Result<Option<T>, Failure> {
        let Some(text) = self.text(slot)? else { return Ok(None) };
        // `text` has checked the rules already.
        Ok(text.parse().ok())
    }

    fn time(&self, slot: Slot) -> Result<Option<Timestamp>, Failure> {
        let Some((value, sent_as)) = self.get(slot) else { return Ok(None) };
        let read = match value {
            Value::String(text) => Timestamp::parse_rfc3339(text)
                .map_err(|error| Wrong::Time(format!("{:?} {error}", shortened(text)))),
            other => Err(match mismatch(&Kind::Time, other) {
                Wrong::Value(what) | Wrong::Time(what) => Wrong::Time(what),
            }),
        };
        read.map(Some).map_err(|wrong| {
            let name = ENVELOPE.get(slot as usize).map_or(sent_as, |field| field.name);
            Failure::wrong(name.to_owned(), sent_as, wrong)
        })
    }

    fn role(&self) -> Result<UserRole, Failure> {
        let Some((value, sent_as)) = self.get(Slot::UserRole) else {
            return Ok(UserRole::default());
        };
        let role = match value {
            Value::String(text) => UserRole::from_name(text),
            _ => None,
        };
        role.ok_or_else(|| {
            let wrong = mismatch(&Kind::Word(UserRole::NAMES), value);
            Failure::wrong("user_role".to_owned(), sent_as, wrong)
        })
    }
}

/// The members as the text of one object; empty if there are none.
fn object_text(members: &[Member<'_>]) -> Box<str> {
    if members.is_empty() {
        return Box::default();
    }
    let mut text = String::with_capacity(64);
    for member in members {
        text.push(if text.is_empty() { '{' } else { ',' });
        text.push_str(member.key.raw);
        text.push(':');
        text.push_str(member.raw);
    }
    text.push('}');
    text.into_boxed_str()
}

/// Reads one event: one JSON object as a client sent it.
pub fn parse_event(raw: &[u8], cx: &ParseContext<'_>) -> Result<LearningEvent, Rejection> {
    if raw.len() > cx.max_event_bytes {
        let message = format!(
            "the event has {} bytes; at most {} are allowed: send less in data",
            raw.len(),
            cx.max_event_bytes
        );
        return Err(Rejection::new(RejectReason::EventTooLarge, None, message));
    }
    let mut members = Raw::empty();
    let event = read(raw, &mut members, cx);
    event.map_err(|failure| {
        let mut rejection = failure.into_rejection();
        rejection.id = members.sent_text(Slot::Id);
        rejection.type_name = members.sent_text(Slot::Type);
        rejection.app = members.sent_text(Slot::App);
        rejection
    })
}

fn read<'a>(
    raw: &'a [u8],
    members: &mut Raw<'a>,
    cx: &ParseContext<'_>,
) -> Result<LearningEvent, Failure> {
    let text = std::str::from_utf8(raw).map_err(|error| {
        Failure::malformed(format!("the event is not UTF-8 at byte {}", error.valid_up_to()))
    })?;
    members.read(text).map_err(|broken| not_an_event(text, broken))?;
    if let Some(failure) = members.twice.take() {
        return Err(failure);
    }
    no_repeats(&members.extra, "the event")?;
    no_repeats(&members.data, "data")?;
    let mut data = std::mem::take(&mut members.data);
    let mut extra = std::mem::take(&mut members.extra);

    let id_text = members.required(Slot::Id)?;
    let type_text = members.required(Slot::Type)?;
    let event_type = known_type(type_text)?;
    let info = event_type.info();
    let type_name = info.as_ref().map_or(type_text, |info| info.name);
    let Some(user_id) = members.id::<UserId>(Slot::UserId)? else {
        return Err(missing(type_name, Slot::UserId));
    };
    let user_role = members.role()?;
    let Some(occurred_at) = members.time(Slot::OccurredAt)? else {
        return Err(missing(type_name, Slot::OccurredAt));
    };
    let sent_at = members.time(Slot::SentAt)?.or(cx.batch_sent_at);
    let (id, original_id) = EventId::parse(cx.school_id, &user_id, id_text)
        .map_err(|error| Failure::new(RejectReason::InvalidField, "id", format!("id {error}")))?;
    let mut event = LearningEvent {
        id,
        original_id,
        school_id: cx.school_id.clone(),
        user_id,
        user_role,
        occurred_at,
        sent_at,
        received_at: cx.received_at,
        event_time: event_time(occurred_at, sent_at, cx.received_at),
        session_id: members.id(Slot::SessionId)?,
        course_id: members.id(Slot::CourseId)?,
        classroom_id: members.id(Slot::ClassroomId)?,
        app: members.label(Slot::App)?,
        device_type: members.label(Slot::DeviceType)?,
        app_version: members.label(Slot::AppVersion)?,
        payload: Payload::Login,
        data: members.data_text.into(),
        extra: object_text(&extra),
        content_hash: ContentHash::from_bytes([0; 16]),
    };
    if let Some((value, _)) = members.get(Slot::Data)
        && !matches!(value, Value::Object(_))
    {
        let message = format!("data must be an object, not {}", value.describe());
        return Err(Failure::new(RejectReason::InvalidField, "data", message));
    }
    for required in info.iter().flat_map(|info| info.envelope) {
        let (present, slot) = match *required {
            "course_id" => (event.course_id.is_some(), Slot::CourseId),
            "classroom_id" => (event.classroom_id.is_some(), Slot::ClassroomId),
            _ => continue,
        };
        if !present {
            return Err(missing(type_name, slot));
        }
    }
    event.payload = read_payload(event_type, type_text, &mut data)?;
    check_age(&event, cx)?;
    event.content_hash = canonical::content_hash(&event, &mut data, &mut extra);
    Ok(event)
}

fn missing(type_name: &str, slot: Slot) -> Failure {
    match ENVELOPE.get(slot as usize) {
        Some(field) => Failure::missing(type_name, "", field),
        None => Failure::new(RejectReason::MissingField, "data", "data is missing".to_owned()),
    }
}

fn not_an_event(text: &str, broken: Broken) -> Failure {
    let mut reader = Reader::new(text);
    match reader.value() {
        Ok(value) if !matches!(value, Value::Object(_)) && reader.end().is_ok() => {
            Failure::malformed(format!("an event is a JSON object, not {}", value.describe()))
        }
        _ => broken_json(text, broken),
    }
}

fn known_type(name: &str) -> Result<EventType, Failure> {
    EventType::from_name(name).ok_or_else(|| {
        let message = if name.starts_with("custom") {
            format!(
                "type {:?} is not custom.<name>, where the name has 1 to 64 letters, digits, _, - \
                 or .",
                shortened(name)
            )
        } else {
            format!(
                "there is no event type {:?}; the types are listed at /v1/schemas, and an \
                 application's own are named custom.<name>",
                shortened(name)
            )
        };
        Failure::new(RejectReason::UnknownType, "type", message)
    })
}

fn read_payload(
    event_type: EventType,
    type_name: &str,
    members: &mut [Member<'_>],
) -> Result<Payload, Failure> {
    let payload = Payload::read(event_type, type_name, members)?;
    rules::check(&payload)?;
    Ok(payload)
}

impl Payload {
    /// Reads the payload of an event from its type's name and the text of its `data`, such as they
    /// are stored; the same checks as for a new event.
    pub fn parse(type_name: &str, data: &str) -> Result<Self, Rejection> {
        let read = || {
            let event_type = known_type(type_name)?;
            let mut members = Vec::new();
            let mut reader = Reader::new(data);
            let scanned = reader.object(|reader, key| {
                members.push(Member::read(reader, key)?);
                Ok(())
            });
            scanned.and_then(|()| reader.end()).map_err(|broken| broken_json(data, broken))?;
            no_repeats(&members, "data")?;
            read_payload(event_type, type_name, &mut members)
        };
        read().map_err(Failure::into_rejection)
    }
}

/// `occurred_at`, corrected where the device's clock was wrong when the event was sent.
pub fn event_time(
    occurred_at: Timestamp,
    sent_at: Option<Timestamp>,
    received_at: Timestamp,
) -> Timestamp {
    let skew_ms = sent_at.map_or(0, |sent_at| received_at.ms_since(sent_at));
    if skew_ms.abs() > CLOCK_TOLERANCE_MS { occurred_at.plus_ms(skew_ms) } else { occurred_at }
}

fn check_age(event: &LearningEvent, cx: &ParseContext<'_>) -> Result<(), Failure> {
    let (time, received_at) = (event.event_time, cx.received_at);
    if time > received_at.plus(cx.max_future) {
        let message = format!(
            "the event happens at {time}, later than the server's clock ({received_at}) allows: \
             check the device's clock, or send sent_at so that it can be corrected"
        );
        return Err(Failure::new(RejectReason::InFuture, "occurred_at", message));
    }
    if let Some(max_age) = cx.max_age
        && time < received_at.minus(max_age)
    {
        let message = format!(
            "the event happened at {time}, more than {} days before it was received: send old \
             events with a key that has the scope events:backfill",
            max_age.as_secs() / 86_400
        );
        return Err(Failure::new(RejectReason::TooOld, "occurred_at", message));
    }
    Ok(())
}
