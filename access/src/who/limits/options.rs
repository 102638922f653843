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
    /// Events of one publishable key, which anybody can read and use; above it the answer is 429.
    pub publishable_events_per_second: u32,
    /// Users that one publishable key may bring anew; above it an event is refused as
    /// `too_many_users`.
    pub publishable_new_users_per_minute: u32,
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
            publishable_events_per_second: 200,
            publishable_new_users_per_minute: 1_000,
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

    pub(super) fn credential_events(&self, publishable: bool) -> Option<Rate> {
        let of_publishable = if publishable { self.publishable_events_per_second } else { 0 };
        let count = match (self.credential_events_per_second, of_publishable) {
            (0, count) | (count, 0) => count,
            (one, other) => one.min(other),
        };
        Rate::new(count, Duration::from_secs(1), self.credential_burst.get())
    }

    pub(super) fn new_users(&self) -> Option<Rate> {
        let minute = Duration::from_secs(60);
        Rate::new(self.publishable_new_users_per_minute, minute, minute)
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
    fn a_publishable_key_has_limits_by_default_and_the_lower_one_holds() {
        let rate = |of_all, of_publishable| {
            let options = LimitsOptions {
                credential_events_per_second: of_all,
                publishable_events_per_second: of_publishable,
                ..LimitsOptions::default()
            };
            [false, true].map(|publishable| options.credential_events(publishable))
        };
        let of = |count| Rate::new(count, Duration::from_secs(1), Duration::from_secs(10));
        let default = LimitsOptions::default();
        assert!(default.credential_events(false).is_none());
        assert!(default.credential_events(true).is_some() && default.new_users().is_some());
        assert_eq!(rate(0, 7), [None, of(7)]);
        assert_eq!(rate(5, 7), [of(5), of(5)]);
        assert_eq!(rate(9, 7), [of(9), of(7)]);
        assert_eq!(rate(9, 0), [of(9), of(9)]);
    }

    #[test]
    fn zero_is_no_limit() {
        let off = LimitsOptions { learner_events_per_minute: 0, ..LimitsOptions::default() };
        assert!(off.learner_events().is_none());
        assert!(off.credential_requests().is_none() && off.credential_events(false).is_none());
        assert!(LimitsOptions::default().learner_events().is_some());
    }
}
