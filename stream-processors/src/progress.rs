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
    /// It is not folded until somebody acts.
    Stopped(StopReason),
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

    /// The first stop, with its hint, of those partitions or of the whole.
    pub fn first_stop(&self) -> Option<String> {
        self.failed.clone().or_else(|| {
            self.partitions.iter().find_map(|(partition, at)| match &at.status {
                PartitionStatus::Stopped(reason) => {
                    Some(format!("{partition} is not folded: {reason}; hint: {}", reason.hint()))
                }
                PartitionStatus::Restoring | PartitionStatus::Running => None,
            })
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
