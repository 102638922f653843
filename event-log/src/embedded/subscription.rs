//! A reader of the embedded log: all partitions are its own, and commits wake it.
//!
//! Always true: a partition delivers nothing before `start`, then its durable records from there
//! on, each once and in order; a `next` that is dropped loses nothing, not even the read that it
//! began: the following `next` takes it up. So a caller whose patience is shorter than a read on a
//! busy disk still gets on.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use chalkstream_schemas::{LogOffset, PartitionId};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Shared;
use super::bounds::AllBounds;
use super::reader::{self, Span, Until};
use super::store::{Store, group_key};
use crate::{Delivery, Error, StoredRecord, Subscription, Topic};

/// Read from one partition at a time, before the next has its turn.
const PARTITION_BYTES: usize = 1 << 20;

/// Read ahead of the caller in one go, over all partitions.
const AHEAD_BYTES: usize = 4 << 20;

/// Runs of records, each with its partition.
type Runs = VecDeque<(PartitionId, Vec<StoredRecord>)>;

#[derive(Debug)]
pub(super) struct EmbeddedSubscription {
    shared: Arc<Shared>,
    topic: Topic,
    group: String,
    committed: watch::Receiver<u64>,
    assigned: bool,
    /// The next offset to read of each partition that was started.
    next: Vec<Option<LogOffset>>,
    /// The read that is under way, from the offsets in `next`.
    reading: Option<JoinHandle<Result<Runs, Error>>>,
    ready: Runs,
    /// The partition whose turn it is, so that a full one does not starve the others.
    turn: usize,
}

impl EmbeddedSubscription {
    pub(super) fn new(shared: Arc<Shared>, topic: Topic, group: &str) -> Self {
        let committed = shared.committed.subscribe();
        let partitions = shared.bounds.partitions() as usize;
        Self {
            shared,
            topic,
            group: group.to_owned(),
            committed,
            assigned: false,
            next: vec![None; partitions],
            reading: None,
            ready: VecDeque::new(),
            turn: 0,
        }
    }

    fn all(&self) -> Vec<PartitionId> {
        (0..self.shared.bounds.partitions()).map(PartitionId::new).collect()
    }

    /// What can be read now, beginning with the partition whose turn it is.
    fn spans(&self) -> Result<Vec<Span>, Error> {
        let topic = self.topic;
        let mut spans = Vec::new();
        let all = self.all();
        let (before, from_turn) = all.split_at(self.turn.min(all.len()));
        for partition in from_turn.iter().chain(before).copied() {
            let Some(from) = self.next.get(partition.get() as usize).copied().flatten() else {
                continue;
            };
            let end = self.shared.bounds.check(topic, partition, from)?.end;
            if from < end {
                spans.push(Span { topic, partition, from, end });
            }
        }
        Ok(spans)
    }

    fn slot(&mut self, partition: PartitionId) -> Result<&mut Option<LogOffset>, Error> {
        let topic = self.topic;
        let slot = self.next.get_mut(partition.get() as usize);
        slot.ok_or(Error::NotAssigned { topic, partition })
    }
}

#[async_trait]
impl Subscription for EmbeddedSubscription {
    async fn next(&mut self) -> Result<Delivery, Error> {
        if !self.assigned {
            self.assigned = true;
            return Ok(Delivery::Assigned(self.all()));
        }
        loop {
            if let Some((partition, records)) = self.ready.pop_front() {
                return Ok(Delivery::Records { partition, records });
            }
            let reading = match &mut self.reading {
                Some(reading) => reading,
                None => {
                    self.committed.borrow_and_update();
                    let spans = self.spans()?;
                    if spans.is_empty() {
                        self.shared.check_running()?;
                        self.committed.changed().await.map_err(|_sender_gone| Error::Closed)?;
                        continue;
                    }
                    let bounds = Arc::clone(&self.shared.bounds);
                    let read = self.shared.spawn(move |store| read_ahead(store, &bounds, spans))?;
                    self.reading.insert(read)
                }
            };
            let read = reading.await;
            self.reading = None;
            let ready =
                read.map_err(|_panicked| Error::Internal { what: "a read of the log" })??;
            for (partition, records) in &ready {
                if let Some(last) = records.last() {
                    *self.slot(*partition)? = Some(last.offset.next());
                    self.turn = partition.get() as usize + 1;
                }
            }
            self.ready = ready;
        }
    }

    async fn start(&mut self, partition: PartitionId, from: LogOffset) -> Result<(), Error> {
        self.shared.bounds.check(self.topic, partition, from)?;
        *self.slot(partition)? = Some(from);
        // It reads from where the partition was before.
        self.reading = None;
        self.ready.retain(|(of, _)| *of != partition);
        Ok(())
    }

    async fn committed(&self, partition: PartitionId) -> Result<Option<LogOffset>, Error> {
        let key = group_key(self.topic, partition, &self.group);
        let read = self.shared.run(move |store| {
            let value = store.groups.get(key).map_err(store.error("read the group's offset"))?;
            Ok(value.and_then(|value| value.first_chunk().copied()).map(u64::from_be_bytes))
        });
        Ok(read.await?.map(LogOffset::new))
    }

    async fn commit(&mut self, positions: &[(PartitionId, LogOffset)]) -> Result<(), Error> {
        let mut entries = Vec::with_capacity(positions.len());
        for (partition, offset) in positions {
            self.slot(*partition)?;
            entries.push((group_key(self.topic, *partition, &self.group), offset.get()));
        }
        let write = self.shared.run(move |store| {
            // No fsync: a group's offset is a hint, and the next commit of records brings one.
            let mut batch = store.db.batch();
            for (key, offset) in entries {
                batch.insert(&store.groups, key, offset.to_be_bytes().as_slice());
            }
            batch.commit().map_err(store.error("write the group's offset"))
        });
        write.await
    }
}

/// Reads of each span in turn, until there is enough.
fn read_ahead(store: &Store, bounds: &AllBounds, spans: Vec<Span>) -> Result<Runs, Error> {
    let mut runs = Runs::new();
    let mut bytes = 0;
    for span in spans {
        let records = reader::read(store, bounds, span, Until::Batches(PARTITION_BYTES))?;
        bytes += records.iter().map(|record| record.payload.len()).sum::<usize>();
        runs.push_back((span.partition, records));
        if bytes >= AHEAD_BYTES {
            break;
        }
    }
    Ok(runs)
}
