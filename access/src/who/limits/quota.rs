//! How many events a school may add on a day of UTC.
//!
//! Always true: what was granted on a day never exceeds its limit, and what was not used is given
//! back; a clock that steps back grants nothing twice; a school has one small entry, from its first
//! event of a day to the first of anybody's on the next.
//! What holds with several nodes: [`NodeQuota`] counts on its own, so a school that spreads its
//! requests over N nodes can reach N times its quota, and a restarted node begins at zero. A
//! [`SchoolQuota`] that all nodes share makes it exact.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use chalkstream_schemas::{SchoolId, Timestamp};
use parking_lot::Mutex;

const DAY_MS: i64 = 86_400_000;

/// A day of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i64);

impl Day {
    /// The day of this moment.
    pub fn of(at: Timestamp) -> Self {
        Self(at.as_ms().div_euclid(DAY_MS))
    }

    /// Days since 1970-01-01.
    pub fn number(self) -> i64 {
        self.0
    }

    /// How long until the day after that of `at` begins.
    pub(crate) fn rest(at: Timestamp) -> Duration {
        let ms = DAY_MS - at.as_ms().rem_euclid(DAY_MS);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }
}

/// Counts the events of schools by day.
#[async_trait]
pub trait SchoolQuota: std::fmt::Debug + Send + Sync {
    /// Takes up to `wanted` of the `limit` events that the school may add on that day. Returns how
    /// many it got. Must not fail: who cannot ask others decides by what it knows itself.
    async fn take(&self, school: &SchoolId, day: Day, wanted: u64, limit: u64) -> u64;

    /// Gives back what was taken and did not become durable.
    async fn give_back(&self, school: &SchoolId, day: Day, events: u64);
}

/// What this process knows.
#[derive(Debug, Default)]
pub struct NodeQuota {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    day: Option<Day>,
    by_school: HashMap<SchoolId, u64>,
}

#[async_trait]
impl SchoolQuota for NodeQuota {
    async fn take(&self, school: &SchoolId, day: Day, wanted: u64, limit: u64) -> u64 {
        let mut counts = self.counts.lock();
        if counts.day.is_none_or(|last| last < day) {
            *counts = Counts { day: Some(day), by_school: HashMap::new() };
        }
        let taken = match counts.by_school.get_mut(school) {
            Some(taken) => taken,
            None => counts.by_school.entry(school.clone()).or_default(),
        };
        let granted = limit.saturating_sub(*taken).min(wanted);
        *taken += granted;
        granted
    }

    async fn give_back(&self, school: &SchoolId, day: Day, events: u64) {
        let mut counts = self.counts.lock();
        if counts.day == Some(day)
            && let Some(taken) = counts.by_school.get_mut(school)
        {
            *taken = taken.saturating_sub(events);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_quota_lasts_a_day_and_is_a_schools_own() {
        let quota = NodeQuota::default();
        let [lincoln, monroe] = ["lincoln", "monroe"].map(|name| SchoolId::parse(name).unwrap());
        let noon = Timestamp::from_ms(20_000 * DAY_MS + DAY_MS / 2);
        assert_eq!(Day::rest(noon), Duration::from_secs(43_200));
        let today = Day::of(noon);
        assert_eq!(today.number(), 20_000);
        assert_eq!(quota.take(&lincoln, today, 70, 100).await, 70);
        assert_eq!(quota.take(&lincoln, today, 70, 100).await, 30);
        assert_eq!(quota.take(&lincoln, today, 1, 100).await, 0);
        assert_eq!(quota.take(&monroe, today, 70, 100).await, 70);
        quota.give_back(&lincoln, today, 5).await;
        assert_eq!(quota.take(&lincoln, today, 70, 100).await, 5);
        let tomorrow = Day(20_001);
        assert_eq!(quota.take(&lincoln, tomorrow, 100, 100).await, 100);
        // The clock stepped back over midnight, and a request of yesterday ended.
        assert_eq!(quota.take(&lincoln, today, 1, 100).await, 0);
        quota.give_back(&lincoln, today, 50).await;
        assert_eq!(quota.take(&lincoln, tomorrow, 1, 100).await, 0);
    }
}
