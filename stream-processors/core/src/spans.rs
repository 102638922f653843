//! Active time: the gaps between a person's events, each counted up to 300 seconds.
//!
//! In: points in time, in any order. Out: milliseconds.
//! Always true: the result does not depend on the order of the points. Only the ends of runs without
//! a gap above 300 s are kept, so a day takes at most 288 of them, whatever happened in it.
//! A gap of [`IDLE_MS`] or more is absence, not activity, and counts nothing.

use chalkstream_schemas::Timestamp;

use crate::codec::{DecodeError, Decoder, Encoder};

/// So much of a gap counts as activity: 300 s.
pub(crate) const GAP_MAX_MS: i64 = 300_000;

/// From this gap on a session has ended: 30 minutes.
pub(crate) const IDLE_MS: i64 = 30 * 60_000;

/// Runs of events, sorted, more than [`GAP_MAX_MS`] apart; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spans {
    runs: Vec<(Timestamp, Timestamp)>,
}

impl Spans {
    pub(crate) fn at(time: Timestamp) -> Self {
        Self { runs: vec![(time, time)] }
    }

    pub(crate) fn start(&self) -> Timestamp {
        self.runs.first().map_or(Timestamp::MIN, |run| run.0)
    }

    pub(crate) fn end(&self) -> Timestamp {
        self.runs.last().map_or(Timestamp::MIN, |run| run.1)
    }

    pub(crate) fn add(&mut self, time: Timestamp) {
        self.add_run(time, time);
    }

    /// Takes in all points of another.
    pub(crate) fn join(&mut self, other: &Self) {
        for (start, end) in &other.runs {
            self.add_run(*start, *end);
        }
    }

    fn add_run(&mut self, mut start: Timestamp, mut end: Timestamp) {
        let first = self.runs.partition_point(|run| start.ms_since(run.1) > GAP_MAX_MS);
        let mut after = first;
        while let Some(run) = self.runs.get(after) {
            if run.0.ms_since(end) > GAP_MAX_MS {
                break;
            }
            start = start.min(run.0);
            end = end.max(run.1);
            after += 1;
        }
        if after == first {
            self.runs.reserve_exact(1);
            self.runs.insert(first, (start, end));
        } else {
            if let Some(run) = self.runs.get_mut(first) {
                *run = (start, end);
            }
            self.runs.drain(first + 1..after);
        }
    }

    pub(crate) fn active_ms(&self) -> u64 {
        let runs: i64 = self.runs.iter().map(|run| run.1.ms_since(run.0)).sum();
        let gaps = self.runs.windows(2).filter(|pair| match pair {
            [before, after] => after.0.ms_since(before.1) < IDLE_MS,
            _ => false,
        });
        (runs + gaps.map(|_gap| GAP_MAX_MS).sum::<i64>()).unsigned_abs()
    }

    pub(crate) fn encode(&self, out: &mut Encoder) {
        out.count(self.runs.len());
        let mut before = Timestamp::MIN;
        for (start, end) in &self.runs {
            out.u64(start.ms_since(before).unsigned_abs());
            out.u64(end.ms_since(*start).unsigned_abs());
            before = *end;
        }
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let count = input.count()?;
        let mut runs = Vec::with_capacity(count);
        let mut before = 0_u64;
        for _ in 0..count {
            let mut point = || {
                before = before.saturating_add(input.u64()?);
                let ms = i64::try_from(before).ok().and_then(Timestamp::try_from_ms);
                ms.ok_or(DecodeError::Invalid { what: "time" })
            };
            runs.push((point()?, point()?));
        }
        if runs.is_empty() { Err(DecodeError::Invalid { what: "run" }) } else { Ok(Self { runs }) }
    }
}

#[cfg(test)]
mod tests;
