//! The keys of one [`SharedFold`] in one partition.
//!
//! A key that no record touched for [`EXPIRE_AFTER`] records leaves the state; the next record of it
//! starts a new partial, whose rows carry another `part`. So the state is bounded by the traffic,
//! not by the catalogue, and the view still adds everything up.
//! Always true: which record starts a new partial depends on offsets alone, not on when the sweep
//! that frees the memory ran.

use std::hash::{BuildHasher, Hash, Hasher};

use chalkstream_schemas::{LearningEvent, LogOffset};
use hashbrown::{DefaultHashBuilder, HashTable};

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::fold::{Owner, SharedFold, Texts};
use crate::partition::StateRow;
use crate::row::{Position, RowSink};
use crate::symbols::Symbol;

/// A key that so many records of the partition left alone is forgotten.
pub(crate) const EXPIRE_AFTER: u64 = 250_000;

/// One event, as far as shared folds need it.
pub(crate) struct SharedInput<'a> {
    pub(crate) event: &'a LearningEvent,
    pub(crate) school: Symbol,
    /// Whose event it is, and where it stands.
    pub(crate) owner: Owner<'a>,
}

#[derive(Debug)]
struct Keyed<F> {
    school: Symbol,
    key: Box<str>,
    /// The first record of this partial.
    part: LogOffset,
    /// The last.
    last: LogOffset,
    rows_touched: bool,
    state_touched: bool,
    fold: F,
}

impl<F> Keyed<F> {
    const fn expired_at(&self, offset: LogOffset) -> bool {
        offset.get().saturating_sub(self.last.get()) > EXPIRE_AFTER
    }
}

impl<F: SharedFold> Keyed<F> {
    fn row<S: RowSink>(&mut self, owner: &Owner<'_>, rows: &mut S) {
        if std::mem::take(&mut self.rows_touched) {
            let owner = Owner {
                at: Position { offset: self.last, ..owner.at },
                school_id: owner.texts.symbols.text(self.school),
                id: &self.key,
                ..*owner
            };
            self.fold.row(&owner, self.part, rows);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Shared<F> {
    keys: Vec<Keyed<F>>,
    lookup: HashTable<u32>,
    hasher: DefaultHashBuilder,
    rows_touched: Vec<u32>,
    states_touched: Vec<u32>,
    swept_at: LogOffset,
}

impl<F> Default for Shared<F> {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            lookup: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            rows_touched: Vec::new(),
            states_touched: Vec::new(),
            swept_at: LogOffset::ZERO,
        }
    }
}

fn hash(hasher: &DefaultHashBuilder, school: Symbol, key: &str) -> u64 {
    let mut state = hasher.build_hasher();
    school.hash(&mut state);
    key.hash(&mut state);
    state.finish()
}

impl<F: SharedFold> Shared<F> {
    fn number(&mut self, school: Symbol, key: &str, at: LogOffset) -> u32 {
        let Self { keys, lookup, hasher, .. } = self;
        let hashed = hash(hasher, school, key);
        let is_it = |number: &u32| {
            keys.get(*number as usize).is_some_and(|it| it.school == school && &*it.key == key)
        };
        if let Some(number) = lookup.find(hashed, is_it) {
            return *number;
        }
        let number = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        keys.push(Keyed {
            school,
            key: key.into(),
            part: at,
            last: at,
            rows_touched: false,
            state_touched: false,
            fold: F::default(),
        });
        lookup.insert_unique(hashed, number, |number| {
            keys.get(*number as usize).map_or(0, |it| hash(hasher, it.school, &it.key))
        });
        number
    }

    pub(crate) fn apply<S: RowSink>(&mut self, input: &SharedInput<'_>, rows: &mut S) {
        let Some(key) = F::key(input.event) else { return };
        F::event_rows(input.event, &input.owner, rows);
        let offset = input.owner.at.offset;
        let number = self.number(input.school, key, offset);
        let Some(keyed) = self.keys.get_mut(number as usize) else { return };
        if keyed.expired_at(offset) {
            // Its row was drained long ago, unless nobody drained for so long.
            let was_listed = keyed.rows_touched;
            keyed.row(&input.owner, rows);
            keyed.rows_touched = was_listed;
            keyed.fold = F::default();
            keyed.part = offset;
        }
        keyed.last = offset;
        keyed.fold.apply(input.event);
        if !std::mem::replace(&mut keyed.rows_touched, true) {
            self.rows_touched.push(number);
        }
        if !std::mem::replace(&mut keyed.state_touched, true) {
            self.states_touched.push(number);
        }
    }

    pub(crate) fn drain_rows<S: RowSink>(&mut self, owner: &Owner<'_>, rows: &mut S) {
        for number in std::mem::take(&mut self.rows_touched) {
            if let Some(keyed) = self.keys.get_mut(number as usize) {
                keyed.row(owner, rows);
            }
        }
    }

    pub(crate) fn drain_states(&mut self, owner: &Owner<'_>, states: &mut Vec<StateRow>) {
        for number in std::mem::take(&mut self.states_touched) {
            if let Some(keyed) = self.keys.get_mut(number as usize) {
                keyed.state_touched = false;
                let mut out = Encoder::new(F::FORMAT);
                out.offset(keyed.part);
                keyed.fold.encode(&mut out);
                states.push(StateRow::new(
                    F::KIND,
                    [owner.texts.symbols.text(keyed.school), &keyed.key],
                    keyed.last,
                    out.finish(),
                ));
            }
        }
        let now = owner.at.offset;
        if now.get().saturating_sub(self.swept_at.get()) > EXPIRE_AFTER / 4 {
            self.swept_at = now;
            self.sweep(owner, states);
        }
    }

    /// Frees what expired, and says so to the store. Called with nothing touched.
    fn sweep(&mut self, owner: &Owner<'_>, states: &mut Vec<StateRow>) {
        let now = owner.at.offset;
        let before = self.keys.len();
        self.keys.retain(|keyed| {
            let expired = keyed.expired_at(now) && !keyed.rows_touched;
            if expired {
                let school = owner.texts.symbols.text(keyed.school);
                states.push(StateRow::new(F::KIND, [school, &keyed.key], now, Vec::new()));
            }
            !expired
        });
        if self.keys.len() == before {
            return;
        }
        self.keys.shrink_to_fit();
        self.lookup.clear();
        let Self { keys, lookup, hasher, .. } = self;
        for (number, keyed) in (0_u32..).zip(&*keys) {
            lookup.insert_unique(hash(hasher, keyed.school, &keyed.key), number, |number| {
                keys.get(*number as usize).map_or(0, |it| hash(hasher, it.school, &it.key))
            });
        }
        // Numbers moved: what is touched is listed anew.
        self.rows_touched = (0_u32..)
            .zip(&*keys)
            .filter_map(|(number, keyed)| keyed.rows_touched.then_some(number))
            .collect();
    }

    pub(crate) fn restore(&mut self, row: &StateRow, texts: &mut Texts) -> Result<(), DecodeError> {
        let mut key = Decoder::bare(&row.key);
        let (school, id) = (key.str()?, key.str()?);
        key.finish()?;
        let mut input = Decoder::new(&row.state, F::KIND, F::FORMAT)?;
        let part = input.offset()?;
        let fold = F::decode(&mut input)?;
        input.finish()?;
        let school = texts.symbols.intern(school);
        let number = self.number(school, id, part);
        if let Some(keyed) = self.keys.get_mut(number as usize) {
            keyed.part = part;
            keyed.last = row.last_offset();
            keyed.fold = fold;
        }
        Ok(())
    }
}
