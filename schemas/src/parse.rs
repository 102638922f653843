//! From the bytes of one event to an [`EventRef`], or one typed [`Rejection`].
//!
//! In: one JSON object and what the server knows beside it ([`ParseContext`]). Out: the event with
//! all that was received, or the first thing wrong with it: broken JSON first, then the envelope,
//! then `data`, then the times.
//! Always true: no input panics; each member is visited once; a member named twice in the envelope
//! or at the top of `data` rejects the event (inside nested values it is left as it is); unknown
//! members are kept in `extra` and in the text of `data`.
//! Not here: batches ([`crate::batch`]), content types and sizes of bodies (ingest), duplicates of
//! events.

use std::borrow::Cow;
use std::time::Duration;

use crate::canonical::Form;
pub use crate::envelope::ENVELOPE;
use crate::envelope::{Raw, Slot, missing};
use crate::event::{EventRef, LearningEvent};
use crate::failure::{Failure, broken_json};
use crate::ids::{ContentHash, EventId, IdError, SchoolId};
use crate::json::{Broken, Reader, Value, shortened};
use crate::member::{Member, no_repeats, object_text};
use crate::payload::{EventType, Payload};
use crate::reason::{RejectReason, Rejection};
use crate::rules;
use crate::time::Timestamp;

/// A device clock is taken as right while it differs from the server's by at most this.
pub const CLOCK_TOLERANCE_MS: i64 = 5 * 60 * 1000;

/// When an event happened that names no time itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Undated {
    /// Nobody knows: it is rejected.
    #[default]
    Rejected,
    /// When it was sent, by its own `sent_at` or else the batch's. That is another time at each retry,
    /// and so no part of what the event says.
    WhenSent,
}

/// What the server knows about an event beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct ParseContext<'a> {
    /// The school of the credential.
    pub school_id: &'a SchoolId,
    /// When the server took the event in.
    pub received_at: Timestamp,
    /// The `sent_at` of the batch, for events without their own.
    pub batch_sent_at: Option<Timestamp>,
    /// When an event happened that names no time.
    pub undated: Undated,
    /// How long ago an event may have happened; no limit for backfill.
    pub max_age: Option<Duration>,
    /// How far ahead of the server's clock an event may claim to happen.
    pub max_future: Duration,
    /// How many bytes one event may have.
    pub max_event_bytes: usize,
}

/// Reads one event: one JSON object as a client sent it.
#[expect(clippy::result_large_err, reason = "rejections are few, and each is read once")]
pub fn parse_event(raw: &[u8], cx: &ParseContext<'_>) -> Result<LearningEvent, Rejection> {
    EventReader::new().read(raw, cx)?.to_event()
}

/// Reads events one after another: what it needs for one serves the next, so that an event costs
/// no allocation.
#[derive(Default)]
pub struct EventReader<'a> {
    members: Raw<'a>,
    form: Form,
}

impl std::fmt::Debug for EventReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventReader").finish_non_exhaustive()
    }
}

impl<'a> EventReader<'a> {
    /// A reader that has read nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads one event: one JSON object as a client sent it.
    #[expect(clippy::result_large_err, reason = "rejections are few, and each is read once")]
    pub fn read(
        &mut self,
        raw: &'a [u8],
        cx: &ParseContext<'a>,
    ) -> Result<EventRef<'a>, Rejection> {
        let limit = cx.max_event_bytes;
        if raw.len() > limit {
            let message = format!(
                "the event has {} bytes; at most {limit} are allowed: send less in data",
                raw.len(),
            );
            return Err(Rejection::new(RejectReason::EventTooLarge, None, message));
        }
        self.members.clear();
        // Of one type, so that the event is written where the caller wants it, and not copied there.
        let mut read = self.read_members(raw, cx);
        if let Err(rejection) = &mut read {
            rejection.id = self.members.sent_text(Slot::Id);
            rejection.type_name = self.members.sent_text(Slot::Type);
            rejection.app = self.members.sent_text(Slot::App);
        }
        read
    }

    #[expect(clippy::result_large_err, reason = "rejections are few, and each is read once")]
    fn read_members(
        &mut self,
        raw: &'a [u8],
        cx: &ParseContext<'a>,
    ) -> Result<EventRef<'a>, Rejection> {
        let Self { members, form } = self;
        let text = std::str::from_utf8(raw).map_err(|error| {
            Failure::malformed(format!("the event is not UTF-8 at byte {}", error.valid_up_to()))
        })?;
        members.read(text).map_err(|broken| not_an_event(text, broken))?;
        if let Some(failure) = members.twice.take() {
            return Err(failure.into());
        }
        no_repeats(&members.extra, "the event")?;
        no_repeats(&members.data, "data")?;

        let id_text = members.required(Slot::Id)?;
        let type_text = members.required(Slot::Type)?;
        let event_type = known_type(&type_text)?;
        let type_name = match event_type {
            EventType::Custom => type_text,
            known => known.as_str().into(),
        };
        let Some(user_id) = members.text(Slot::UserId)? else {
            return Err(missing(&type_name, Slot::UserId).into());
        };
        let user_role = members.role()?;
        let own_time = members.time(Slot::OccurredAt)?;
        if own_time.is_none() && cx.undated == Undated::Rejected {
            return Err(missing(&type_name, Slot::OccurredAt).into());
        }
        let sent_at = members.time(Slot::SentAt)?.or(cx.batch_sent_at);
        let Some(occurred_at) = own_time.or(sent_at) else {
            return Err(missing(&type_name, Slot::OccurredAt).into());
        };
        let (id, original_id) = EventId::of_id_text(cx.school_id, &user_id, &id_text);
        let mut event = EventRef {
            id,
            original_id: original_id.is_some().then_some(id_text),
            school_id: cx.school_id,
            user_id,
            user_role,
            occurred_at,
            sent_at,
            received_at: cx.received_at,
            event_time: event_time(occurred_at, sent_at, cx.received_at),
            session_id: members.text(Slot::SessionId)?,
            course_id: members.text(Slot::CourseId)?,
            classroom_id: members.text(Slot::ClassroomId)?,
            app: members.text(Slot::App)?,
            device_type: members.text(Slot::DeviceType)?,
            app_version: members.text(Slot::AppVersion)?,
            event_type,
            type_name,
            data: members.data_text,
            extra: object_text(&members.extra).into(),
            content_hash: ContentHash::from_bytes([0; 16]),
        };
        let data = members.value(Slot::Data);
        if !matches!(data, Value::Object(_) | Value::Null) {
            let message = format!("data must be an object, not {}", data.describe());
            return Err(Failure::new(RejectReason::InvalidField, "data", message).into());
        }
        for required in event_type.envelope() {
            let (present, slot) = match *required {
                "course_id" => (event.course_id.is_some(), Slot::CourseId),
                "classroom_id" => (event.classroom_id.is_some(), Slot::ClassroomId),
                _ => continue,
            };
            if !present {
                return Err(missing(&event.type_name, slot).into());
            }
        }
        Payload::check(event_type, &mut members.data)?;
        rules::check(event_type, &members.data)?;
        check_age(&event, cx)?;
        event.content_hash = form.hash(&event, own_time, &mut members.data, &mut members.extra);
        Ok(event)
    }
}

impl EventRef<'_> {
    /// The event with everything that it holds, its payload read from `data`. What was read by an
    /// [`EventReader`] is never rejected here.
    #[expect(clippy::result_large_err, reason = "rejections are few, and each is read once")]
    pub fn to_event(&self) -> Result<LearningEvent, Rejection> {
        let owned = |text: &Option<Cow<'_, str>>| text.as_deref().map(Box::from);
        Ok(LearningEvent {
            id: self.id,
            original_id: owned(&self.original_id),
            school_id: self.school_id.clone(),
            user_id: id_of(&self.user_id)?,
            user_role: self.user_role,
            occurred_at: self.occurred_at,
            sent_at: self.sent_at,
            received_at: self.received_at,
            event_time: self.event_time,
            session_id: self.session_id.as_deref().map(id_of).transpose()?,
            course_id: self.course_id.as_deref().map(id_of).transpose()?,
            classroom_id: self.classroom_id.as_deref().map(id_of).transpose()?,
            app: owned(&self.app),
            device_type: owned(&self.device_type),
            app_version: owned(&self.app_version),
            payload: Payload::parse(&self.type_name, self.data)?,
            data: self.data.into(),
            extra: (&*self.extra).into(),
            content_hash: self.content_hash,
        })
    }
}

#[expect(clippy::result_large_err, reason = "rejections are few, and each is read once")]
fn id_of<T: std::str::FromStr<Err = IdError>>(text: &str) -> Result<T, Rejection> {
    text.parse().map_err(|error: IdError| {
        Rejection::new(RejectReason::InvalidField, None, format!("an id {error}"))
    })
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

impl Payload {
    /// Reads the payload of an event from its type's name and the text of its `data`, such as they
    /// are stored; the same checks as for a new event.
    #[expect(clippy::result_large_err, reason = "rejections are few, and each is read once")]
    pub fn parse(type_name: &str, data: &str) -> Result<Self, Rejection> {
        let event_type = known_type(type_name)?;
        let mut members = Vec::new();
        let mut reader = Reader::new(data);
        let scanned = reader.object(|reader, key| {
            members.push(Member::read(reader, key)?);
            Ok(())
        });
        scanned.and_then(|()| reader.end()).map_err(|broken| broken_json(data, broken))?;
        no_repeats(&members, "data")?;
        let payload = Self::read(event_type, type_name, &mut members)?;
        rules::check(event_type, &members)?;
        Ok(payload)
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

fn check_age(event: &EventRef<'_>, cx: &ParseContext<'_>) -> Result<(), Failure> {
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
