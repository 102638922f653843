//! A partition's checkpoint: the row of `fold_state` that says up to where the states beside it
//! have folded, and which log that was.
//!
//! Always true: it is written in the same insert as the states, never alone before them.
//! An unknown format fails to decode; it never defaults.

use chalkstream_event_log::{LogIdentity, Topic};
use chalkstream_schemas::{LogOffset, Timestamp};
use serde::{Deserialize, Serialize};

use crate::fingerprint::Fingerprint;

/// The kind of the checkpoint's row.
pub(crate) const KIND: &str = "checkpoint";
const FORMAT: u32 = 1;

/// What identifies a log, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogName {
    /// The UUID of the embedded log or the id of the Kafka cluster.
    pub cluster_id: String,
    /// The topic's name.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// How a learner's partition is chosen.
    pub partitioner: String,
}

impl LogName {
    /// Of the log's events.
    pub fn of_events(identity: &LogIdentity) -> Self {
        Self {
            cluster_id: identity.cluster_id.clone(),
            topic: Topic::Events.name().to_owned(),
            partitions: identity.partitions,
            partitioner: identity.partitioner.to_owned(),
        }
    }
}

/// The record folded last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastRecord {
    /// Where it stands.
    pub offset: LogOffset,
    /// The log's timestamp.
    pub timestamp_ms: i64,
    /// What stands there.
    pub fingerprint: Fingerprint,
}

impl LastRecord {
    /// When the log stamped it.
    pub fn timestamp(&self) -> Timestamp {
        Timestamp::from_ms(self.timestamp_ms)
    }
}

/// Up to where a partition was folded, and of which log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    format: u32,
    /// The next offset to fold.
    pub next: LogOffset,
    /// The log.
    pub log: LogName,
    /// The record just before `next`; `None` if nothing was folded.
    pub last: Option<LastRecord>,
}

/// A checkpoint that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not the JSON that was written.
    #[error("the checkpoint is damaged")]
    Damaged(#[source] serde_json::Error),
    /// Written by another version of Chalkstream.
    #[error("the checkpoint has format {found}, and this version reads {FORMAT}")]
    Format {
        /// The format that was found.
        found: u32,
    },
}

impl Checkpoint {
    /// Of a partition of this log.
    pub fn new(next: LogOffset, log: LogName, last: Option<LastRecord>) -> Self {
        Self { format: FORMAT, next, log, last }
    }

    /// The bytes to store.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Reads stored bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(bytes).map_err(DecodeError::Damaged)?;
        if format != FORMAT {
            return Err(DecodeError::Format { found: format });
        }
        serde_json::from_slice(bytes).map_err(DecodeError::Damaged)
    }
}
