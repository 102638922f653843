//! The entries of a table in buckets: what a look-up reads at once.
//!
//! In: entries in any order. Out: the same in buckets, and the one that is looked for in its bucket.
//! Always true: buckets are about equally full, whatever the entries are: an identity's bucket depends on
//! the table's seed, since clients choose their ids, and could choose a million that begin alike; a
//! bucket's bytes are its entries, one after another, in the order they came.
//! Why not one entry a key: the store takes 0.25 µs for each, filters and index included, and a bucket
//! of a hundred costs it hardly more than one.

use chalkstream_schemas::{ContentHash, EventIdentity};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{ENTRY_BYTES, Entry, parse, put};

/// With as many entries as a table has a bucket is about as large as a page.
const BITS: u32 = 12;
const BUCKETS: usize = 1 << BITS;

/// All buckets of one table.
pub(super) struct Buckets {
    bytes: Vec<Vec<u8>>,
    seed: u64,
    entries: u64,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { bytes: vec![Vec::new(); BUCKETS], seed: 0, entries: 0 }
    }
}

impl Buckets {
    /// Sorts these in, and nothing that was there before; what it took memory for, it keeps.
    pub(super) fn fill(&mut self, entries: &[Entry]) {
        self.bytes.iter_mut().for_each(Vec::clear);
        self.entries = entries.len() as u64;
        // Nobody outside learns it, so nobody can choose who shares a bucket.
        (self.seed, _) = Uuid::new_v4().as_u64_pair();
        for entry in entries {
            if let Some(bucket) = self.bytes.get_mut(usize::from(of(&entry.0, self.seed))) {
                put(entry, bucket);
            }
        }
    }

    pub(super) const fn len(&self) -> u64 {
        self.entries
    }

    /// With what an identity's bucket is found.
    pub(super) const fn seed(&self) -> u64 {
        self.seed
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

/// The number of the bucket that an identity belongs into, in a table with this seed.
pub(super) fn of(identity: &EventIdentity, seed: u64) -> u16 {
    let [a, b, ..] = xxh3_64_with_seed(identity.as_bytes(), seed).to_be_bytes();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Identities that a client found by trying: all begin alike.
    fn entry(number: u32) -> Entry {
        let mut identity = [0; 16];
        identity[12..].copy_from_slice(&number.to_be_bytes());
        let mut content = [1; 16];
        content[..4].copy_from_slice(&number.to_le_bytes());
        (EventIdentity::from_bytes(identity), ContentHash::from_bytes(content))
    }

    #[test]
    fn every_entry_is_in_its_bucket_and_no_bucket_is_much_fuller_than_others() {
        let entries: Vec<_> = (0..100_000).map(entry).collect();
        let mut buckets = Buckets::default();
        buckets.fill(&[entry(7)]);
        buckets.fill(&entries);
        assert_eq!(buckets.len(), 100_000);
        assert_eq!(buckets.identities().count(), 100_000);
        let all: Vec<_> = buckets.iter().collect();
        let in_bucket = |identity| {
            let number = of(identity, buckets.seed());
            all.iter().find(|(bucket, _)| *bucket == number).map(|(_, bytes)| *bytes)
        };
        for (identity, content) in entries.iter().step_by(97) {
            assert_eq!(find(in_bucket(identity).unwrap(), identity), Some(*content));
        }
        let (absent, _) = entry(100_000);
        assert_eq!(in_bucket(&absent).and_then(|bytes| find(bytes, &absent)), None);
        // 24 are expected in each.
        let fullest = all.iter().map(|(_, bytes)| bytes.len() / ENTRY_BYTES).max().unwrap();
        assert!(fullest < 80, "{fullest} in one bucket");
    }
}
