//! Bytes in flight: the one queue in front of the log, bounded in bytes.
//!
//! Always true: the decompressed bytes of all requests together never exceed the limit; a request
//! that does not fit is refused at once, never queued; what it held is free again when its
//! [`Permit`] drops, which travels with the bytes until every event has its fate.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counted in units, because a semaphore hands out at most `u32::MAX` permits at once.
const UNIT_BYTES: usize = 1 << 10;

/// The limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// The gate.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    free: Arc<Semaphore>,
    units: usize,
}

impl Admission {
    pub(crate) fn new(max_bytes: usize) -> Self {
        let units = max_bytes.div_ceil(UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(units)), units }
    }

    /// A permit for `bytes`, which may be 0 and grow.
    pub(crate) fn admit(&self, bytes: usize) -> Result<Permit, Full> {
        let mut permit = Permit { free: Arc::clone(&self.free), held: None };
        permit.cover(bytes)?;
        Ok(permit)
    }

    /// Bytes that would be admitted now.
    pub(crate) fn free_bytes(&self) -> usize {
        self.free.available_permits().saturating_mul(UNIT_BYTES)
    }

    /// Bytes in flight now, rounded up a request.
    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.units.saturating_sub(self.free.available_permits()).saturating_mul(UNIT_BYTES)
    }
}

/// Room for the bytes of one request.
#[derive(Debug)]
pub(crate) struct Permit {
    free: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Permit {
    /// Grows until it covers `bytes` in all.
    pub(crate) fn cover(&mut self, bytes: usize) -> Result<(), Full> {
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = bytes.div_ceil(UNIT_BYTES).saturating_sub(held);
        if missing == 0 {
            return Ok(());
        }
        let Ok(missing) = u32::try_from(missing) else { return Err(Full) };
        let Ok(more) = Arc::clone(&self.free).try_acquire_many_owned(missing) else {
            return Err(Full);
        };
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_and_comes_back() {
        let gate = Admission::new(10 << 10);
        let mut first = gate.admit(1).unwrap();
        assert_eq!(gate.in_flight_bytes(), 1 << 10);
        first.cover(1 << 10).unwrap();
        assert_eq!(gate.in_flight_bytes(), 1 << 10);
        first.cover(4 << 10).unwrap();
        let second = gate.admit(6 << 10).unwrap();
        assert_eq!(first.cover((4 << 10) + 1), Err(Full));
        assert!(gate.admit(1).is_err());
        drop(second);
        first.cover(10 << 10).unwrap();
        drop(first);
        assert_eq!(gate.in_flight_bytes(), 0);
    }
}
