//! What is known of keys, and what may change of them.

use std::collections::HashMap;
use std::sync::Arc;

use chalkstream_schemas::Timestamp;

use crate::who::credential::Credential;
use crate::who::grant::{KeyInfo, Rotated};

/// What is stored of a key.
pub(super) type Hash = [u8; 32];

/// A key as it is asked for.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) credential: Arc<Credential>,
    pub(super) info: KeyInfo,
}

/// The keys as they were last read.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) by_hash: HashMap<Hash, Entry>,
    /// Oldest first.
    pub(super) keys: Vec<(KeyInfo, Hash)>,
}

/// One change of the keys.
#[derive(Debug)]
pub(super) enum Change {
    Add(Box<KeyInfo>, Hash),
    Rotate(Hash, Rotated),
    Revoke(Hash, Timestamp),
}

impl Snapshot {
    pub(super) fn of(keys: Vec<(KeyInfo, Hash)>) -> Self {
        let entry = |(info, hash): &(KeyInfo, Hash)| {
            let credential = Arc::new(Credential::of(info));
            (*hash, Entry { credential, info: info.clone() })
        };
        Self { by_hash: keys.iter().map(entry).collect(), keys }
    }
}
