//! Appending: one tracker per call counts its records' acknowledgements and completes it once.
//!
//! An acknowledgement finds its call by a number that the record carries. No lock is shared by all
//! calls but the one of the producer's only thread.
//!
//! Always true: every record that was handed to the producer gets exactly one outcome; bytes count
//! against the limit from the call until the acknowledgement. A call is taken as a whole or is
//! busy as a whole, so that no later record of a learner overtakes a refused one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use chalkstream_schemas::LogOffset;
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;

use super::{KafkaOptions, Logging, admin};
use crate::error::chain;
use crate::{AppendError, Error, NewRecord, Topic};

const SHARDS: usize = 16;

/// What one append gets back.
type Outcomes = Vec<Result<LogOffset, AppendError>>;

/// The producer and the bytes that are under way.
pub(super) struct Appender {
    producer: ThreadedProducer<Context>,
    calls: Arc<Calls>,
    in_flight: Arc<AtomicUsize>,
    queue_bytes: usize,
    record_max_bytes: usize,
    options: KafkaOptions,
}

impl std::fmt::Debug for Appender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appender").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

/// What the producer's thread works with.
#[derive(Default)]
struct Context {
    calls: Arc<Calls>,
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
struct Ticket {
    call: u32,
    index: u32,
}

impl Ticket {
    const fn into_opaque(self) -> usize {
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
struct Calls {
    next: AtomicU32,
    shards: [Mutex<HashMap<u32, Arc<Tracker>>>; SHARDS],
}

impl Calls {
    /// Gives a call a number that no other one under way has.
    fn add(&self, tracker: &Arc<Tracker>) -> u32 {
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

    fn remove(&self, call: u32) {
        self.shard(call).lock().remove(&call);
    }

    fn shard(&self, call: u32) -> &Mutex<HashMap<u32, Arc<Tracker>>> {
        let [first, ..] = &self.shards;
        self.shards.get(call as usize % SHARDS).unwrap_or(first)
    }
}

/// One call of `append`.
struct Tracker {
    state: Mutex<TrackerState>,
    bytes: usize,
    in_flight: Arc<AtomicUsize>,
}

struct TrackerState {
    outcomes: Vec<Option<Result<LogOffset, AppendError>>>,
    open: usize,
    done: Option<oneshot::Sender<Outcomes>>,
}

impl Tracker {
    /// Settles one record; the last one completes the call, and it says so.
    fn set(&self, index: u32, outcome: Result<LogOffset, AppendError>) -> bool {
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
        let done = state.done.take();
        drop(state);
        self.in_flight.fetch_sub(self.bytes, Ordering::AcqRel);
        if let Some(done) = done {
            // A caller that left does not matter: its records are in the log.
            drop(done.send(outcomes));
        }
        true
    }
}

impl Appender {
    pub(super) fn new(options: &KafkaOptions) -> Result<Self, Error> {
        let mut config = options.client();
        // Our own limit in bytes comes first; the producer's is only a backstop.
        let backstop_kbytes = (options.queue_bytes / 512).clamp(16_384, 2_097_151);
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", "lz4")
            // As long as Kafka's own clients wait; batches are a fifth larger than with 2 ms.
            .set("linger.ms", "5")
            .set("batch.num.messages", "10000")
            .set("message.timeout.ms", options.delivery_timeout.as_millis().to_string())
            .set("queue.buffering.max.messages", "10000000")
            .set("queue.buffering.max.kbytes", backstop_kbytes.to_string());
        let calls = Arc::<Calls>::default();
        let context = Context { calls: Arc::clone(&calls), last: Mutex::default() };
        let producer = options
            .with_properties(config)
            .create_with_context(context)
            .map_err(options.error("make a producer for the log"))?;
        Ok(Self {
            producer,
            calls,
            in_flight: Arc::default(),
            queue_bytes: options.queue_bytes,
            record_max_bytes: options.record_max_bytes,
            options: options.clone(),
        })
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    pub(super) async fn append(
        &self,
        topic: Topic,
        name: &str,
        partitions: u32,
        records: Vec<NewRecord>,
    ) -> Outcomes {
        let count = records.len();
        if count == 0 {
            return Vec::new();
        }
        let bytes = records.iter().map(size_of_record).sum();
        if let Err(error) = self.admit(bytes) {
            return vec![Err(error); count];
        }
        let (done, outcomes) = oneshot::channel();
        let tracker = Arc::new(Tracker {
            state: Mutex::new(TrackerState {
                outcomes: vec![None; count],
                open: count,
                done: Some(done),
            }),
            bytes,
            in_flight: Arc::clone(&self.in_flight),
        });
        self.send_all(topic, name, partitions, &records, &tracker);
        drop(tracker);
        // The producer has copied them.
        drop(records);
        outcomes.await.unwrap_or_else(|_producer_gone| {
            let reason = "the producer was dropped".into();
            vec![Err(AppendError::Unacknowledged { reason }); count]
        })
    }

    /// Hands the records to the producer; what it refuses has its outcome at once.
    fn send_all(
        &self,
        topic: Topic,
        name: &str,
        partitions: u32,
        records: &[NewRecord],
        tracker: &Arc<Tracker>,
    ) {
        let call = self.calls.add(tracker);
        let mut refused: Option<AppendError> = None;
        let mut complete = false;
        for (index, record) in (0..).zip(records) {
            let failed = match &refused {
                Some(error) => Some(error.clone()),
                None => self.check(topic, partitions, record).err(),
            };
            let failed = failed.or_else(|| {
                let ticket = Ticket { call, index }.into_opaque();
                let message = BaseRecord::with_opaque_to(name, ticket)
                    .partition(record.partition.get().cast_signed())
                    .timestamp(record.timestamp.as_ms())
                    .key(&record.key[..])
                    .payload(&record.payload[..]);
                let error =
                    self.producer.send(message).err().map(|(error, _)| self.refusal(&error));
                refused.clone_from(&error);
                error
            });
            if let Some(error) = failed {
                complete |= tracker.set(index, Err(error));
            }
        }
        if complete {
            self.calls.remove(call);
        }
    }

    /// Whether the record can be sent at all.
    fn check(&self, topic: Topic, partitions: u32, record: &NewRecord) -> Result<(), AppendError> {
        let bytes = record.key.len().saturating_add(record.payload.len());
        let partition = record.partition;
        if partition.get() >= partitions {
            return Err(AppendError::NoSuchPartition { topic, partition, partitions });
        }
        if bytes > self.record_max_bytes {
            let limit_bytes = self.record_max_bytes;
            return Err(AppendError::TooLarge { bytes, limit_bytes });
        }
        Ok(())
    }

    /// Counts the bytes of a call, unless they do not fit. One larger than the limit goes alone.
    fn admit(&self, bytes: usize) -> Result<(), AppendError> {
        let admitted = self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Acquire, |queued| {
            let sum = queued.saturating_add(bytes);
            (queued == 0 || sum <= self.queue_bytes).then_some(sum)
        });
        admitted.map(|_before| ()).map_err(|queued_bytes| {
            let limit_bytes = self.queue_bytes;
            AppendError::Busy { queued_bytes, limit_bytes }
        })
    }

    /// Why the producer did not take a record, and nothing after it.
    fn refusal(&self, error: &KafkaError) -> AppendError {
        if let Some((_, reason)) = self.producer.client().fatal_error() {
            return AppendError::Stopped { reason: reason.as_str().into() };
        }
        match error.rdkafka_error_code() {
            Some(rdkafka::error::RDKafkaErrorCode::QueueFull) => AppendError::Busy {
                queued_bytes: self.queued_bytes(),
                limit_bytes: self.queue_bytes,
            },
            _ => AppendError::Stopped { reason: chain(error).as_str().into() },
        }
    }

    /// Waits until nothing is under way any more.
    pub(super) async fn flush(&self, timeout: Duration) -> Result<(), Error> {
        let producer = self.producer.clone();
        admin::blocking(move || producer.flush(timeout))
            .await?
            .map_err(self.options.error("flush the log"))
    }
}

/// The bytes that a record counts in the queue.
fn size_of_record(record: &NewRecord) -> usize {
    record.key.len() + record.payload.len() + 64
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
