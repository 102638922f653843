//! Containers of fold states: small in memory, fixed in order.
//!
//! [`Entries`] is sorted by key, for what a learner keeps for ever (skills). [`Recent`] is sorted by
//! last touch, for what ends (sessions, days, quarter hours): what a learner left behind more than
//! [`LATENESS_MS`] ago goes, except for the [`KEEP_STALE`] touched last, so that a device that sends
//! old events in one go still finds its own session.
//! Always true: what stays and what goes depends on the learner's own events alone, in log order;
//! neither on the clock, nor on when rows were drained or states saved.

use chalkstream_schemas::Timestamp;

/// What ended longer before the learner's latest event may leave the state: 2 days.
pub(crate) const LATENESS_MS: i64 = 2 * 86_400_000;

/// So many entries stay although they are past [`LATENESS_MS`]; each takes some 100 bytes of
/// every learner.
pub(crate) const KEEP_STALE: usize = 1;

/// A sorted list of states by key: no slack beyond a few entries.
#[derive(Debug)]
pub(crate) struct Entries<K, S> {
    sorted: Vec<(K, S)>,
}

impl<K, S> Default for Entries<K, S> {
    fn default() -> Self {
        Self { sorted: Vec::new() }
    }
}

impl<K: Ord + Copy, S> Entries<K, S> {
    /// The state of a key, made by `new` if there is none.
    pub(crate) fn entry(&mut self, key: K, new: impl FnOnce() -> S) -> &mut S {
        let at = match self.sorted.binary_search_by_key(&key, |entry| entry.0) {
            Ok(at) => at,
            Err(at) => {
                if self.sorted.len() == self.sorted.capacity() {
                    // Doubling would waste up to half of what a learner may take.
                    self.sorted.reserve_exact(self.sorted.len() / 32 + 2);
                }
                self.sorted.insert(at, (key, new()));
                at
            }
        };
        #[expect(clippy::indexing_slicing, reason = "found or just inserted at this place")]
        &mut self.sorted[at].1
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (K, &mut S)> {
        self.sorted.iter_mut().map(|(key, state)| (*key, state))
    }

    /// Every entry, in the order of `name`: keys are numbers that a restore deals anew.
    pub(crate) fn by_name<N: Ord>(&self, name: impl Fn(K) -> N) -> Vec<(N, &S)> {
        let mut named: Vec<_> =
            self.sorted.iter().map(|(key, state)| (name(*key), state)).collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        named
    }

    /// Takes entries in any order.
    pub(crate) fn from_unsorted(mut entries: Vec<(K, S)>) -> Self {
        entries.sort_by_key(|entry| entry.0);
        entries.shrink_to_fit();
        Self { sorted: entries }
    }
}

/// Something that ends, and that is written anew after it was touched.
pub(crate) trait Passing {
    /// Until when it lasted, so far.
    fn ends_at(&self) -> Timestamp;
}

/// States by last touch, the latest at the end.
#[derive(Debug)]
pub(crate) struct Recent<T> {
    pub(crate) by_touch: Vec<T>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { by_touch: Vec::new() }
    }
}

impl<T: Passing> Recent<T> {
    /// The entry that matches, moved to the end.
    pub(crate) fn touch(&mut self, matches: impl Fn(&T) -> bool) -> Option<&mut T> {
        let at = self.by_touch.iter().rposition(matches)?;
        if at + 1 < self.by_touch.len() {
            let entry = self.by_touch.remove(at);
            self.by_touch.push(entry);
        }
        self.by_touch.last_mut()
    }

    /// Adds an entry at the end, and gives what leaves for it to `evict`.
    pub(crate) fn push(&mut self, entry: T, now: Timestamp, mut evict: impl FnMut(T)) -> &mut T {
        let horizon = now.plus_ms(-LATENESS_MS);
        let stale = |entry: &T| entry.ends_at() < horizon;
        let mut excess =
            self.by_touch.iter().filter(|entry| stale(entry)).count().saturating_sub(KEEP_STALE);
        while excess > 0 {
            let Some(at) = self.by_touch.iter().position(stale) else { break };
            evict(self.by_touch.remove(at));
            excess -= 1;
        }
        if self.by_touch.len() == self.by_touch.capacity() {
            self.by_touch.reserve_exact(1);
        }
        self.by_touch.push(entry);
        let last = self.by_touch.len() - 1;
        #[expect(clippy::indexing_slicing, reason = "just pushed")]
        &mut self.by_touch[last]
    }
}
