//! Appending: a thread hands the records of waiting calls to librdkafka, round by round.
//!
//! In: calls of `append`. Out: each completed once, when all of its records have their outcome.
//! Always true: bytes count against the limit from the call until the acknowledgement, and a call counts
//! as a whole or is busy as a whole. Once librdkafka refused a record so are the later ones of its
//! partition in that round, so that no later record of a learner overtakes a refused one. The records of
//! a partition go to librdkafka in the order of the calls, and within a call in the order given.
//! Not here: when a round begins (`rounds`), acknowledgements (`calls`).

mod calls;
mod rounds;
mod topic;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use chalkstream_schemas::PartitionId;
use parking_lot::Mutex;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{Producer, ThreadedProducer};

use self::calls::{Calls, Context, InFlight, Outcomes, Ticket, Tracker};
use self::rounds::{Round, Rounds, Waiting};
use self::topic::ProducerTopic;
use super::{KafkaOptions, admin};
use crate::error::chain;
use crate::{AppendError, Error, NewRecord, Topic};

/// How long librdkafka waits for a batch to fill: a round is handed over within that, and what makes
/// batches large is the rounds.
const LINGER_MS: &str = "1";

/// How long a call waits at most for others to be acknowledged.
const WAIT_MAX: Duration = Duration::from_millis(20);

/// The calls that wait for their round, and the bytes that are under way.
pub(super) struct Appender {
    rounds: Arc<Rounds>,
    thread: Mutex<Option<JoinHandle<Sender>>>,
    in_flight: Arc<AtomicUsize>,
    options: KafkaOptions,
}

impl std::fmt::Debug for Appender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appender").field("in_flight", &self.in_flight).finish_non_exhaustive()
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
            .set("linger.ms", LINGER_MS)
            .set("batch.num.messages", "10000")
            .set("message.timeout.ms", options.delivery_timeout.as_millis().to_string())
            .set("queue.buffering.max.messages", "10000000")
            .set("queue.buffering.max.kbytes", backstop_kbytes.to_string());
        let context = Context::default();
        let calls = Arc::clone(&context.calls);
        let failed = || options.error("make a producer for the log");
        let producer: ThreadedProducer<Context> =
            options.with_properties(config).create_with_context(context).map_err(failed())?;
        let topic = |topic| ProducerTopic::new(&producer, &options.topic(topic)).map_err(failed());
        let (events, rejected) = (topic(Topic::Events)?, topic(Topic::Rejected)?);
        let in_flight = Arc::default();
        let options = options.clone();
        let sender = Sender {
            producer,
            events,
            rejected,
            calls,
            in_flight: Arc::clone(&in_flight),
            options: options.clone(),
        };
        let rounds = Arc::new(Rounds::new(WAIT_MAX));
        let thread = sender.start(&rounds)?;
        Ok(Self { rounds, thread: Mutex::new(Some(thread)), in_flight, options })
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    pub(super) async fn append(
        &self,
        topic: Topic,
        partitions: u32,
        records: Vec<NewRecord>,
    ) -> Outcomes {
        let count = records.len();
        if count == 0 {
            return Vec::new();
        }
        let bytes = records.iter().map(size_of_record).sum();
        let in_flight = match self.admit(bytes) {
            Ok(in_flight) => in_flight,
            Err(error) => return vec![Err(error); count],
        };
        let (tracker, outcomes) = Tracker::new(count, in_flight);
        if !self.rounds.push(Waiting { topic, partitions, records, tracker }) {
            let reason = "it is closed, or what sends its records ended".into();
            return vec![Err(AppendError::Stopped { reason }); count];
        }
        outcomes.await.unwrap_or_else(|_producer_gone| {
            let reason = "the producer was dropped".into();
            vec![Err(AppendError::Unacknowledged { reason }); count]
        })
    }

    /// Counts the bytes of a call, unless they do not fit. One larger than the limit goes alone.
    fn admit(&self, bytes: usize) -> Result<InFlight, AppendError> {
        let limit_bytes = self.options.queue_bytes;
        let admitted = self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Acquire, |queued| {
            let sum = queued.saturating_add(bytes);
            (queued == 0 || sum <= limit_bytes).then_some(sum)
        });
        admitted
            .map(|_before| InFlight::added(bytes, Arc::clone(&self.in_flight)))
            .map_err(|queued_bytes| AppendError::Busy { queued_bytes, limit_bytes })
    }

    /// Takes no more, and waits until nothing is under way.
    pub(super) async fn close(&self, timeout: Duration) -> Result<(), Error> {
        self.rounds.close();
        let Some(thread) = self.thread.lock().take() else { return Ok(()) };
        let closed = admin::blocking(move || {
            let sender = thread.join().map_err(|_panicked| Error::Internal { what: SENDER })?;
            Ok(sender.producer.flush(timeout))
        });
        closed.await??.map_err(self.options.error("flush the log"))
    }
}

impl Drop for Appender {
    /// Waits for the thread, which hands over what waits and gives up what is not acknowledged.
    fn drop(&mut self) {
        self.rounds.close();
        if let Some(thread) = self.thread.get_mut().take()
            && thread.join().is_err()
        {
            tracing::error!("{SENDER} had a bug");
        }
    }
}

/// The thread that hands records over.
const SENDER: &str = "the thread that sends records to Kafka";

/// What that thread works with.
struct Sender {
    producer: ThreadedProducer<Context>,
    events: ProducerTopic<Context>,
    rejected: ProducerTopic<Context>,
    calls: Arc<Calls>,
    in_flight: Arc<AtomicUsize>,
    options: KafkaOptions,
}

impl Sender {
    /// Sends round by round until the rounds are closed and nothing waits.
    fn start(self, rounds: &Arc<Rounds>) -> Result<JoinHandle<Self>, Error> {
        let (rounds, brokers) = (Open(Arc::clone(rounds)), self.options.brokers.clone());
        let thread = std::thread::Builder::new().name("log-rounds".into()).spawn(move || {
            while let Some((round, calls)) = rounds.0.next() {
                self.send(&round, &calls);
            }
            self
        });
        thread.map_err(|source| Error::Io {
            doing: "start a thread for the log on Kafka at",
            path: brokers.into(),
            source,
        })
    }

    /// Hands a round's records to the producer, partition by partition: librdkafka touches the same
    /// queue again and again. What it refuses has its outcome at once.
    fn send(&self, round: &Arc<Round>, calls: &[Waiting]) {
        let numbered = |call: &Waiting| {
            call.tracker.join(round);
            self.calls.add(&call.tracker)
        };
        let numbers: Vec<u32> = calls.iter().map(numbered).collect();
        for ((topic, _partition), records) in by_partition(calls) {
            let mut refused: Option<AppendError> = None;
            for (call, index) in records {
                let (Some(waiting), Some(number)) = (calls.get(call), numbers.get(call)) else {
                    continue;
                };
                let Some(record) = waiting.records.get(index as usize) else { continue };
                let failed = match &refused {
                    Some(error) => Some(error.clone()),
                    None => self.check(topic, waiting.partitions, record).err(),
                };
                let failed = failed.or_else(|| {
                    let ticket = Ticket { call: *number, index }.into_opaque();
                    let sent = self.topic(topic).send(record, ticket);
                    let error = sent.err().map(|error| self.refusal(&error));
                    refused.clone_from(&error);
                    error
                });
                if let Some(error) = failed
                    && waiting.tracker.set(index, Err(error))
                {
                    self.calls.remove(*number);
                }
            }
        }
    }

    const fn topic(&self, topic: Topic) -> &ProducerTopic<Context> {
        match topic {
            Topic::Events => &self.events,
            Topic::Rejected => &self.rejected,
        }
    }

    /// Whether the record can be sent at all.
    fn check(&self, topic: Topic, partitions: u32, record: &NewRecord) -> Result<(), AppendError> {
        let bytes = record.key.len().saturating_add(record.payload.len());
        let partition = record.partition;
        if partition.get() >= partitions {
            return Err(AppendError::NoSuchPartition { topic, partition, partitions });
        }
        let limit_bytes = self.options.record_max_bytes;
        if bytes > limit_bytes {
            return Err(AppendError::TooLarge { bytes, limit_bytes });
        }
        Ok(())
    }

    /// Why the producer did not take a record, and nothing after it.
    fn refusal(&self, error: &KafkaError) -> AppendError {
        if let Some((_, reason)) = self.producer.client().fatal_error() {
            return AppendError::Stopped { reason: reason.as_str().into() };
        }
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => AppendError::Busy {
                queued_bytes: self.in_flight.load(Ordering::Acquire),
                limit_bytes: self.options.queue_bytes,
            },
            _ => AppendError::Stopped { reason: chain(error).as_str().into() },
        }
    }
}

/// Where a round's records go: for each partition the places of its records, each the place of a call
/// and the record's place in it, in their order.
fn by_partition(calls: &[Waiting]) -> BTreeMap<(Topic, PartitionId), Vec<(usize, u32)>> {
    let mut records = BTreeMap::<_, Vec<_>>::new();
    for (place, call) in calls.iter().enumerate() {
        for (index, record) in (0..).zip(&call.records) {
            records.entry((call.topic, record.partition)).or_default().push((place, index));
        }
    }
    records
}

/// Rounds that somebody takes; closed when nobody does any more, whatever ended it.
struct Open(Arc<Rounds>);

impl Drop for Open {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("{SENDER} had a bug; the log takes no more records");
        }
        self.0.abandon();
    }
}

/// The bytes that a record counts in the queue.
fn size_of_record(record: &NewRecord) -> usize {
    record.key.len() + record.payload.len() + 64
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chalkstream_schemas::Timestamp;

    use super::*;

    fn call(topic: Topic, partitions: &[u32]) -> Waiting {
        let record = |partition: &u32| NewRecord {
            partition: PartitionId::new(*partition),
            key: Bytes::new(),
            payload: Bytes::new(),
            timestamp: Timestamp::MIN,
            identity: None,
        };
        let (tracker, _outcomes) = Tracker::new(1, InFlight::added(0, Arc::default()));
        Waiting { topic, partitions: 12, records: partitions.iter().map(record).collect(), tracker }
    }

    #[test]
    fn records_of_a_partition_keep_the_order_of_calls_and_of_each_call() {
        let calls = [
            call(Topic::Events, &[7, 3, 7]),
            call(Topic::Rejected, &[3]),
            call(Topic::Events, &[3, 3, 7]),
        ];
        let expected = [
            ((Topic::Events, PartitionId::new(3)), vec![(0, 1), (2, 0), (2, 1)]),
            ((Topic::Events, PartitionId::new(7)), vec![(0, 0), (0, 2), (2, 2)]),
            ((Topic::Rejected, PartitionId::new(3)), vec![(1, 0)]),
        ];
        assert_eq!(by_partition(&calls), expected.into());
    }
}
