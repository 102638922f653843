//! The pipeline for events that were rejected before.
//!
//! Always true: an event's time is corrected as it would have been when it was first received; how
//! old it is does not matter, and how far ahead it may be counts from now.

use std::sync::Arc;
use std::time::Duration;

use chalkstream_event_log::Topic;
use chalkstream_schemas::{
    EventReader, EventRef, ParseContext, RejectedRecord, Rejection, Timestamp,
};
use tokio::time::Instant;

use super::request::Request;
use super::{Batch, Credential, Outcome, Pipeline, rejected_record};
use crate::fate::Progress;
use crate::metrics::LogCall;

/// Reads an event that was first received at `first`; it is received again now.
#[expect(clippy::result_large_err, reason = "rejections are few, and each is read once")]
pub(super) fn read_again<'a>(
    reader: &mut EventReader<'a>,
    raw: &'a [u8],
    now: &ParseContext<'a>,
    first: Timestamp,
) -> Result<EventRef<'a>, Rejection> {
    let since = u64::try_from(now.received_at.ms_since(first)).unwrap_or_default();
    let then = ParseContext {
        received_at: first,
        max_age: None,
        max_future: now.max_future + Duration::from_millis(since),
        ..*now
    };
    let mut event = reader.read(raw, &then)?;
    event.received_at = now.received_at;
    Ok(event)
}

impl Pipeline {
    /// Gives every event its fate, as [`Pipeline::run`] does.
    pub(crate) async fn replay(
        &self,
        batch: &Batch,
        credential: &Credential,
        first_received: &[Timestamp],
        deadline: Instant,
    ) -> Outcome {
        let books = (&self.metrics.events, &self.outcomes);
        let (now, progress) = (self.clock.now(), Progress::default());
        let (mut request, tokens) = Request::open(batch, credential, now, books, progress);
        request.first_received = Some(first_received);
        self.decide(request, tokens, deadline).await
    }

    /// What [`Pipeline::replay`] would give now, without storing or counting anything.
    pub(crate) async fn foresee(
        &self,
        batch: &Batch,
        credential: &Credential,
        first_received: &[Timestamp],
    ) -> Outcome {
        let books = (&Arc::default(), &Arc::default());
        let (now, progress) = (self.clock.now(), Progress::default());
        let (mut request, tokens) = Request::open(batch, credential, now, books, progress);
        request.first_received = Some(first_received);
        self.tell(request, tokens).await
    }

    /// Notes in the rejected log that these are no longer open.
    pub(crate) async fn mark_replayed(&self, taken: Vec<RejectedRecord>) {
        if taken.is_empty() {
            return;
        }
        let partitions = self.log.partitions(Topic::Rejected);
        let replayed_at = Some(self.clock.now());
        let marks = taken
            .into_iter()
            .map(|record| rejected_record(RejectedRecord { replayed_at, ..record }, partitions))
            .collect();
        // What fails is logged there; the next replay finds a duplicate and marks it then.
        drop(self.append(Topic::Rejected, marks, LogCall::AppendRejected).await);
    }
}
