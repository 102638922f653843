//! The envelope: its fields, and an event's members sorted into them.
//!
//! In: the text of one event. Out: a slot for each known field, the members of `data`, and the
//! unknown members.
//! Always true: nothing is interpreted before all of the text is known to be JSON.

use std::borrow::Cow;

use crate::event::UserRole;
use crate::failure::{Failure, given_twice, repeated_member};
use crate::fields::{Field, Kind, Wrong, mismatch, read_id_text};
use crate::json::{Broken, Reader, Value, shortened};
use crate::member::Member;
use crate::reason::RejectReason;
use crate::time::Timestamp;

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
pub(crate) enum Slot {
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

/// What was given for a field, and under which name.
struct Given<'a> {
    value: Value<'a>,
    name: &'static str,
    /// Whether a null came under the field's other name.
    both: bool,
}

/// All members of an event's text.
pub(crate) struct Raw<'a> {
    slots: [Option<Given<'a>>; SLOTS],
    pub(crate) data_text: &'a str,
    pub(crate) data: Vec<Member<'a>>,
    pub(crate) extra: Vec<Member<'a>>,
    /// The first envelope field that was given twice.
    pub(crate) twice: Option<Failure>,
}

impl Default for Raw<'_> {
    fn default() -> Self {
        Self {
            slots: [const { None }; SLOTS],
            data_text: "{}",
            data: Vec::new(),
            extra: Vec::new(),
            twice: None,
        }
    }
}

impl<'a> Raw<'a> {
    /// Forgets the event before, and keeps its room for the next.
    pub(crate) fn clear(&mut self) {
        self.slots = [const { None }; SLOTS];
        self.data_text = "{}";
        self.data.clear();
        self.extra.clear();
        self.twice = None;
    }

    pub(crate) fn read(&mut self, text: &'a str) -> Result<(), Broken> {
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

    pub(crate) fn put(&mut self, slot: Slot, value: Value<'a>, name: &'static str) {
        let Some(place) = self.slots.get_mut(slot as usize) else { return };
        match place {
            Some(before) if before.name == name || before.both => {
                self.twice.get_or_insert_with(|| repeated_member("the event", name));
            }
            // A null under one name leaves the other to count.
            Some(before) if before.value == Value::Null => {
                *place = Some(Given { value, name, both: true });
            }
            Some(before) if value == Value::Null => before.both = true,
            Some(_) => {
                let field = ENVELOPE.get(slot as usize);
                self.twice = self.twice.take().or(field.map(|field| given_twice("", field)));
            }
            None => *place = Some(Given { value, name, both: false }),
        }
    }

    /// The value of a field, where it is not null, and the name that it came under.
    pub(crate) fn get(&self, slot: Slot) -> Option<(&Value<'a>, &'static str)> {
        match self.slots.get(slot as usize) {
            Some(Some(given)) if given.value != Value::Null => Some((&given.value, given.name)),
            _ => None,
        }
    }

    /// A field's text as it was sent, for answers about events that cannot be taken.
    pub(crate) fn sent_text(&self, slot: Slot) -> Option<String> {
        match self.get(slot)?.0 {
            Value::String(text) => Some(text.chars().take(256).collect()),
            Value::Number(text) => Some(text.chars().take(256).collect()),
            _ => None,
        }
    }

    /// A field that is a text, by the rules of ids.
    pub(crate) fn text(&self, slot: Slot) -> Result<Option<Cow<'a, str>>, Failure> {
        let Some((value, sent_as)) = self.get(slot) else { return Ok(None) };
        let checked = read_id_text(value).map(|_checked| match value {
            Value::String(text) => Some(text.clone()),
            _ => None,
        });
        checked.map_err(|wrong| {
            let name = ENVELOPE.get(slot as usize).map_or(sent_as, |field| field.name);
            Failure::wrong(name.to_owned(), sent_as, wrong)
        })
    }

    pub(crate) fn required(&self, slot: Slot) -> Result<Cow<'a, str>, Failure> {
        self.text(slot)?.ok_or_else(|| missing("an event", slot))
    }

    pub(crate) fn time(&self, slot: Slot) -> Result<Option<Timestamp>, Failure> {
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

    pub(crate) fn role(&self) -> Result<UserRole, Failure> {
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

/// An event of this type lacks an envelope field.
pub(crate) fn missing(type_name: &str, slot: Slot) -> Failure {
    match ENVELOPE.get(slot as usize) {
        Some(field) => Failure::missing(type_name, "", field),
        None => Failure::new(RejectReason::MissingField, "data", "data is missing".to_owned()),
    }
}
