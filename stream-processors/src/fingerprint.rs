//! The fingerprint of a record: how a checkpoint recognises the log that it was taken from.

use chalkstream_event_log::StoredRecord;
use serde::{Deserialize, Serialize};

/// 16 bytes of BLAKE3 over a record's offset, timestamp, key and payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// Of a record as the log gives it.
    pub fn of(record: &StoredRecord) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&record.offset.get().to_le_bytes());
        hasher.update(&record.timestamp.as_ms().to_le_bytes());
        hasher.update(&(record.key.len() as u64).to_le_bytes());
        hasher.update(&record.key);
        hasher.update(&record.payload);
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        Self(bytes)
    }

    /// Takes stored bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes to store.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}
