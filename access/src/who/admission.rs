//! Bytes in flight: the one queue in front of the log, bounded in bytes.
//!
//! Always true: the decompressed bytes of all requests together never exceed the limit, and those of
//! one credential never its share, so that one key cannot take all; a request that does not fit is
//! refused at once, never queued; what it held is free again when its [`Permit`] drops, which
//! travels with the bytes until every event has its fate.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::who::limits::bucket::Key;

/// Counted in units, because a semaphore hands out at most `u32::MAX` permits at once.
const UNIT_BYTES: usize = 1 << 10;
const SHARDS: usize = 16;

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// That of all requests together.
    Process,
    /// The credential's share.
    Credential,
}

/// The way in.
#[derive(Clone, Debug)]
pub struct Admission {
    free: Arc<Semaphore>,
    units: usize,
    held: Arc<[Held; SHARDS]>,
}

/// The units that each credential holds; none that holds nothing.
type Held = Mutex<HashMap<Key, usize>>;

impl Admission {
    /// Nothing is in flight yet, and never more than `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        let units = max_bytes.div_ceil(UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(units)), units, held: Arc::default() }
    }

    /// The way in for a credential that may hold `share_bytes`.
    pub fn door(&self, credential: Key, share_bytes: usize) -> Door {
        let share_units = share_bytes.div_ceil(UNIT_BYTES);
        Door { admission: self.clone(), credential, share_units }
    }

    fn held(&self, credential: Key) -> &Held {
        let [last, ..] = &*self.held;
        self.held.get(credential.spread(SHARDS)).unwrap_or(last)
    }

    /// Bytes in flight now, rounded up a request.
    pub fn in_flight_bytes(&self) -> usize {
        self.units.saturating_sub(self.free.available_permits()).saturating_mul(UNIT_BYTES)
    }
}

/// The way in for one credential.
#[derive(Clone, Debug)]
pub struct Door {
    admission: Admission,
    credential: Key,
    share_units: usize,
}

impl Door {
    /// A permit for `bytes`, which may be 0 and grow.
    pub fn admit(&self, bytes: usize) -> Result<Permit, Full> {
        let mut permit = Permit { door: self.clone(), counted: 0, held: None };
        permit.cover(bytes)?;
        Ok(permit)
    }

    /// Bytes that would be admitted now.
    pub fn free_bytes(&self) -> usize {
        let all = self.admission.free.available_permits();
        let units = if self.share_units < self.admission.units {
            let held = self.admission.held(self.credential).lock().get(&self.credential).copied();
            all.min(self.share_units.saturating_sub(held.unwrap_or(0)))
        } else {
            all
        };
        units.saturating_mul(UNIT_BYTES)
    }

    /// Counts units to the credential, if its share has room for them.
    fn count(&self, units: usize) -> Result<(), Full> {
        let mut held = self.admission.held(self.credential).lock();
        let before = held.get(&self.credential).copied().unwrap_or(0);
        let after = before.saturating_add(units);
        // A share that is all of it is no limit of its own.
        if after > self.share_units && self.share_units < self.admission.units {
            return Err(Full::Credential);
        }
        held.insert(self.credential, after);
        Ok(())
    }

    fn release(&self, units: usize) {
        let mut held = self.admission.held(self.credential).lock();
        if let Some(count) = held.get_mut(&self.credential) {
            *count = count.saturating_sub(units);
            if *count == 0 {
                held.remove(&self.credential);
            }
        }
    }
}

/// Room for the bytes of one request.
#[derive(Debug)]
pub struct Permit {
    door: Door,
    /// Units counted to the credential.
    counted: usize,
    held: Option<OwnedSemaphorePermit>,
}

impl Permit {
    /// Grows until it covers `bytes` in all.
    pub fn cover(&mut self, bytes: usize) -> Result<(), Full> {
        let missing = bytes.div_ceil(UNIT_BYTES).saturating_sub(self.counted);
        if missing == 0 {
            return Ok(());
        }
        let Ok(permits) = u32::try_from(missing) else { return Err(Full::Process) };
        self.door.count(missing)?;
        let free = Arc::clone(&self.door.admission.free);
        let Ok(more) = free.try_acquire_many_owned(permits) else {
            self.door.release(missing);
            return Err(Full::Process);
        };
        self.counted += missing;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.counted > 0 {
            self.door.release(self.counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: Key = Key::of(1);
    const BOB: Key = Key::of(2);

    impl Admission {
        fn nobody_is_counted(&self) -> bool {
            self.held.iter().all(|held| held.lock().is_empty())
        }
    }

    #[test]
    fn what_is_held_is_counted_and_comes_back() {
        let admission = Admission::new(10 << 10);
        let door = admission.door(ADA, 10 << 10);
        let mut first = door.admit(1).unwrap();
        assert_eq!(admission.in_flight_bytes(), 1 << 10);
        first.cover(1 << 10).unwrap();
        assert_eq!(admission.in_flight_bytes(), 1 << 10);
        assert_eq!(door.free_bytes(), 9 << 10);
        first.cover(4 << 10).unwrap();
        let second = admission.door(BOB, 10 << 10).admit(6 << 10).unwrap();
        assert_eq!(first.cover((4 << 10) + 1), Err(Full::Process));
        assert!(door.admit(1).is_err());
        drop(second);
        first.cover(10 << 10).unwrap();
        drop(first);
        assert_eq!(admission.in_flight_bytes(), 0);
        assert!(admission.nobody_is_counted());
    }

    #[test]
    fn one_credential_cannot_take_all() {
        let admission = Admission::new(10 << 10);
        let greedy = admission.door(ADA, 6 << 10);
        let first = greedy.admit(4 << 10).unwrap();
        assert_eq!(greedy.free_bytes(), 2 << 10);
        let mut second = greedy.admit(1 << 10).unwrap();
        second.cover(2 << 10).unwrap();
        assert_eq!(second.cover(3 << 10), Err(Full::Credential));
        assert_eq!(greedy.admit(1).unwrap_err(), Full::Credential);
        let modest = admission.door(BOB, 6 << 10).admit(4 << 10).unwrap();
        drop(first);
        // What could not be had of the process is not counted to the credential.
        assert_eq!(second.cover(7 << 10), Err(Full::Credential));
        assert_eq!(greedy.admit(4 << 10).unwrap().counted, 4);
        drop((modest, second));
        assert_eq!(admission.in_flight_bytes(), 0);
        assert!(admission.nobody_is_counted());
    }
}
