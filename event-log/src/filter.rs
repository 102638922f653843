//! A filter before the index of seen events: says of nearly every new identity that it is new,
//! without a look at the disk.
//!
//! Split blocks (Putze, Sanders, Singler 2007): an identity has one block of a cache line and one
//! bit in each of the block's eight words. An identity is a hash, so its own bytes choose them.
//! Always true: once [`Filter::is_complete`], an identity that was inserted is never `absent`; one
//! inserts at a time, so that a bit costs no atomic operation but a load and a store;
//! memory is fixed. Of [`CAPACITY`] entries about 1 in 100 others seems present, and more as it
//! fills further: then the index is asked, as it would be without.
//! Not here: what was found.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use chalkstream_schemas::EventIdentity;
use fjall::Keyspace;
use parking_lot::Mutex;

const WORDS: usize = 8;
/// Blocks of 64 bytes: 32 MiB.
const BLOCKS: usize = 1 << 19;

/// Entries up to which the filter is as good as meant: 10 bits each.
const CAPACITY: usize = BLOCKS * WORDS * 64 / 10;

/// Which identities may have been seen.
pub(crate) struct Filter {
    blocks: Vec<[AtomicU64; WORDS]>,
    /// Held by whoever inserts.
    inserting: Mutex<()>,
    complete: AtomicBool,
}

impl Filter {
    /// A filter that knows of nothing yet.
    pub(crate) fn new() -> Self {
        let mut blocks = Vec::new();
        blocks.resize_with(BLOCKS, Default::default);
        Self { blocks, inserting: Mutex::default(), complete: AtomicBool::new(false) }
    }

    /// From now on everything that the index holds has been inserted.
    fn complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// Whether an absence means anything.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    pub(crate) fn insert<'i>(&self, identities: impl IntoIterator<Item = &'i EventIdentity>) {
        let _alone = self.inserting.lock();
        for identity in identities {
            let (block, bits) = self.place(identity);
            for (word, bit) in block.iter().zip(bits) {
                // Whoever asks afterwards synchronises by the lock that it got the entry's turn from.
                word.store(word.load(Ordering::Relaxed) | bit, Ordering::Relaxed);
            }
        }
    }

    /// Whether the identity was certainly not inserted.
    pub(crate) fn absent(&self, identity: &EventIdentity) -> bool {
        let (block, bits) = self.place(identity);
        block.iter().zip(bits).any(|(word, bit)| word.load(Ordering::Relaxed) & bit == 0)
    }

    fn place(&self, identity: &EventIdentity) -> (&[AtomicU64], [u64; WORDS]) {
        let [a, b, c, d, bits @ .., _, _, _, _] = *identity.as_bytes();
        let block = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(0) % BLOCKS;
        let block = self.blocks.get(block).map_or(&[][..], |block| &block[..]);
        (block, bits.map(|bit| 1 << (bit % 64)))
    }
}

/// A thread that inserts what the store holds into a filter, which may take many seconds.
#[derive(Default)]
pub(crate) struct Filling {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Filling {
    pub(crate) fn start(filter: Arc<Filter>, stored: Vec<Keyspace>) -> Self {
        if stored.is_empty() {
            filter.complete();
            return Self::default();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || match fill(&filter, &stored, &stopped) {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, "the index of seen events goes on without its filter");
            }
        };
        match std::thread::Builder::new().name("seen-filter".into()).spawn(work) {
            Ok(thread) => Self { stop, thread: Some(thread) },
            Err(error) => {
                tracing::warn!(%error, "could not start a thread for the filter of seen events");
                Self::default()
            }
        }
    }
}

impl Drop for Filling {
    /// Waits for the thread, which holds the store's folder.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that fills the filter of seen events had a bug");
        }
    }
}

fn fill(filter: &Filter, stored: &[Keyspace], stop: &AtomicBool) -> fjall::Result<()> {
    let entries = stored.iter().flat_map(|generation| generation.iter());
    // Of many more it could say little.
    for (number, entry) in entries.enumerate() {
        if number > CAPACITY * 4 || stop.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Some(identity) = entry.key()?.first_chunk() {
            filter.insert(&[EventIdentity::from_bytes(*identity)]);
        }
    }
    filter.complete();
    Ok(())
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
        let filter = Filter::new();
        let inserted = 1_000_000;
        filter.insert(&(0..inserted).map(identity).collect::<Vec<_>>());
        assert!((0..inserted).all(|number| !filter.absent(&identity(number))));
        let others = inserted..2 * inserted;
        let present = others.filter(|number| !filter.absent(&identity(*number))).count();
        assert!(present < 100, "{present} of a million seem present, far below the capacity");
    }
}
