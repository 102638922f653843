//! What the processors themselves put into the rejected log.
//!
//! Always true: an entry is a function of the log record alone, so writing it again after a crash
//! makes an equal row of `rejected_events`.

use chalkstream_core::Position;
use chalkstream_event_log::StoredRecord;
use chalkstream_schemas::{
    LearningEvent, LogOffset, RejectReason, RejectedRecord, SchoolId, Timestamp, learner_of_key,
};

/// The key id of entries that no request brought.
const KEY_ID: &str = "processor";
/// The school of an entry whose record does not tell.
const UNKNOWN_SCHOOL: &str = "unknown";

/// A record, or a row made from one, that could not be taken.
#[derive(Clone, Debug)]
pub(crate) struct Reject {
    pub(crate) at: Position,
    pub(crate) school_id: Option<SchoolId>,
    pub(crate) app: Option<String>,
    pub(crate) type_name: Option<String>,
    pub(crate) reason: RejectReason,
    pub(crate) field: Option<String>,
    pub(crate) message: String,
    pub(crate) received_at: Option<Timestamp>,
    pub(crate) raw: Vec<u8>,
}

impl Reject {
    /// A record whose bytes cannot be read.
    pub(crate) fn undecodable(
        at: Position,
        record: &StoredRecord,
        error: &dyn std::error::Error,
    ) -> Self {
        Self {
            at,
            school_id: learner_of_key(&record.key).map(|(school_id, _user)| school_id),
            app: None,
            type_name: None,
            reason: RejectReason::MalformedJson,
            field: None,
            message: format!("the log record cannot be read: {error}"),
            received_at: Some(record.timestamp),
            raw: record.payload.to_vec(),
        }
    }

    /// A control record that cannot be applied.
    pub(crate) fn control(
        at: Position,
        record: &StoredRecord,
        error: &dyn std::error::Error,
    ) -> Self {
        Self {
            type_name: Some("control".to_owned()),
            reason: RejectReason::InvalidField,
            message: format!("the control record cannot be applied: {error}"),
            ..Self::undecodable(at, record, error)
        }
    }

    /// An event whose id stands at a smaller offset with other content.
    pub(crate) fn conflict(
        at: Position,
        record: &StoredRecord,
        event: &LearningEvent,
        of: LogOffset,
    ) -> Self {
        Self {
            at,
            school_id: Some(event.school_id.clone()),
            app: event.app.as_deref().map(str::to_owned),
            type_name: Some(event.type_name().to_owned()),
            reason: RejectReason::IdConflict,
            field: Some("id".to_owned()),
            message: format!(
                "the id {} of user {} was taken with other content at offset {of}; give every event an id of its own",
                event.id, event.user_id
            ),
            received_at: Some(event.received_at),
            raw: record.payload.to_vec(),
        }
    }

    pub(crate) fn into_record(self) -> RejectedRecord {
        let unknown = || SchoolId::parse(UNKNOWN_SCHOOL);
        let school_id = match self.school_id.map_or_else(unknown, Ok) {
            Ok(school_id) => school_id,
            Err(error) => unreachable!("{UNKNOWN_SCHOOL} is a valid id: {error}"),
        };
        RejectedRecord {
            school_id,
            key_id: KEY_ID.to_owned(),
            app: self.app,
            type_name: self.type_name,
            reason: self.reason,
            field: self.field,
            message: format!("{}, offset {}: {}", self.at.partition, self.at.offset, self.message),
            received_at: self.received_at.unwrap_or(Timestamp::MIN),
            raw: self.raw,
            replayed_at: None,
        }
    }
}
