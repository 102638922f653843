//! Group commit: one thread turns all waiting appends into one durable batch.
//!
//! In: appends, through a queue bounded in bytes. Out: each append completed once, after the fsync
//! that made it durable; the ends of partitions; a wake-up for readers.
//! Always true: offsets are given in the order of the queue and without gaps; records, their index
//! entries and the commit's number are one batch of the store. After a failed write nothing is
//! written any more: the appends of that commit are `Unacknowledged`, later ones `Stopped`.
//! Not here: reading.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chalkstream_schemas::{LogOffset, PartitionId};
use fjall::PersistMode;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};

use super::batch::BatchBuilder;
use super::bounds::AllBounds;
use super::store::{KEY_COMMIT, SharedStore, record_key};
use crate::error::chain;
use crate::identities::Entry;
use crate::{AppendError, NewRecord, Topic};

/// What one append gets back.
pub(super) type Outcomes = Vec<Result<LogOffset, AppendError>>;

/// How much one commit takes from the queue; the rest waits for the next.
const COMMIT_TARGET_BYTES: usize = 8 << 20;

/// An append that waits.
struct Waiting {
    topic: Topic,
    records: Vec<NewRecord>,
    bytes: usize,
    done: oneshot::Sender<Outcomes>,
}

/// The queue in front of the committer.
pub(super) struct Queue {
    limit_bytes: usize,
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Bytes of the queue and of the commit under way.
    bytes: usize,
    closing: bool,
    stopped: Option<Arc<str>>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Queue")
            .field("waiting", &state.waiting.len())
            .field("bytes", &state.bytes)
            .field("stopped", &state.stopped)
            .finish_non_exhaustive()
    }
}

impl Queue {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, state: Mutex::default(), filled: Condvar::new() }
    }

    /// Lets an append wait for the next commit, or refuses it.
    pub(super) fn push(
        &self,
        topic: Topic,
        records: Vec<NewRecord>,
    ) -> Result<oneshot::Receiver<Outcomes>, AppendError> {
        let bytes = records.iter().map(size_of_record).sum::<usize>();
        let (done, outcome) = oneshot::channel();
        let mut state = self.state.lock();
        if let Some(reason) = &state.stopped {
            return Err(AppendError::Stopped { reason: Arc::clone(reason) });
        }
        if state.closing {
            return Err(AppendError::Stopped { reason: "it is being closed".into() });
        }
        // An append larger than the limit is taken alone, or it could never be taken.
        if state.bytes > 0 && state.bytes.saturating_add(bytes) > self.limit_bytes {
            let (queued_bytes, limit_bytes) = (state.bytes, self.limit_bytes);
            return Err(AppendError::Busy { queued_bytes, limit_bytes });
        }
        state.bytes += bytes;
        state.waiting.push_back(Waiting { topic, records, bytes, done });
        drop(state);
        self.filled.notify_one();
        Ok(outcome)
    }

    /// Takes no more; what waits is still committed.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.filled.notify_all();
    }

    /// Bytes that wait or are being written.
    pub(super) fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// Why the log stopped, if it did.
    pub(super) fn stopped(&self) -> Option<Arc<str>> {
        self.state.lock().stopped.clone()
    }

    /// Waits for appends; `None` when the queue is closed and empty.
    fn take(&self) -> Option<Vec<Waiting>> {
        let mut state = self.state.lock();
        while state.waiting.is_empty() {
            if state.closing {
                return None;
            }
            self.filled.wait(&mut state);
        }
        let mut taken = Vec::new();
        let mut bytes = 0_usize;
        while let Some(next) = state.waiting.front() {
            if !taken.is_empty() && bytes.saturating_add(next.bytes) > COMMIT_TARGET_BYTES {
                break;
            }
            bytes += next.bytes;
            taken.extend(state.waiting.pop_front());
        }
        Some(taken)
    }

    fn free(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
    }

    /// Refuses everything from now on.
    fn stop(&self, reason: &Arc<str>) {
        let waiting = {
            let mut state = self.state.lock();
            state.stopped = Some(Arc::clone(reason));
            state.bytes = 0;
            std::mem::take(&mut state.waiting)
        };
        for append in waiting {
            let error = AppendError::Stopped { reason: Arc::clone(reason) };
            complete(append.done, vec![Err(error); append.records.len()]);
        }
    }
}

/// The state of the thread that commits.
#[derive(Debug)]
pub(super) struct Committer {
    pub(super) store: SharedStore,
    pub(super) queue: Arc<Queue>,
    pub(super) bounds: Arc<AllBounds>,
    pub(super) commit: u64,
    pub(super) committed: watch::Sender<u64>,
}

impl Committer {
    /// Commits until the queue is closed or a write fails; returns the newest commit.
    pub(super) fn run(mut self) -> u64 {
        while let Some(group) = self.queue.take() {
            // The index is far behind; the queue fills up meanwhile and tells its callers.
            while self.store.seen.is_overfull() {
                std::thread::sleep(Duration::from_millis(5));
            }
            let bytes = group.iter().map(|append| append.bytes).sum();
            let mut group = group;
            let outcomes = self.lay_out(&mut group);
            match self.write(&group, &outcomes) {
                Ok(ends) => {
                    for ((topic, partition), end) in ends {
                        self.bounds.set_end(topic, partition, end);
                    }
                    self.committed.send_replace(self.commit);
                    self.queue.free(bytes);
                    for (append, offsets) in group.into_iter().zip(outcomes) {
                        complete(append.done, offsets.into_iter().map(Ok).collect());
                    }
                }
                Err(reason) => {
                    tracing::error!(path = %self.store.path.display(), %reason, "the log stopped");
                    self.queue.stop(&reason);
                    for append in group {
                        let error = AppendError::Unacknowledged { reason: Arc::clone(&reason) };
                        complete(append.done, vec![Err(error); append.records.len()]);
                    }
                    // Readers that wait learn from the queue why nothing comes any more.
                    self.committed.send_replace(self.commit);
                    break;
                }
            }
        }
        self.commit
    }

    /// Gives every record its offset.
    fn lay_out(&self, group: &mut [Waiting]) -> Vec<Vec<LogOffset>> {
        let mut next = BTreeMap::new();
        group
            .iter_mut()
            .map(|append| {
                let topic = append.topic;
                let offset = |record: &NewRecord| {
                    let end = next.entry((topic, record.partition)).or_insert_with(|| {
                        let bounds = self.bounds.get(topic, record.partition);
                        bounds.map_or(LogOffset::ZERO, |bounds| bounds.end)
                    });
                    let offset = *end;
                    *end = offset.next();
                    offset
                };
                append.records.iter().map(offset).collect()
            })
            .collect()
    }

    /// Writes the group as one batch and waits for the disk; returns the new ends.
    fn write(
        &mut self,
        group: &[Waiting],
        offsets: &[Vec<LogOffset>],
    ) -> Result<BTreeMap<(Topic, PartitionId), LogOffset>, Arc<str>> {
        let failed = |error: fjall::Error| Arc::from(chain(&error).as_str());
        let mut out = self.store.db.batch().durability(Some(PersistMode::SyncData));
        let mut open = BTreeMap::<(Topic, PartitionId), BatchBuilder>::new();
        let mut ends = BTreeMap::new();
        let mut seen: Vec<Entry> = Vec::new();
        for (append, offsets) in group.iter().zip(offsets) {
            for (record, offset) in append.records.iter().zip(offsets) {
                let place = (append.topic, record.partition);
                let builder = open.entry(place).or_insert_with(|| BatchBuilder::new(*offset));
                if builder.is_full() {
                    let full = std::mem::replace(builder, BatchBuilder::new(*offset));
                    self.add(&mut out, place, full);
                }
                builder.push(record.timestamp, &record.key, &record.payload);
                ends.insert(place, offset.next());
                seen.extend(record.identity);
            }
        }
        for (place, builder) in open {
            self.add(&mut out, place, builder);
        }
        let commit = self.commit + 1;
        out.insert(&self.store.meta, KEY_COMMIT, commit.to_be_bytes().as_slice());
        self.store.seen.add(&mut out, commit, &seen);
        out.commit().map_err(failed)?;
        self.commit = commit;
        // The commit is durable. If the marker cannot be written the log must stop all the same:
        // a later damage to this commit would go unnoticed.
        self.store.marker.lock().acknowledge(commit).map_err(|error| {
            Arc::from(format!("could not write the file `acknowledged`: {error}").as_str())
        })?;
        if self.store.seen.applied(commit, &seen) {
            self.seal_index();
        }
        Ok(ends)
    }

    /// Lets a thread of its own write the index's newest entries; commits go on meanwhile.
    fn seal_index(&self) {
        let store = Arc::clone(&self.store);
        let sealing = std::thread::Builder::new().name("log-index".into()).spawn(move || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
            if let Err(error) = store.seen.seal(now_ms) {
                // Nothing is lost: the entries stay in memory and in the store.
                tracing::warn!(%error, "could not write the index of seen events; trying later");
            }
        });
        if let Err(error) = sealing {
            tracing::warn!(%error, "could not start a thread for the index of seen events");
        }
    }

    fn add(
        &self,
        out: &mut fjall::OwnedWriteBatch,
        (topic, partition): (Topic, PartitionId),
        builder: BatchBuilder,
    ) {
        let key = record_key(topic, partition, builder.base());
        out.insert(&self.store.records, key.as_slice(), builder.finish());
    }
}

/// The bytes that a record counts in the queue.
fn size_of_record(record: &NewRecord) -> usize {
    // The overhead stands for the record's own fields and its index entry.
    record.key.len() + record.payload.len() + 64
}

/// Completes one append; a caller that left does not matter, its records are in the log.
fn complete(done: oneshot::Sender<Outcomes>, outcomes: Outcomes) {
    drop(done.send(outcomes));
}
