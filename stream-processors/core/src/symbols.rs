//! Texts that many learners share (skills, courses, schools), held once per partition.
//!
//! Always true: a symbol means the same text as long as its table lives; the empty text is
//! [`Symbol::EMPTY`]. Symbols are never stored: stored state holds the texts.
//! The lookup is a hash table with a random seed, but nothing ever iterates over it, so nothing
//! that is stored or written depends on the seed; it keeps chosen ids from colliding.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// A text of a [`Symbols`] table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(u32);

impl Symbol {
    /// The empty text.
    pub const EMPTY: Self = Self(0);

    /// The number within its table.
    pub(crate) const fn index(self) -> u32 {
        self.0
    }

    /// The symbol of a number that [`Symbol::index`] gave.
    pub(crate) const fn from_index(index: u32) -> Self {
        Self(index)
    }
}

/// The texts of one partition.
#[derive(Debug)]
pub struct Symbols {
    texts: Vec<Box<str>>,
    lookup: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Default for Symbols {
    fn default() -> Self {
        let mut symbols = Self {
            texts: Vec::new(),
            lookup: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
        };
        symbols.intern("");
        symbols
    }
}

impl Symbols {
    /// The symbol of a text, new if it has none yet.
    pub fn intern(&mut self, text: &str) -> Symbol {
        let hash = self.hasher.hash_one(text);
        if let Some(index) = self.lookup.find(hash, |index| text_at(&self.texts, *index) == text) {
            return Symbol(*index);
        }
        // 2^32 texts do not fit into memory.
        let index = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        self.texts.push(text.into());
        let (texts, hasher) = (&self.texts, &self.hasher);
        self.lookup.insert_unique(hash, index, |index| hasher.hash_one(text_at(texts, *index)));
        Symbol(index)
    }

    /// The symbol of a text that has one.
    pub fn find(&self, text: &str) -> Option<Symbol> {
        let hash = self.hasher.hash_one(text);
        self.lookup.find(hash, |index| text_at(&self.texts, *index) == text).map(|i| Symbol(*i))
    }

    /// The text of a symbol.
    pub fn text(&self, symbol: Symbol) -> &str {
        text_at(&self.texts, symbol.0)
    }
}

fn text_at(texts: &[Box<str>], index: u32) -> &str {
    texts.get(index as usize).map_or("", |text| text)
}
