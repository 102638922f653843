//! Rejected events once more through the pipeline, after a fix (`chalkstream rejected replay`).
//!
//! In: records of the rejected log. Out: what became of each event now.
//! Always true: the same pipeline decides, with the rights of the event's school and no limit on
//! its age; only the bytes that were rejected are sent, so nothing else of their batch is touched,
//! and an id that was accepted meanwhile is a duplicate. What is accepted or a duplicate is marked
//! in the rejected log (`replayed_at`), after it is durable: a crash in between leaves a duplicate
//! for the next replay to mark. A dry run stores nothing.
//! Not here: which events (the binary asks the view `rejected_events`).

use bytes::Bytes;
use chalkstream_access::{Credential, Scope};
use chalkstream_schemas::{EventOutcome, RejectedRecord, Timestamp};
use tokio::time::Instant;

use crate::assembly::Ingest;
use crate::decode::Batch;

/// The `key_id` of rejected events that are replayed; no key or token has it.
const REPLAY: &str = "replay";

impl Ingest {
    /// Sends the records' bytes again, in their order, and tells what became of each.
    pub async fn replay(&self, records: &[RejectedRecord], dry_run: bool) -> Vec<EventOutcome> {
        let mut outcomes = Vec::with_capacity(records.len());
        for of_school in records.chunk_by(|one, next| one.school_id == next.school_id) {
            outcomes.extend(self.replay_school(of_school, dry_run).await);
        }
        outcomes
    }

    async fn replay_school(&self, records: &[RejectedRecord], dry_run: bool) -> Vec<EventOutcome> {
        let Some(first) = records.first() else { return Vec::new() };
        let credential =
            Credential::new(REPLAY, first.school_id.clone(), vec![Scope::EventsBackfill]);
        let times: Vec<Timestamp> = records.iter().map(|record| record.received_at).collect();
        let batch = batch(records);
        let pipeline = &self.app.pipeline;
        let outcome = if dry_run {
            pipeline.foresee(&batch, &credential, &times).await
        } else {
            let _working = self.app.lifecycle.work();
            let deadline = Instant::now() + self.app.options.get().request_timeout.get();
            pipeline.replay(&batch, &credential, &times, deadline).await
        };
        let outcomes: Vec<_> = outcome.settled.iter().map(|event| event.fate.outcome()).collect();
        if !dry_run {
            let taken = records.iter().zip(&outcomes).filter(|(_, outcome)| match outcome {
                EventOutcome::Accepted | EventOutcome::Duplicate => true,
                EventOutcome::Rejected(_) | EventOutcome::Refused(_) => false,
            });
            pipeline.mark_replayed(taken.map(|(record, _)| record.clone()).collect()).await;
        }
        outcomes
    }
}

/// The events one behind the other, as a body holds them.
fn batch(records: &[RejectedRecord]) -> Batch {
    let mut body = Vec::new();
    let mut events = Vec::with_capacity(records.len());
    for record in records {
        let start = body.len();
        body.extend_from_slice(&record.raw);
        events.push(start..body.len());
    }
    Batch { body: Bytes::from(body), events, ..Batch::default() }
}
