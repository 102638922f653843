//! Reads a table's topic from its beginning, and goes on for as long as somebody wants to know.
//!
//! Always true: a topic that was made anew, or cut off before where the follower stands, is read
//! from its beginning, and shown once that reached the end; trouble is noticed within a few seconds,
//! whether or not anything changes, because the end is asked for every second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chalkstream_schemas::LogOffset;
use parking_lot::{Condvar, Mutex};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};

use super::Rows;
use crate::Error;
use crate::error::chain;
use crate::kafka::{KafkaOptions, Logging};

/// The longest wait for a change, and so the longest delay of a stop.
const TICK: Duration = Duration::from_millis(100);
/// How often the topic's end is asked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long that may take.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// What others may know of the follower.
#[derive(Debug, Default)]
struct Known {
    /// Everything before it is shown; `None` until the end was reached once.
    shown: Option<LogOffset>,
    /// Since when the topic cannot be followed, and why.
    trouble: Option<(Instant, String)>,
}

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<Known>,
    changed: Condvar,
    stop: AtomicBool,
}

#[derive(Debug)]
pub(super) struct Follower {
    shared: Arc<Shared>,
    options: Arc<KafkaOptions>,
    name: String,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    pub(super) fn start(
        options: Arc<KafkaOptions>,
        name: String,
        show: impl Fn(&Rows) + Send + 'static,
    ) -> Result<Self, Error> {
        let mut config = options.client();
        config
            .set("group.id", format!("{}chalkstream.reads", options.prefix))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error");
        let consumer: BaseConsumer<Logging> = options
            .with_properties(config)
            .create_with_context(Logging)
            .map_err(options.error(&format!("make a consumer of {name}")))?;
        let shared = Arc::new(Shared::default());
        let mut following = Following {
            consumer,
            name: name.clone(),
            show,
            shared: Arc::clone(&shared),
            rows: BTreeMap::new(),
            next: LogOffset::new(0),
            end: LogOffset::new(0),
        };
        following.start_over().map_err(options.error(&format!("read from {name}")))?;
        let thread = std::thread::Builder::new()
            .name("kafka-table".into())
            .spawn(move || following.run())
            .map_err(|_no_thread| Error::Internal { what: "starting a thread" })?;
        Ok(Self { shared, options, name, thread: Some(thread) })
    }

    /// Waits until everything before `offset` is shown, and the end was reached once.
    pub(super) fn wait_for(&self, offset: LogOffset, within: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + within;
        let mut known = self.shared.known.lock();
        while known.shown.is_none_or(|shown| shown < offset) {
            if self.shared.changed.wait_until(&mut known, deadline).timed_out() {
                let code = RDKafkaErrorCode::OperationTimedOut;
                let doing = format!("read {} to its end", self.name);
                return Err(self.options.error(&doing)(KafkaError::MessageConsumption(code)));
            }
        }
        Ok(())
    }

    pub(super) fn trouble(&self) -> Option<(Duration, String)> {
        let known = self.shared.known.lock();
        known.trouble.as_ref().map(|(since, why)| (since.elapsed(), why.clone()))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(topic = self.name, "the follower of a table had a bug");
        }
    }
}

/// The thread's own.
struct Following<F> {
    consumer: BaseConsumer<Logging>,
    name: String,
    show: F,
    shared: Arc<Shared>,
    rows: Rows,
    /// The offset after the last change that was read.
    next: LogOffset,
    /// The topic's end when it was last asked for.
    end: LogOffset,
}

impl<F: Fn(&Rows)> Following<F> {
    fn run(mut self) {
        let mut looked: Option<Instant> = None;
        let mut pending = false;
        while !self.shared.stop.load(Ordering::Acquire) {
            let polled =
                self.consumer.poll(TICK).map(|polled| polled.map(|message| owned(&message)));
            match polled {
                Some(Ok((offset, key, value))) => {
                    self.next = offset.next();
                    match value {
                        Some(value) => drop(self.rows.insert(key, value)),
                        None => drop(self.rows.remove(&key)),
                    }
                    pending = true;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    // The last offsets before an end may hold no record.
                    self.next = self.next.max(self.end);
                    self.shown(pending);
                    pending = false;
                }
                Some(Err(error)) if is_out_of_range(&error) => self.restart(&error),
                Some(Err(error)) => self.troubled(chain(&error)),
                // Nothing follows for now. What is half read is shown at its end alone.
                None if pending && self.shared.known.lock().shown.is_some() => {
                    self.shown(pending);
                    pending = false;
                }
                None => {}
            }
            if looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                self.look();
                looked = Some(Instant::now());
            }
        }
    }

    /// Asks for the topic's end: does Kafka answer, and is the follower where it should be?
    fn look(&mut self) {
        match self.consumer.fetch_watermarks(&self.name, 0, LOOK_WITHIN) {
            Ok((_, end)) => {
                self.end = LogOffset::new(u64::try_from(end).unwrap_or(0));
                if self.end < self.next {
                    let code = RDKafkaErrorCode::OffsetOutOfRange;
                    self.restart(&KafkaError::MessageConsumption(code));
                } else if self.end == self.next {
                    self.recovered();
                }
            }
            Err(error) => self.troubled(chain(&error)),
        }
    }

    /// Shows the table as it is now, if it has changed.
    fn shown(&self, changed: bool) {
        let mut known = self.shared.known.lock();
        if changed || known.shown.is_none() {
            (self.show)(&self.rows);
        }
        known.shown = Some(self.next);
        drop(known);
        self.shared.changed.notify_all();
        self.recovered();
    }

    fn start_over(&mut self) -> Result<(), KafkaError> {
        self.rows.clear();
        self.next = LogOffset::new(0);
        self.end = LogOffset::new(0);
        let mut list = rdkafka::TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.name, 0, rdkafka::Offset::Beginning)?;
        self.consumer.assign(&list)
    }

    /// The topic is another than before. What is shown stays until the new one is read.
    fn restart(&mut self, why: &KafkaError) {
        let why = chain(why);
        tracing::warn!(topic = self.name, why, "the table is read again from its beginning");
        self.shared.known.lock().shown = None;
        if let Err(error) = self.start_over() {
            self.troubled(chain(&error));
        }
    }

    fn troubled(&self, why: String) {
        let mut known = self.shared.known.lock();
        match &mut known.trouble {
            Some((_, latest)) => *latest = why,
            none => {
                tracing::warn!(topic = self.name, why, "the table cannot be followed");
                *none = Some((Instant::now(), why));
            }
        }
    }

    fn recovered(&self) {
        let mut known = self.shared.known.lock();
        // Whoever has not reached the end yet does not follow.
        if known.shown.is_some() && known.trouble.take().is_some() {
            tracing::info!(topic = self.name, "the table is followed again");
        }
    }
}

/// Where it stood there is nothing any more.
fn is_out_of_range(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
    )
}

/// A message's parts; Kafka's own buffers are not ours to keep.
fn owned(message: &BorrowedMessage<'_>) -> (LogOffset, Bytes, Option<Bytes>) {
    let offset = LogOffset::new(u64::try_from(message.offset()).unwrap_or(0));
    let key = message.key().map(Bytes::copy_from_slice).unwrap_or_default();
    (offset, key, message.payload().map(Bytes::copy_from_slice))
}
