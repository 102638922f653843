//! What can be configured about limits: section `[ingest.limits]` of `chalkstream.toml`.
//!
//! Always true: 0 turns a limit off; a burst is a span of time, so that it grows with its rate.
//! Not here: the bytes of all requests together (`ingest.max_in_flight`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bucket::Rate;
use crate::units::Span;

/// How much may come in from one credential, learner or school.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsOptions {
    /// Requests of one credential; above it the answer is 429.
    pub credential_requests_per_second: u32,
    /// Events of one credential, whatever becomes of them; above it the answer is 429.
    pub credential_events_per_second: u32,
    /// How long a credential's unused requests and events are saved up.
    pub credential_burst: Span,
    /// The share of `ingest.max_in_flight` that one credential may hold, but at least one body;
    /// above it the answer is 429.
    pub credential_in_flight_percent: u8,
    /// New events of one learner; above it an event is refused as `rate_limited`. Keys with
    /// `events:backfill` have no such limit.
    pub learner_events_per_minute: u32,
    /// How long a learner's unused events are saved up.
    pub learner_burst: Span,
    /// New events of one school on a day of UTC; above it an event is refused as `quota_exceeded`.
    pub school_events_per_day: u32,
}

impl Default for LimitsOptions {
    fn default() -> Self {
        Self {
            credential_requests_per_second: 0,
            credential_events_per_second: 0,
            credential_burst: Span::secs(10),
            credential_in_flight_percent: 75,
            learner_events_per_minute: 1_000,
            learner_burst: Span::secs(60),
            school_events_per_day: 0,
        }
    }
}

impl LimitsOptions {
    pub(super) fn credential_requests(&self) -> Option<Rate> {
        let count = self.credential_requests_per_second;
        Rate::new(count, Duration::from_secs(1), self.credential_burst.get())
    }

    pub(super) fn credential_events(&self) -> Option<Rate> {
        let count = self.credential_events_per_second;
        Rate::new(count, Duration::from_secs(1), self.credential_burst.get())
    }

    pub(super) fn learner_events(&self) -> Option<Rate> {
        let count = self.learner_events_per_minute;
        Rate::new(count, Duration::from_secs(60), self.learner_burst.get())
    }

    /// The bytes in flight that one credential may hold.
    pub fn credential_in_flight(&self, max_in_flight: usize, max_body: usize) -> usize {
        match usize::from(self.credential_in_flight_percent) {
            0 => max_in_flight,
            percent => (max_in_flight / 100).saturating_mul(percent).max(max_body),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_always_has_room_for_one_body() {
        let share = |percent| {
            let options =
                LimitsOptions { credential_in_flight_percent: percent, ..LimitsOptions::default() };
            options.credential_in_flight(1_000, 10)
        };
        assert_eq!([0, 1, 50, 100].map(share), [1_000, 10, 500, 1_000]);
        assert_eq!(LimitsOptions::default().credential_in_flight(64, 64), 64);
    }

    #[test]
    fn zero_is_no_limit() {
        let off = LimitsOptions { learner_events_per_minute: 0, ..LimitsOptions::default() };
        assert!(off.learner_events().is_none());
        assert!(off.credential_requests().is_none() && off.credential_events().is_none());
        assert!(LimitsOptions::default().learner_events().is_some());
    }
}
