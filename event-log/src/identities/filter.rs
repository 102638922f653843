//! A filter: says of nearly every new identity that it is new, without a look at the disk.
//!
//! Split blocks (Putze, Sanders, Singler 2007): an identity has one block of a cache line and one
//! bit in each of the block's eight words. An identity is a hash, so its own bytes choose them.
//! Always true: once [`Filter::is_complete`], an identity that was inserted is never `absent`; one
//! inserts at a time, so that a bit costs no atomic operation but a load and a store; memory is
//! fixed. How many others seem present depends on the bits for an entry, and on how many more are
//! inserted than it was made for.
//! Not here: what was found.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use chalkstream_schemas::EventIdentity;
use parking_lot::Mutex;

const WORDS: usize = 8;

/// Which identities may have been seen.
pub(super) struct Filter {
    made_for: u64,
    blocks: Vec<[AtomicU64; WORDS]>,
    /// Held by whoever inserts.
    inserting: Mutex<()>,
    complete: AtomicBool,
}

impl Filter {
    /// A filter for so many entries, with so many bits each, that knows of none yet; it is to be
    /// believed once it is complete.
    pub(super) fn incomplete(made_for: u64, bits: u64) -> Self {
        let blocks = made_for.saturating_mul(bits).div_ceil(WORDS as u64 * 64).max(1);
        // The block is chosen by 32 bits.
        let count = u32::try_from(blocks).unwrap_or(u32::MAX) as usize;
        let mut blocks = Vec::new();
        blocks.resize_with(count, Default::default);
        Self { made_for, blocks, inserting: Mutex::default(), complete: AtomicBool::new(false) }
    }

    /// A filter for so many entries of an index that holds nothing yet.
    pub(super) fn new(made_for: u64, bits: u64) -> Self {
        let filter = Self::incomplete(made_for, bits);
        filter.complete();
        filter
    }

    /// The number of entries that it was made for.
    pub(super) const fn made_for(&self) -> u64 {
        self.made_for
    }

    /// From now on everything that the index holds has been inserted.
    pub(super) fn complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// Whether an absence means anything.
    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    pub(super) fn insert(&self, identities: impl IntoIterator<Item = EventIdentity>) {
        let _alone = self.inserting.lock();
        for identity in identities {
            let (block, bits) = self.place(&identity);
            for (word, bit) in block.iter().zip(bits) {
                // Whoever asks afterwards synchronises by the lock that it got the entry's turn from.
                word.store(word.load(Ordering::Relaxed) | bit, Ordering::Relaxed);
            }
        }
    }

    /// Marks the identities that may have been inserted. One that was not looks so seldom, once the
    /// filter is complete.
    pub(super) fn mark(&self, identities: &[EventIdentity], marks: &mut [bool]) {
        // Most of a look is waiting for memory. So first one word of every block, in a loop that is
        // short enough for many to be waited for at once; it settles most, and the rest is near then.
        let first = identities.iter().map(|identity| {
            let (block, [bit, ..]) = self.place(identity);
            block.first().is_none_or(|word| word.load(Ordering::Relaxed) & bit != 0)
        });
        let first: Vec<bool> = first.collect();
        for ((mark, identity), first) in marks.iter_mut().zip(identities).zip(first) {
            if first && !*mark {
                *mark = !self.absent(identity);
            }
        }
    }

    /// Whether the identity was certainly not inserted into a filter that is complete.
    pub(super) fn absent(&self, identity: &EventIdentity) -> bool {
        let (block, bits) = self.place(identity);
        block.iter().zip(bits).any(|(word, bit)| word.load(Ordering::Relaxed) & bit == 0)
    }

    fn place(&self, identity: &EventIdentity) -> (&[AtomicU64], [u64; WORDS]) {
        let [a, b, c, d, bits @ .., _, _, _, _] = *identity.as_bytes();
        let share = u64::from(u32::from_be_bytes([a, b, c, d]));
        let block = (share * self.blocks.len() as u64) >> 32;
        let block = usize::try_from(block).ok().and_then(|block| self.blocks.get(block));
        (block.map_or(&[][..], |block| &block[..]), bits.map(|bit| 1 << (bit % 64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(number: u64) -> EventIdentity {
        let hash = *blake3::hash(&number.to_be_bytes()).as_bytes();
        EventIdentity::from_bytes(*hash.first_chunk().unwrap())
    }

    #[test]
    fn what_was_inserted_is_never_absent_and_little_else_is_present() {
        for (made_for, bits, limit) in
            [(1_000_000, 24, 200), (4_000_000, 24, 2), (1_000_000, 8, 40_000)]
        {
            let filter = Filter::new(made_for, bits);
            let inserted = 1_000_000;
            filter.insert((0..inserted).map(identity));
            assert!((0..inserted).all(|number| !filter.absent(&identity(number))));
            let others = inserted..2 * inserted;
            let present = others.filter(|number| !filter.absent(&identity(*number))).count();
            assert!(present < limit, "{present} of a million, {bits} bits for {made_for}");
        }
    }

    #[test]
    fn a_filter_for_nothing_works() {
        let filter = Filter::new(0, 24);
        assert!(filter.absent(&identity(1)));
        filter.insert([identity(1)]);
        assert!(!filter.absent(&identity(1)));
    }
}
