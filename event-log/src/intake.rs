//! Where ingest puts records: a log itself, or Kafka behind a breaker and perhaps a spool.
//!
//! In: records of requests. Out: for each, where it is durable, or why it is not.
//!
//! [`GuardedLog`] stands before Kafka. An append that is not acknowledged within `slow_after` opens
//! the breaker. Without a spool, appends are then refused at once (503) until a probe is answered
//! and one trial append is acknowledged. With a spool they are made durable on this machine and
//! forwarded when Kafka answers again.
//!
//! When Kafka answers again and little is left in the spool, new records wait for their partition to
//! be forwarded, at most `slow_after`, and then go to Kafka itself.
//!
//! Always true: `Ok` means durable, and says where. An append that is given up is at most
//! `Unacknowledged`: what Kafka still makes of it is a copy.
//!
//! **A learner's order.** While a partition has records in the spool, its new records follow them
//! through the spool, and only once Kafka has acknowledged the last of them is the partition
//! appended to directly again. An append that was given up is spooled as a whole, so what Kafka
//! may hold of it is a second copy of something that stands in the spool. Copies can therefore
//! come early (before the spooled records of their partition) or late (after them, from a
//! connection that hung), but the *first* copy of each event comes in the order in which the
//! events were acknowledged: a late copy follows the forwarded one, and an early copy precedes it
//! and everything spooled after it. The processors count the first copy and drop the rest.
//!
//! Not here: reading (the processors have the log itself), duplicates ([`SeenIndex`](crate::SeenIndex)).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chalkstream_schemas::{LogOffset, PartitionId};
use tokio::task::JoinHandle;

use crate::breaker::{Breaker, BreakerState};
use crate::spool::{Spool, SpoolOptions, SpoolStatus};
use crate::{AppendError, Error, EventLog, NewRecord, Retry, Topic};

/// Where a record is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// In the log, at this offset.
    InLog(LogOffset),
    /// On this machine, on its way to the log. It has no offset yet.
    InSpool,
}

/// Takes records in. Every [`EventLog`] does.
#[async_trait]
pub trait Intake: Send + Sync + fmt::Debug {
    /// How many partitions a topic has; they are numbered from 0.
    fn partitions(&self, topic: Topic) -> u32;

    /// Makes the records durable, those of one partition in the order given; one outcome per
    /// record in the order given. What an `Err` leaves is said by [`AppendError::may_be_written`].
    async fn append(&self, topic: Topic, records: Vec<NewRecord>)
    -> Vec<Result<Kept, AppendError>>;

    /// How it is doing.
    fn status(&self) -> IntakeStatus;
}

/// How an [`Intake`] is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IntakeStatus {
    /// The breaker before Kafka; the embedded log has none.
    pub breaker: Option<BreakerStatus>,
    /// The spool, where there is one.
    pub spool: Option<SpoolStatus>,
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerStatus {
    /// Now.
    pub state: BreakerState,
    /// How often it has opened.
    pub times_opened: u64,
}

#[async_trait]
impl<L: EventLog> Intake for L {
    fn partitions(&self, topic: Topic) -> u32 {
        EventLog::partitions(self, topic)
    }

    async fn append(
        &self,
        topic: Topic,
        records: Vec<NewRecord>,
    ) -> Vec<Result<Kept, AppendError>> {
        in_log(EventLog::append(self, topic, records).await)
    }

    fn status(&self) -> IntakeStatus {
        IntakeStatus::default()
    }
}

fn in_log(outcomes: Vec<Result<LogOffset, AppendError>>) -> Vec<Result<Kept, AppendError>> {
    outcomes.into_iter().map(|outcome| outcome.map(Kept::InLog)).collect()
}

/// When Kafka counts as slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardOptions {
    /// An append that is not acknowledged after so long opens the breaker.
    pub slow_after: Duration,
    /// How often an open breaker asks whether Kafka answers again.
    pub probe_every: Duration,
}

impl Default for GuardOptions {
    fn default() -> Self {
        Self { slow_after: Duration::from_secs(3), probe_every: Duration::from_secs(1) }
    }
}

/// Kafka behind a breaker and perhaps a spool; see the [module](self).
#[derive(Debug)]
pub struct GuardedLog {
    log: Arc<dyn EventLog>,
    breaker: Breaker,
    spool: Option<Arc<Spool>>,
    slow_after: Duration,
    prober: JoinHandle<()>,
}

impl GuardedLog {
    /// Stands before a log, refusing while it does not answer.
    pub fn new(log: Arc<dyn EventLog>, options: GuardOptions) -> Arc<Self> {
        Self::with(log, Breaker::new("Kafka"), None, options)
    }

    /// Stands before a log, spooling while it does not answer. `patient` is the same log, by a
    /// connection that waits for an acknowledgement as long as it takes.
    pub async fn with_spool(
        log: Arc<dyn EventLog>,
        patient: Arc<dyn EventLog>,
        options: GuardOptions,
        spool: SpoolOptions,
    ) -> Result<Arc<Self>, Error> {
        let breaker = Breaker::new("Kafka");
        let spool = Spool::open(spool, patient, breaker.clone()).await?;
        Ok(Self::with(log, breaker, Some(spool), options))
    }

    fn with(
        log: Arc<dyn EventLog>,
        breaker: Breaker,
        spool: Option<Arc<Spool>>,
        options: GuardOptions,
    ) -> Arc<Self> {
        let GuardOptions { slow_after, probe_every } = options;
        let prober = tokio::spawn(probe(Arc::clone(&log), breaker.clone(), probe_every));
        Arc::new(Self { log, breaker, spool, slow_after, prober })
    }

    /// Whether Kafka answered when it was last asked.
    pub fn answers(&self) -> bool {
        self.breaker.state() == BreakerState::Closed
    }

    /// Ends what runs beside it. What is in the spool stays there for the next start; the log
    /// itself is left open.
    pub async fn close(&self) -> Result<(), Error> {
        self.prober.abort();
        match &self.spool {
            Some(spool) => spool.close().await,
            None => Ok(()),
        }
    }

    /// Appends to the log, unless it is known not to answer, and for no longer than it may take.
    async fn append_to_log(
        &self,
        topic: Topic,
        records: Vec<NewRecord>,
    ) -> Vec<Result<LogOffset, AppendError>> {
        let count = records.len();
        let Some(mut call) = self.breaker.admit() else {
            let reason = "Kafka does not answer; it is asked again by itself".into();
            return vec![Err(AppendError::Unavailable { reason }); count];
        };
        let unacknowledged = |reason: String| {
            vec![Err(AppendError::Unacknowledged { reason: reason.as_str().into() }); count]
        };
        tokio::select! {
            biased;
            outcomes = self.log.append(topic, records) => {
                let trouble = outcomes.iter().find_map(|outcome| match outcome {
                    Err(AppendError::Unacknowledged { reason } | AppendError::Stopped { reason }) => {
                        Some(Arc::clone(reason))
                    }
                    _ => None,
                });
                match trouble {
                    Some(reason) => {
                        tracing::warn!(%topic, %reason, "the log failed");
                        call.failed();
                    }
                    None if outcomes.iter().any(Result::is_ok) => call.succeeded(),
                    // Refused at the door: nothing was learnt about Kafka.
                    None => drop(call),
                }
                outcomes
            }
            () = call.opened() => {
                drop(call);
                unacknowledged("Kafka stopped answering meanwhile".into())
            }
            () = tokio::time::sleep(self.slow_after) => {
                tracing::warn!(%topic, slow_after = ?self.slow_after, "the log is slow");
                call.failed();
                unacknowledged(format!("Kafka did not answer within {:?}", self.slow_after))
            }
        }
    }

    /// Appends to the log what may go there, and spools the rest, also what the log did not take.
    async fn append_or_spool(
        &self,
        spool: &Arc<Spool>,
        topic: Topic,
        records: Vec<NewRecord>,
    ) -> Vec<Result<Kept, AppendError>> {
        if self.answers() && spool.hands_over(topic, &records) {
            // Kafka answers and little is left: what comes now goes to Kafka itself, right after.
            tokio::select! {
                () = spool.until_clear(topic, &records) => {}
                () = self.breaker.until_open() => {}
                () = tokio::time::sleep(self.slow_after) => self.breaker.failed(),
            }
        }
        let count = records.len();
        let mut to_spool = Part::default();
        let mut to_log = Part::default();
        // While anything is forwarded, that is what finds out whether Kafka answers again.
        let all = self.breaker.state() != BreakerState::Closed;
        let follows = spool.follows(topic, &records);
        for (index, record) in records.into_iter().enumerate() {
            let follows =
                follows.as_ref().is_some_and(|follows| all || follows.contains(&record.partition));
            if follows { &mut to_spool } else { &mut to_log }.push(index, record);
        }
        let mut outcomes: Vec<Option<Result<Kept, AppendError>>> = Vec::new();
        outcomes.resize_with(count, || None);
        let through_log = async {
            if to_log.records.is_empty() {
                return (Vec::new(), Part::default(), Vec::new());
            }
            let found = self.append_to_log(topic, to_log.records.clone()).await;
            let mut failed = Part::default();
            let mut done = Vec::with_capacity(found.len());
            for ((index, record), outcome) in
                to_log.indexes.into_iter().zip(to_log.records).zip(found)
            {
                match outcome {
                    Err(error) if error.retry() == Retry::Later => failed.push(index, record),
                    outcome => done.push((index, outcome.map(Kept::InLog))),
                }
            }
            let spooled = spool.append(topic, failed.records.split_off(0)).await;
            (done, failed, spooled)
        };
        let through_spool = spool.append(topic, to_spool.records);
        let ((done, failed, respooled), spooled) = tokio::join!(through_log, through_spool);
        let later = failed.indexes.into_iter().zip(respooled);
        let later = later.chain(to_spool.indexes.into_iter().zip(spooled));
        let later = later.map(|(index, outcome)| (index, outcome.map(|()| Kept::InSpool)));
        for (index, outcome) in done.into_iter().chain(later) {
            if let Some(place) = outcomes.get_mut(index) {
                *place = Some(outcome);
            }
        }
        let missing = || AppendError::Unacknowledged { reason: "it has no outcome".into() };
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(missing()))).collect()
    }
}

/// Some records of a call, and their places in it.
#[derive(Default)]
struct Part {
    indexes: Vec<usize>,
    records: Vec<NewRecord>,
}

impl Part {
    fn push(&mut self, index: usize, record: NewRecord) {
        self.indexes.push(index);
        self.records.push(record);
    }
}

#[async_trait]
impl Intake for GuardedLog {
    fn partitions(&self, topic: Topic) -> u32 {
        self.log.partitions(topic)
    }

    async fn append(
        &self,
        topic: Topic,
        records: Vec<NewRecord>,
    ) -> Vec<Result<Kept, AppendError>> {
        match &self.spool {
            None => in_log(self.append_to_log(topic, records).await),
            Some(spool) => self.append_or_spool(spool, topic, records).await,
        }
    }

    fn status(&self) -> IntakeStatus {
        let (state, times_opened) = (self.breaker.state(), self.breaker.times_opened());
        IntakeStatus {
            breaker: Some(BreakerStatus { state, times_opened }),
            spool: self.spool.as_ref().map(|spool| spool.status()),
        }
    }
}

impl Drop for GuardedLog {
    fn drop(&mut self) {
        self.prober.abort();
    }
}

/// Asks while the breaker is open whether the log answers; each time another partition, since
/// they may have different leaders.
async fn probe(log: Arc<dyn EventLog>, breaker: Breaker, every: Duration) {
    let partitions = log.partitions(Topic::Events).max(1);
    let mut turn = 0;
    loop {
        breaker.until_open().await;
        tokio::time::sleep(every).await;
        turn = (turn + 1) % partitions;
        match log.bounds(Topic::Events, PartitionId::new(turn)).await {
            Ok(_bounds) => breaker.probed(),
            Err(error) => tracing::debug!(%error, "the log does not answer yet"),
        }
    }
}
