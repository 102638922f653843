//! Where the archiver goes on in a partition, or why it must not.

use chalkstream_event_log::LogBounds;
use chalkstream_schemas::{LogOffset, PartitionId};

/// Why a partition cannot be archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The lake holds more than the log has.
    #[error("the lake holds {partition} up to offset {position}, but the log ends at {end}")]
    AheadOfLog {
        /// Of this partition.
        partition: PartitionId,
        /// The lake's position.
        position: LogOffset,
        /// The log's end.
        end: LogOffset,
    },
    /// The log forgot records that the lake does not hold.
    #[error("the lake holds {partition} up to offset {position}, but the log begins at {first}")]
    Trimmed {
        /// Of this partition.
        partition: PartitionId,
        /// The lake's position.
        position: LogOffset,
        /// The log's first offset.
        first: LogOffset,
    },
}

/// The next offset to archive. Pure: position and bounds are all it depends on.
pub(crate) fn resume(
    partition: PartitionId,
    position: LogOffset,
    bounds: LogBounds,
) -> Result<LogOffset, Stop> {
    if position > bounds.end {
        return Err(Stop::AheadOfLog { partition, position, end: bounds.end });
    }
    if position < bounds.first {
        return Err(Stop::Trimmed { partition, position, first: bounds.first });
    }
    Ok(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_outside_the_log_stops_the_partition() {
        let partition = PartitionId::new(3);
        let at = |position, first, end| {
            let bounds = LogBounds { first: LogOffset::new(first), end: LogOffset::new(end) };
            resume(partition, LogOffset::new(position), bounds)
        };
        assert_eq!(at(0, 0, 0), Ok(LogOffset::ZERO));
        assert_eq!(at(7, 0, 7), Ok(LogOffset::new(7)));
        assert_eq!(at(7, 7, 9), Ok(LogOffset::new(7)));
        assert!(matches!(at(8, 0, 7), Err(Stop::AheadOfLog { .. })));
        assert!(matches!(at(0, 1, 7), Err(Stop::Trimmed { .. })));
    }
}
