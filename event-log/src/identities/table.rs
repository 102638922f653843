//! The newest entries of the index, in memory.
//!
//! Always true: of entries with one identity the first stays. The entries lie in the order they came,
//! and the hash table holds their places alone: what is added while all cores are busy touches little
//! memory.

use std::hash::BuildHasher as _;

use chalkstream_schemas::{ContentHash, EventIdentity};
use hashbrown::hash_table::Entry as Slot;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::Entry;

/// Entries, found by identity.
#[derive(Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
    places: HashTable<u32>,
    /// Its seed differs in every process: clients choose their ids, and could choose some that meet.
    hasher: DefaultHashBuilder,
}

impl Table {
    pub(super) fn insert(&mut self, entry: Entry) {
        let (entries, hasher, identity) = (&self.entries, &self.hasher, entry.0);
        let Ok(place) = u32::try_from(entries.len()) else { return };
        let slot = self.places.entry(
            hasher.hash_one(identity),
            |place| identity_at(entries, *place) == Some(identity),
            |place| identity_at(entries, *place).map_or(0, |identity| hasher.hash_one(identity)),
        );
        if let Slot::Vacant(free) = slot {
            free.insert(place);
            self.entries.push(entry);
        }
    }

    /// The content that an identity was kept with.
    pub(super) fn get(&self, identity: &EventIdentity) -> Option<ContentHash> {
        let is_it = |place: &u32| identity_at(&self.entries, *place) == Some(*identity);
        let place = self.places.find(self.hasher.hash_one(identity), is_it)?;
        self.entries.get(*place as usize).map(|(_, content)| *content)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All entries, in the order they came.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Forgets everything and keeps the room for as much again.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.places.clear();
    }
}

fn identity_at(entries: &[Entry], place: u32) -> Option<EventIdentity> {
    entries.get(place as usize).map(|(identity, _)| *identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_an_identity_stays() {
        let mut table = Table::default();
        let entry = |number: u16, content: u8| {
            let mut identity = [0; 16];
            identity[7..9].copy_from_slice(&number.to_be_bytes());
            (EventIdentity::from_bytes(identity), ContentHash::from_bytes([content; 16]))
        };
        for content in [1, 2] {
            for number in 0..1_000 {
                table.insert(entry(number, content));
            }
            assert_eq!(table.len(), 1_000);
            assert!((0..1_000).all(|n| table.get(&entry(n, 0).0) == Some(entry(n, 1).1)));
            assert_eq!(table.get(&entry(1_000, 0).0), None);
        }
        table.clear();
        assert_eq!((table.len(), table.get(&entry(1, 0).0)), (0, None));
    }
}
