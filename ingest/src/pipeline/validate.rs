//! What would become of the events of a request: the same answer, and nothing stored.
//!
//! In: a [`Batch`] and whose it is. Out: an [`Outcome`] as [`Pipeline::run`] would have given it,
//! were it asked now.
//! Always true: nothing is reserved, appended or committed, in neither log; the events are counted
//! in books of their own (`chalkstream_ingest_validated_events`), so the conservation of events
//! that were received does not know them, nor does `ingest_outcomes`.
//! Not here: what only the log can tell, such as that it is down.

use std::sync::Arc;

use super::request::Request;
use super::{Batch, Credential, Outcome, Pipeline, Undecided};
use crate::ledger::Progress;

impl Pipeline {
    /// Tells every event of the batch its fate.
    pub(crate) async fn validate(
        &self,
        batch: &Batch,
        credential: &Credential,
        name_all: bool,
    ) -> Outcome {
        let books = (&self.metrics.validated, &Arc::default());
        let (now, progress) = (self.clock.now(), Progress::default());
        let (mut request, tokens) = Request::open(batch, credential, now, books, progress);
        request.name_all = name_all;
        self.tell(request, tokens).await
    }

    /// As `decide`, without reserving or storing anything.
    pub(super) async fn tell(&self, mut request: Request<'_>, tokens: Vec<Undecided>) -> Outcome {
        let (candidates, followers) = self.parse(&mut request, tokens).await;
        let identities = candidates.iter().map(|candidate| candidate.identity).collect::<Vec<_>>();
        for candidate in self.not_seen(&mut request, candidates, &identities).await {
            request.settle_accepted(candidate);
        }
        for follower in followers {
            request.settle_follower(follower);
        }
        for (token, rejection) in std::mem::take(&mut request.rejections) {
            request.settle_rejected(token, rejection);
        }
        request.ledger.close()
    }
}
