//! The entries of a table in buckets: what a look-up reads at once.
//!
//! In: entries in any order. Out: the same, those together whose identities begin alike, and the one
//! that is looked for among them.
//! Always true: an identity is a hash, so buckets are about equally full; a bucket's bytes are its
//! entries, one after another, in the order they came.
//! Why not one entry a key: the store takes 0.25 µs for each, filters and index included, and a bucket
//! of a hundred costs it hardly more than one.

use chalkstream_schemas::{ContentHash, EventIdentity};

use super::{ENTRY_BYTES, Entry, parse, put};

/// Identities that agree in so many bits are in one bucket. With as many entries as a table has it is
/// about as large as a page.
const BITS: u32 = 12;
const BUCKETS: usize = 1 << BITS;

/// All buckets of one table.
pub(super) struct Buckets {
    bytes: Vec<Vec<u8>>,
    entries: u64,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { bytes: vec![Vec::new(); BUCKETS], entries: 0 }
    }
}

impl Buckets {
    /// Sorts these in, and nothing that was there before; what it took memory for, it keeps.
    pub(super) fn fill(&mut self, entries: &[Entry]) {
        self.bytes.iter_mut().for_each(Vec::clear);
        self.entries = entries.len() as u64;
        for entry in entries {
            if let Some(bucket) = self.bytes.get_mut(usize::from(of(&entry.0))) {
                put(entry, bucket);
            }
        }
    }

    pub(super) const fn len(&self) -> u64 {
        self.entries
    }

    /// Number and bytes of each bucket that has entries, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &[u8])> {
        (0..).zip(&self.bytes).filter(|(_, bytes)| !bytes.is_empty()).map(|(n, b)| (n, &b[..]))
    }

    /// All that are in it, those of a bucket together.
    pub(super) fn identities(&self) -> impl Iterator<Item = EventIdentity> {
        self.bytes.iter().flat_map(|bytes| identities(bytes))
    }
}

/// The number of the bucket that an identity belongs into.
pub(super) fn of(identity: &EventIdentity) -> u16 {
    let [a, b, ..] = *identity.as_bytes();
    u16::from_be_bytes([a, b]) >> (u16::BITS - BITS)
}

/// The content of an identity, if it is in this bucket.
pub(super) fn find(bucket: &[u8], identity: &EventIdentity) -> Option<ContentHash> {
    let entry =
        bucket.chunks_exact(ENTRY_BYTES).find(|entry| entry.starts_with(identity.as_bytes()))?;
    parse(entry).map(|(_, content)| content)
}

/// The identities in a bucket.
pub(super) fn identities(bucket: &[u8]) -> impl Iterator<Item = EventIdentity> {
    bucket.chunks_exact(ENTRY_BYTES).filter_map(parse).map(|(identity, _)| identity)
}
