//! One fate for every event of a request, by construction.
//!
//! In: a token for each event, and the decisions of the pipeline. Out: the [`Outcome`] of a request.
//! Always true: a token is decided at most once (it is moved and cannot be copied); an event whose
//! token was lost counts as `refused` and as an internal error, which every test asserts to be
//! zero; received = accepted + duplicate + rejected + refused + in flight, at every instant. Fates can be
//! read while the request is under way ([`Progress`]).
//! Not here: deciding ([`crate::pipeline`]), HTTP ([`crate::routes`]).

use std::sync::Arc;

use chalkstream_schemas::RefuseReason;
use parking_lot::Mutex;

use crate::fate::{Fate, Outcome, Settled, Tally};
use crate::metrics::events::EventCounts;
use crate::outcomes::Account;

/// An event that has no fate yet. It cannot be copied: whoever holds it decides.
#[derive(Debug)]
#[must_use = "an event must get its fate"]
pub(crate) struct Undecided {
    index: usize,
}

impl Undecided {
    /// Its place in the request.
    pub(crate) fn index(&self) -> usize {
        self.index
    }
}

/// The fates that events of a request have so far, for whoever cannot wait for all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<Mutex<Vec<Option<Settled>>>>);

impl Progress {
    /// Each event that has its fate, with its place in the request. None once the account is closed.
    pub(crate) fn so_far(&self) -> Vec<(usize, Settled)> {
        let settled = self.0.lock();
        let each = settled.iter().enumerate();
        each.filter_map(|(index, event)| Some((index, event.clone()?))).collect()
    }
}

/// The account of one request's events.
#[derive(Debug)]
pub(crate) struct Ledger {
    counts: Arc<EventCounts>,
    shard: usize,
    /// What the events are.
    pub(crate) account: Account,
    settled: Progress,
    open: bool,
}

impl Ledger {
    /// Counts `events` as received and in flight, and hands out their tokens in order.
    pub(crate) fn open(
        counts: &Arc<EventCounts>,
        account: Account,
        events: usize,
        settled: Progress,
    ) -> (Self, Vec<Undecided>) {
        let shard = counts.open(events);
        settled.0.lock().resize_with(events, || None);
        let tokens = (0..events).map(|index| Undecided { index }).collect();
        (Self { counts: Arc::clone(counts), shard, account, settled, open: true }, tokens)
    }

    /// Decides an event.
    pub(crate) fn settle(&mut self, event: Undecided, id: Option<String>, fate: Fate) {
        let mut settled = self.settled.0.lock();
        let Some(place) = settled.get_mut(event.index) else {
            debug_assert!(false, "event {} of another request", event.index);
            return;
        };
        debug_assert!(place.is_none(), "event {} decided twice", event.index);
        *place = Some(Settled { id, fate });
    }

    /// Closes the account: counts every fate, and hands them out.
    pub(crate) fn close(mut self) -> Outcome {
        let settled = std::mem::take(&mut *self.settled.0.lock());
        self.count(settled)
    }

    fn count(&mut self, settled: Vec<Option<Settled>>) -> Outcome {
        self.open = false;
        let mut undecided = 0;
        let lost = || Settled { id: None, fate: Fate::Refused(RefuseReason::Unavailable) };
        let settled = settled
            .into_iter()
            .map(|place| {
                place.unwrap_or_else(|| {
                    undecided += 1;
                    lost()
                })
            })
            .collect::<Vec<_>>();
        let tally = Tally::of(&settled);
        self.counts.close(self.shard, &settled, undecided);
        self.account.close(self.shard, &settled);
        if undecided > 0 {
            tracing::error!(undecided, "events left without a fate");
        }
        Outcome { tally, settled, retry_after: None }
    }
}

impl Drop for Ledger {
    /// A request that was given up half-way: what was not decided is refused. What was stays told.
    fn drop(&mut self) {
        if self.open {
            let settled = self.settled.0.lock().clone();
            let outcome = self.count(settled);
            tracing::debug!(?outcome.tally, "a request's account closed early");
        }
    }
}

#[cfg(test)]
mod tests {
    use chalkstream_access::Credential;
    use chalkstream_schemas::{EventType, RejectReason, Rejection, SchoolId, Timestamp};

    use super::*;
    use crate::outcomes::Outcomes;

    fn open(counts: &Arc<EventCounts>, events: usize) -> (Arc<Outcomes>, Ledger, Vec<Undecided>) {
        let school_id = SchoolId::parse("lincoln").unwrap();
        let credential = Credential::new("k", school_id, Vec::new());
        let outcomes = Arc::new(Outcomes::default());
        let account = outcomes.account(&credential, Timestamp::MIN, events);
        let (ledger, tokens) = Ledger::open(counts, account, events, Progress::default());
        (outcomes, ledger, tokens)
    }

    #[test]
    fn the_books_balance_at_every_step() {
        let counts = Arc::new(EventCounts::default());
        let (_outcomes, mut ledger, tokens) = open(&counts, 4);
        assert_eq!((counts.read().received, counts.read().in_flight), (4, 4));
        assert!(counts.read().balanced());
        let rejection = Rejection::new(RejectReason::TooOld, None, "old");
        let fates = [
            Fate::Rejected(Box::new(rejection)),
            Fate::Accepted(EventType::Login),
            Fate::Duplicate,
            Fate::Refused(RefuseReason::Unavailable),
        ];
        for (token, fate) in tokens.into_iter().zip(fates).rev() {
            ledger.settle(token, None, fate);
            assert!(counts.read().balanced());
        }
        let outcome = ledger.close();
        let each = Tally { accepted: 1, duplicate: 1, rejected: 1, refused: 1, limited: 0 };
        assert_eq!(outcome.tally, each);
        assert_eq!(outcome.settled.len(), 4);
        let read = counts.read();
        assert!(read.balanced());
        assert_eq!((read.in_flight, read.undecided), (0, 0));
    }

    #[test]
    fn an_event_that_was_forgotten_is_refused_and_counted_as_a_bug() {
        let counts = Arc::new(EventCounts::default());
        let (outcomes, mut ledger, tokens) = open(&counts, 3);
        let first = tokens.into_iter().next().unwrap();
        ledger.settle(first, None, Fate::Accepted(EventType::Custom));
        let progress = ledger.settled.clone();
        drop(ledger);
        let read = counts.read();
        assert!(read.balanced());
        assert_eq!((read.accepted, read.refused, read.undecided, read.in_flight), (1, 2, 2, 0));
        let accepted = Settled { id: None, fate: Fate::Accepted(EventType::Custom) };
        assert_eq!(progress.so_far(), [(0, accepted)]);
        let counted: u64 = outcomes.take().iter().map(|(_, events)| events).sum();
        assert_eq!(counted, 3);
    }
}
