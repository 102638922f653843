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

impl Slot {
    /// What the table says; nothing for `data`.
    fn field(self) -> Option<&'static Field> {
        ENVELOPE.get(self as usize)
    }

    /// The field's own name, or its alias.
    fn name(self, is_alias: bool) -> &'static str {
        let Some(field) = self.field() else { return "data" };
        field.aliases.first().copied().filter(|_| is_alias).unwrap_or(field.name)
    }
}

/// A set of slots, one bit each.
#[derive(Clone, Copy, Default)]
struct Slots(u16);

impl Slots {
    const fn contains(self, slot: Slot) -> bool {
        self.0 & (1 << slot as u16) != 0
    }

    /// Whether it was not there before.
    const fn insert(&mut self, slot: Slot) -> bool {
        let new = !self.contains(slot);
        self.0 |= 1 << slot as u16;
        new
    }
}

/// All members of an event's text.
pub(crate) struct Raw<'a> {
    /// By [`Slot`]; null where the field is absent.
    values: [Value<'a>; SLOTS],
    /// What was given under its own name, and what under its alias.
    named: Slots,
    aliased: Slots,
    /// Whose value came under the alias.
    by_alias: Slots,
    pub(crate) data_text: &'a str,
    pub(crate) data: Vec<Member<'a>>,
    pub(crate) extra: Vec<Member<'a>>,
    /// The first envelope field that was given twice.
    pub(crate) twice: Option<Failure>,
}

impl Default for Raw<'_> {
    fn default() -> Self {
        Self {
            values: [Value::Null; SLOTS],
            named: Slots::default(),
            aliased: Slots::default(),
            by_alias: Slots::default(),
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
        self.values = [Value::Null; SLOTS];
        (self.named, self.aliased, self.by_alias) = Default::default();
        self.data_text = "{}";
        self.data.clear();
        self.extra.clear();
        self.twice = None;
    }

    pub(crate) fn read(&mut self, text: &'a str) -> Result<(), Broken> {
        let mut reader = Reader::new(text);
        reader.object(|reader, key| {
            let (slot, is_alias) = match &*key.read() {
                "id" => (Slot::Id, false),
                "client_attempt_id" => (Slot::Id, true),
                "type" => (Slot::Type, false),
                "user_id" => (Slot::UserId, false),
                "user_role" => (Slot::UserRole, false),
                "occurred_at" => (Slot::OccurredAt, false),
                "timestamp" => (Slot::OccurredAt, true),
                "sent_at" => (Slot::SentAt, false),
                "session_id" => (Slot::SessionId, false),
                "course_id" => (Slot::CourseId, false),
                "classroom_id" => (Slot::ClassroomId, false),
                "app" => (Slot::App, false),
                "device_type" => (Slot::DeviceType, false),
                "app_version" => (Slot::AppVersion, false),
                "data" => (Slot::Data, false),
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
            self.put(slot, value, is_alias);
            Ok(())
        })?;
        reader.end()
    }

    fn put(&mut self, slot: Slot, value: Value<'a>, is_alias: bool) {
        let given = if is_alias { &mut self.aliased } else { &mut self.named };
        if !given.insert(slot) {
            self.twice.get_or_insert_with(|| repeated_member("the event", slot.name(is_alias)));
            return;
        }
        let Some(place) = self.values.get_mut(slot as usize) else { return };
        match (&place, value) {
            // A null under one name leaves the other to count.
            (_, Value::Null) => {}
            (Value::Null, _) => {
                *place = value;
                if is_alias {
                    self.by_alias.insert(slot);
                }
            }
            _ => {
                self.twice = self.twice.take().or(slot.field().map(|field| given_twice("", field)));
            }
        }
    }

    /// The value of a field; null where it is absent.
    #[inline]
    pub(crate) fn value(&self, slot: Slot) -> Value<'a> {
        self.values.get(slot as usize).copied().unwrap_or(Value::Null)
    }

    /// A field's text as it was sent, for answers about events that cannot be taken.
    pub(crate) fn sent_text(&self, slot: Slot) -> Option<String> {
        match self.value(slot) {
            Value::String(text) => Some(text.read().chars().take(256).collect()),
            Value::Number(text) => Some(text.chars().take(256).collect()),
            _ => None,
        }
    }

    /// A field that is a text, by the rules of ids.
    #[inline(always)]
    pub(crate) fn text(&self, slot: Slot) -> Result<Option<Cow<'a, str>>, Failure> {
        match self.value(slot) {
            Value::Null => Ok(None),
            value => read_id_text(&value).map(Some).map_err(|wrong| self.wrong(slot, wrong)),
        }
    }

    #[inline(always)]
    pub(crate) fn required(&self, slot: Slot) -> Result<Cow<'a, str>, Failure> {
        self.text(slot)?.ok_or_else(|| missing("an event", slot))
    }

    pub(crate) fn time(&self, slot: Slot) -> Result<Option<Timestamp>, Failure> {
        let read = match self.value(slot) {
            Value::Null => return Ok(None),
            Value::String(text) => {
                let text = text.read();
                Timestamp::parse_rfc3339(&text)
                    .map_err(|error| Wrong::Time(format!("{:?} {error}", shortened(&text))))
            }
            other => Err(match mismatch(&Kind::Time, &other) {
                Wrong::Value(what) | Wrong::Time(what) => Wrong::Time(what),
            }),
        };
        read.map(Some).map_err(|wrong| self.wrong(slot, wrong))
    }

    pub(crate) fn role(&self) -> Result<UserRole, Failure> {
        let value = self.value(Slot::UserRole);
        let role = match value {
            Value::Null => Some(UserRole::default()),
            Value::String(text) => UserRole::from_name(&text.read()),
            _ => None,
        };
        let wrong = || mismatch(&Kind::Word(UserRole::NAMES), &value);
        role.ok_or_else(|| self.wrong(Slot::UserRole, wrong()))
    }

    #[cold]
    fn wrong(&self, slot: Slot, wrong: Wrong) -> Failure {
        let sent_as = slot.name(self.by_alias.contains(slot));
        Failure::wrong(slot.name(false).to_owned(), sent_as, wrong)
    }
}

/// An event of this type lacks an envelope field.
pub(crate) fn missing(type_name: &str, slot: Slot) -> Failure {
    match slot.field() {
        Some(field) => Failure::missing(type_name, "", field),
        None => Failure::new(RejectReason::MissingField, "data", "data is missing".to_owned()),
    }
}
