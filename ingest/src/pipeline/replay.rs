//! The pipeline for events that were rejected before.

use std::sync::Arc;

use chalkstream_event_log::Topic;
use chalkstream_schemas::{RejectedRecord, Timestamp};
use tokio::time::Instant;

use super::request::Request;
use super::{Batch, Credential, Outcome, Pipeline, rejected_record};
use crate::ledger::Progress;
use crate::metrics::LogCall;

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
