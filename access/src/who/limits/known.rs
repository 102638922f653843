//! Who has been let in lately, as hashes: so that only new users count as new.
//!
//! Always true: bounded, 16 shards of two generations with at most [`MAX`] keys each (some 40 MiB when
//! full); whoever is asked for stays known; who was not asked for while two generations passed is new.

use std::collections::HashSet;

use parking_lot::Mutex;

use super::bucket::Key;

const SHARDS: usize = 16;
const MAX: usize = 1 << 16;

#[derive(Debug, Default)]
struct Generations {
    young: HashSet<Key>,
    old: HashSet<Key>,
}

/// The users that are known.
#[derive(Debug, Default)]
pub(crate) struct Known {
    shards: [Mutex<Generations>; SHARDS],
}

impl Known {
    /// Whether the user is known, or `admit` lets him in.
    pub(crate) fn or_admit(&self, user: Key, admit: impl FnOnce() -> bool) -> bool {
        let [last, ..] = &self.shards;
        let mut shard = self.shards.get(user.spread(SHARDS)).unwrap_or(last).lock();
        if shard.young.contains(&user) {
            return true;
        }
        if !shard.old.contains(&user) && !admit() {
            return false;
        }
        if shard.young.len() >= MAX {
            shard.old = std::mem::take(&mut shard.young);
        }
        shard.young.insert(user);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_let_in_stays_known_and_what_is_kept_is_bounded() {
        let known = Known::default();
        let user = |n: u64| Key::of(n << 48 | n);
        assert!(!known.or_admit(user(1), || false));
        assert!(known.or_admit(user(1), || true));
        for n in 0..3_000_000 {
            known.or_admit(user(n), || true);
            if n % 100_000 == 0 {
                assert!(known.or_admit(user(1), || false), "{n}");
            }
        }
        let held = |shard: &Mutex<Generations>| {
            let shard = shard.lock();
            (shard.young.len(), shard.old.len())
        };
        assert!(known.shards.iter().map(held).all(|(young, old)| young <= MAX && old <= MAX));
    }
}
