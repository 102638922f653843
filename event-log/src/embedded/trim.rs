//! Retention: what is older than it must be goes, oldest first.
//!
//! Always true: whole batches go, in order, so what is left begins at `first` and has no gaps;
//! `first` moves before anything goes; the newest batch of a partition never goes. An index entry
//! never goes before its record could.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chalkstream_schemas::{PartitionId, Timestamp};
use parking_lot::{Condvar, Mutex};

use super::bounds::AllBounds;
use super::store::{Store, damaged, record_key};
use super::{EmbeddedOptions, Shared, batch};
use crate::{Error, Topic};

/// How often the retention is applied.
const EVERY: Duration = Duration::from_secs(60 * 60);

/// Batches that are removed in one go.
const STEP: usize = 1_000;

/// Removes batches of `topic` that are all older than `before`; returns how many records went.
pub(super) fn trim(
    store: &Store,
    bounds: &AllBounds,
    topic: Topic,
    before: Timestamp,
) -> Result<u64, Error> {
    let mut gone = 0;
    for partition in 0..bounds.partitions() {
        let partition = PartitionId::new(partition);
        loop {
            let (removed, more) = trim_step(store, bounds, topic, partition, before)?;
            gone += removed;
            if !more {
                break;
            }
        }
    }
    if gone > 0 {
        // The tables hold keys alone, so this is cheap, and it frees the blob files.
        store.records.major_compact().map_err(store.error("compact trimmed records"))?;
    }
    match topic {
        Topic::Events => {
            let before_ms = u64::try_from(before.as_ms()).unwrap_or(0);
            store.seen.drop_before(before_ms).map_err(store.error("trim the index"))?;
        }
        Topic::Rejected => {}
    }
    Ok(gone)
}

/// Removes up to [`STEP`] batches of one partition; says whether there may be more.
fn trim_step(
    store: &Store,
    bounds: &AllBounds,
    topic: Topic,
    partition: PartitionId,
    before: Timestamp,
) -> Result<(u64, bool), Error> {
    let held = bounds.get(topic, partition)?;
    let range = record_key(topic, partition, held.first)..record_key(topic, partition, held.end);
    let mut keys = Vec::new();
    let mut first = held.first;
    for stored in store.records.range(range) {
        let (key, value) = stored.into_inner().map_err(store.error("read old records"))?;
        let header = batch::header(&value).map_err(|error| {
            damaged(&store.path, &format!("{topic} {partition} at {first}: {error}"))
        })?;
        // The newest batch stays, since it tells where the partition ends.
        if header.newest >= before || header.end() >= held.end || keys.len() == STEP {
            break;
        }
        first = header.end();
        keys.push(key);
    }
    let more = keys.len() == STEP;
    if keys.is_empty() {
        return Ok((0, false));
    }
    bounds.set_first(topic, partition, first);
    let mut removal = store.db.batch();
    for key in keys {
        removal.remove(&store.records, key);
    }
    removal.commit().map_err(store.error("remove old records"))?;
    Ok((first.get() - held.first.get(), more))
}

/// The thread that applies the retention by itself.
pub(super) struct Upkeep {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    /// Starts the thread, if anything is to be trimmed at all.
    pub(super) fn start(shared: &Arc<Shared>, options: &EmbeddedOptions) -> io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let retentions: Vec<_> = Topic::ALL
            .into_iter()
            .filter_map(|topic| {
                let retention = match topic {
                    Topic::Events => options.events_retention,
                    Topic::Rejected => options.rejected_retention,
                };
                retention.map(|retention| (topic, retention))
            })
            .collect();
        if retentions.is_empty() {
            return Ok(Self { stop, thread: None });
        }
        let shared = Arc::downgrade(shared);
        let signal = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("log-upkeep".into()).spawn(move || {
            while wait(&signal, EVERY) {
                let Some(shared) = shared.upgrade() else { return };
                let Some(store) = shared.store.read().clone() else { return };
                for (topic, retention) in &retentions {
                    match trim(&store, &shared.bounds, *topic, ago(*retention)) {
                        Ok(0) => {}
                        Ok(records) => tracing::info!(%topic, records, "trimmed the log"),
                        Err(error) => tracing::warn!(%topic, %error, "could not trim the log"),
                    }
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends the thread; a trim under way is finished first.
    pub(super) fn stop(self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
        if let Some(Err(_panic)) = self.thread.map(JoinHandle::join) {
            tracing::error!("the thread that trims the log panicked");
        }
    }
}

/// Waits; false when it was told to stop.
fn wait(signal: &(Mutex<bool>, Condvar), how_long: Duration) -> bool {
    let until = Instant::now() + how_long;
    let mut stopped = signal.0.lock();
    while !*stopped {
        if signal.1.wait_until(&mut stopped, until).timed_out() {
            return !*stopped;
        }
    }
    false
}

fn ago(retention: Duration) -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = now.saturating_sub(retention).as_millis();
    Timestamp::from_ms(i64::try_from(ms).unwrap_or(i64::MAX))
}
