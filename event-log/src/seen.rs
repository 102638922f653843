//! Which events were acknowledged before, for a log that cannot say itself (Kafka).
//!
//! In: identities that the log acknowledged. Out: the content they were first seen with.
//! Always true: bounded in time and number: an entry is forgotten after the horizon, and the oldest
//! before it where there are too many, a whole generation at a time. After kill -9 everything
//! committed is there; after a loss of power the newest seconds may be missing, which costs a duplicate in the log and nothing in the tables.
//! [`SharedIndex`] adds what other nodes acknowledged, by Redis.
//! Not here: reservations of events under way (ingest), exactness (the stream processors).

mod shared;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use chalkstream_schemas::{ContentHash, EventIdentity};
use fjall::Database;
use tokio::sync::oneshot;

use self::writer::{Commit, Writer};
use crate::identities::{Entry, Identities, Limits};
use crate::{Error, SeenIndex, SeenStatus};

pub use self::shared::{RedisOptions, SharedIndex};

/// How long a [`LocalIndex`] remembers at least, unless told otherwise: as long as Kafka's topic.
pub const DEFAULT_HORIZON: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How many entries a [`LocalIndex`] holds at most, unless told otherwise: about 4 GB of
/// disk and at most 500 MB of memory.
pub const DEFAULT_MAX_ENTRIES: u64 = 100_000_000;

/// An index in a folder of this machine.
#[derive(Debug)]
pub struct LocalIndex {
    inner: Arc<Inner>,
    writer: Option<Writer>,
}

struct Inner {
    path: PathBuf,
    horizon: Duration,
    seen: Identities,
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

    fn error(&self, doing: &'static str, source: Arc<fjall::Error>) -> Error {
        Error::Store { doing, path: self.path.clone(), source }
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
        let io = |doing| {
            let path = path.clone();
            move |source| Error::Io { doing, path, source }
        };
        fs::create_dir_all(&path).map_err(io("create the folder"))?;
        let store = |source| match source {
            fjall::Error::Locked => Error::Locked { path: path.clone() },
            other => Error::Store {
                doing: "open the index of seen events",
                path: path.clone(),
                source: Arc::new(other),
            },
        };
        let db = Database::builder(&path)
            .journal_compression(fjall::CompressionType::None)
            .worker_threads(1)
            .open()
            .map_err(store)?;
        let limits = Limits { horizon: Some(horizon), max_entries };
        let seen = Identities::open(&db, &path.join("tables"), limits).map_err(store)?;
        let inner = Arc::new(Inner { path: path.clone(), horizon, seen, db });
        let writer = Writer::start(&inner).map_err(io("start a thread for the index in"))?;
        Ok(Arc::new(Self { inner, writer: Some(writer) }))
    }

    async fn commit_at(&self, acknowledged: &[Entry], now_ms: u64) -> Result<(), Error> {
        let (done, kept) = oneshot::channel();
        let commit = Commit { entries: acknowledged.to_vec(), now_ms, done };
        let sent = self.writer.as_ref().map(|writer| writer.commits.send(commit));
        let gone = || Error::Internal { what: "the index of seen events" };
        sent.and_then(Result::ok).ok_or_else(gone)?;
        let kept = kept.await.map_err(|_gone| gone())?;
        kept.map_err(|error| self.inner.error("keep seen events", error))
    }
}

impl Drop for LocalIndex {
    /// Waits for the writer, which holds the folder.
    fn drop(&mut self) {
        if let Some(Writer { commits, thread }) = self.writer.take() {
            drop(commits);
            if thread.join().is_err() {
                tracing::error!("the thread that writes the index of seen events had a bug");
            }
        }
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
        let inner = Arc::clone(&self.inner);
        // It reads from the disk, off the threads that serve requests.
        let looked = tokio::task::spawn_blocking(move || {
            let found = inner.seen.complete(&identities, known);
            found.map_err(|error| inner.error("look up seen events", Arc::new(error)))
        });
        looked.await.map_err(|_panicked| Error::Internal { what: "the index of seen events" })?
    }

    async fn commit(&self, acknowledged: &[Entry]) -> Result<(), Error> {
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
        let seal = |index: &LocalIndex, now_ms| index.inner.seal(now_ms).unwrap();
        index.commit_at(&[entry(1), entry(2)], 10_500).await.unwrap();
        seal(&index, 10_500);
        index.commit_at(&[entry(3)], 11_400).await.unwrap();
        let ids = [entry(3).0, entry(9).0, entry(1).0];
        let expected = [Some(entry(3).1), None, Some(entry(1).1)];
        assert_eq!(index.lookup(&ids).await.unwrap(), expected);

        drop(index);
        let index = open();
        assert_eq!(index.lookup(&ids).await.unwrap(), expected, "reopened");

        seal(&index, 11_400);
        assert_eq!(index.lookup(&ids).await.unwrap(), expected, "within the horizon");
        seal(&index, 12_500);
        let expected = [Some(entry(3).1), None, None];
        assert_eq!(index.lookup(&ids).await.unwrap(), expected, "the first generation is gone");
    }

    /// Requests that commit at once share runs; each is answered, and its entries are there.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn commits_at_once_are_all_kept() {
        let folder = tempfile::tempdir().unwrap();
        let index = LocalIndex::open(folder.path()).unwrap();
        let request = |number: u8| {
            (0..100).map(move |event: u8| {
                let mut identity = [number; 16];
                identity[15] = event;
                (EventIdentity::from_bytes(identity), ContentHash::from_bytes([event; 16]))
            })
        };
        let commits = (0..50).map(|number| {
            let index = Arc::clone(&index);
            tokio::spawn(async move { index.commit(&request(number).collect::<Vec<_>>()).await })
        });
        for commit in commits.collect::<Vec<_>>() {
            commit.await.unwrap().unwrap();
        }
        let (ids, contents): (Vec<_>, Vec<_>) =
            (0..50).flat_map(request).map(|(identity, content)| (identity, Some(content))).unzip();
        assert_eq!(index.lookup(&ids).await.unwrap(), contents);
        drop(index);
        let index = LocalIndex::open(folder.path()).unwrap();
        assert_eq!(index.lookup(&ids).await.unwrap(), contents, "reopened");
    }

    #[tokio::test]
    async fn a_second_handle_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _first = LocalIndex::open(folder.path()).unwrap();
        assert!(matches!(LocalIndex::open(folder.path()), Err(Error::Locked { .. })));
    }
}
