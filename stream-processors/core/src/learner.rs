//! The learners of one partition, found by school and user.
//!
//! Always true: a learner's number never changes while the partition is held; order of rows and
//! states follows the log, not the lookup.

use std::hash::{BuildHasher, Hash, Hasher};

use chalkstream_schemas::{RowVersion, Timestamp};
use hashbrown::{DefaultHashBuilder, HashTable};

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::fold::Texts;
use crate::registry::LearnerFolds;
use crate::symbols::Symbol;

/// The format of a learner's stored state, around those of the folds.
const FORMAT: u8 = 1;

/// One person's state.
#[derive(Debug)]
pub(crate) struct Learner {
    pub(crate) school: Symbol,
    pub(crate) rows_touched: bool,
    pub(crate) state_touched: bool,
    pub(crate) user: Box<str>,
    pub(crate) version: RowVersion,
    /// The latest event time.
    pub(crate) now: Timestamp,
    pub(crate) folds: LearnerFolds,
}

impl Learner {
    fn new(school: Symbol, user: &str) -> Self {
        Self {
            school,
            rows_touched: false,
            state_touched: false,
            user: user.into(),
            version: RowVersion::ZERO,
            now: Timestamp::MIN,
            folds: LearnerFolds::default(),
        }
    }

    pub(crate) fn encode(&self, texts: &Texts) -> Vec<u8> {
        let mut out = Encoder::new(FORMAT);
        out.time(self.now);
        self.folds.encode(texts, &mut out);
        out.finish()
    }

    pub(crate) fn decode(&mut self, state: &[u8], texts: &mut Texts) -> Result<(), DecodeError> {
        let mut input = Decoder::new(state, "a learner", FORMAT)?;
        self.now = input.time()?;
        self.folds = LearnerFolds::decode(&mut input, texts)?;
        input.finish()
    }
}

/// All learners of a partition.
#[derive(Debug, Default)]
pub(crate) struct Learners {
    all: Vec<Learner>,
    lookup: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

fn hash(hasher: &DefaultHashBuilder, school: Symbol, user: &str) -> u64 {
    let mut state = hasher.build_hasher();
    school.hash(&mut state);
    user.hash(&mut state);
    state.finish()
}

impl Learners {
    /// The number of a learner, new if it has none yet.
    pub(crate) fn number(&mut self, school: Symbol, user: &str) -> u32 {
        let Self { all, lookup, hasher } = self;
        let key = hash(hasher, school, user);
        let is_it = |number: &u32| {
            all.get(*number as usize).is_some_and(|it| it.school == school && &*it.user == user)
        };
        if let Some(number) = lookup.find(key, is_it) {
            return *number;
        }
        // 2^32 learners do not fit into memory.
        let number = u32::try_from(all.len()).unwrap_or(u32::MAX);
        all.push(Learner::new(school, user));
        lookup.insert_unique(key, number, |number| {
            all.get(*number as usize).map_or(0, |it| hash(hasher, it.school, &it.user))
        });
        number
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut Learner> {
        self.all.get_mut(number as usize)
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }
}
