//! First and end of every partition, as every reader sees them.
//!
//! Always true: `end` moves only after the records below it are durable, `first` before those
//! below it go. Both only grow.

use std::sync::atomic::{AtomicU64, Ordering};

use chalkstream_schemas::{LogOffset, PartitionId};

use crate::{Error, LogBounds, Topic};

/// The bounds of all partitions of all topics; every topic has the same number of them.
#[derive(Debug)]
pub(super) struct AllBounds {
    partitions: u32,
    cells: Vec<Cell>,
}

#[derive(Debug)]
struct Cell {
    first: AtomicU64,
    end: AtomicU64,
}

impl AllBounds {
    /// Asks for each partition's bounds once.
    pub(super) fn read(
        partitions: u32,
        mut of: impl FnMut(Topic, PartitionId) -> Result<LogBounds, Error>,
    ) -> Result<Self, Error> {
        let mut cells = Vec::new();
        for topic in Topic::ALL {
            for partition in 0..partitions {
                let LogBounds { first, end } = of(topic, PartitionId::new(partition))?;
                cells.push(Cell {
                    first: AtomicU64::new(first.get()),
                    end: AtomicU64::new(end.get()),
                });
            }
        }
        Ok(Self { partitions, cells })
    }

    pub(super) const fn partitions(&self) -> u32 {
        self.partitions
    }

    pub(super) fn get(&self, topic: Topic, partition: PartitionId) -> Result<LogBounds, Error> {
        let cell = self.cell(topic, partition).ok_or(Error::NoSuchPartition {
            topic,
            partition,
            partitions: self.partitions,
        })?;
        // `first` before `end`: a trim in between cannot make first pass end.
        let first = LogOffset::new(cell.first.load(Ordering::Acquire));
        Ok(LogBounds { first, end: LogOffset::new(cell.end.load(Ordering::Acquire)) })
    }

    pub(super) fn set_end(&self, topic: Topic, partition: PartitionId, end: LogOffset) {
        if let Some(cell) = self.cell(topic, partition) {
            cell.end.store(end.get(), Ordering::Release);
        }
    }

    pub(super) fn set_first(&self, topic: Topic, partition: PartitionId, first: LogOffset) {
        if let Some(cell) = self.cell(topic, partition) {
            cell.first.fetch_max(first.get(), Ordering::AcqRel);
        }
    }

    /// Checks that reading from an offset makes sense: it is there, or the next to come.
    pub(super) fn check(
        &self,
        topic: Topic,
        partition: PartitionId,
        from: LogOffset,
    ) -> Result<LogBounds, Error> {
        let bounds = self.get(topic, partition)?;
        if from < bounds.first || from > bounds.end {
            return Err(Error::OutOfRange { topic, partition, from, bounds });
        }
        Ok(bounds)
    }

    fn cell(&self, topic: Topic, partition: PartitionId) -> Option<&Cell> {
        if partition.get() >= self.partitions {
            return None;
        }
        let at = Topic::ALL.iter().position(|of| *of == topic)?;
        let at = at.checked_mul(self.partitions as usize)?.checked_add(partition.get() as usize)?;
        self.cells.get(at)
    }
}
