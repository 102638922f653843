//! What others see of a processor: positions, stops, and waiting until something is visible.

use std::collections::BTreeMap;

use chalkstream_schemas::{LogOffset, PartitionId};

use crate::decide::StopReason;

/// How a partition is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionStatus {
    /// Its states are being read.
    Restoring,
    /// It is folded.
    Running,
    /// It is folded up to a control record whose payload is not there yet. Holds why.
    Waiting(String),
    /// It is not folded until somebody acts.
    Stopped(StopReason),
}

impl PartitionStatus {
    pub(crate) fn waiting(error: &chalkstream_event_log::Error) -> Self {
        let hint = error.hint().map_or_else(String::new, |hint| format!("; hint: {hint}"));
        Self::Waiting(format!("{error}{hint}"))
    }
}

/// Where a partition stands. Each offset is the next one: everything before it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionProgress {
    /// How it is doing.
    pub status: PartitionStatus,
    /// Folded in memory.
    pub folded: LogOffset,
    /// Shown by the views.
    pub visible: LogOffset,
    /// Kept by a checkpoint.
    pub checkpoint: LogOffset,
}

/// Where a processor stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The partitions that this process holds.
    pub partitions: BTreeMap<PartitionId, PartitionProgress>,
    /// Why the whole processor ended, if it did so by an error.
    pub failed: Option<String>,
}

impl Progress {
    /// Whether everything before these offsets is shown by the views.
    pub fn is_visible(&self, positions: &BTreeMap<PartitionId, LogOffset>) -> bool {
        positions.iter().all(|(partition, offset)| {
            *offset == LogOffset::ZERO
                || self.partitions.get(partition).is_some_and(|at| at.visible >= *offset)
        })
    }

    /// Up to where a partition counts as visible, for a lag over what this process has to show:
    /// nothing where the partition is another process's. A process that holds none has just
    /// started, so nothing is visible yet.
    pub fn visible_of(&self, partition: PartitionId) -> Option<LogOffset> {
        match self.partitions.get(&partition) {
            Some(at) => Some(at.visible),
            None => self.partitions.is_empty().then_some(LogOffset::ZERO),
        }
    }

    /// The first stop, with its hint, of those partitions or of the whole.
    pub fn first_stop(&self) -> Option<String> {
        self.failed.clone().or_else(|| {
            self.partitions.iter().find_map(|(partition, at)| match &at.status {
                PartitionStatus::Stopped(reason) => {
                    Some(format!("{partition} is not folded: {reason}; hint: {}", reason.hint()))
                }
                PartitionStatus::Restoring
                | PartitionStatus::Running
                | PartitionStatus::Waiting(_) => None,
            })
        })
    }

    /// The first partition that waits for a control record's payload, with why.
    pub fn first_wait(&self) -> Option<String> {
        self.partitions.iter().find_map(|(partition, at)| match &at.status {
            PartitionStatus::Waiting(why) => {
                Some(format!("{partition} waits for the payload of a control record: {why}"))
            }
            PartitionStatus::Restoring | PartitionStatus::Running | PartitionStatus::Stopped(_) => {
                None
            }
        })
    }

    /// How many partitions are stopped.
    pub fn stopped(&self) -> usize {
        self.partitions
            .values()
            .filter(|at| matches!(at.status, PartitionStatus::Stopped(_)))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_counts_the_partitions_that_are_held_and_all_before_any_is() {
        let (one, two) = (PartitionId::new(1), PartitionId::new(2));
        let mut progress = Progress::default();
        assert_eq!(progress.visible_of(one), Some(LogOffset::ZERO));
        let at = LogOffset::new(7);
        let running = PartitionStatus::Running;
        let held = PartitionProgress { status: running, folded: at, visible: at, checkpoint: at };
        progress.partitions.insert(one, held);
        assert_eq!((progress.visible_of(one), progress.visible_of(two)), (Some(at), None));
    }
}
