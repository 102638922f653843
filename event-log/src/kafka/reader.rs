//! Reading ranges and bounds, apart from any group.
//!
//! Always true: a consumer serves one read at a time and keeps nothing between reads, so a read
//! depends on its arguments alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chalkstream_schemas::{LogOffset, PartitionId, Timestamp};
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::{KafkaOptions, Logging, admin};
use crate::{Error, LogBounds, StoredRecord, Topic};

/// Consumers kept for later reads; one costs threads and connections.
const KEPT: usize = 4;

/// The wait before a request that failed in passing is made again.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// A consumer that is in no group.
pub(super) type Reading = BaseConsumer<Logging>;

/// Reads of all topics; clones share the consumers.
#[derive(Clone)]
pub(super) struct Readers {
    inner: Arc<Inner>,
}

struct Inner {
    options: Arc<KafkaOptions>,
    idle: Mutex<Vec<Reading>>,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").field("idle", &self.inner.idle.lock().len()).finish()
    }
}

impl Readers {
    pub(super) fn new(options: Arc<KafkaOptions>) -> Result<Self, Error> {
        let readers = Self { inner: Arc::new(Inner { options, idle: Mutex::default() }) };
        // Made at once, so that a wrong property is an error of `connect`.
        let first = readers.inner.make()?;
        readers.inner.idle.lock().push(first);
        Ok(readers)
    }

    pub(super) async fn bounds(
        &self,
        topic: Topic,
        partition: PartitionId,
    ) -> Result<LogBounds, Error> {
        let inner = Arc::clone(&self.inner);
        let work = move || inner.with(|consumer| inner.bounds(consumer, topic, partition));
        admin::blocking(work).await?
    }

    pub(super) async fn read(
        &self,
        topic: Topic,
        partition: PartitionId,
        from: LogOffset,
        max_bytes: usize,
    ) -> Result<Vec<StoredRecord>, Error> {
        let inner = Arc::clone(&self.inner);
        let work = move || {
            inner.with(|consumer| inner.read(consumer, (topic, partition), from, max_bytes))
        };
        admin::blocking(work).await?
    }

    /// Lets go of consumers that are idle.
    pub(super) fn close(&self) {
        let idle = std::mem::take(&mut *self.inner.idle.lock());
        drop(idle);
    }
}

impl Inner {
    fn make(&self) -> Result<Reading, Error> {
        let mut config = self.options.client();
        config
            .set("group.id", format!("{}chalkstream.reads", self.options.prefix))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "10")
            .set("queued.max.messages.kbytes", "8192");
        self.options
            .with_properties(config)
            .create_with_context(Logging)
            .map_err(self.options.error("make a consumer for reads"))
    }

    /// Lends a consumer; one that failed is not used again.
    fn with<T>(&self, work: impl FnOnce(&Reading) -> Result<T, Error>) -> Result<T, Error> {
        let idle = self.idle.lock().pop();
        let consumer = match idle {
            Some(consumer) => consumer,
            None => self.make()?,
        };
        let done = work(&consumer)?;
        let mut idle = self.idle.lock();
        if idle.len() < KEPT {
            idle.push(consumer);
        }
        Ok(done)
    }

    fn bounds(
        &self,
        consumer: &Reading,
        topic: Topic,
        partition: PartitionId,
    ) -> Result<LogBounds, Error> {
        let name = self.options.topic(topic);
        let deadline = Instant::now() + self.options.request_timeout;
        let (low, high) = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match consumer.fetch_watermarks(&name, number(partition), left) {
                Ok(bounds) => break bounds,
                // A leader that moves, or is new, is found at the next try.
                Err(error) if is_passing(&error) && !left.is_zero() => {
                    std::thread::sleep(RETRY_AFTER.min(left));
                }
                Err(error) => {
                    let doing = format!("read the bounds of {name}, {partition}");
                    return Err(self.options.error(&doing)(error));
                }
            }
        };
        let offset = |raw| LogOffset::new(u64::try_from(raw).unwrap_or(0));
        Ok(LogBounds { first: offset(low), end: offset(high) })
    }

    fn read(
        &self,
        consumer: &Reading,
        (topic, partition): (Topic, PartitionId),
        from: LogOffset,
        max_bytes: usize,
    ) -> Result<Vec<StoredRecord>, Error> {
        let bounds = self.bounds(consumer, topic, partition)?;
        if from < bounds.first || from > bounds.end {
            return Err(Error::OutOfRange { topic, partition, from, bounds });
        }
        if from == bounds.end {
            return Ok(Vec::new());
        }
        let name = self.options.topic(topic);
        let failed = |doing: &str| self.options.error(&format!("{doing} {name}, {partition}"));
        consumer.assign(&position(&name, partition, from)?).map_err(failed("read from"))?;
        let records = self.collect(consumer, (topic, partition), bounds.end, max_bytes);
        consumer.unassign().map_err(failed("end reading from"))?;
        records
    }

    fn collect(
        &self,
        consumer: &Reading,
        (topic, partition): (Topic, PartitionId),
        end: LogOffset,
        max_bytes: usize,
    ) -> Result<Vec<StoredRecord>, Error> {
        let doing = || format!("read from {}, {partition}", self.options.topic(topic));
        let mut records: Vec<StoredRecord> = Vec::new();
        let mut bytes = 0_usize;
        let mut deadline = Instant::now() + self.options.request_timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match consumer.poll(left) {
                Some(Ok(message)) => {
                    let record = stored(&message);
                    bytes += record.key.len() + record.payload.len();
                    if bytes > max_bytes && !records.is_empty() {
                        return Ok(records);
                    }
                    let last = record.offset.next() >= end;
                    records.push(record);
                    if last {
                        return Ok(records);
                    }
                    deadline = Instant::now() + self.options.request_timeout;
                }
                // The last offsets may hold no record.
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(records),
                Some(Err(error)) if is_passing(&error) => {}
                Some(Err(error)) => return Err(self.options.error(&doing())(error)),
                None if left.is_zero() => {
                    let code = RDKafkaErrorCode::OperationTimedOut;
                    return Err(self.options.error(&doing())(KafkaError::MessageConsumption(code)));
                }
                None => {}
            }
        }
    }
}

/// Trouble that librdkafka mends by itself, such as a lost connection; a deadline stands above it.
pub(super) fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::OperationTimedOut
        )
    )
}

/// A list of one partition at one offset.
pub(super) fn position(
    topic: &str,
    partition: PartitionId,
    offset: LogOffset,
) -> Result<TopicPartitionList, Error> {
    let mut list = TopicPartitionList::with_capacity(1);
    let raw = i64::try_from(offset.get()).unwrap_or(i64::MAX);
    list.add_partition_offset(topic, number(partition), Offset::Offset(raw)).map_err(
        |_refused| Error::Option {
            key: "offset".into(),
            reason: format!("{offset} is not one of Kafka's"),
        },
    )?;
    Ok(list)
}

/// Kafka's number of a partition.
pub(super) fn number(partition: PartitionId) -> i32 {
    i32::try_from(partition.get()).unwrap_or(i32::MAX)
}

/// A copy of a message; Kafka's own buffers are not ours to keep.
pub(super) fn stored(message: &BorrowedMessage<'_>) -> StoredRecord {
    StoredRecord {
        offset: LogOffset::new(u64::try_from(message.offset()).unwrap_or(0)),
        timestamp: Timestamp::from_ms(message.timestamp().to_millis().unwrap_or(0)),
        key: message.key().map(Bytes::copy_from_slice).unwrap_or_default(),
        payload: message.payload().map(Bytes::copy_from_slice).unwrap_or_default(),
    }
}
