//! `activity_quarter_hourly`: who was active in which 15 minutes.
//!
//! In: every event, of whatever role. Out: one row per person and quarter of an hour touched; the
//! view adds up the events of everybody and counts the learners (role student).
//! Always true: a person lives in one partition, so counted people add up. A late event for a
//! quarter that left the state begins a new partial, with its own `part`.

use chalkstream_schemas::{Epoch, LogOffset, PartitionId, RowVersion, Timestamp};

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::entries::{Passing, Recent};
use crate::fold::{AttemptDraft, Input, LearnerFold, Owner, Texts};
use crate::row::{RowSink, table_row};

const QUARTER_MS: i64 = 15 * 60_000;

table_row! {
    /// One person and quarter of an hour.
    pub struct ActivityRow<'a> in "activity_quarter_hourly_state" {
        /// The folding.
        epoch: Epoch,
        /// The school.
        school_id: &'a str,
        /// The beginning of the 15 minutes.
        bucket_at: Timestamp,
        /// The person.
        user_id: &'a str,
        /// The person's partition.
        log_partition: PartitionId,
        /// The offset of the first record of this partial.
        part: LogOffset,
        /// Events.
        event_count: u32,
        /// Whether the person acted as a student.
        learner: bool,
        /// Version of the row.
        version: RowVersion,
    }
}

/// A person's latest quarters of an hour.
#[derive(Debug, Default)]
pub struct Activity {
    recent: Recent<Quarter>,
}

/// 16 bytes; the flags are folded into the number of the quarter.
#[derive(Debug)]
struct Quarter {
    part: LogOffset,
    /// Quarters since 1970 times four, plus 2 for a learner, plus 1 if touched.
    number: u32,
    event_count: u32,
}

impl Quarter {
    const fn index(&self) -> u32 {
        self.number >> 2
    }

    fn starts_at(&self) -> Timestamp {
        Timestamp::from_ms(i64::from(self.index()) * QUARTER_MS)
    }

    fn row<S: RowSink>(&self, owner: &Owner<'_>, rows: &mut S) {
        rows.row(
            owner.at,
            &ActivityRow {
                epoch: owner.epoch,
                school_id: owner.school_id,
                bucket_at: self.starts_at(),
                user_id: owner.id,
                log_partition: owner.at.partition,
                part: self.part,
                event_count: self.event_count,
                learner: self.number & 2 != 0,
                version: owner.version(),
            },
        );
    }
}

impl Passing for Quarter {
    fn ends_at(&self) -> Timestamp {
        self.starts_at().plus_ms(QUARTER_MS)
    }
}

impl LearnerFold for Activity {
    const FORMAT: u8 = 1;
    const NAME: &'static str = "quarter-hourly activity";

    fn apply<S: RowSink>(
        &mut self,
        input: &mut Input<'_>,
        _attempts: &mut [AttemptDraft],
        rows: &mut S,
    ) {
        // The last quarter of 2261 is number 10,238,495.
        let index = u32::try_from(input.event.event_time.as_ms() / QUARTER_MS).unwrap_or(0);
        let quarter = match self.recent.touch(|it| it.index() == index) {
            Some(quarter) => quarter,
            None => {
                let owner = input.owner();
                let new = Quarter { part: input.at.offset, number: index << 2, event_count: 0 };
                self.recent.push(new, input.now, |evicted| {
                    if evicted.number & 1 != 0 {
                        evicted.row(&owner, rows);
                    }
                })
            }
        };
        quarter.event_count = quarter.event_count.saturating_add(1);
        quarter.number |= 1 | if input.is_student() { 2 } else { 0 };
    }

    fn drain<S: RowSink>(&mut self, owner: &Owner<'_>, rows: &mut S) {
        for quarter in &mut self.recent.by_touch {
            if quarter.number & 1 != 0 {
                quarter.number &= !1;
                quarter.row(owner, rows);
            }
        }
    }

    fn encode(&self, _texts: &Texts, out: &mut Encoder) {
        out.count(self.recent.by_touch.len());
        for quarter in &self.recent.by_touch {
            out.offset(quarter.part);
            out.u32(quarter.number & !1);
            out.u32(quarter.event_count);
        }
    }

    fn decode(input: &mut Decoder<'_>, _texts: &mut Texts) -> Result<Self, DecodeError> {
        let mut by_touch = Vec::new();
        for _ in 0..input.count()? {
            by_touch.push(Quarter {
                part: input.offset()?,
                number: input.u32()?,
                event_count: input.u32()?,
            });
        }
        by_touch.shrink_to_fit();
        Ok(Self { recent: Recent { by_touch } })
    }
}

#[cfg(test)]
mod tests;
