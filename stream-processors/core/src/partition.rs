//! All state of one partition of the log: the seam between the folds and the runtime.
//!
//! In: the partition's events and control records in log order, each first-seen event once.
//! Out: rows at once (per event) or on [`PartitionState::drain_rows`] (aggregates), and packed
//! states on [`PartitionState::drain_states`].
//! Always true: [`PartitionState::restore`] of every state drained so far, then the records after
//! it, gives the same rows as never having stopped.
//! Not here: which events are duplicates, when to flush, where states are kept.

use chalkstream_schemas::{
    ControlRecord, Epoch, LearningEvent, LogOffset, PartitionId, RowVersion,
};

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::control::{ControlError, ControlState};
use crate::fold::{AttemptDraft, Input, Owner, Texts};
use crate::folds::{attempts, events};
use crate::learner::Learners;
use crate::registry::SharedFolds;
use crate::row::{Position, RowSink};
use crate::shared::SharedInput;
use crate::symbols::Symbol;

const KIND_LEARNER: &str = "learner";

/// One packed state, as the table `fold_state` keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRow {
    /// The kind of state: `learner`, `item_stats`, `control`, `bkt`, `school`.
    pub kind: Box<str>,
    /// The key within its kind: texts after their lengths.
    pub key: Vec<u8>,
    /// The offset of the last record that changed it, plus one.
    pub version: RowVersion,
    /// The packed state; empty if the key is gone.
    pub state: Vec<u8>,
}

impl StateRow {
    pub(crate) fn new<const N: usize>(
        kind: &str,
        key: [&str; N],
        changed_by: LogOffset,
        state: Vec<u8>,
    ) -> Self {
        let mut packed = Encoder::default();
        for text in key {
            packed.str(text);
        }
        let version = RowVersion::of(changed_by);
        Self { kind: kind.into(), key: packed.finish(), version, state }
    }

    /// The last record that changed it.
    pub(crate) const fn last_offset(&self) -> LogOffset {
        LogOffset::new(self.version.get().saturating_sub(1))
    }
}

/// All state of one partition.
#[derive(Debug)]
pub struct PartitionState {
    partition: PartitionId,
    epoch: Epoch,
    texts: Texts,
    control: ControlState,
    learners: Learners,
    shared: SharedFolds,
    drafts: Vec<AttemptDraft>,
    rows_touched: Vec<u32>,
    states_touched: Vec<u32>,
    last: LogOffset,
}

impl PartitionState {
    /// A partition of which nothing was folded yet.
    pub fn new(partition: PartitionId, epoch: Epoch) -> Self {
        Self {
            partition,
            epoch,
            texts: Texts::default(),
            control: ControlState::default(),
            learners: Learners::default(),
            shared: SharedFolds::default(),
            drafts: Vec::new(),
            rows_touched: Vec::new(),
            states_touched: Vec::new(),
            last: LogOffset::ZERO,
        }
    }

    /// The partition.
    pub const fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The folding.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How many people have state here.
    pub fn learner_count(&self) -> usize {
        self.learners.len()
    }

    /// Folds one event, the first of its identity. Rows of the event itself go out at once.
    pub fn apply_event<S: RowSink>(
        &mut self,
        offset: LogOffset,
        event: &LearningEvent,
        rows: &mut S,
    ) {
        let at = Position { partition: self.partition, offset };
        let Self { epoch, texts, control, learners, shared, drafts, .. } = self;
        let school = texts.symbols.intern(event.school_id.as_str());
        let course = event.course_id.as_ref();
        let course = course.map_or(Symbol::EMPTY, |id| texts.symbols.intern(id.as_str()));
        let number = learners.number(school, event.user_id.as_str());
        let Some(learner) = learners.get_mut(number) else { return };
        debug_assert!(learner.version <= RowVersion::of(offset), "records are folded in log order");
        learner.version = RowVersion::of(offset);
        learner.now = learner.now.max(event.event_time);
        if !std::mem::replace(&mut learner.rows_touched, true) {
            self.rows_touched.push(number);
        }
        if !std::mem::replace(&mut learner.state_touched, true) {
            self.states_touched.push(number);
        }

        rows.row(at, &events::EventRow { epoch: *epoch, at, event });
        attempts::draft(event, texts, drafts);
        let mut input =
            Input { epoch: *epoch, at, event, school, course, now: learner.now, control, texts };
        learner.folds.apply(&mut input, drafts, rows);
        attempts::write(event, &input.owner(), drafts, rows);
        let owner = input.owner();
        shared.apply(&SharedInput { event, school, owner }, rows);
        self.last = offset;
    }

    /// Applies a control record; a repeated control id changes nothing. `payload` is the content of
    /// the record's blob, if it names one. After an error the state is as before.
    pub fn apply_control<S: RowSink>(
        &mut self,
        offset: LogOffset,
        record: &ControlRecord,
        payload: &[u8],
        rows: &mut S,
    ) -> Result<(), ControlError> {
        let at = Position { partition: self.partition, offset };
        self.last = offset;
        self.control.apply(self.epoch, at, record, payload, &mut self.texts, rows)
    }

    /// Gives the rows of all aggregates touched since the last time.
    pub fn drain_rows<S: RowSink>(&mut self, rows: &mut S) {
        let owner = Owner {
            epoch: self.epoch,
            at: Position { partition: self.partition, offset: self.last },
            school_id: "",
            id: "",
            texts: &self.texts,
        };
        for number in std::mem::take(&mut self.rows_touched) {
            let Some(learner) = self.learners.get_mut(number) else { continue };
            learner.rows_touched = false;
            let offset = LogOffset::new(learner.version.get().saturating_sub(1));
            let owner = Owner {
                at: Position { partition: self.partition, offset },
                school_id: self.texts.symbols.text(learner.school),
                id: &learner.user,
                ..owner
            };
            learner.folds.drain(&owner, rows);
        }
        self.shared.drain_rows(&owner, rows);
    }

    /// Gives the packed states touched since the last time. Every row must have been drained, and
    /// be safe in its table, before: a stored state does not remember which rows are owed.
    pub fn drain_states(&mut self) -> Vec<StateRow> {
        debug_assert!(self.rows_touched.is_empty(), "rows are drained before states");
        let mut states = Vec::with_capacity(self.states_touched.len());
        self.control.drain_states(&self.texts, &mut states);
        for number in std::mem::take(&mut self.states_touched) {
            let Some(learner) = self.learners.get_mut(number) else { continue };
            learner.state_touched = false;
            let key = [self.texts.symbols.text(learner.school), &learner.user];
            let offset = LogOffset::new(learner.version.get().saturating_sub(1));
            states.push(StateRow::new(KIND_LEARNER, key, offset, learner.encode(&self.texts)));
        }
        let owner = Owner {
            epoch: self.epoch,
            at: Position { partition: self.partition, offset: self.last },
            school_id: "",
            id: "",
            texts: &self.texts,
        };
        self.shared.drain_states(&owner, &mut states);
        states
    }

    /// Takes back one state; states come in any order, each key once, before the first record.
    pub fn restore(&mut self, row: &StateRow) -> Result<(), DecodeError> {
        self.last = self.last.max(row.last_offset());
        if row.state.is_empty() {
            return Ok(());
        }
        if &*row.kind == KIND_LEARNER {
            let mut key = Decoder::bare(&row.key);
            let (school, user) = (key.str()?, key.str()?);
            key.finish()?;
            let school = self.texts.symbols.intern(school);
            let number = self.learners.number(school, user);
            let Some(learner) = self.learners.get_mut(number) else { return Ok(()) };
            learner.version = row.version;
            return learner.decode(&row.state, &mut self.texts);
        }
        let known = self.control.restore(row, &mut self.texts)?
            || self.shared.restore(row, &mut self.texts)?;
        if known { Ok(()) } else { Err(DecodeError::UnknownKind { kind: row.kind.to_string() }) }
    }
}

#[cfg(test)]
mod tests;
