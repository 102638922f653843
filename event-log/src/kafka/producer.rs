//! Appending: one tracker per call counts its records' acknowledgements and completes it once.
//!
//! Always true: every record that was handed to the producer gets exactly one outcome; bytes count
//! against the limit from the call until the acknowledgement. A call is taken as a whole or is
//! busy as a whole, so that no later record of a learner overtakes a refused one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// What one append gets back.
type Outcomes = Vec<Result<LogOffset, AppendError>>;

/// The producer and the bytes that are under way.
pub(super) struct Appender {
    producer: ThreadedProducer<Context>,
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

struct Context;

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Logging.log(level, facility, message);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Slot>;

    fn delivery(&self, result: &DeliveryResult<'_>, slot: Box<Slot>) {
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
        slot.tracker.set(slot.index, outcome);
    }
}

/// Which record of which call an acknowledgement is about.
struct Slot {
    tracker: Arc<Tracker>,
    index: usize,
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
    /// Settles one record; the last one completes the call.
    fn set(&self, index: usize, outcome: Result<LogOffset, AppendError>) {
        let mut state = self.state.lock();
        match state.outcomes.get_mut(index) {
            Some(place @ None) => *place = Some(outcome),
            Some(Some(_)) | None => {
                debug_assert!(false, "a record was acknowledged twice");
                return;
            }
        }
        state.open -= 1;
        if state.open > 0 {
            return;
        }
        let outcomes = std::mem::take(&mut state.outcomes).into_iter().flatten().collect();
        let done = state.done.take();
        drop(state);
        self.in_flight.fetch_sub(self.bytes, Ordering::AcqRel);
        if let Some(done) = done {
            // A caller that left does not matter: its records are in the log.
            drop(done.send(outcomes));
        }
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
            .set("linger.ms", "2")
            .set("batch.num.messages", "10000")
            .set("message.timeout.ms", options.delivery_timeout.as_millis().to_string())
            .set("queue.buffering.max.messages", "10000000")
            .set("queue.buffering.max.kbytes", backstop_kbytes.to_string());
        let producer = options
            .with_properties(config)
            .create_with_context(Context)
            .map_err(options.error("make a producer for the log"))?;
        Ok(Self {
            producer,
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
        records: &[NewRecord],
    ) -> Outcomes {
        if records.is_empty() {
            return Vec::new();
        }
        let bytes = records.iter().map(size_of_record).sum();
        if let Err(error) = self.admit(bytes) {
            return vec![Err(error); records.len()];
        }
        let (done, outcomes) = oneshot::channel();
        let tracker = Arc::new(Tracker {
            state: Mutex::new(TrackerState {
                outcomes: vec![None; records.len()],
                open: records.len(),
                done: Some(done),
            }),
            bytes,
            in_flight: Arc::clone(&self.in_flight),
        });
        self.send_all(topic, name, partitions, records, &tracker);
        drop(tracker);
        outcomes.await.unwrap_or_else(|_producer_gone| {
            let reason = "the producer was dropped".into();
            vec![Err(AppendError::Unacknowledged { reason }); records.len()]
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
        let mut refused: Option<AppendError> = None;
        for (index, record) in records.iter().enumerate() {
            if let Some(error) = &refused {
                tracker.set(index, Err(error.clone()));
                continue;
            }
            let bytes = record.key.len().saturating_add(record.payload.len());
            let partition = i32::try_from(record.partition.get());
            let Some(partition) = partition.ok().filter(|_| record.partition.get() < partitions)
            else {
                let partition = record.partition;
                let error = AppendError::NoSuchPartition { topic, partition, partitions };
                tracker.set(index, Err(error));
                continue;
            };
            if bytes > self.record_max_bytes {
                let limit_bytes = self.record_max_bytes;
                tracker.set(index, Err(AppendError::TooLarge { bytes, limit_bytes }));
                continue;
            }
            let slot = Box::new(Slot { tracker: Arc::clone(tracker), index });
            let message = BaseRecord::with_opaque_to(name, slot)
                .partition(partition)
                .timestamp(record.timestamp.as_ms())
                .key(&record.key[..])
                .payload(&record.payload[..]);
            if let Err((error, _)) = self.producer.send(message) {
                let error = self.refusal(&error);
                tracker.set(index, Err(error.clone()));
                refused = Some(error);
            }
        }
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
