//! The counts of one instance: all of a series so far, and how much of that is in the log.
//!
//! Always true: an instance counts from zero, its counts only grow, and it ends only when the log
//! has all of them; so a count that is written again, late or twice means the same. A new instance
//! begins with each hour, which bounds the memory, and because it is new, a clock that is set back
//! does no harm.

use std::collections::HashMap;
use std::ops::AddAssign;

use chalkstream_schemas::{OutcomeCounts, OutcomeSeries, Timestamp};
use uuid::Uuid;

use super::{HOUR_MS, add_within};

/// Series of an instance; further ones are counted with application and type `other`.
const SERIES_MAX: usize = 10_000;
/// Series of one record: below 200 KiB with the longest ids.
const PER_RECORD: usize = 256;

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    all: u64,
    written: u64,
}

impl AddAssign<u64> for Count {
    fn add_assign(&mut self, events: u64) {
        self.all += events;
    }
}

#[derive(Debug)]
pub(super) struct Totals {
    instance: Uuid,
    /// The hour of the clock in which the instance began.
    began: i64,
    counts: HashMap<OutcomeSeries, Count>,
}

impl Totals {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { instance: Uuid::new_v4(), began: hour(now), counts: HashMap::new() }
    }

    pub(super) fn add(&mut self, counted: Vec<(OutcomeSeries, u64)>) {
        for (series, events) in counted {
            add_within(&mut self.counts, SERIES_MAX, series, events);
        }
    }

    /// What the log does not have yet, in records.
    pub(super) fn unwritten(&self) -> Vec<OutcomeCounts> {
        let counts: Vec<_> = self
            .counts
            .iter()
            .filter(|(_, count)| count.all > count.written)
            .map(|(series, count)| (series.clone(), count.all))
            .collect();
        let instance = self.instance;
        counts
            .chunks(PER_RECORD)
            .map(|counts| OutcomeCounts { instance, counts: counts.to_vec() })
            .collect()
    }

    /// The log has this record.
    pub(super) fn wrote(&mut self, record: &OutcomeCounts) {
        for (series, events) in &record.counts {
            if let Some(count) = self.counts.get_mut(series) {
                count.written = count.written.max(*events);
            }
        }
    }

    /// Begins again from zero, once in an hour, if the log has everything.
    pub(super) fn begin_again(&mut self, now: Timestamp) {
        let all_written = self.counts.values().all(|count| count.all == count.written);
        if hour(now) != self.began && all_written {
            *self = Self::new(now);
        }
    }
}

fn hour(time: Timestamp) -> i64 {
    time.as_ms().div_euclid(HOUR_MS)
}

#[cfg(test)]
mod tests {
    use chalkstream_schemas::{EventOutcome, SchoolId};

    use super::*;

    fn series(app: &str) -> OutcomeSeries {
        OutcomeSeries {
            hour: Timestamp::MIN,
            school_id: SchoolId::parse("lincoln").unwrap(),
            key_id: "k".into(),
            app: app.into(),
            type_name: "login".into(),
            outcome: EventOutcome::Accepted,
        }
    }

    #[test]
    fn a_count_is_written_whole_and_only_when_it_has_grown() {
        let now = Timestamp::from_ms(HOUR_MS);
        let mut totals = Totals::new(now);
        totals.add(vec![(series("a"), 2), (series("b"), 1)]);
        assert_eq!(totals.unwritten()[0].counts.len(), 2);
        for record in totals.unwritten() {
            totals.wrote(&record);
        }
        assert!(totals.unwritten().is_empty());
        totals.add(vec![(series("a"), 3)]);
        let instance = totals.instance;
        let grown = [OutcomeCounts { instance, counts: vec![(series("a"), 5)] }];
        assert_eq!(totals.unwritten(), grown);

        // What the log does not have keeps its instance; so does the same hour.
        let later = Timestamp::from_ms(2 * HOUR_MS);
        totals.begin_again(later);
        assert_eq!(totals.instance, instance);
        totals.wrote(&grown[0]);
        totals.begin_again(now);
        assert_eq!(totals.instance, instance);
        totals.begin_again(later);
        assert_ne!(totals.instance, instance);
        assert!(totals.counts.is_empty());
        // The clock is set back: again another one, so nothing is overwritten.
        totals.add(vec![(series("a"), 1)]);
        assert_eq!(totals.unwritten()[0].counts, [(series("a"), 1)]);
    }

    #[test]
    fn what_is_beyond_the_bound_is_counted_as_other() {
        let mut totals = Totals::new(Timestamp::MIN);
        let all = SERIES_MAX as u64 + 500;
        totals.add((0..all).map(|app| (series(&app.to_string()), 1)).collect());
        totals.add(vec![(series("0"), 1)]);
        assert_eq!(totals.counts.len(), SERIES_MAX + 1);
        let records = totals.unwritten();
        assert!(records.iter().all(|record| record.encode().len() < 200 << 10));
        let sum: u64 = records.iter().flat_map(|record| &record.counts).map(|(_, n)| n).sum();
        assert_eq!(sum, all + 1);
        let other = OutcomeSeries { type_name: "other".into(), ..series("other") };
        assert_eq!(totals.counts[&other].all, 500);
        assert_eq!(totals.counts[&series("0")].all, 2);
    }
}
