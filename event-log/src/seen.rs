//! Which events were acknowledged before, for a log that cannot say itself (Kafka).
//!
//! In: identities that the log acknowledged. Out: the content they were first seen with.
//! Always true: bounded in time and number: an entry is forgotten after the horizon, and the oldest
//! before it where there are too many, a whole generation at a time. After kill -9 everything committed is there; after a loss of power the
//! newest seconds may be missing, which costs a duplicate in the log and nothing in the tables.
//! [`SharedIndex`] adds what other nodes acknowledged, by Redis.
//! Not here: reservations of events under way (ingest), exactness (the stream processors).

mod shared;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use chalkstream_schemas::{ContentHash, EventIdentity};
use fjall::Database;
use parking_lot::Mutex;

use crate::identities::{Identities, Limits};
use crate::{Error, SeenIndex, SeenStatus};

pub use self::shared::{RedisOptions, SharedIndex};

/// How long a [`LocalIndex`] remembers at least, unless told otherwise: as long as Kafka's topic.
pub const DEFAULT_HORIZON: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How many entries a [`LocalIndex`] holds at most, unless told otherwise: about 4 GB of disk.
pub const DEFAULT_MAX_ENTRIES: u64 = 100_000_000;

/// An index in a folder of this machine.
#[derive(Debug)]
pub struct LocalIndex {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    horizon: Duration,
    seen: Identities,
    /// The newest run; held while one is written, so that runs become visible in their order.
    run: Mutex<u64>,
    db: Database,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("path", &self.path)
            .field("horizon", &self.horizon)
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Writes what is in memory, and forgets what is beyond the horizon.
    fn seal(&self, now_ms: u64) -> fjall::Result<()> {
        self.seen.seal(now_ms)?;
        let horizon_ms = u64::try_from(self.horizon.as_millis()).unwrap_or(u64::MAX);
        self.seen.drop_before(now_ms.saturating_sub(horizon_ms))
    }
}

impl LocalIndex {
    /// Opens the index of a folder with the defaults, creating it if there is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>, Error> {
        Self::open_with(path, DEFAULT_HORIZON, DEFAULT_MAX_ENTRIES)
    }

    /// Opens the index of a folder, to remember for at least `horizon` as long as that is no more
    /// than `max_entries`.
    pub fn open_with(
        path: impl AsRef<Path>,
        horizon: Duration,
        max_entries: u64,
    ) -> Result<Arc<Self>, Error> {
        let path = path.as_ref().to_owned();
        fs::create_dir_all(&path).map_err(|source| Error::Io {
            doing: "create the folder",
            path: path.clone(),
            source,
        })?;
        let store = |source| match source {
            fjall::Error::Locked => Error::Locked { path: path.clone() },
            other => Error::Store {
                doing: "open the index of seen events",
                path: path.clone(),
                source: Box::new(other),
            },
        };
        let db = Database::builder(&path)
            .journal_compression(fjall::CompressionType::None)
            .worker_threads(1)
            .open()
            .map_err(store)?;
        let limits = Limits { horizon: Some(horizon), max_entries };
        let seen = Identities::open(&db, limits).map_err(store)?;
        let run = Mutex::new(seen.newest_run());
        let inner = Inner { path: path.clone(), horizon, seen, run, db };
        Ok(Arc::new(Self { inner: Arc::new(inner) }))
    }

    /// Runs something that blocks, off the threads that serve requests.
    async fn run<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Inner) -> fjall::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || {
            work(&inner).map_err(|source| Error::Store {
                doing,
                path: inner.path.clone(),
                source: Box::new(source),
            })
        });
        done.await.map_err(|_panicked| Error::Internal { what: "the index of seen events" })?
    }

    async fn commit_at(
        &self,
        acknowledged: &[(EventIdentity, ContentHash)],
        now_ms: u64,
    ) -> Result<(), Error> {
        let entries = acknowledged.to_vec();
        let work = move |inner: &Inner| {
            // Sealing is far behind: who adds more waits for it.
            while inner.seen.is_overfull() {
                std::thread::sleep(Duration::from_millis(5));
            }
            let mut run = inner.run.lock();
            *run += 1;
            let mut batch = inner.db.batch();
            inner.seen.add(&mut batch, *run, &entries);
            batch.commit()?;
            Ok(inner.seen.applied(*run, &entries))
        };
        if self.run("keep seen events", work).await? {
            // In the background: nobody's answer waits for it.
            let inner = Arc::clone(&self.inner);
            drop(tokio::task::spawn_blocking(move || {
                if let Err(error) = inner.seal(now_ms) {
                    // Nothing is lost: the entries stay in memory and in the store.
                    tracing::warn!(%error, "could not write the index of seen events; trying later");
                }
            }));
        }
        Ok(())
    }
}

#[async_trait]
impl SeenIndex for LocalIndex {
    async fn lookup(
        &self,
        identities: &[EventIdentity],
    ) -> Result<Vec<Option<ContentHash>>, Error> {
        let known = self.inner.seen.recall(identities);
        if known.unsure.is_empty() {
            return Ok(known.found);
        }
        let identities = identities.to_vec();
        let complete = move |inner: &Inner| inner.seen.complete(&identities, known);
        self.run("look up seen events", complete).await
    }

    async fn commit(&self, acknowledged: &[(EventIdentity, ContentHash)]) -> Result<(), Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.commit_at(acknowledged, u64::try_from(now.as_millis()).unwrap_or(u64::MAX)).await
    }

    fn status(&self) -> SeenStatus {
        SeenStatus { entries: Some(self.inner.seen.len()), shared: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u8) -> (EventIdentity, ContentHash) {
        (EventIdentity::from_bytes([number; 16]), ContentHash::from_bytes([number ^ 0xff; 16]))
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_remembered_for_the_horizon() {
        let folder = tempfile::tempdir().unwrap();
        let horizon = Duration::from_millis(1_000);
        let open = || LocalIndex::open_with(folder.path(), horizon, 1_000).unwrap();
        let index = open();
        let seal = |index: &Arc<LocalIndex>, now_ms| {
            let index = Arc::clone(index);
            async move { index.run("seal", move |inner| inner.seal(now_ms)).await.unwrap() }
        };
        index.commit_at(&[entry(1), entry(2)], 10_500).await.unwrap();
        seal(&index, 10_500).await;
        index.commit_at(&[entry(3)], 11_400).await.unwrap();
        let ids = [entry(3).0, entry(9).0, entry(1).0];
        let expected = [Some(entry(3).1), None, Some(entry(1).1)];
        assert_eq!(index.lookup(&ids).await.unwrap(), expected);

        drop(index);
        let index = open();
        assert_eq!(index.lookup(&ids).await.unwrap(), expected, "reopened");

        seal(&index, 11_400).await;
        assert_eq!(index.lookup(&ids).await.unwrap(), expected, "within the horizon");
        seal(&index, 12_500).await;
        let expected = [Some(entry(3).1), None, None];
        assert_eq!(index.lookup(&ids).await.unwrap(), expected, "the first generation is gone");
    }

    #[tokio::test]
    async fn a_second_handle_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _first = LocalIndex::open(folder.path()).unwrap();
        assert!(matches!(LocalIndex::open(folder.path()), Err(Error::Locked { .. })));
    }
}
