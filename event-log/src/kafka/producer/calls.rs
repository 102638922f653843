//! The calls whose records are under way: one tracker each counts acknowledgements and completes its
//! call once.
//!
//! An acknowledgement finds its call by a number that the record carries ([`Ticket`]). No lock is
//! shared by all calls but the one of the producer's only thread.
//!
//! Always true: every record that was handed to the producer gets exactly one outcome; a tracker lives
//! until the last, and with it what its call holds: its bytes, and its place in a round.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use chalkstream_schemas::LogOffset;
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::ProducerContext;
use tokio::sync::oneshot;

use super::rounds::Round;
use crate::AppendError;
use crate::error::chain;
use crate::kafka::Logging;

const SHARDS: usize = 16;

/// What one append gets back.
pub(super) type Outcomes = Vec<Result<LogOffset, AppendError>>;

/// What the producer's thread works with.
#[derive(Default)]
pub(super) struct Context {
    pub(super) calls: Arc<Calls>,
    /// The call that the last acknowledgement was of: most come in runs.
    last: Mutex<Option<(u32, Arc<Tracker>)>>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Logging.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Logging.error(error, reason);
    }
}

impl ProducerContext for Context {
    /// A [`Ticket`]: a number costs no allocation.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        let outcome = match result {
            Ok(message) => match u64::try_from(message.offset()) {
                Ok(offset) => Ok(LogOffset::new(offset)),
                Err(_negative) => Err(AppendError::Unacknowledged {
                    reason: "Kafka acknowledged it without an offset".into(),
                }),
            },
            Err((error, _)) => {
                Err(AppendError::Unacknowledged { reason: chain(error).as_str().into() })
            }
        };
        let ticket = Ticket::from_opaque(ticket);
        let mut last = self.last.lock();
        if last.as_ref().is_none_or(|(call, _)| *call != ticket.call) {
            *last = self.calls.get(ticket.call).map(|tracker| (ticket.call, tracker));
        }
        let Some((_, tracker)) = &*last else {
            tracing::error!(call = ticket.call, "a record of an unknown call was acknowledged");
            return;
        };
        if tracker.set(ticket.index, outcome) {
            self.calls.remove(ticket.call);
            *last = None;
        }
    }
}

/// Which record of which call an acknowledgement is about, as one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) call: u32,
    pub(super) index: u32,
}

impl Ticket {
    pub(super) const fn into_opaque(self) -> usize {
        const { assert!(usize::BITS >= 64, "a ticket needs 64 bits") };
        (self.call as usize) << 32 | self.index as usize
    }

    #[expect(clippy::cast_possible_truncation, reason = "each half has 32 bits")]
    const fn from_opaque(opaque: usize) -> Self {
        Self { call: (opaque >> 32) as u32, index: opaque as u32 }
    }
}

/// The calls whose records are under way.
#[derive(Default)]
pub(super) struct Calls {
    next: AtomicU32,
    shards: [Mutex<HashMap<u32, Arc<Tracker>>>; SHARDS],
}

impl Calls {
    /// Gives a call a number that no other one under way has.
    pub(super) fn add(&self, tracker: &Arc<Tracker>) -> u32 {
        loop {
            let call = self.next.fetch_add(1, Ordering::Relaxed);
            let mut shard = self.shard(call).lock();
            if let Entry::Vacant(free) = shard.entry(call) {
                free.insert(Arc::clone(tracker));
                return call;
            }
        }
    }

    fn get(&self, call: u32) -> Option<Arc<Tracker>> {
        self.shard(call).lock().get(&call).cloned()
    }

    pub(super) fn remove(&self, call: u32) {
        self.shard(call).lock().remove(&call);
    }

    fn shard(&self, call: u32) -> &Mutex<HashMap<u32, Arc<Tracker>>> {
        let [first, ..] = &self.shards;
        self.shards.get(call as usize % SHARDS).unwrap_or(first)
    }
}

/// Bytes that count as in flight until this drops.
pub(super) struct InFlight {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl InFlight {
    /// Counts these bytes, which were added to `all`, until it drops.
    pub(super) const fn added(bytes: usize, all: Arc<AtomicUsize>) -> Self {
        Self { bytes, all }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// One call of `append`.
pub(super) struct Tracker {
    state: Mutex<TrackerState>,
}

struct TrackerState {
    outcomes: Vec<Option<Result<LogOffset, AppendError>>>,
    open: usize,
    done: Option<oneshot::Sender<Outcomes>>,
    /// Ends when the last of its calls has.
    round: Option<Arc<Round>>,
    in_flight: Option<InFlight>,
}

impl Tracker {
    /// Of so many records, whose bytes are in flight until the call is complete.
    pub(super) fn new(
        count: usize,
        in_flight: InFlight,
    ) -> (Arc<Self>, oneshot::Receiver<Outcomes>) {
        let (done, outcomes) = oneshot::channel();
        let state = TrackerState {
            outcomes: vec![None; count],
            open: count,
            done: Some(done),
            round: None,
            in_flight: Some(in_flight),
        };
        (Arc::new(Self { state: Mutex::new(state) }), outcomes)
    }

    /// Makes the call a part of this round.
    pub(super) fn join(&self, round: &Arc<Round>) {
        self.state.lock().round = Some(Arc::clone(round));
    }

    /// Settles one record; the last one completes the call, and it says so.
    pub(super) fn set(&self, index: u32, outcome: Result<LogOffset, AppendError>) -> bool {
        let mut state = self.state.lock();
        match state.outcomes.get_mut(index as usize) {
            Some(place @ None) => *place = Some(outcome),
            Some(Some(_)) | None => {
                debug_assert!(false, "a record was acknowledged twice");
                return false;
            }
        }
        state.open -= 1;
        if state.open > 0 {
            return false;
        }
        let outcomes = std::mem::take(&mut state.outcomes).into_iter().flatten().collect();
        let (done, round) = (state.done.take(), state.round.take());
        let in_flight = state.in_flight.take();
        drop(state);
        drop((round, in_flight));
        if let Some(done) = done {
            // A caller that left does not matter: its records are in the log.
            drop(done.send(outcomes));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_what_it_was() {
        for ticket in [(0, 0), (1, u32::MAX), (u32::MAX, 7)] {
            let ticket = Ticket { call: ticket.0, index: ticket.1 };
            assert_eq!(Ticket::from_opaque(ticket.into_opaque()), ticket);
        }
    }
}
