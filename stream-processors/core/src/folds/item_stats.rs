//! `item_stats`: how a question is answered.
//!
//! In: graded answers of learners. Out: one partial row per school, item and partition, which the
//! view adds up, and one row per learner and item that keeps the learner's first answer (the
//! smallest offset wins), from which the view counts learners and first attempts.
//! Times go into a histogram with 32 buckets per doubling: a quantile is off by at most 1.6 %.
//! `answers` holds what looks like an option, not free text: texts of at most [`ANSWER_MAX_BYTES`]
//! bytes, numbers, and lists whose JSON text is as short. Of those at most [`ANSWERS_MAX`] are kept;
//! then the rarest goes (of equally rare ones the last in the order of bytes), and counts anew if it
//! comes back. So an answer among the commonest keeps its exact count unless it was once the rarest
//! of more than [`ANSWERS_MAX`].
//! Always true: all numbers are integers.

use std::collections::BTreeMap;

use chalkstream_schemas::{
    Epoch, LearningEvent, LogOffset, PartitionId, RowVersion, payload::AnswerSubmitted,
};

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::fold::{Owner, SharedFold, graded_answer};
use crate::row::{Pairs, RowSink, table_row};

/// The longest answer that counts as an option.
pub const ANSWER_MAX_BYTES: usize = 64;

/// So many different answers are counted at a time; the view shows the 50 commonest.
pub const ANSWERS_MAX: usize = 128;

table_row! {
    /// A partial of one item.
    pub struct ItemStatsRow<'a> in "item_stats_part" {
        /// The folding.
        epoch: Epoch,
        /// The school.
        school_id: &'a str,
        /// The item.
        item_id: &'a str,
        /// The partition of this partial.
        log_partition: PartitionId,
        /// The offset of the first record of this partial.
        part: LogOffset,
        /// Graded answers.
        attempts: u64,
        /// The right ones among them.
        correct_count: u64,
        /// Hints used.
        hints_used: u64,
        /// The sum of the times.
        time_ms_sum: u64,
        /// How many answers have a time.
        time_count: u64,
        /// Answers by bucket of time.
        time_histogram: Pairs<'a, u16, u64>,
        /// Answers by text.
        answers: Pairs<'a, &'a str, u64>,
        /// Version of the row.
        version: RowVersion,
    }
}

table_row! {
    /// A learner's first answer to an item.
    pub struct ItemLearnerRow<'a> in "item_learners_state" {
        /// The folding.
        epoch: Epoch,
        /// The school.
        school_id: &'a str,
        /// The item.
        item_id: &'a str,
        /// The learner.
        user_id: &'a str,
        /// The learner's partition.
        log_partition: PartitionId,
        /// Whether the client, too, calls it the first attempt, or does not count.
        first_attempt: bool,
        /// Whether it was right.
        correct: bool,
        /// Higher for smaller offsets, so that the first answer stays.
        version: u64,
    }
}

/// One item's numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ItemStats {
    attempts: u64,
    correct_count: u64,
    hints_used: u64,
    time_ms_sum: u64,
    time_count: u64,
    /// Sorted by bucket.
    times: Vec<(u16, u32)>,
    /// Sorted by text.
    answers: Vec<(Box<str>, u32)>,
}

const BUCKETS_PER_DOUBLING: u64 = 32;

/// The bucket of a time: exact below 32 ms, then 32 buckets per doubling.
pub fn time_bucket(ms: u64) -> u16 {
    if ms < BUCKETS_PER_DOUBLING {
        return u16::try_from(ms).unwrap_or(0);
    }
    // 5 bits below the highest one choose among the doubling's buckets.
    let doubling = u64::from(ms.ilog2() - 5);
    let within = (ms >> doubling) - BUCKETS_PER_DOUBLING;
    u16::try_from((doubling + 1) * BUCKETS_PER_DOUBLING + within).unwrap_or(u16::MAX)
}

/// What may be shown as an option that learners chose.
fn option_text(answer: &AnswerSubmitted) -> Option<std::borrow::Cow<'_, str>> {
    let text = answer.answer.as_ref()?.to_text();
    (text.len() <= ANSWER_MAX_BYTES).then_some(text)
}

impl ItemStats {
    fn count_time(&mut self, ms: u64) {
        self.time_ms_sum = self.time_ms_sum.saturating_add(ms);
        self.time_count += 1;
        let bucket = time_bucket(ms);
        match self.times.binary_search_by_key(&bucket, |entry| entry.0) {
            Ok(at) => {
                if let Some(entry) = self.times.get_mut(at) {
                    entry.1 = entry.1.saturating_add(1);
                }
            }
            Err(at) => self.times.insert(at, (bucket, 1)),
        }
    }

    fn count_answer(&mut self, text: &str) {
        match self.answers.binary_search_by(|entry| (*entry.0).cmp(text)) {
            Ok(at) => {
                if let Some(entry) = self.answers.get_mut(at) {
                    entry.1 = entry.1.saturating_add(1);
                }
            }
            Err(mut at) => {
                if self.answers.len() >= ANSWERS_MAX {
                    // Of equal minima `min_by_key` gives the first: here the last by text.
                    let rarest = self.answers.iter().enumerate().rev();
                    let rarest = rarest.min_by_key(|(_, entry)| entry.1).map_or(0, |(it, _)| it);
                    self.answers.remove(rarest);
                    at -= usize::from(rarest < at);
                }
                self.answers.insert(at, (text.into(), 1));
            }
        }
    }
}

impl SharedFold for ItemStats {
    const KIND: &'static str = "item_stats";
    const FORMAT: u8 = 1;

    fn key(event: &LearningEvent) -> Option<&str> {
        graded_answer(event).map(|(answer, _)| answer.item_id.as_str())
    }

    fn event_rows<S: RowSink>(event: &LearningEvent, owner: &Owner<'_>, rows: &mut S) {
        let Some((answer, correct)) = graded_answer(event) else { return };
        rows.row(
            owner.at,
            &ItemLearnerRow {
                epoch: owner.epoch,
                school_id: owner.school_id,
                item_id: answer.item_id.as_str(),
                user_id: owner.id,
                log_partition: owner.at.partition,
                first_attempt: answer.attempt_number.is_none_or(|number| number <= 1),
                correct,
                version: u64::MAX - owner.at.offset.get(),
            },
        );
    }

    fn apply(&mut self, event: &LearningEvent) {
        let Some((answer, correct)) = graded_answer(event) else { return };
        self.attempts += 1;
        self.correct_count += u64::from(correct);
        let hints = u64::from(answer.hints_used.unwrap_or(0));
        self.hints_used = self.hints_used.saturating_add(hints);
        if let Some(ms) = answer.time_taken_ms {
            self.count_time(ms);
        }
        if let Some(text) = option_text(answer) {
            self.count_answer(&text);
        }
    }

    fn row<S: RowSink>(&self, owner: &Owner<'_>, part: LogOffset, rows: &mut S) {
        let times: Vec<_> = self.times.iter().map(|(at, count)| (*at, u64::from(*count))).collect();
        let answers: Vec<_> =
            self.answers.iter().map(|(text, count)| (&**text, u64::from(*count))).collect();
        rows.row(
            owner.at,
            &ItemStatsRow {
                epoch: owner.epoch,
                school_id: owner.school_id,
                item_id: owner.id,
                log_partition: owner.at.partition,
                part,
                attempts: self.attempts,
                correct_count: self.correct_count,
                hints_used: self.hints_used,
                time_ms_sum: self.time_ms_sum,
                time_count: self.time_count,
                time_histogram: Pairs(&times),
                answers: Pairs(&answers),
                version: owner.version(),
            },
        );
    }

    fn encode(&self, out: &mut Encoder) {
        for number in
            [self.attempts, self.correct_count, self.hints_used, self.time_ms_sum, self.time_count]
        {
            out.u64(number);
        }
        out.count(self.times.len());
        for (bucket, count) in &self.times {
            out.u32(u32::from(*bucket));
            out.u32(*count);
        }
        out.count(self.answers.len());
        for (text, count) in &self.answers {
            out.str(text);
            out.u32(*count);
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let mut stats = Self {
            attempts: input.u64()?,
            correct_count: input.u64()?,
            hints_used: input.u64()?,
            time_ms_sum: input.u64()?,
            time_count: input.u64()?,
            ..Self::default()
        };
        let mut times = BTreeMap::new();
        for _ in 0..input.count()? {
            let bucket = u16::try_from(input.u32()?)
                .map_err(|_range| DecodeError::Invalid { what: "bucket" })?;
            times.insert(bucket, input.u32()?);
        }
        stats.times = times.into_iter().collect();
        let mut answers = BTreeMap::new();
        for _ in 0..input.count()? {
            answers.insert(Box::from(input.str()?), input.u32()?);
        }
        stats.answers = answers.into_iter().collect();
        Ok(stats)
    }
}

#[cfg(test)]
mod tests;
