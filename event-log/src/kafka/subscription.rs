//! A reader of a group on Kafka.
//!
//! Two consumers on one thread: one is the group's member and fetches nothing, the other reads
//! the partitions that were started, each from exactly where it was told. So a rebalance never
//! moves a position, and a full channel holds up reading but not the group's heartbeat.
//!
//! Always true: deliveries come in the order in which things happened; records of a start that was
//! started over, or of a partition that was revoked, are not delivered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chalkstream_schemas::{LogOffset, PartitionId};
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::reader::{Readers, Reading, is_passing, number, position, stored};
use super::{KafkaOptions, Logging, admin};
use crate::{Delivery, Error, Retry, StoredRecord, Subscription, Topic};

/// Records delivered at once, in bytes; with the channel's length it bounds what waits in memory.
const DELIVERY_BYTES: usize = 1 << 20;
const CHANNEL_LENGTH: usize = 8;

/// The longest wait for a message, and so the longest delay of a command or a rebalance.
const TICK: Duration = Duration::from_millis(20);

/// Records wait at most so long for others of their partition.
const GATHER: Duration = Duration::from_millis(2);

/// What the thread passes on. A start's number tells records of different starts apart.
#[derive(Debug)]
enum Passed {
    Assigned(Vec<PartitionId>),
    Revoked(Vec<PartitionId>),
    Records { partition: PartitionId, start: u64, records: Vec<StoredRecord> },
    Failed(Error),
}

/// What the thread is told.
#[derive(Debug)]
struct Start {
    partition: PartitionId,
    from: LogOffset,
    start: u64,
}

/// The group's member; its rebalances are noted and passed on by the thread.
struct MemberContext {
    rebalances: Mutex<VecDeque<Passed>>,
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Logging.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Logging.error(error, reason);
    }
}

impl ConsumerContext for MemberContext {
    fn pre_rebalance(&self, _member: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(list) => self.note(Passed::Revoked(partitions(list))),
            Rebalance::Assign(_) | Rebalance::Error(_) => {}
        }
    }

    fn post_rebalance(&self, member: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                // The member holds partitions; the other consumer reads them.
                if let Err(error) = member.pause(list) {
                    tracing::warn!(%error, "could not pause the group's member");
                }
                self.note(Passed::Assigned(partitions(list)));
            }
            Rebalance::Revoke(_) | Rebalance::Error(_) => {}
        }
    }
}

impl MemberContext {
    fn note(&self, passed: Passed) {
        let (Passed::Assigned(of) | Passed::Revoked(of)) = &passed else { return };
        if !of.is_empty() {
            self.rebalances.lock().push_back(passed);
        }
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<PartitionId> {
    let numbers = list.elements().into_iter().map(|element| u32::try_from(element.partition()));
    let mut partitions: Vec<_> = numbers.flatten().map(PartitionId::new).collect();
    partitions.sort();
    partitions
}

pub(super) struct KafkaSubscription {
    options: Arc<KafkaOptions>,
    topic: Topic,
    readers: Readers,
    member: Arc<BaseConsumer<MemberContext>>,
    passed: mpsc::Receiver<Passed>,
    starts: std::sync::mpsc::SyncSender<Start>,
    /// The partitions that were delivered as assigned, with the number of their newest start.
    held: BTreeMap<PartitionId, u64>,
    started: u64,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for KafkaSubscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSubscription")
            .field("topic", &self.topic)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl KafkaSubscription {
    pub(super) fn new(
        options: Arc<KafkaOptions>,
        readers: Readers,
        topic: Topic,
        group: &str,
    ) -> Result<Self, Error> {
        let name = options.topic(topic);
        let group = format!("{}{group}", options.prefix);
        let failed = || options.error(&format!("join the group {group} of {name}"));
        let mut config = options.client();
        config
            .set("group.id", &group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest");
        let mut member_config = config.clone();
        member_config
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", "15000")
            .set("heartbeat.interval.ms", "1000");
        let context = MemberContext { rebalances: Mutex::default() };
        let member: BaseConsumer<MemberContext> =
            options.with_properties(member_config).create_with_context(context).map_err(failed())?;
        let member = Arc::new(member);
        config
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "100")
            .set("fetch.queue.backoff.ms", "10")
            .set("queued.max.messages.kbytes", "16384");
        let data: Reading =
            options.with_properties(config).create_with_context(Logging).map_err(failed())?;
        member.subscribe(&[&name]).map_err(failed())?;

        let (pass, passed) = mpsc::channel(CHANNEL_LENGTH);
        // Starts are answered within a tick; a rebalance starts each partition once.
        let (starts, to_start) = std::sync::mpsc::sync_channel(1024);
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            options: Arc::clone(&options),
            name,
            member: Arc::clone(&member),
            data,
            pass,
            to_start,
            stop: Arc::clone(&stop),
            assigned: BTreeSet::new(),
            started: BTreeMap::new(),
            gathered: BTreeMap::new(),
            waiting: VecDeque::new(),
        };
        let thread = std::thread::Builder::new()
            .name("log-consume".into())
            .spawn(move || worker.run())
            .map_err(|source| Error::Io {
                doing: "start a thread to read the log from",
                path: options.brokers.clone().into(),
                source,
            })?;
        Ok(Self {
            options,
            topic,
            readers,
            member,
            passed,
            starts,
            held: BTreeMap::new(),
            started: 0,
            stop,
            thread: Some(thread),
        })
    }

    fn check_held(&self, partition: PartitionId) -> Result<(), Error> {
        let topic = self.topic;
        if self.held.contains_key(&partition) {
            return Ok(());
        }
        Err(Error::NotAssigned { topic, partition })
    }
}

#[async_trait]
impl Subscription for KafkaSubscription {
    async fn next(&mut self) -> Result<Delivery, Error> {
        loop {
            let ended = Error::Internal { what: "the thread that reads the log" };
            match self.passed.recv().await.ok_or(ended)? {
                Passed::Assigned(partitions) => {
                    // Number 0 is no start: nothing is delivered before one.
                    self.held.extend(partitions.iter().map(|partition| (*partition, 0)));
                    return Ok(Delivery::Assigned(partitions));
                }
                Passed::Revoked(partitions) => {
                    self.held.retain(|partition, _| !partitions.contains(partition));
                    return Ok(Delivery::Revoked(partitions));
                }
                Passed::Records { partition, start, records } => {
                    if self.held.get(&partition) == Some(&start) {
                        return Ok(Delivery::Records { partition, records });
                    }
                }
                Passed::Failed(error) => return Err(error),
            }
        }
    }

    async fn start(&mut self, partition: PartitionId, from: LogOffset) -> Result<(), Error> {
        self.check_held(partition)?;
        let topic = self.topic;
        let bounds = self.readers.bounds(topic, partition).await?;
        if from < bounds.first || from > bounds.end {
            return Err(Error::OutOfRange { topic, partition, from, bounds });
        }
        self.started += 1;
        let start = self.started;
        self.held.insert(partition, start);
        let told = self.starts.try_send(Start { partition, from, start });
        told.map_err(|_full_or_gone| Error::Internal { what: "the thread that reads the log" })
    }

    async fn committed(&self, partition: PartitionId) -> Result<Option<LogOffset>, Error> {
        let name = self.options.topic(self.topic);
        let (member, timeout) = (Arc::clone(&self.member), self.options.request_timeout);
        let doing = format!("read the group's offset of {name}, {partition}");
        let committed = admin::blocking(move || {
            let mut list = TopicPartitionList::with_capacity(1);
            list.add_partition(&name, number(partition));
            let list = member.committed_offsets(list, timeout)?;
            Ok(list.find_partition(&name, number(partition)).map(|found| found.offset()))
        });
        match committed.await?.map_err(self.options.error(&doing))? {
            Some(Offset::Offset(raw)) => Ok(u64::try_from(raw).ok().map(LogOffset::new)),
            Some(_) | None => Ok(None),
        }
    }

    async fn commit(&mut self, positions: &[(PartitionId, LogOffset)]) -> Result<(), Error> {
        if positions.is_empty() {
            return Ok(());
        }
        let name = self.options.topic(self.topic);
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (partition, offset) in positions {
            self.check_held(*partition)?;
            let raw = i64::try_from(offset.get()).unwrap_or(i64::MAX);
            list.add_partition_offset(&name, number(*partition), Offset::Offset(raw))
                .map_err(self.options.error("name an offset"))?;
        }
        let member = Arc::clone(&self.member);
        admin::blocking(move || member.commit(&list, CommitMode::Sync))
            .await?
            .map_err(self.options.error(&format!("commit the group's offsets of {name}")))
    }
}

impl Drop for KafkaSubscription {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.passed.close();
        // The thread leaves the group by itself, within a tick and a round trip; waiting for it
        // here would block a thread that serves requests.
        drop(self.thread.take());
    }
}

/// The thread's state.
struct Worker {
    options: Arc<KafkaOptions>,
    name: String,
    member: Arc<BaseConsumer<MemberContext>>,
    data: Reading,
    pass: mpsc::Sender<Passed>,
    to_start: std::sync::mpsc::Receiver<Start>,
    stop: Arc<AtomicBool>,
    assigned: BTreeSet<PartitionId>,
    /// The partitions that are read, with the number of their start.
    started: BTreeMap<PartitionId, u64>,
    gathered: BTreeMap<PartitionId, Gathered>,
    /// What the channel had no room for.
    waiting: VecDeque<Passed>,
}

#[derive(Default)]
struct Gathered {
    records: Vec<StoredRecord>,
    bytes: usize,
}

impl Worker {
    fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            self.serve_member();
            while let Ok(start) = self.to_start.try_recv() {
                self.start(&start);
            }
            if !self.pass_on() {
                return;
            }
            if self.waiting.is_empty() {
                self.gather();
            } else {
                // The reader is slow. Fetching stops by itself once librdkafka's queue is full.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        // Leaving at once lets the others have the partitions without waiting for a timeout.
        self.member.unsubscribe();
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline
            && self.member.assignment().is_ok_and(|list| list.count() > 0)
        {
            self.serve_member();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Serves the group: heartbeats' results, rebalances, errors.
    fn serve_member(&mut self) {
        while let Some(polled) = self.member.poll(Duration::ZERO) {
            // Messages are none of the member's business; it is paused.
            if let Err(error) = polled {
                self.failed("serve the group of", error);
            }
        }
        let noted = std::mem::take(&mut *self.member.context().rebalances.lock());
        for rebalance in noted {
            match &rebalance {
                Passed::Assigned(partitions) => self.assigned.extend(partitions),
                Passed::Revoked(partitions) => {
                    for partition in partitions {
                        self.assigned.remove(partition);
                        self.end(*partition);
                    }
                }
                Passed::Records { .. } | Passed::Failed(_) => {}
            }
            self.waiting.push_back(rebalance);
        }
    }

    /// Reads a partition from an offset on, whatever was read of it before.
    fn start(&mut self, start: &Start) {
        self.end(start.partition);
        if !self.assigned.contains(&start.partition) {
            // It was revoked meanwhile; the reader is about to hear of it.
            return;
        }
        let begun = position(&self.name, start.partition, start.from).and_then(|list| {
            let doing = format!("read {}, {}, from {}", self.name, start.partition, start.from);
            self.data.incremental_assign(&list).map_err(self.options.error(&doing))
        });
        match begun {
            Ok(()) => {
                self.started.insert(start.partition, start.start);
            }
            Err(error) => self.waiting.push_back(Passed::Failed(error)),
        }
    }

    /// Reads a partition no more.
    fn end(&mut self, partition: PartitionId) {
        self.gathered.remove(&partition);
        if self.started.remove(&partition).is_none() {
            return;
        }
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&self.name, number(partition));
        if let Err(error) = self.data.incremental_unassign(&list) {
            self.failed("end reading", error);
        }
    }

    /// Takes messages for a moment and passes them on by partition.
    fn gather(&mut self) {
        let mut wait = TICK;
        let mut until: Option<Instant> = None;
        loop {
            let full = match self.data.poll(wait) {
                Some(Ok(message)) => {
                    let partition = u32::try_from(message.partition()).map(PartitionId::new);
                    let record = stored(&message);
                    drop(message);
                    partition.is_ok_and(|partition| self.take(partition, record))
                }
                Some(Err(error)) => {
                    self.failed("read", error);
                    true
                }
                None => true,
            };
            // While messages are at hand they are gathered, for a moment; then they go.
            let until = *until.get_or_insert_with(|| Instant::now() + GATHER);
            if full || Instant::now() >= until {
                break;
            }
            wait = Duration::ZERO;
        }
        for (partition, gathered) in std::mem::take(&mut self.gathered) {
            if let Some(start) = self.started.get(&partition) {
                let (start, records) = (*start, gathered.records);
                self.waiting.push_back(Passed::Records { partition, start, records });
            }
        }
    }

    /// Keeps a record; says whether its partition has enough.
    fn take(&mut self, partition: PartitionId, record: StoredRecord) -> bool {
        if !self.started.contains_key(&partition) {
            return false;
        }
        let gathered = self.gathered.entry(partition).or_default();
        gathered.bytes += record.key.len() + record.payload.len();
        gathered.records.push(record);
        gathered.bytes >= DELIVERY_BYTES
    }

    /// Passes on what fits into the channel; false when nobody reads any more.
    fn pass_on(&mut self) -> bool {
        while let Some(passed) = self.waiting.pop_front() {
            match self.pass.try_send(passed) {
                Ok(()) => {}
                Err(TrySendError::Full(passed)) => {
                    self.waiting.push_front(passed);
                    return true;
                }
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        true
    }

    /// Trouble that mends itself is logged; what the reader must know is passed on.
    fn failed(&mut self, doing: &str, error: KafkaError) {
        let out_of_range = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset);
        if !out_of_range && (is_passing(&error) || super::retry(&error) == Retry::Later) {
            tracing::warn!(%error, topic = %self.name, doing, "trouble with Kafka");
            return;
        }
        let error = self.options.error(&format!("{doing} {}", self.name))(error);
        self.waiting.push_back(Passed::Failed(error));
    }
}
