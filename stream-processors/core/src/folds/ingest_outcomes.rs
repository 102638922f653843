//! `ingest_outcomes`: what became of events, counted by the nodes that took them in.
//!
//! Always true: a row holds all events of its series and instance so far, so the higher count is
//! the newer one and stands, whatever the order of writing. The view adds up the instances.

use chalkstream_schemas::{OutcomeSeries, Timestamp};
use uuid::Uuid;

use crate::row::table_row;

table_row! {
    /// One series of one counting instance.
    pub struct IngestOutcomeRow<'a> in "ingest_outcomes_raw" {
        /// The school.
        school_id: &'a str,
        /// Begin of the hour.
        hour: Timestamp,
        /// The write key.
        key_id: &'a str,
        /// The application, or empty.
        app: &'a str,
        /// The event type, or empty.
        type_name: &'a str,
        /// The fate.
        status: &'a str,
        /// The reason, or empty.
        reason: &'a str,
        /// Who counted, since when.
        instance: Uuid,
        /// Events of the series since then.
        event_count: u64,
    }
}

impl<'a> IngestOutcomeRow<'a> {
    /// The row of a count of the topic `chalkstream.rejected`.
    pub fn of(instance: Uuid, series: &'a OutcomeSeries, event_count: u64) -> Self {
        Self {
            school_id: series.school_id.as_str(),
            hour: series.hour,
            key_id: &series.key_id,
            app: &series.app,
            type_name: &series.type_name,
            status: series.outcome.status(),
            reason: series.outcome.reason(),
            instance,
            event_count,
        }
    }
}
