//! The stored form of a log record: protobuf, `chalkstream.log.v1`, with a format version.
//!
//! In: an event, a control record, a rejected event, or counts. Out: bytes, and the same value again,
//! of an event with its record's key, which says whose it is.
//! Always true: decoding what was encoded gives an equal value; bytes of another format fail to
//! decode and never default. The payload is read again from the text of `data` by the code that
//! read it first.
//! Not here: keys ([`crate::key`]), offsets and topics (event-log).

use std::ops::RangeInclusive;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use uuid::Uuid;

use crate::control::ControlRecord;
use crate::event::{EventRef, LearningEvent, UserRole};
use crate::ids::{ContentHash, EventId, IdError, SchoolId};
use crate::key::learner_of_key;
use crate::outcome::{EventOutcome, OutcomeCounts, OutcomeSeries};
use crate::payload::{EventType, Payload};
use crate::proto::log::v1 as wire;
use crate::reason::{RejectReason, Rejection};
use crate::time::Timestamp;

/// The format of an event's record as this version writes it; its key says whose it is.
const FORMAT: u32 = 2;

/// The first format. Control records and what the topic `chalkstream.rejected` holds still have it, and
/// events that have it are read: their records say themselves whose they are.
const FIRST_FORMAT: u32 = 1;

/// A record of the topic `chalkstream.events`.
#[derive(Clone, Debug, PartialEq)]
pub enum LogRecord {
    /// What somebody did.
    Event(Box<LearningEvent>),
    /// What folds use from here on.
    Control(ControlRecord),
}

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no protobuf of the expected message.
    #[error("the record is not a protobuf message of chalkstream.log.v1")]
    Protobuf(#[from] prost::DecodeError),
    /// Another version wrote the record.
    #[error("the record has format {found}, which this version does not read")]
    Format {
        /// The record's format.
        found: u32,
    },
    /// A field is absent or invalid.
    #[error("the record's field {0} is absent or invalid")]
    Field(&'static str),
    /// The key names no learner.
    #[error("the record's key names no learner")]
    Key,
    /// `data` is not valid for the event's type.
    #[error("the record's payload is not valid: {0}")]
    Payload(Box<Rejection>),
}

/// Appends an event's record to `out`, straight from the event: the hot path of ingest. It needs the
/// [`record_key`](crate::record_key) of the event's learner beside it.
pub fn encode_event(event: &EventRef<'_>, out: &mut Vec<u8>) {
    varint_field(1, u64::from(FORMAT), out);
    encode_key(2, WireType::LengthDelimited, out);
    // The length of nearly every event takes two bytes; where it does not, the body moves.
    let length_at = out.len();
    out.extend_from_slice(&[0; 2]);
    let body_at = out.len();
    encode_stored_event(event, out);
    let mut length = [0; 10];
    let mut rest = &mut length[..];
    encode_varint((out.len() - body_at) as u64, &mut rest);
    let taken = 10 - rest.len();
    out.splice(length_at..body_at, length.into_iter().take(taken));
}

/// The fields of `StoredEvent` with their numbers from `record.proto`; a test reads and writes the
/// same bytes with the generated types.
fn encode_stored_event(event: &EventRef<'_>, out: &mut Vec<u8>) {
    bytes_field(1, event.id.as_uuid().as_bytes(), out);
    optional_field(2, event.original_id.as_deref(), out);
    varint_field(5, role_to_wire(event.user_role), out);
    time_field(6, event.occurred_at, out);
    if let Some(sent_at) = event.sent_at {
        time_field(7, sent_at, out);
    }
    time_field(8, event.received_at, out);
    if event.event_time != event.occurred_at {
        time_field(9, event.event_time, out);
    }
    optional_field(10, event.session_id.as_deref(), out);
    optional_field(11, event.course_id.as_deref(), out);
    optional_field(12, event.classroom_id.as_deref(), out);
    optional_field(13, event.app.as_deref(), out);
    optional_field(14, event.device_type.as_deref(), out);
    optional_field(15, event.app_version.as_deref(), out);
    let is_custom = event.event_type == EventType::Custom;
    optional_field(16, is_custom.then_some(&*event.type_name), out);
    bytes_field(17, event.data.as_bytes(), out);
    optional_field(18, Some(&*event.extra).filter(|extra| !extra.is_empty()), out);
    bytes_field(19, event.content_hash.as_bytes(), out);
    if !is_custom {
        varint_field(20, u64::from(event.event_type.number()), out);
    }
}

fn bytes_field(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn optional_field(tag: u32, text: Option<&str>, out: &mut Vec<u8>) {
    if let Some(text) = text {
        bytes_field(tag, text.as_bytes(), out);
    }
}

fn varint_field(tag: u32, number: u64, out: &mut Vec<u8>) {
    encode_key(tag, WireType::Varint, out);
    encode_varint(number, out);
}

fn time_field(tag: u32, time: Timestamp, out: &mut Vec<u8>) {
    encode_key(tag, WireType::SixtyFourBit, out);
    out.extend_from_slice(&time.as_ms().to_le_bytes());
}

impl LogRecord {
    /// The bytes to store, an event's under the [`record_key`](crate::record_key) of its learner.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Event(event) => encode_event(&event.by_ref(), &mut out),
            Self::Control(control) => {
                let body = wire::record::Body::Control(control.to_wire());
                out = wire::Record { format: FIRST_FORMAT, body: Some(body) }.encode_to_vec();
            }
        }
        out
    }

    /// The record of stored bytes under this key. That of a control record says nothing.
    pub fn decode(key: &[u8], bytes: &[u8]) -> Result<Self, DecodeError> {
        let record = wire::Record::decode(bytes)?;
        check_format(record.format, FIRST_FORMAT..=FORMAT)?;
        match record.body.ok_or(DecodeError::Field("body"))? {
            wire::record::Body::Event(event) => {
                let key = (record.format > FIRST_FORMAT).then_some(key);
                event_from_wire(key, *event).map(|event| Self::Event(Box::new(event)))
            }
            wire::record::Body::Control(control) => {
                ControlRecord::from_wire(control).map(Self::Control)
            }
        }
    }
}

fn check_format(found: u32, read: RangeInclusive<u32>) -> Result<(), DecodeError> {
    if read.contains(&found) { Ok(()) } else { Err(DecodeError::Format { found }) }
}

/// An event whose record says itself whose it is, unless it is given its key.
fn event_from_wire(
    key: Option<&[u8]>,
    stored: wire::StoredEvent,
) -> Result<LearningEvent, DecodeError> {
    let time = |ms, field| Timestamp::try_from_ms(ms).ok_or(DecodeError::Field(field));
    let user_role = role_from_wire(stored.user_role())?;
    let (school_id, user_id) = match key {
        Some(key) => learner_of_key(key).ok_or(DecodeError::Key)?,
        None => (id(stored.school_id, "school_id")?, id(stored.user_id, "user_id")?),
    };
    let type_name = match stored.type_number {
        0 => &*stored.r#type,
        number => EventType::from_number(number).ok_or(DecodeError::Field("type_number"))?.as_str(),
    };
    let payload = Payload::parse(type_name, &stored.data)
        .map_err(|rejection| DecodeError::Payload(Box::new(rejection)))?;
    let occurred_at = time(stored.occurred_at_ms, "occurred_at_ms")?;
    let content_hash = <[u8; 16]>::try_from(stored.content_hash.as_slice())
        .map_err(|_not_16_bytes| DecodeError::Field("content_hash"))?;
    Ok(LearningEvent {
        id: Uuid::from_slice(&stored.id)
            .map(EventId::from_uuid)
            .map_err(|_not_16_bytes| DecodeError::Field("id"))?,
        original_id: stored.original_id.map(Into::into),
        school_id,
        user_id,
        user_role,
        occurred_at,
        sent_at: stored.sent_at_ms.map(|ms| time(ms, "sent_at_ms")).transpose()?,
        received_at: time(stored.received_at_ms, "received_at_ms")?,
        event_time: match stored.event_time_ms {
            Some(ms) => time(ms, "event_time_ms")?,
            None => occurred_at,
        },
        session_id: stored.session_id.map(|text| id(text, "session_id")).transpose()?,
        course_id: stored.course_id.map(|text| id(text, "course_id")).transpose()?,
        classroom_id: stored.classroom_id.map(|text| id(text, "classroom_id")).transpose()?,
        app: stored.app.map(Into::into),
        device_type: stored.device_type.map(Into::into),
        app_version: stored.app_version.map(Into::into),
        payload,
        data: stored.data.into(),
        extra: stored.extra.into(),
        content_hash: ContentHash::from_bytes(content_hash),
    })
}

fn id<T: TryFrom<String, Error = IdError>>(
    text: String,
    field: &'static str,
) -> Result<T, DecodeError> {
    T::try_from(text).map_err(|_id_error| DecodeError::Field(field))
}

const fn role_to_wire(role: UserRole) -> u64 {
    (match role {
        UserRole::Student => wire::Role::Student,
        UserRole::Teacher => wire::Role::Teacher,
        UserRole::Parent => wire::Role::Parent,
        UserRole::Admin => wire::Role::Admin,
    }) as u64
}

const fn role_from_wire(role: wire::Role) -> Result<UserRole, DecodeError> {
    match role {
        wire::Role::Unspecified => Err(DecodeError::Field("user_role")),
        wire::Role::Student => Ok(UserRole::Student),
        wire::Role::Teacher => Ok(UserRole::Teacher),
        wire::Role::Parent => Ok(UserRole::Parent),
        wire::Role::Admin => Ok(UserRole::Admin),
    }
}

/// An event as it came, and why it was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRecord {
    /// The school of the credential.
    pub school_id: SchoolId,
    /// The key that was used.
    pub key_id: String,
    /// The event's `app`, where it could be read.
    pub app: Option<String>,
    /// The event's type as it was sent, where it could be read.
    pub type_name: Option<String>,
    /// The typed reason.
    pub reason: RejectReason,
    /// The field at fault.
    pub field: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
    /// When the server took the event in.
    pub received_at: Timestamp,
    /// The event's bytes.
    pub raw: Vec<u8>,
    /// When a replay found it accepted after all.
    pub replayed_at: Option<Timestamp>,
}

/// What the topic `chalkstream.rejected` holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RejectedEntry {
    /// An event that was not taken.
    Event(Box<RejectedRecord>),
    /// Counts of what became of events.
    Outcomes(OutcomeCounts),
}

impl RejectedEntry {
    /// The entry of stored bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut stored = wire::Rejected::decode(bytes)?;
        check_format(stored.format, FIRST_FORMAT..=FIRST_FORMAT)?;
        match stored.outcomes.take() {
            Some(outcomes) => outcomes_from_wire(outcomes).map(Self::Outcomes),
            None => rejected_from_wire(stored).map(|record| Self::Event(Box::new(record))),
        }
    }
}

impl RejectedRecord {
    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        wire::Rejected {
            format: FIRST_FORMAT,
            school_id: self.school_id.to_string(),
            key_id: self.key_id.clone(),
            app: self.app.clone(),
            r#type: self.type_name.clone(),
            reason: self.reason.as_str().to_owned(),
            field: self.field.clone(),
            message: self.message.clone(),
            received_at_ms: self.received_at.as_ms(),
            raw: self.raw.clone(),
            replayed_at_ms: self.replayed_at.map(Timestamp::as_ms),
            outcomes: None,
        }
        .encode_to_vec()
    }
}

fn rejected_from_wire(stored: wire::Rejected) -> Result<RejectedRecord, DecodeError> {
    let time = |ms, field| Timestamp::try_from_ms(ms).ok_or(DecodeError::Field(field));
    Ok(RejectedRecord {
        school_id: id(stored.school_id, "school_id")?,
        key_id: stored.key_id,
        app: stored.app,
        type_name: stored.r#type,
        reason: RejectReason::from_name(&stored.reason).ok_or(DecodeError::Field("reason"))?,
        field: stored.field,
        message: stored.message,
        received_at: time(stored.received_at_ms, "received_at_ms")?,
        raw: stored.raw,
        replayed_at: stored.replayed_at_ms.map(|ms| time(ms, "replayed_at_ms")).transpose()?,
    })
}

impl OutcomeCounts {
    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        let counts = self.counts.iter().map(|(series, events)| wire::OutcomeCount {
            hour_ms: series.hour.as_ms(),
            school_id: series.school_id.to_string(),
            key_id: series.key_id.to_string(),
            app: series.app.to_string(),
            r#type: series.type_name.to_string(),
            status: series.outcome.status().to_owned(),
            reason: series.outcome.reason().to_owned(),
            events: *events,
        });
        let instance = self.instance.as_bytes().to_vec();
        let outcomes = wire::Outcomes { instance, counts: counts.collect() };
        let outcomes = Some(outcomes);
        wire::Rejected { format: FIRST_FORMAT, outcomes, ..Default::default() }.encode_to_vec()
    }
}

fn outcomes_from_wire(stored: wire::Outcomes) -> Result<OutcomeCounts, DecodeError> {
    let instance = Uuid::from_slice(&stored.instance)
        .map_err(|_not_16_bytes| DecodeError::Field("instance"))?;
    let counts = stored.counts.into_iter().map(|count| {
        let series = OutcomeSeries {
            hour: Timestamp::try_from_ms(count.hour_ms).ok_or(DecodeError::Field("hour_ms"))?,
            school_id: id(count.school_id, "school_id")?,
            key_id: count.key_id.into(),
            app: count.app.into(),
            type_name: count.r#type.into(),
            outcome: EventOutcome::from_names(&count.status, &count.reason)
                .ok_or(DecodeError::Field("status"))?,
        };
        Ok((series, count.events))
    });
    Ok(OutcomeCounts { instance, counts: counts.collect::<Result<_, DecodeError>>()? })
}
