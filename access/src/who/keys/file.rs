//! `keys.toml`: read whole, replaced atomically under a lock.
//!
//! Always true: readers see the old file or the new one; two writers take turns through
//! `keys.toml.lock`, whose lock the system releases with its process, so nothing is stale after a
//! crash; an unknown field or scope is an error, never ignored; a file that is gone or was cut takes no
//! key away from a process that knew it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::error::KeyError;
use super::known::{Change, Hash, Snapshot};
use super::stored::StoredKey;
use crate::who::grant::KeyInfo;

const FORMAT: u32 = 1;
const MODE: u32 = 0o600;
const HEADER: &str = "# Write keys of this Chalkstream. Written by `chalkstream keys`; a running server follows changes.\n# Only hashes are stored: a key that was lost cannot be read from here, create another.\n\n";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredFile {
    format: u32,
    /// How many keys follow, so that a file that was cut is not taken for one with fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
    #[serde(default)]
    keys: Vec<StoredKey>,
}

/// Tells one version of the file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Fingerprint {
    /// `None` if there is no file.
    fn of(path: &Path) -> Result<Option<Self>, KeyError> {
        match std::fs::metadata(path) {
            Ok(found) => Ok(Some(Self {
                inode: found.ino(),
                bytes: found.len(),
                modified: (found.mtime(), found.mtime_nsec()),
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io("read", path)(source)),
        }
    }
}

/// Reads every key with its hash; no file means none.
fn read(path: &Path) -> Result<Vec<(KeyInfo, Hash)>, KeyError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io("read", path)(source)),
    };
    let file = toml::from_str::<StoredFile>(&text)
        .map_err(|source| KeyError::Parse { path: path.to_owned(), source: Box::new(source) })?;
    if file.format != FORMAT {
        let message =
            format!("format {} is not known; this version reads format {FORMAT}", file.format);
        let (path, key_id) = (path.to_owned(), "(all)".to_owned());
        return Err(KeyError::Invalid { path, key_id, message });
    }
    let held = file.keys.len();
    if let Some(count) = file.count.filter(|count| *count != held) {
        let message = format!("it says `count = {count}` and holds {held}; was it cut?");
        let (path, key_id) = (path.to_owned(), "(all)".to_owned());
        return Err(KeyError::Invalid { path, key_id, message });
    }
    let parse = |stored: StoredKey| {
        let key_id = stored.key_id.clone();
        let path = path.to_owned();
        stored.parse().map_err(|message| KeyError::Invalid { path, key_id, message })
    };
    file.keys.into_iter().map(parse).collect()
}

/// The file of one data folder.
#[derive(Debug)]
pub(super) struct KeyFile {
    path: PathBuf,
    known: Arc<ArcSwap<Snapshot>>,
    /// What is known was read from it; the lock also serialises reloads.
    read: Mutex<Option<Fingerprint>>,
    /// Since when the file cannot be followed, and why.
    trouble: Mutex<Option<(Instant, String)>>,
}

impl KeyFile {
    pub(super) fn open(path: PathBuf, known: Arc<ArcSwap<Snapshot>>) -> Result<Self, KeyError> {
        let file = Self { path, known, read: Mutex::default(), trouble: Mutex::default() };
        file.reload()?;
        Ok(file)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Decides on what the file holds while nobody else may change it, then changes it at once.
    pub(super) fn edit<T>(
        &self,
        decide: impl FnOnce(&[(KeyInfo, Hash)]) -> Result<(Vec<Change>, T), KeyError>,
    ) -> Result<T, KeyError> {
        let mut locked = Locked::open(&self.path)?;
        if self.is_gone(Fingerprint::of(&self.path)?) {
            return Err(KeyError::Gone { path: self.path.clone() });
        }
        let (changes, done) = decide(&locked.keys)?;
        for change in changes {
            locked.make(change);
        }
        locked.commit()?;
        self.reload()?;
        Ok(done)
    }

    /// Reads the file again if it has changed; says whether it had.
    pub(super) fn reload(&self) -> Result<bool, KeyError> {
        let mut known = self.read.lock();
        let found = Fingerprint::of(&self.path)?;
        if found.is_some() && *known == found {
            return Ok(false);
        }
        if known.is_some() && found.is_none() {
            return Err(KeyError::Gone { path: self.path.clone() });
        }
        let keys = match found {
            Some(_) => read(&self.path)?,
            None => Vec::new(),
        };
        let changed = *known != found;
        self.known.store(Arc::new(Snapshot::of(keys)));
        *known = found;
        Ok(changed)
    }

    /// Whether there was a file, and is none.
    fn is_gone(&self, found: Option<Fingerprint>) -> bool {
        found.is_none() && self.read.lock().is_some()
    }

    /// Reads the file again; trouble is said once, and kept until it is over.
    pub(super) fn look(&self) {
        let reloaded = self.reload();
        let mut trouble = self.trouble.lock();
        match reloaded {
            Ok(changed) => {
                if changed || trouble.is_some() {
                    tracing::info!("write keys read again");
                }
                *trouble = None;
            }
            Err(error) if trouble.is_none() => {
                let hint = error.hint();
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, hint, "write keys not read again");
                *trouble = Some((Instant::now(), error.to_string()));
            }
            Err(_said_before) => {}
        }
    }

    pub(super) fn trouble(&self) -> Option<(Duration, String)> {
        self.trouble.lock().as_ref().map(|(since, why)| (since.elapsed(), why.clone()))
    }
}

/// The file while this process alone may change it.
#[derive(Debug)]
struct Locked {
    path: PathBuf,
    keys: Vec<(KeyInfo, Hash)>,
    /// Held, not used: closing it releases the lock.
    _lock: File,
}

impl Locked {
    /// Waits for the lock, then reads what the file holds now.
    fn open(path: &Path) -> Result<Self, KeyError> {
        let lock_path = path.with_extension("toml.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(MODE)
            .open(&lock_path)
            .map_err(io("create", &lock_path))?;
        lock.lock().map_err(io("lock", &lock_path))?;
        Ok(Self { path: path.to_owned(), keys: read(path)?, _lock: lock })
    }

    fn find(&mut self, hash: Hash) -> Option<&mut KeyInfo> {
        self.keys.iter_mut().find(|(_, known)| *known == hash).map(|(info, _)| info)
    }

    fn make(&mut self, change: Change) {
        match change {
            Change::Add(info, hash) => self.keys.push((*info, hash)),
            Change::Rotate(hash, rotated) => {
                if let Some(info) = self.find(hash) {
                    info.rotated = Some(rotated);
                }
            }
            Change::Revoke(hash, at) => {
                if let Some(info) = self.find(hash) {
                    info.revoked_at = Some(at);
                }
            }
        }
    }

    /// Writes beside, syncs, renames, syncs the folder: a crash leaves the old file or the new one.
    fn commit(self) -> Result<(), KeyError> {
        let keys =
            self.keys.iter().map(|(info, hash)| StoredKey::of(info, hash)).collect::<Vec<_>>();
        let count = Some(keys.len());
        let body = toml::to_string(&StoredFile { format: FORMAT, count, keys })
            .map_err(|source| KeyError::Encode { source })?;
        let beside = self.path.with_extension("toml.tmp");
        match std::fs::remove_file(&beside) {
            // Left by a crash: made anew, so that its mode is right.
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(io("remove", &beside)(source)),
        }
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(MODE)
            .open(&beside)
            .map_err(io("create", &beside))?;
        file.write_all(HEADER.as_bytes()).map_err(io("write", &beside))?;
        file.write_all(body.as_bytes()).map_err(io("write", &beside))?;
        file.sync_all().map_err(io("sync", &beside))?;
        std::fs::rename(&beside, &self.path).map_err(io("replace", &self.path))?;
        let folder = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("sync", folder))
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::Io { action, path, source }
}
