//! Write keys of schools: who may send events, and with which rights.
//!
//! In: `keys.toml` of the data folder, and the keys that clients present. Out: a [`Credential`].
//! Always true: a key is stored as the SHA-256 of its 256 random bits and shown once; the file is
//! replaced atomically, mode 0600, under an exclusive lock, so that two commands never lose each
//! other's keys; a running server follows the file within two seconds; a file that cannot be read
//! changes nothing and says so. What changes keys blocks: on an async thread, use a blocking task.
//! Not here: HTTP headers (`credential`), creating schools (the binary).

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use chalkstream_schemas::{SchoolId, Timestamp};
use rand::TryRngCore;
use sha2::{Digest, Sha256};

mod credential;
mod error;
mod file;
mod grant;
mod stored;

pub use credential::{AuthError, Credential};
pub use error::KeyError;
use file::{Fingerprint, Locked};
pub use grant::{Grant, KeyInfo, KeyState, Rotated, Scope};

const PREFIX: &str = "csk_";
const SECRET_BYTES: usize = 32;
/// `csk_` and the first eight hexadecimal digits of the secret.
const ID_CHARS: usize = PREFIX.len() + 8;

/// What is stored of a key.
type Hash = [u8; 32];

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

#[derive(Debug)]
struct Entry {
    credential: Arc<Credential>,
    info: KeyInfo,
}

/// The keys as they were last read.
#[derive(Debug, Default)]
struct Snapshot {
    by_hash: HashMap<Hash, Entry>,
    /// Oldest first.
    keys: Vec<KeyInfo>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    snapshot: ArcSwap<Snapshot>,
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
            snapshot: ArcSwap::default(),
            read: parking_lot::Mutex::new(None),
        };
        let store = Self { inner: Arc::new(inner) };
        store.reload()?;
        Ok(store)
    }

    /// Makes a key with rights in one school. The key itself is returned once and stored nowhere.
    pub fn create(
        &self,
        school: &SchoolId,
        scopes: &[Scope],
        now: Timestamp,
    ) -> Result<(WriteKey, KeyInfo), KeyError> {
        self.issue(Grant::new(school.clone(), scopes), None, now)
    }

    /// Makes a key with any rights. The key itself is returned once and stored nowhere.
    pub fn issue(
        &self,
        mut grant: Grant,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(WriteKey, KeyInfo), KeyError> {
        grant.tidy();
        grant.check().map_err(|message| KeyError::Contradiction { message })?;
        if expires_at.is_some_and(|at| at <= now) {
            let message = "it would have expired already".to_owned();
            return Err(KeyError::Contradiction { message });
        }
        let mut locked = Locked::open(&self.inner.path)?;
        let (key, info) = generate(locked.keys(), grant, expires_at, now)?;
        locked.keys().push((info.clone(), hash(key.reveal())));
        locked.commit()?;
        self.reload()?;
        Ok((key, info))
    }

    /// Makes a key with the rights of another, which stays valid for `overlap`.
    pub fn rotate(
        &self,
        key_id: &str,
        overlap: Duration,
        now: Timestamp,
    ) -> Result<(WriteKey, KeyInfo), KeyError> {
        let mut locked = Locked::open(&self.inner.path)?;
        let (grant, expires_at) = find(locked.keys(), key_id)?.successor(now)?;
        let (key, info) = generate(locked.keys(), grant, expires_at, now)?;
        let rotated = Rotated { until: now.plus(overlap), successor: info.key_id.clone() };
        find(locked.keys(), key_id)?.rotated = Some(rotated);
        locked.keys().push((info.clone(), hash(key.reveal())));
        locked.commit()?;
        self.reload()?;
        Ok((key, info))
    }

    /// Every key, those no longer valid too, oldest first.
    pub fn list(&self) -> Vec<KeyInfo> {
        self.snapshot().keys.clone()
    }

    /// How many keys may be used.
    pub fn valid(&self, now: Timestamp) -> usize {
        self.snapshot().keys.iter().filter(|key| key.state(now).is_valid()).count()
    }

    /// Makes a key useless from now on; one that is revoked already keeps its time.
    pub fn revoke(&self, key_id: &str, now: Timestamp) -> Result<KeyInfo, KeyError> {
        let mut locked = Locked::open(&self.inner.path)?;
        let info = find(locked.keys(), key_id)?;
        info.revoked_at.get_or_insert(now);
        let info = info.clone();
        locked.commit()?;
        self.reload()?;
        Ok(info)
    }

    /// What `key` stands for at `now`.
    pub fn authenticate(&self, key: &str, now: Timestamp) -> Result<Arc<Credential>, AuthError> {
        // Looking up a hash of 256 random bits tells an attacker nothing by its timing.
        let snapshot = self.snapshot();
        let Some(Entry { credential, info }) = snapshot.by_hash.get(&hash(key)) else {
            return Err(AuthError::Unknown);
        };
        let key_id = || Arc::clone(&credential.key_id);
        match info.state(now) {
            KeyState::Active | KeyState::Rotating { .. } => Ok(Arc::clone(credential)),
            KeyState::Expired { at } => {
                Err(AuthError::Expired { key_id: key_id(), expired_at: at })
            }
            KeyState::Revoked { at } => {
                Err(AuthError::Revoked { key_id: key_id(), revoked_at: at })
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
        self.inner.snapshot.store(Arc::new(Snapshot::of(keys)));
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

    fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.inner.snapshot.load()
    }
}

impl Snapshot {
    fn of(stored: Vec<(KeyInfo, Hash)>) -> Self {
        let mut snapshot = Self::default();
        for (info, hash) in stored {
            let credential = Arc::new(Credential::of(&info));
            snapshot.keys.push(info.clone());
            snapshot.by_hash.insert(hash, Entry { credential, info });
        }
        snapshot
    }
}

fn find<'k>(keys: &'k mut [(KeyInfo, Hash)], key_id: &str) -> Result<&'k mut KeyInfo, KeyError> {
    let found = keys.iter_mut().map(|(info, _)| info).find(|info| info.key_id == key_id);
    found.ok_or_else(|| KeyError::NoSuchKey { key_id: key_id.to_owned() })
}

/// Draws a key whose name none of `known` has.
fn generate(
    known: &[(KeyInfo, Hash)],
    grant: Grant,
    expires_at: Option<Timestamp>,
    now: Timestamp,
) -> Result<(WriteKey, KeyInfo), KeyError> {
    loop {
        let mut secret = [0_u8; SECRET_BYTES];
        let mut random = rand::rngs::OsRng;
        random.try_fill_bytes(&mut secret).map_err(|source| KeyError::Random { source })?;
        let key = WriteKey(format!("{PREFIX}{}", hex::encode(secret)));
        let key_id = key.0.chars().take(ID_CHARS).collect::<String>();
        // 32 bits name a key; a name taken already means to draw again.
        if known.iter().all(|(known, _)| known.key_id != key_id) {
            let (rotated, revoked_at) = (None, None);
            let created_at = now;
            let info = KeyInfo { key_id, grant, created_at, expires_at, rotated, revoked_at };
            return Ok((key, info));
        }
    }
}

fn hash(key: &str) -> Hash {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests;
