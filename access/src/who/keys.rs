//! Write keys of schools: who may send events, and with which rights.
//!
//! In: the keys that clients present, and where keys are kept: `keys.toml` of the data folder, or the
//! compacted topic `chalkstream.keys` for many nodes. Out: a [`Credential`].
//! Always true: a key is stored as the SHA-256 of its 256 random bits and shown once; a running server
//! follows changes within two seconds; what cannot be read or reached changes nothing and says so.
//! What changes keys blocks: on an async thread, use a blocking task.
//! Not here: HTTP headers (`gate`), creating schools (the binary).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use chalkstream_event_log::kafka::KafkaOptions;
use chalkstream_schemas::{SchoolId, Timestamp};
use rand::TryRngCore;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::who::credential::{AuthError, Credential};
use crate::who::grant::{Grant, KeyInfo, KeyState, Rotated, Scope};

pub(crate) mod error;
mod file;
pub(crate) mod known;
mod stored;
mod topic;

use error::KeyError;
use file::KeyFile;
use known::{Change, Entry, Hash, Snapshot};
use topic::KeyTopic;

const PREFIX: &str = "csk_";
const SECRET_BYTES: usize = 32;
/// `csk_` and the first eight hexadecimal digits of the secret.
const ID_CHARS: usize = PREFIX.len() + 8;

/// Where keys are kept: `[ingest.keys]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeysOptions {
    /// Without it: the file for `standalone`, and the topic for the other roles on Kafka.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<KeysHome>,
}

/// Where keys may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeysHome {
    /// In `keys.toml` of the data folder.
    File,
    /// In the compacted topic `chalkstream.keys` on Kafka, which all nodes follow.
    Topic,
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

/// Where keys are kept.
#[derive(Debug)]
enum Home {
    File(KeyFile),
    Topic(KeyTopic),
}

/// The keys of one data folder, or of all nodes of a cluster. Clones share what they know.
#[derive(Clone, Debug)]
pub struct KeyStore {
    known: Arc<ArcSwap<Snapshot>>,
    home: Arc<Home>,
}

impl KeyStore {
    /// Reads the keys at `path` (`<data-dir>/keys.toml`); no file means no keys yet.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, KeyError> {
        let known = Arc::default();
        let home = Home::File(KeyFile::open(path.into(), Arc::clone(&known))?);
        Ok(Self { known, home: Arc::new(home) })
    }

    /// Follows the keys that all nodes of a Kafka cluster share.
    pub async fn on_kafka(options: KafkaOptions) -> Result<Self, KeyError> {
        let known = Arc::default();
        let home = Home::Topic(KeyTopic::open(options, Arc::clone(&known)).await?);
        Ok(Self { known, home: Arc::new(home) })
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
        self.edit(|known| {
            let (key, info) = generate(known, grant, expires_at, now)?;
            let add = Change::Add(Box::new(info.clone()), hash(key.reveal()));
            Ok((vec![add], (key, info)))
        })
    }

    /// Makes a key with the rights of another, which stays valid for `overlap`.
    pub fn rotate(
        &self,
        key_id: &str,
        overlap: Duration,
        now: Timestamp,
    ) -> Result<(WriteKey, KeyInfo), KeyError> {
        self.edit(|known| {
            let (old, old_hash) = find(known, key_id)?;
            let (grant, expires_at) = old.successor(now)?;
            let (key, info) = generate(known, grant, expires_at, now)?;
            let rotated = Rotated { until: now.plus(overlap), successor: info.key_id.clone() };
            // The new one first: if the other change fails, the old key works on.
            let add = Change::Add(Box::new(info.clone()), hash(key.reveal()));
            Ok((vec![add, Change::Rotate(*old_hash, rotated)], (key, info)))
        })
    }

    /// Makes a key useless from now on; one that is revoked already keeps its time.
    pub fn revoke(&self, key_id: &str, now: Timestamp) -> Result<KeyInfo, KeyError> {
        self.edit(|known| {
            let (info, _) = find(known, key_id)?;
            let info = KeyInfo { revoked_at: info.revoked_at.or(Some(now)), ..info.clone() };
            // One, unless two nodes drew the same name at the same time: then both, to be safe.
            let named = known.iter().filter(|(key, _)| key.key_id == key_id);
            let active = named.filter(|(key, _)| key.revoked_at.is_none());
            Ok((active.map(|(_, hash)| Change::Revoke(*hash, now)).collect(), info))
        })
    }

    /// Decides on what is known, then makes the changes.
    fn edit<T>(
        &self,
        decide: impl FnOnce(&[(KeyInfo, Hash)]) -> Result<(Vec<Change>, T), KeyError>,
    ) -> Result<T, KeyError> {
        match &*self.home {
            Home::File(file) => file.edit(decide),
            Home::Topic(topic) => {
                let (changes, done) = decide(&self.known.load().keys)?;
                topic.make(&changes)?;
                Ok(done)
            }
        }
    }

    /// Every key, those no longer valid too, oldest first.
    pub fn list(&self) -> Vec<KeyInfo> {
        self.known.load().keys.iter().map(|(info, _)| info.clone()).collect()
    }

    /// How many keys may be used.
    pub fn valid(&self, now: Timestamp) -> usize {
        self.known.load().keys.iter().filter(|(key, _)| key.state(now).is_valid()).count()
    }

    /// What `key` stands for at `now`.
    pub fn authenticate(&self, key: &str, now: Timestamp) -> Result<Arc<Credential>, AuthError> {
        // Looking up a hash of 256 random bits tells an attacker nothing by its timing.
        let known = self.known.load();
        let Some(Entry { credential, info }) = known.by_hash.get(&hash(key)) else {
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

    /// Reads the file again if it has changed; says whether it had. A topic is followed anyway.
    pub fn reload(&self) -> Result<bool, KeyError> {
        match &*self.home {
            Home::File(file) => file.reload(),
            Home::Topic(_) => Ok(false),
        }
    }

    /// Follows the file from a task that ends with the last clone of this store.
    pub fn follow(&self, every: Duration) {
        match &*self.home {
            Home::File(_) => {}
            Home::Topic(_) => return,
        }
        let home = Arc::downgrade(&self.home);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(every);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let Some(home) = home.upgrade() else { return };
                let looked = tokio::task::spawn_blocking(move || match &*home {
                    Home::File(file) => file.look(),
                    Home::Topic(_) => {}
                });
                if let Err(stopped) = looked.await {
                    tracing::debug!(%stopped, "no longer following the write keys");
                    return;
                }
            }
        });
    }

    /// For how long changes have not been followed, and why; `None` while they are. The keys known
    /// before stay valid.
    pub fn trouble(&self) -> Option<(Duration, String)> {
        match &*self.home {
            Home::File(file) => file.trouble(),
            Home::Topic(topic) => topic.trouble(),
        }
    }

    /// The file, where the keys are in one.
    pub fn path(&self) -> Option<&Path> {
        match &*self.home {
            Home::File(file) => Some(file.path()),
            Home::Topic(_) => None,
        }
    }
}

fn find<'k>(keys: &'k [(KeyInfo, Hash)], key_id: &str) -> Result<&'k (KeyInfo, Hash), KeyError> {
    let found = keys.iter().find(|(info, _)| info.key_id == key_id);
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
