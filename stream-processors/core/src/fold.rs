//! What a fold is, and what it sees.
//!
//! A [`LearnerFold`] is one part of a learner's state; all parts of one learner are saved as one
//! row. A [`SharedFold`] is the state of a key that learners share, such as an item; learners of
//! many partitions meet there, so its rows are partials that the view adds up.
//! Always true: a fold is given each event once, in log order, and decides by the event, the state
//! and control records alone. A row shows the whole state of its key (absolute values), so writing
//! it again, or writing only the last of several, changes nothing.
//! What views add up over partials is integers or does not depend on order.

use chalkstream_schemas::{
    Epoch, LearningEvent, LogOffset, Payload, RowVersion, Timestamp, UserRole,
};

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::control::ControlState;
use crate::row::{Position, RowSink};
use crate::symbols::{Symbol, Symbols};

/// The shared texts of one partition.
#[derive(Debug, Default)]
pub struct Texts {
    /// Skills, courses and schools.
    pub symbols: Symbols,
    /// Model versions.
    pub models: Symbols,
}

/// Whose row it is, and which record changed it last.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// The folding that the row belongs to.
    pub epoch: Epoch,
    /// The last record that touched the learner or the shared key.
    pub at: Position,
    /// The school.
    pub school_id: &'a str,
    /// The user; of a shared key, the key.
    pub id: &'a str,
    /// The partition's texts.
    pub texts: &'a Texts,
}

impl Owner<'_> {
    /// The version of rows: the offset of the last record plus one.
    pub const fn version(&self) -> RowVersion {
        RowVersion::of(self.at.offset)
    }
}

/// One event, and what the partition knows beside it.
#[derive(Debug)]
pub struct Input<'a> {
    /// The folding.
    pub epoch: Epoch,
    /// Where the event stands.
    pub at: Position,
    /// The event.
    pub event: &'a LearningEvent,
    /// The school.
    pub school: Symbol,
    /// The course; the empty text where there is none.
    pub course: Symbol,
    /// The latest event time of this person so far, this event included.
    pub now: Timestamp,
    /// Parameters, zones and so on.
    pub control: &'a ControlState,
    /// The partition's texts.
    pub texts: &'a mut Texts,
}

impl Input<'_> {
    /// The owner of the person's rows.
    pub fn owner(&self) -> Owner<'_> {
        Owner {
            epoch: self.epoch,
            at: self.at,
            school_id: self.event.school_id.as_str(),
            id: self.event.user_id.as_str(),
            texts: self.texts,
        }
    }

    /// Whether a learner did it: teachers trying out a question teach no model.
    pub const fn is_student(&self) -> bool {
        is_student(self.event)
    }
}

/// Whether a learner did it.
pub const fn is_student(event: &LearningEvent) -> bool {
    matches!(event.user_role, UserRole::Student)
}

/// A learner's answer that was graded.
pub fn graded_answer(
    event: &LearningEvent,
) -> Option<(&chalkstream_schemas::payload::AnswerSubmitted, bool)> {
    match &event.payload {
        Payload::AnswerSubmitted(answer) if is_student(event) && answer.graded != Some(false) => {
            answer.correct.map(|correct| (answer, correct))
        }
        _ => None,
    }
}

/// A row of `attempts` in the making: the folds fill in what they know before and after it.
#[derive(Clone, Debug)]
pub struct AttemptDraft {
    /// The skill; the empty text where the answer names none.
    pub skill: Symbol,
    /// How often the skill was practised, this time included.
    pub opportunity: u32,
    /// Since it was practised last.
    pub elapsed_ms: Option<u64>,
    /// What BKT held before and after.
    pub mastery: Option<MasteryStep>,
    /// The model version, among [`Texts::models`].
    pub model: Symbol,
}

/// One step of BKT.
#[derive(Clone, Copy, Debug)]
pub struct MasteryStep {
    /// The predicted probability of a right answer.
    pub predicted_correct: f64,
    /// P(known) before.
    pub before: f64,
    /// P(known) after.
    pub after: f64,
}

/// One part of a learner's state.
pub trait LearnerFold: Default {
    /// The format of the stored state; raise it with every change, which needs a new epoch.
    const FORMAT: u8;
    /// The name, for messages.
    const NAME: &'static str;

    /// Takes one event. Rows that vanish, and rows of what leaves the state, go out at once; other
    /// rows wait for [`LearnerFold::drain`].
    fn apply<S: RowSink>(
        &mut self,
        input: &mut Input<'_>,
        attempts: &mut [AttemptDraft],
        rows: &mut S,
    );

    /// Gives the rows of what was touched since the last time.
    fn drain<S: RowSink>(&mut self, owner: &Owner<'_>, rows: &mut S);

    /// Packs the state, the same bytes for the same state.
    fn encode(&self, texts: &Texts, out: &mut Encoder);

    /// Unpacks it.
    fn decode(input: &mut Decoder<'_>, texts: &mut Texts) -> Result<Self, DecodeError>;
}

/// The state of a key that learners share.
pub trait SharedFold: Default {
    /// The kind of its stored states.
    const KIND: &'static str;
    /// The format of the stored state.
    const FORMAT: u8;

    /// The key that an event belongs to, if any.
    fn key(event: &LearningEvent) -> Option<&str>;

    /// Writes the rows that one event makes by itself, if any.
    fn event_rows<S: RowSink>(_event: &LearningEvent, _owner: &Owner<'_>, _rows: &mut S) {}

    /// Takes one event of the key.
    fn apply(&mut self, event: &LearningEvent);

    /// Gives the row; `part` tells partials of one key in one partition apart.
    fn row<S: RowSink>(&self, owner: &Owner<'_>, part: LogOffset, rows: &mut S);

    /// Packs the state.
    fn encode(&self, out: &mut Encoder);

    /// Unpacks it.
    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError>;
}

/// Seconds as whole milliseconds: sums of them are exact.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to what the schema allows: 0 to a year"
)]
pub fn whole_ms(seconds: f64) -> u64 {
    (seconds.clamp(0.0, chalkstream_schemas::fields::SECONDS_MAX) * 1000.0).round() as u64
}
