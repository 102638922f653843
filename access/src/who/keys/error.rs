//! Why keys could not be read or changed.

use std::path::PathBuf;

/// The compacted topic that keys are in where many nodes share them.
pub(super) const TOPIC: &str = "chalkstream.keys";

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
    /// A file that was read before is no longer there.
    #[error("{} is gone; the keys that it held stay as they were", path.display())]
    Gone {
        /// Which file.
        path: PathBuf,
    },
    /// What is asked of a new key contradicts itself.
    #[error("no such key can be made: {message}")]
    Contradiction {
        /// What does not go together, and what to do.
        message: String,
    },
    /// No key has this name.
    #[error("there is no key {key_id}")]
    NoSuchKey {
        /// The name given.
        key_id: String,
    },
    /// Only a key that is active can be rotated.
    #[error("the key {key_id} is {state}, so it cannot be rotated")]
    NotActive {
        /// The name given.
        key_id: String,
        /// What it is instead.
        state: String,
    },
    /// Kafka could not be reached, or refused.
    #[error("could not {action} the write keys on Kafka ({})", TOPIC)]
    Topic {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: Box<chalkstream_event_log::Error>,
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
    /// A key cannot be written as JSON: a bug.
    #[error("could not encode a key")]
    EncodeRow {
        /// Why not.
        source: serde_json::Error,
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
            Self::Gone { .. } => {
                "put the file back from a copy; restart without it to begin with no keys"
            }
            Self::Contradiction { .. } => "`chalkstream keys create --help` explains the flags",
            Self::NoSuchKey { .. } => "list the keys with `chalkstream keys list`",
            Self::NotActive { .. } => "make a new key with `chalkstream keys create`",
            Self::Topic { .. } => {
                "check that Kafka runs and answers at `log.brokers`; keys that running nodes know stay valid meanwhile"
            }
            Self::Random { .. } | Self::Encode { .. } | Self::EncodeRow { .. } => {
                "try again; if it stays, report it"
            }
        }
    }
}
