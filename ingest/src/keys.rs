//! Write keys of schools: who may send events, and with which scopes.
//!
//! In: `keys.toml` of the data folder, and the keys that clients present. Out: a [`Credential`].
//! Always true: a key is stored as the SHA-256 of its 256 random bits and shown once; the file is
//! replaced atomically, mode 0600, under an exclusive lock, so that two commands never lose each
//! other's keys; a running server follows the file within two seconds; a file that cannot be read
//! changes nothing and says so.
//! Not here: HTTP headers (`credential`), creating schools (the binary).

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chalkstream_schemas::{SchoolId, Timestamp};
use parking_lot::RwLock;
use rand::TryRngCore;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

mod file;

use file::{Fingerprint, Locked};

const PREFIX: &str = "csk_";
const SECRET_BYTES: usize = 32;
/// `csk_` and the first eight hexadecimal digits of the secret.
const ID_CHARS: usize = PREFIX.len() + 8;

/// What a key allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Send events.
    #[serde(rename = "events:write")]
    EventsWrite,
    /// Send events of any age; implies `events:write`.
    #[serde(rename = "events:backfill")]
    EventsBackfill,
}

impl Scope {
    /// Every scope.
    pub const ALL: &[Self] = &[Self::EventsWrite, Self::EventsBackfill];

    /// The public name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EventsWrite => "events:write",
            Self::EventsBackfill => "events:backfill",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|scope| scope.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.iter().map(|scope| scope.as_str()).collect::<Vec<_>>();
            format!("there is no scope `{text}`; the scopes are {}", known.join(", "))
        })
    }
}

/// A key in clear, which exists only where it was made: show it once.
pub struct WriteKey(String);

impl WriteKey {
    /// The text that clients send.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for WriteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteKey(***)")
    }
}

/// What is known about a key; never the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// The first characters of the key, which name it in lists, logs and tables.
    pub key_id: String,
    /// The school whose events it may send.
    pub school_id: SchoolId,
    /// What it allows, sorted.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

/// What a valid key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The key's name.
    pub key_id: Arc<str>,
    /// The school of every event that comes with it.
    pub school_id: SchoolId,
    /// What it allows.
    pub scopes: Vec<Scope>,
}

impl Credential {
    /// Whether the key may send events.
    pub fn may_write(&self) -> bool {
        self.scopes.iter().any(|scope| match scope {
            Scope::EventsWrite | Scope::EventsBackfill => true,
        })
    }

    /// Whether its events may be of any age.
    pub fn may_backfill(&self) -> bool {
        self.scopes.contains(&Scope::EventsBackfill)
    }
}

/// Why a key is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// This server has no such key.
    #[error("the write key is not known here")]
    Unknown,
    /// It was revoked.
    #[error("the write key {key_id} was revoked at {revoked_at}")]
    Revoked {
        /// The key's name.
        key_id: Arc<str>,
        /// When.
        revoked_at: Timestamp,
    },
}

/// Why keys could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system refused.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not what this program wrote.
    #[error("{} is not a valid key file", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A line of the file is not valid.
    #[error("{} is not a valid key file: key {key_id}: {message}", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key_id: String,
        /// What is wrong.
        message: String,
    },
    /// Nothing to revoke.
    #[error("there is no key {key_id}")]
    NoSuchKey {
        /// The name given.
        key_id: String,
    },
    /// The system has no random numbers.
    #[error("the system gave no random numbers for a new key")]
    Random {
        /// Why not.
        source: rand::rand_core::OsError,
    },
    /// The keys cannot be written as TOML: a bug.
    #[error("could not encode the keys")]
    Encode {
        /// Why not.
        source: toml::ser::Error,
    },
}

impl KeyError {
    /// What the person at the keyboard does next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io { .. } => "check that the data folder exists, is yours, and has free space",
            Self::Parse { .. } | Self::Invalid { .. } => {
                "correct the file, or move it away and create new keys with `chalkstream keys create`"
            }
            Self::NoSuchKey { .. } => "list the keys with `chalkstream keys list`",
            Self::Random { .. } | Self::Encode { .. } => "try again; if it stays, report it",
        }
    }
}

#[derive(Debug)]
struct Entry {
    credential: Arc<Credential>,
    revoked_at: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Snapshot {
    by_hash: HashMap<[u8; 32], Entry>,
    keys: Vec<KeyInfo>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    snapshot: RwLock<Arc<Snapshot>>,
    /// What the snapshot was read from; the lock also serialises reloads.
    read: parking_lot::Mutex<Option<Fingerprint>>,
}

/// The keys of one data folder. Clones share what they know.
#[derive(Clone, Debug)]
pub struct KeyStore {
    inner: Arc<Inner>,
}

impl KeyStore {
    /// Reads the keys at `path` (`<data-dir>/keys.toml`); no file means no keys yet.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, KeyError> {
        let inner = Inner {
            path: path.into(),
            snapshot: RwLock::default(),
            read: parking_lot::Mutex::new(None),
        };
        let store = Self { inner: Arc::new(inner) };
        store.reload()?;
        Ok(store)
    }

    /// Makes a key. The key itself is returned once and stored nowhere.
    pub fn create(
        &self,
        school: &SchoolId,
        scopes: &[Scope],
        now: Timestamp,
    ) -> Result<(WriteKey, KeyInfo), KeyError> {
        let mut scopes = scopes.to_vec();
        scopes.sort_unstable();
        scopes.dedup();
        let mut locked = Locked::open(&self.inner.path)?;
        let (key, info) = loop {
            let key = generate()?;
            let key_id = key.0.chars().take(ID_CHARS).collect::<String>();
            // 32 bits name a key; a name taken already means to draw again.
            if locked.keys().all(|known| known.key_id != key_id) {
                let school_id = school.clone();
                break (
                    key,
                    KeyInfo { key_id, school_id, scopes, created_at: now, revoked_at: None },
                );
            }
        };
        locked.push(info.clone(), hash(key.reveal()));
        locked.commit()?;
        self.reload()?;
        Ok((key, info))
    }

    /// Every key, revoked ones too, oldest first.
    pub fn list(&self) -> Vec<KeyInfo> {
        self.snapshot().keys.clone()
    }

    /// How many keys are not revoked.
    pub fn valid(&self) -> usize {
        self.snapshot().keys.iter().filter(|key| key.revoked_at.is_none()).count()
    }

    /// Makes a key useless from now on; one that is revoked already keeps its time.
    pub fn revoke(&self, key_id: &str, now: Timestamp) -> Result<KeyInfo, KeyError> {
        let mut locked = Locked::open(&self.inner.path)?;
        let Some(info) = locked.revoke(key_id, now) else {
            return Err(KeyError::NoSuchKey { key_id: key_id.to_owned() });
        };
        locked.commit()?;
        self.reload()?;
        Ok(info)
    }

    /// What `key` stands for.
    pub fn authenticate(&self, key: &str) -> Result<Arc<Credential>, AuthError> {
        // Looking up a hash of 256 random bits tells an attacker nothing by its timing.
        let snapshot = self.snapshot();
        let Some(entry) = snapshot.by_hash.get(&hash(key)) else {
            return Err(AuthError::Unknown);
        };
        match entry.revoked_at {
            None => Ok(Arc::clone(&entry.credential)),
            Some(revoked_at) => {
                Err(AuthError::Revoked { key_id: Arc::clone(&entry.credential.key_id), revoked_at })
            }
        }
    }

    /// Reads the file again if it has changed; says whether it had.
    pub fn reload(&self) -> Result<bool, KeyError> {
        let mut read = self.inner.read.lock();
        let found = Fingerprint::of(&self.inner.path)?;
        if found.is_some() && *read == found {
            return Ok(false);
        }
        let keys = match found {
            Some(_) => file::read(&self.inner.path)?,
            None => Vec::new(),
        };
        let changed = *read != found;
        *self.inner.snapshot.write() = Arc::new(Snapshot::of(keys));
        *read = found;
        Ok(changed)
    }

    /// Follows the file from a task that ends with the last clone of this store.
    pub fn follow(&self, every: Duration) {
        let inner = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(every);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut failing = false;
            loop {
                tick.tick().await;
                let Some(inner) = inner.upgrade() else { return };
                let store = Self { inner };
                let reloaded = tokio::task::spawn_blocking(move || store.reload()).await;
                match reloaded {
                    Ok(Ok(changed)) => {
                        if changed || failing {
                            tracing::info!("write keys read again");
                        }
                        failing = false;
                    }
                    Ok(Err(error)) => {
                        // Once, not every second; the keys known so far stay valid.
                        if !failing {
                            let hint = error.hint();
                            let cause = std::error::Error::source(&error).map(ToString::to_string);
                            tracing::error!(%error, cause, hint, "write keys not read again");
                        }
                        failing = true;
                    }
                    Err(stopped) => {
                        tracing::debug!(%stopped, "no longer following the write keys");
                        return;
                    }
                }
            }
        });
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.inner.snapshot.read())
    }
}

impl Snapshot {
    fn of(stored: Vec<(KeyInfo, [u8; 32])>) -> Self {
        let mut snapshot = Self::default();
        for (info, hash) in stored {
            let credential = Arc::new(Credential {
                key_id: info.key_id.as_str().into(),
                school_id: info.school_id.clone(),
                scopes: info.scopes.clone(),
            });
            snapshot.by_hash.insert(hash, Entry { credential, revoked_at: info.revoked_at });
            snapshot.keys.push(info);
        }
        snapshot
    }
}

fn generate() -> Result<WriteKey, KeyError> {
    let mut secret = [0_u8; SECRET_BYTES];
    let mut random = rand::rngs::OsRng;
    random.try_fill_bytes(&mut secret).map_err(|source| KeyError::Random { source })?;
    Ok(WriteKey(format!("{PREFIX}{}", hex::encode(secret))))
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests;
