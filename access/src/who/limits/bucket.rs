//! How often something may happen: the generic cell rate algorithm, for millions of keys at once.
//!
//! A bucket is one number, the time at which it is as if it had never been used. Taking an event
//! moves that time ahead by the rate's interval; an event fits while the time is less than the burst
//! ahead of now.
//! Always true: the table has at most [`BYTES`], and about what its busy keys need, so that those of a
//! small crowd stay in the processor's cache; a key that is idle until its time needs no place and
//! loses nothing by giving it up; where more keys are busy than there are places, the one that is
//! soonest clear is forgotten, never one that floods; a lock is held for one look-up, and there are
//! 64 of them.
//! Not the crate `governor`: its table grows until a task sweeps it, and it can neither take a part
//! of what is wanted, nor give back, nor let a large request run into debt.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::time::Duration;

use parking_lot::Mutex;

const SHARDS: usize = 64;
/// Sets of a shard at first, and at most.
const FIRST_SETS: usize = 16;
const SETS: usize = 4_096;
/// A key's place is one of so many: two cache lines.
const WAYS: usize = 8;
/// What the whole table takes at most, for two million keys that are busy at once.
const BYTES: usize = 32 << 20;
const _: () = assert!(SHARDS * SETS * WAYS * size_of::<Place>() == BYTES);

/// So many in a period, and how much that was not used may be saved up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    interval_ns: u64,
    burst_ns: u64,
}

impl Rate {
    /// `count` in `period`; none if that is no limit. A burst holds at least one.
    pub(crate) fn new(count: u32, period: Duration, burst: Duration) -> Option<Self> {
        let interval_ns = nanoseconds(period).checked_div(u64::from(count))?.max(1);
        Some(Self { interval_ns, burst_ns: nanoseconds(burst).max(interval_ns) })
    }

    /// How many of `wanted` fit.
    pub(crate) fn room(self, bucket: Bucket, wanted: u64) -> u64 {
        (self.burst_ns.saturating_sub(bucket.used_ns()) / self.interval_ns).min(wanted)
    }

    /// Takes `count`, whether they fit or not: more than fit is debt.
    pub(crate) fn take(self, bucket: &mut Bucket, count: u64) {
        let taken = count.saturating_mul(self.interval_ns);
        bucket.clear_at = bucket.clear_at.max(bucket.now).saturating_add(taken);
    }

    /// Gives back what was taken and not used.
    pub(crate) fn give_back(self, bucket: &mut Bucket, count: u64) {
        let taken = count.saturating_mul(self.interval_ns);
        bucket.clear_at = bucket.clear_at.saturating_sub(taken);
    }

    /// How long until `wanted` fit, or as many of them as ever can.
    pub(crate) fn wait(self, bucket: Bucket, wanted: u64) -> Duration {
        let wanted = wanted.min(self.burst_ns / self.interval_ns);
        let needed = wanted.saturating_mul(self.interval_ns);
        let used = bucket.used_ns().saturating_add(needed);
        Duration::from_nanos(used.saturating_sub(self.burst_ns))
    }
}

/// Lasts for 584 years.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// One key's state, looked at now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    now: u64,
    clear_at: u64,
}

impl Bucket {
    fn used_ns(self) -> u64 {
        self.clear_at.saturating_sub(self.now)
    }
}

/// Who is limited, as a hash: two of a million busy keys share a bucket once in 37 million tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u64);

impl Key {
    /// The key that has this hash.
    pub const fn of(hash: u64) -> Self {
        Self(hash)
    }

    /// Which of so many shards the key belongs to.
    pub(crate) fn spread(self, shards: usize) -> usize {
        let [.., last] = self.0.to_le_bytes();
        usize::from(last) % shards.max(1)
    }
}

/// A key and when it is clear. All zero is a place that nobody has.
type Place = [u64; 2];

/// The places of some keys.
struct Shard {
    sets: Vec<[Place; WAYS]>,
}

impl Shard {
    /// The places that a key may have.
    fn places(&mut self, hash: u64) -> Option<&mut [Place; WAYS]> {
        let [low, high, ..] = hash.to_le_bytes();
        let set = usize::from(u16::from_le_bytes([low, high])) % self.sets.len().max(1);
        self.sets.get_mut(set)
    }

    /// Keeps when a key is clear: where nobody is, or nobody needs the place any more, or in the
    /// place of who is clear the soonest.
    fn insert(&mut self, hash: u64, clear_at: u64, now: u64) {
        let soonest = |places: &[Place; WAYS]| places.iter().map(|[_, clear_at]| *clear_at).min();
        while self.sets.len() < SETS
            && self.places(hash).and_then(|places| soonest(places)).is_some_and(|at| at > now)
        {
            self.grow(now);
        }
        let places = self.places(hash).into_iter().flatten();
        if let Some(place) = places.min_by_key(|[_owner, clear_at]| *clear_at) {
            *place = [hash, clear_at];
        }
    }

    /// Twice as many sets: what was in one is now in two, so everything finds a place.
    fn grow(&mut self, now: u64) {
        let more = vec![[[0, 0]; WAYS]; self.sets.len() * 2];
        for [hash, clear_at] in std::mem::replace(&mut self.sets, more).into_iter().flatten() {
            let free = self.places(hash).into_iter().flatten().find(|[_, clear_at]| *clear_at == 0);
            if let Some(place) = free.filter(|_| clear_at > now) {
                *place = [hash, clear_at];
            }
        }
    }
}

/// Every bucket of this process.
pub(crate) struct Buckets {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

impl std::fmt::Debug for Buckets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buckets").finish_non_exhaustive()
    }
}

impl Buckets {
    pub(crate) fn new() -> Self {
        let shard = || Mutex::new(Shard { sets: vec![[[0, 0]; WAYS]; FIRST_SETS] });
        Self { shards: std::array::from_fn(|_| shard()), hasher: RandomState::new() }
    }

    /// The key for `who`. The hash is keyed at random, so nobody can choose whom to share it with.
    pub(crate) fn key(&self, who: impl Hash) -> Key {
        Key(self.hasher.hash_one(who))
    }

    /// Looks at a key's bucket, and keeps what `change` made of it.
    pub(crate) fn with<R>(&self, key: Key, now: u64, change: impl FnOnce(&mut Bucket) -> R) -> R {
        let Key(hash) = key;
        let [last, ..] = &self.shards;
        let mut shard = self.shards.get(key.spread(SHARDS)).unwrap_or(last).lock();
        let places = shard.places(hash).into_iter().flatten();
        let own = places.map(|place| &mut *place).find(|[owner, _]| *owner == hash);
        let mut bucket =
            Bucket { now, clear_at: own.as_ref().map_or(0, |[_, clear_at]| *clear_at) };
        let result = change(&mut bucket);
        match own {
            Some(place) => *place = [hash, bucket.clear_at],
            None if bucket.clear_at > now => shard.insert(hash, bucket.clear_at, now),
            None => {}
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn a_thousand_a_minute() -> Rate {
        Rate::new(1_000, Duration::from_secs(60), Duration::from_secs(60)).unwrap()
    }

    /// Takes what fits of `wanted`.
    fn take(buckets: &Buckets, key: Key, now: u64, wanted: u64) -> u64 {
        let rate = a_thousand_a_minute();
        buckets.with(key, now, |bucket| {
            let room = rate.room(*bucket, wanted);
            rate.take(bucket, room);
            room
        })
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_does() {
        let buckets = Buckets::new();
        let (ada, bob) = (buckets.key("ada"), buckets.key("bob"));
        assert_eq!(take(&buckets, ada, 0, 5_000), 1_000);
        assert_eq!(take(&buckets, ada, 0, 1), 0);
        assert_eq!(take(&buckets, bob, 0, 1), 1);
        let wait = |wanted| {
            buckets.with(ada, 0, |bucket| a_thousand_a_minute().wait(*bucket, wanted)).as_millis()
        };
        assert_eq!([1, 100, 1_000, 4_000].map(wait), [60, 6_000, 60_000, 60_000]);
        assert_eq!(take(&buckets, ada, SECOND, 5_000), 16);
        // A minute later all is as it was at first, and an hour saves up no more than a minute.
        assert_eq!(take(&buckets, ada, 62 * SECOND, 5_000), 1_000);
        assert_eq!(take(&buckets, ada, 3_700 * SECOND, 5_000), 1_000);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let buckets = Buckets::new();
        let key = buckets.key("ada");
        assert_eq!(take(&buckets, key, SECOND, 1_000), 1_000);
        buckets.with(key, SECOND, |bucket| a_thousand_a_minute().give_back(bucket, 400));
        assert_eq!(take(&buckets, key, SECOND, 1_000), 400);
        buckets.with(key, SECOND, |bucket| a_thousand_a_minute().give_back(bucket, 9_000));
        assert_eq!(take(&buckets, key, SECOND, 5_000), 1_000);
    }

    #[test]
    fn debt_is_paid_before_anything_passes() {
        let rate = Rate::new(100, Duration::from_secs(1), Duration::from_secs(10)).unwrap();
        let mut bucket = Bucket { now: 0, clear_at: 0 };
        rate.take(&mut bucket, 5_000);
        assert_eq!(rate.room(bucket, 1), 0);
        assert_eq!(rate.wait(bucket, 1), Duration::from_millis(40_010));
        bucket.now = 40_010_000_000;
        assert_eq!(rate.room(bucket, 7), 1);
    }

    #[test]
    fn every_rate_lets_something_pass() {
        let second = Duration::from_secs(1);
        let fast = Rate::new(u32::MAX, second, Duration::ZERO).unwrap();
        let slow = Rate::new(1, Duration::from_secs(86_400), second).unwrap();
        for rate in [fast, slow] {
            let mut bucket = Bucket { now: 5, clear_at: 0 };
            assert_eq!(rate.room(bucket, 10), 1);
            rate.take(&mut bucket, 1);
            assert_eq!(rate.room(bucket, 1), 0);
            bucket.now += 86_400 * SECOND;
            assert_eq!(rate.room(bucket, 1), 1);
        }
        assert_eq!(Rate::new(0, second, second), None);
    }

    #[test]
    fn a_million_learners_are_held_in_32_mib() {
        let buckets = Buckets::new();
        // How many of the learners are known to have used up their burst, after each did.
        let held = |learners: std::ops::Range<u64>, now| {
            for learner in learners.clone() {
                assert_eq!(take(&buckets, buckets.key(learner), now, 1_001), 1_000);
            }
            learners.filter(|learner| take(&buckets, buckets.key(*learner), now, 1) == 0).count()
        };
        // A few sets have more busy keys than places.
        let first = held(0..1_000_000, 0);
        assert!(first > 970_000, "{first}");
        // A minute later they are idle, and make room for as many others.
        let second = held(1_000_000..2_000_000, 60 * SECOND);
        assert!(second > 970_000, "{second}");
    }

    #[test]
    fn who_floods_is_not_forgotten_for_a_crowd() {
        let buckets = Buckets::new();
        let flood = buckets.key("flood");
        assert_eq!(take(&buckets, flood, 0, 1_001), 1_000);
        // All of them compete for its places.
        let in_the_same_set = |n: u64| Key(flood.0 & 0xFF00_0000_0000_FFFF | n << 16);
        for n in 0..1_000 {
            assert_eq!(take(&buckets, in_the_same_set(n), 0, 1), 1);
        }
        assert_eq!(take(&buckets, flood, 0, 1), 0);
    }
}
