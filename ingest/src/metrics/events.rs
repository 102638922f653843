//! Counts of events by fate, which balance at every instant.
//!
//! Always true: a request opens and closes its account in one shard, each time under that shard's
//! lock, so whoever reads the shards one after the other reads books that balance.

use std::sync::atomic::{AtomicUsize, Ordering};

use chalkstream_schemas::{EventType, RefuseReason, RejectReason};
use parking_lot::Mutex;

use crate::fate::{Fate, Settled};

pub(crate) const SHARDS: usize = 16;
const REJECT_REASONS: usize = RejectReason::ALL.len();
const REFUSE_REASONS: usize = RefuseReason::ALL.len();
/// Every type of the table, and one for all types that applications define.
const TYPES: usize = EventType::ALL.len() + 1;

#[derive(Clone, Copy, Debug)]
struct Counts {
    received: u64,
    in_flight: u64,
    accepted: [u64; TYPES],
    duplicate: u64,
    rejected: [u64; REJECT_REASONS],
    refused: [u64; REFUSE_REASONS],
    undecided: u64,
}

/// The books of this process.
#[derive(Debug, Default)]
pub(crate) struct EventCounts {
    shards: [Mutex<Counts>; SHARDS],
    next: AtomicUsize,
}

/// The books at one instant: received = accepted + duplicate + rejected + refused + in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Books {
    /// Events that arrived in a body that could be read.
    pub received: u64,
    /// Without a fate yet.
    pub in_flight: u64,
    /// Made durable.
    pub accepted: u64,
    /// Durable before.
    pub duplicate: u64,
    /// At fault.
    pub rejected: u64,
    /// Not taken for now.
    pub refused: u64,
    /// Of those refused, the ones that a bug left without a fate: always 0.
    pub undecided: u64,
    /// `accepted` by type, in the order of [`EventType::ALL`]; the last is for `custom.*`.
    pub accepted_by_type: [u64; TYPES],
    /// `rejected` by reason, in the order of [`RejectReason::ALL`].
    pub rejected_by_reason: [u64; REJECT_REASONS],
    /// `refused` by reason, in the order of [`RefuseReason::ALL`].
    pub refused_by_reason: [u64; REFUSE_REASONS],
}

impl Books {
    /// Whether every event received is accounted for.
    pub fn balanced(&self) -> bool {
        let fates = self.accepted + self.duplicate + self.rejected + self.refused;
        self.received == fates + self.in_flight
    }

    /// How many events met each fate, with its name.
    pub(crate) fn fates(&self) -> [(&'static str, u64); 4] {
        [
            ("accepted", self.accepted),
            ("duplicate", self.duplicate),
            ("rejected", self.rejected),
            ("refused", self.refused),
        ]
    }
}

impl EventCounts {
    /// Counts events as received; the answer names the shard to close them in.
    pub(crate) fn open(&self, events: usize) -> usize {
        let shard = self.next.fetch_add(1, Ordering::Relaxed) % SHARDS;
        if let Some(counts) = self.shards.get(shard) {
            let mut counts = counts.lock();
            counts.received += events as u64;
            counts.in_flight += events as u64;
        }
        shard
    }

    /// Counts the fates of a request's events.
    pub(crate) fn close(&self, shard: usize, settled: &[Settled], undecided: u64) {
        let mut delta = Counts { undecided, ..Counts::NONE };
        for event in settled {
            let count = match &event.fate {
                Fate::Accepted(event_type) => delta.accepted.get_mut(*event_type as usize),
                Fate::Duplicate => Some(&mut delta.duplicate),
                Fate::Rejected(rejection) => delta.rejected.get_mut(rejection.reason as usize),
                Fate::Refused(reason) => delta.refused.get_mut(*reason as usize),
            };
            if let Some(count) = count {
                *count += 1;
            }
        }
        let Some(counts) = self.shards.get(shard) else { return };
        let mut counts = counts.lock();
        counts.in_flight = counts.in_flight.saturating_sub(settled.len() as u64);
        counts.add(&delta);
    }

    /// The books now.
    pub(crate) fn read(&self) -> Books {
        let mut sum = Counts::NONE;
        for shard in &self.shards {
            let counts = *shard.lock();
            sum.add(&counts);
        }
        Books {
            received: sum.received,
            in_flight: sum.in_flight,
            accepted: sum.accepted.iter().sum(),
            duplicate: sum.duplicate,
            rejected: sum.rejected.iter().sum(),
            refused: sum.refused.iter().sum(),
            undecided: sum.undecided,
            accepted_by_type: sum.accepted,
            rejected_by_reason: sum.rejected,
            refused_by_reason: sum.refused,
        }
    }
}

impl Default for Counts {
    fn default() -> Self {
        Self::NONE
    }
}

impl Counts {
    const NONE: Self = Self {
        received: 0,
        in_flight: 0,
        accepted: [0; TYPES],
        duplicate: 0,
        rejected: [0; REJECT_REASONS],
        refused: [0; REFUSE_REASONS],
        undecided: 0,
    };

    fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.in_flight += other.in_flight;
        self.duplicate += other.duplicate;
        self.undecided += other.undecided;
        for (sum, more) in self.accepted.iter_mut().zip(other.accepted) {
            *sum += more;
        }
        for (sum, more) in self.rejected.iter_mut().zip(other.rejected) {
            *sum += more;
        }
        for (sum, more) in self.refused.iter_mut().zip(other.refused) {
            *sum += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counting by `reason as usize` needs the order of the enum to be that of `ALL`.
    #[test]
    fn reasons_and_types_are_counted_in_their_published_order() {
        for (place, event_type) in EventType::ALL.iter().enumerate() {
            assert_eq!(*event_type as usize, place);
        }
        assert_eq!(EventType::Custom as usize, EventType::ALL.len());
        for (place, reason) in RejectReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
        }
        for (place, reason) in RefuseReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
        }
    }
}
