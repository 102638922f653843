//! `rejected_events`: one row per school and raw bytes that were refused for good.
//!
//! Always true: of equal bytes the earliest refusal stays, whatever the order of writing, until a
//! replay that was accepted says so.

use chalkstream_schemas::{RejectedRecord, Timestamp};

use crate::row::table_row;

table_row! {
    /// One rejected event.
    pub struct RejectedEventRow<'a> in "rejected_events_raw" {
        /// The school.
        school_id: &'a str,
        /// The reason's public name.
        reason: &'a str,
        /// The field at fault.
        field: Option<&'a str>,
        /// What to do about it.
        message: &'a str,
        /// The application.
        app: Option<&'a str>,
        /// The event type that was claimed.
        type_name: Option<&'a str>,
        /// The write key that sent it.
        key_id: &'a str,
        /// When the server took it in.
        received_at: Timestamp,
        /// The bytes.
        raw: &'a [u8],
        /// Higher for what came earlier; highest for what was replayed.
        version: u64,
        /// When a replay found it accepted after all.
        replayed_at: Option<Timestamp>,
    }
}

impl<'a> RejectedEventRow<'a> {
    /// The row of a record of the topic `chalkstream.rejected`.
    pub fn of(record: &'a RejectedRecord) -> Self {
        Self {
            school_id: record.school_id.as_str(),
            reason: record.reason.as_str(),
            field: record.field.as_deref(),
            message: &record.message,
            app: record.app.as_deref(),
            type_name: record.type_name.as_deref(),
            key_id: &record.key_id,
            received_at: record.received_at,
            raw: &record.raw,
            version: match record.replayed_at {
                None => u64::MAX - record.received_at.as_ms().unsigned_abs(),
                Some(_) => u64::MAX,
            },
            replayed_at: record.replayed_at,
        }
    }
}
