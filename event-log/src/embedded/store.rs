//! The folder of the embedded log: what lies where, and how it is opened after a crash.
//!
//! Keys of `records`: topic `u8`, partition `u32`, base offset `u64`, big endian; values are
//! batches. `meta` holds the log's identity and the number of the newest commit, `groups` the
//! groups' offsets, `runs-of-seen` the newest entries of the index of seen events. A commit writes
//! all of them at once. The index's tables are a store of their own, in the folder `seen`.
//!
//! Always true: a store that opens holds every commit that was acknowledged; otherwise opening is
//! an error that says what is lost and where the journals were kept.
//! Not here: threads (`committer`), waiting (`subscription`).

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chalkstream_schemas::{LogOffset, PartitionId};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use parking_lot::Mutex;
use uuid::Uuid;

use super::batch;
use super::bounds::AllBounds;
use super::marker::{Acknowledged, Marker};
use crate::identities::{Identities, Limits};
use crate::{Error, LogBounds, LogIdentity, PARTITIONER, Topic};

const FORMAT: &str = "chalkstream-log-1";
const KEY_FORMAT: &str = "format";
const KEY_CLUSTER: &str = "cluster_id";
const KEY_PARTITIONS: &str = "partitions";
pub(super) const KEY_COMMIT: &str = "commit";

/// What a store needs to know to open.
#[derive(Clone, Debug)]
pub(super) struct StoreOptions {
    pub(super) path: PathBuf,
    pub(super) partitions: u32,
    pub(super) cache_bytes: u64,
    pub(super) index_span: Option<Duration>,
}

/// An open folder.
pub(super) struct Store {
    pub(super) path: PathBuf,
    pub(super) db: Database,
    pub(super) meta: Keyspace,
    pub(super) records: Keyspace,
    pub(super) groups: Keyspace,
    pub(super) seen: Identities,
    pub(super) marker: Mutex<Marker>,
    // Fields drop in order: the lock goes last.
    _lock: File,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What opening found.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) identity: LogIdentity,
    pub(super) bounds: AllBounds,
    pub(super) commit: u64,
}

impl Store {
    /// Opens or creates the folder.
    pub(super) fn open(options: &StoreOptions) -> Result<Opened, Error> {
        let path = &options.path;
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { doing, path, source }
        };
        fs::create_dir_all(path).map_err(io("create the folder", path))?;
        let lock = lock(path)?;
        let marker_path = path.join("acknowledged");
        let (mut marker, acknowledged) =
            Marker::open(&marker_path).map_err(io("open", &marker_path))?;
        let store_path = path.join("store");
        let kept_path = path.join("recovery");
        let crashed = acknowledged.is_some_and(|state| !state.closed);
        let kept = if crashed { keep_journal(&store_path, &kept_path)? } else { None };

        let db = open_database(&store_path, options.cache_bytes)?;
        let keyspaces = Keyspaces::open(&db, &path.join("seen"), options.index_span)
            .map_err(|source| store_error("open the keyspaces", &store_path)(source))?;
        let acknowledged_commit = acknowledged.map_or(0, |state| state.commit);
        let (identity, commit) = keyspaces.identity(&db, options, acknowledged_commit, kept)?;
        let bounds = keyspaces.bounds(&store_path, identity.partitions)?;
        marker.settle(Acknowledged { commit, closed: false }).map_err(io("write", &marker_path))?;
        if crashed && kept_path.try_exists().map_err(io("look for", &kept_path))? {
            fs::remove_dir_all(&kept_path).map_err(io("remove", &kept_path))?;
        }
        let Keyspaces { meta, records, groups, seen } = keyspaces;
        let marker = Mutex::new(marker);
        let store =
            Self { path: path.clone(), db, meta, records, groups, seen, marker, _lock: lock };
        Ok(Opened { store, identity, bounds, commit })
    }

    /// Makes an error of the store one that says where.
    pub(super) fn error(&self, doing: &'static str) -> impl FnOnce(fjall::Error) -> Error {
        store_error(doing, &self.path)
    }

    /// Makes sure that everything written is on the disk, and says so in the marker.
    pub(super) fn settle(&self, commit: u64) -> Result<(), Error> {
        self.db.persist(PersistMode::SyncAll).map_err(self.error("write the journal"))?;
        self.marker.lock().settle(Acknowledged { commit, closed: true }).map_err(|source| {
            Error::Io { doing: "write", path: self.path.join("acknowledged"), source }
        })
    }
}

/// The key of a batch.
pub(super) fn record_key(topic: Topic, partition: PartitionId, base: LogOffset) -> [u8; 13] {
    let mut key = [0; 13];
    let parts = [topic_byte(topic)]
        .into_iter()
        .chain(partition.get().to_be_bytes())
        .chain(base.get().to_be_bytes());
    for (to, from) in key.iter_mut().zip(parts) {
        *to = from;
    }
    key
}

/// The base offset in a key of `records`.
pub(super) fn base_of(key: &[u8]) -> Option<LogOffset> {
    let base = key.get(5..)?.first_chunk()?;
    Some(LogOffset::new(u64::from_be_bytes(*base)))
}

/// The key of a group's offset.
pub(super) fn group_key(topic: Topic, partition: PartitionId, group: &str) -> Vec<u8> {
    let mut key = vec![topic_byte(topic)];
    key.extend_from_slice(&partition.get().to_be_bytes());
    key.extend_from_slice(group.as_bytes());
    key
}

/// The number that stands for a topic in keys; never to be changed.
const fn topic_byte(topic: Topic) -> u8 {
    match topic {
        Topic::Events => 0,
        Topic::Rejected => 1,
    }
}

struct Keyspaces {
    meta: Keyspace,
    records: Keyspace,
    groups: Keyspace,
    seen: Identities,
}

impl Keyspaces {
    fn open(db: &Database, seen: &Path, index_span: Option<Duration>) -> fjall::Result<Self> {
        let small = || KeyspaceCreateOptions::default().max_memtable_size(4 << 20);
        // Batches are compressed already, and separated from their keys they are written once:
        // compaction moves keys alone.
        let separated = KvSeparationOptions::default()
            .compression(fjall::CompressionType::None)
            .separation_threshold(512);
        let records = || KeyspaceCreateOptions::default().with_kv_separation(Some(separated));
        let limits = Limits { horizon: index_span, max_entries: u64::MAX };
        Ok(Self {
            meta: db.keyspace("meta", small)?,
            records: db.keyspace("records", records)?,
            groups: db.keyspace("groups", small)?,
            // As many as there are records: the log is bounded by its retention.
            seen: Identities::open(db, seen, limits)?,
        })
    }

    /// Reads who the log is, or makes it somebody; and which commit is the newest.
    fn identity(
        &self,
        db: &Database,
        options: &StoreOptions,
        acknowledged: u64,
        kept: Option<PathBuf>,
    ) -> Result<(LogIdentity, u64), Error> {
        let path = &options.path;
        let read = |key: &str| {
            let value = self.meta.get(key).map_err(store_error("read the log's identity", path))?;
            Ok::<_, Error>(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
        };
        let commit = self.meta.get(KEY_COMMIT).map_err(store_error("read the commit", path))?;
        let commit = match commit.as_deref().map(<[u8]>::first_chunk) {
            None => 0,
            Some(Some(bytes)) => u64::from_be_bytes(*bytes),
            Some(None) => {
                return Err(damaged(path, "the number of the newest commit is cut short"));
            }
        };
        if commit < acknowledged {
            let path = path.clone();
            return Err(Error::LostRecords { path, acknowledged, found: commit, kept });
        }
        let format = read(KEY_FORMAT)?;
        let Some(format) = format else {
            if commit > 0 {
                return Err(damaged(path, "it has commits but no format"));
            }
            return self.create(db, options).map(|identity| (identity, 0));
        };
        if format != FORMAT {
            let (path, expected) = (path.clone(), FORMAT.to_owned());
            return Err(Error::Format { path, found: format, expected });
        }
        let (Some(cluster_id), Some(partitions)) = (read(KEY_CLUSTER)?, read(KEY_PARTITIONS)?)
        else {
            return Err(damaged(path, "its identity is incomplete"));
        };
        let partitions = partitions
            .parse()
            .map_err(|_not_a_number| damaged(path, "its number of partitions is not a number"))?;
        if partitions != options.partitions {
            tracing::warn!(
                asked = options.partitions, partitions, path = %path.display(),
                "the log keeps the number of partitions that it was created with"
            );
        }
        Ok((LogIdentity { cluster_id, partitions, partitioner: PARTITIONER }, commit))
    }

    fn create(&self, db: &Database, options: &StoreOptions) -> Result<LogIdentity, Error> {
        let cluster_id = Uuid::new_v4().to_string();
        let mut batch = db.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.meta, KEY_FORMAT, FORMAT);
        batch.insert(&self.meta, KEY_CLUSTER, cluster_id.as_str());
        batch.insert(&self.meta, KEY_PARTITIONS, options.partitions.to_string().as_str());
        batch.commit().map_err(store_error("create the log", &options.path))?;
        Ok(LogIdentity { cluster_id, partitions: options.partitions, partitioner: PARTITIONER })
    }

    /// Reads where each partition begins and ends, and that its last batch is whole.
    fn bounds(&self, path: &Path, partitions: u32) -> Result<AllBounds, Error> {
        AllBounds::read(partitions, |topic, partition| {
            let range = record_key(topic, partition, LogOffset::ZERO)
                ..=record_key(topic, partition, LogOffset::new(u64::MAX));
            let failed = || store_error("read the bounds", path);
            let first = self.records.range(range.clone()).next();
            let Some(first) = first else {
                return Ok(LogBounds { first: LogOffset::ZERO, end: LogOffset::ZERO });
            };
            let first = first.key().map_err(failed())?;
            let first = base_of(&first).ok_or_else(|| damaged(path, "a key is cut short"))?;
            let Some(last) = self.records.range(range).next_back() else {
                return Err(damaged(path, "a partition's last batch cannot be found"));
            };
            let last = last.value().map_err(failed())?;
            let unreadable = |error: batch::BatchError| {
                damaged(path, &format!("the last batch of {topic} {partition}: {error}"))
            };
            let end = batch::header(&last).map_err(unreadable)?.end();
            batch::decode(&last).map_err(unreadable)?;
            Ok(LogBounds { first, end })
        })
    }
}

/// Opens the database on a thread of its own, so that bytes which make it panic become an error.
fn open_database(path: &Path, cache_bytes: u64) -> Result<Database, Error> {
    let folder = path.to_owned();
    let opening = std::thread::Builder::new().name("log-open".into()).spawn(move || {
        Database::builder(&folder)
            .cache_size(cache_bytes)
            .journal_compression(fjall::CompressionType::None)
            .worker_threads(2)
            .open()
    });
    let opening = opening.map_err(|source| Error::Io {
        doing: "start a thread to open",
        path: path.to_owned(),
        source,
    })?;
    match opening.join() {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(fjall::Error::Locked)) => {
            Err(Error::Locked { path: path.parent().unwrap_or(path).to_owned() })
        }
        Ok(Err(
            error @ (fjall::Error::JournalRecovery(_)
            | fjall::Error::InvalidTag(_)
            | fjall::Error::InvalidTrailer
            | fjall::Error::Decompress(_)
            | fjall::Error::Unrecoverable),
        )) => Err(damaged(path, &format!("its journal cannot be recovered: {error}"))),
        Ok(Err(fjall::Error::InvalidVersion(found))) => Err(Error::Format {
            path: path.to_owned(),
            found: format!("{found:?}"),
            expected: "V3".into(),
        }),
        Ok(Err(error)) => Err(store_error("open the store", path)(error)),
        Err(_panic) => Err(damaged(path, "the store could not read its own files")),
    }
}

/// Takes the folder's lock, which ends with this process whatever happens to it.
fn lock(path: &Path) -> Result<File, Error> {
    let lock_path = path.join("lock");
    let io = |source| Error::Io { doing: "open", path: lock_path.clone(), source };
    let lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(io)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

/// Copies the newest journal as the crash left it, since recovery cuts what it cannot read.
fn keep_journal(store: &Path, kept: &Path) -> Result<Option<PathBuf>, Error> {
    let io = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { doing, path, source }
    };
    let newest = match fs::read_dir(store) {
        Ok(entries) => entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let number: u64 = path.file_name()?.to_str()?.strip_suffix(".jnl")?.parse().ok()?;
                Some((number, path))
            })
            .max(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(io("read the folder", store)(error)),
    };
    let Some((number, journal)) = newest else { return Ok(None) };
    let copy = kept.join(format!("{number}.jnl"));
    if !copy.try_exists().map_err(io("look for", &copy))? {
        fs::create_dir_all(kept).map_err(io("create the folder", kept))?;
        fs::copy(&journal, &copy).map_err(io("copy the newest journal to", &copy))?;
    }
    Ok(Some(kept.to_owned()))
}

pub(super) fn damaged(path: &Path, detail: &str) -> Error {
    Error::Damaged { path: path.to_owned(), detail: detail.to_owned() }
}

fn store_error(doing: &'static str, path: &Path) -> impl FnOnce(fjall::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Store { doing, path, source: Arc::new(source) }
}

/// Shares a store between the threads that use it.
pub(super) type SharedStore = Arc<Store>;
