//! The compacted topic `chalkstream.keys`, which every node of a cluster follows.
//!
//! A key has up to three rows: what it is (`<sha256>`), that it was rotated (`<sha256>/rotated`), and
//! that it was revoked (`<sha256>/revoked`). Always true: whoever rotates a key does not write the row
//! that says whether it is revoked, so that no order of two commands brings a revoked key back, however
//! Kafka compacts the topic; a row that cannot be read takes nothing back that is known otherwise, and
//! a revocation holds whatever its row says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use chalkstream_event_log::Error;
use chalkstream_event_log::kafka::{KafkaOptions, KafkaTable, Rows};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{KeyError, TOPIC};
use super::known::{Change, Hash, Snapshot};
use super::stored::{StoredKey, parse_time};
use crate::who::grant::{KeyInfo, Rotated};

const FORMAT: u32 = 1;
const ROTATED: &str = "/rotated";
const REVOKED: &str = "/revoked";

/// A row's value. A later format fails to be read; it is never guessed.
#[derive(Serialize, Deserialize)]
struct Row<T> {
    format: u32,
    #[serde(flatten)]
    row: T,
}

#[derive(Serialize, Deserialize)]
struct KeyRow {
    key: StoredKey,
}

#[derive(Serialize, Deserialize)]
struct RotatedRow {
    until: String,
    successor: String,
}

#[derive(Serialize, Deserialize)]
struct RevokedRow {
    at: String,
}

/// The keys of a cluster.
#[derive(Debug)]
pub(super) struct KeyTopic {
    table: Arc<KafkaTable>,
}

impl KeyTopic {
    pub(super) async fn open(
        options: KafkaOptions,
        known: Arc<ArcSwap<Snapshot>>,
    ) -> Result<Self, KeyError> {
        let show = move |rows: &Rows| known.store(Arc::new(Snapshot::of(keys(rows))));
        let table = KafkaTable::open(options, TOPIC, show).await.map_err(failed("open"))?;
        let table = Arc::new(table);
        let waiting = Arc::clone(&table);
        let current = tokio::task::spawn_blocking(move || waiting.wait_until_current()).await;
        current
            .unwrap_or(Err(Error::Internal { what: "reading the write keys" }))
            .map_err(failed("read"))?;
        Ok(Self { table })
    }

    /// Makes the changes in this order, and returns once they hold here.
    pub(super) fn make(&self, changes: &[Change]) -> Result<(), KeyError> {
        for change in changes {
            let (key, value) = match change {
                Change::Add(info, hash) => {
                    let key = StoredKey::of(info, hash);
                    (hex::encode(hash), encode(KeyRow { key })?)
                }
                Change::Rotate(hash, Rotated { until, successor }) => {
                    let row = RotatedRow { until: until.to_string(), successor: successor.clone() };
                    (hex::encode(hash) + ROTATED, encode(row)?)
                }
                Change::Revoke(hash, at) => {
                    (hex::encode(hash) + REVOKED, encode(RevokedRow { at: at.to_string() })?)
                }
            };
            self.table.put(key.as_bytes(), Some(&value)).map_err(failed("change"))?;
        }
        Ok(())
    }

    pub(super) fn trouble(&self) -> Option<(Duration, String)> {
        let (since, why) = self.table.trouble()?;
        Some((since, format!("{} cannot be followed: {why}", self.table.name())))
    }
}

fn failed(action: &'static str) -> impl FnOnce(Error) -> KeyError {
    move |source| KeyError::Topic { action, source: Box::new(source) }
}

fn encode(row: impl Serialize) -> Result<Vec<u8>, KeyError> {
    serde_json::to_vec(&Row { format: FORMAT, row })
        .map_err(|source| KeyError::EncodeRow { source })
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    let Versioned { format } = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    if format != FORMAT {
        return Err(format!("format {format} is not known; this version reads format {FORMAT}"));
    }
    serde_json::from_slice::<Row<T>>(value).map(|row| row.row).map_err(|error| error.to_string())
}

/// Puts the rows of every key together, oldest key first.
fn keys(rows: &Rows) -> Vec<(KeyInfo, Hash)> {
    let mut keys = BTreeMap::new();
    let named = rows.iter().filter_map(|(name, value)| {
        let name = std::str::from_utf8(name).ok()?;
        Some((name, value))
    });
    for (name, value) in named.clone().filter(|(name, _)| !name.contains('/')) {
        let stored = decode::<KeyRow>(value).and_then(|row| row.key.parse());
        match stored {
            Ok((info, hash)) if hex::encode(hash) == name => drop(keys.insert(name, (info, hash))),
            Ok((info, _)) => unreadable(&info.key_id, "it stands under another key's name"),
            Err(why) => unreadable(short(name), &why),
        }
    }
    for (name, value) in named {
        if let Some((info, _)) = name.strip_suffix(REVOKED).and_then(|hash| keys.get_mut(hash)) {
            let at = decode::<RevokedRow>(value).and_then(|row| parse_time("at", &row.at));
            // Revoked it is in any case.
            let at = at.inspect_err(|why| unreadable(&info.key_id, why));
            info.revoked_at = Some(at.unwrap_or(info.created_at));
        } else if let Some((info, _)) =
            name.strip_suffix(ROTATED).and_then(|hash| keys.get_mut(hash))
        {
            let row = decode::<RotatedRow>(value).and_then(|RotatedRow { until, successor }| {
                Ok(Rotated { until: parse_time("until", &until)?, successor })
            });
            match row {
                Ok(rotated) => info.rotated = Some(rotated),
                Err(why) => unreadable(&info.key_id, &why),
            }
        }
    }
    let mut keys = keys.into_values().collect::<Vec<_>>();
    keys.sort_by(|(a, _), (b, _)| (a.created_at, &a.key_id).cmp(&(b.created_at, &b.key_id)));
    keys
}

fn unreadable(key: &str, why: &str) {
    tracing::error!(
        key,
        why,
        "a row of chalkstream.keys cannot be read; was it written by a newer version?"
    );
}

/// The beginning of a hash, to find its row by.
fn short(name: &str) -> &str {
    name.get(..16).unwrap_or(name)
}

#[cfg(test)]
mod tests;
