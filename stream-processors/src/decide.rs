//! What to do with a partition that was just assigned.
//!
//! Pure: every fact is an argument, so every case is a row of a table test. The shell
//! ([`crate::restore`]) reads the facts and does what is decided.

use std::fmt;

use chalkstream_event_log::LogBounds;
use chalkstream_schemas::LogOffset;

use crate::checkpoint::{Checkpoint, LogName};
use crate::fingerprint::Fingerprint;

/// What the log looks like now.
#[derive(Clone, Debug)]
pub struct Found {
    /// Which log it is.
    pub log: LogName,
    /// What the partition holds.
    pub bounds: LogBounds,
    /// The record where the checkpoint's last record should be; `None` if the log no longer has it.
    pub last: Option<Fingerprint>,
}

/// What to do with a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restore {
    /// Nothing was folded yet: fold from the log's first record on.
    StartFresh,
    /// Fold on from here with the states of the checkpoint.
    Resume {
        /// The next offset to fold.
        from: LogOffset,
    },
    /// Fold nothing: somebody must act first.
    Stop(StopReason),
}

/// Why a partition is not folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The checkpoint was taken from another log.
    OtherLog {
        /// The log of the checkpoint.
        checkpoint: Box<LogName>,
        /// The log that is there.
        found: Box<LogName>,
    },
    /// The partition count changed, so learners moved between partitions.
    PartitionsChanged {
        /// When the checkpoint was taken.
        checkpoint: u32,
        /// Now.
        found: u32,
    },
    /// The log ends before the checkpoint.
    AheadOfLog {
        /// The next offset to fold.
        next: LogOffset,
        /// Where the log ends.
        log_end: LogOffset,
    },
    /// Records that were never folded are gone from the log.
    LogTrimmed {
        /// The next offset to fold.
        next: LogOffset,
        /// The oldest offset that the log still has.
        log_first: LogOffset,
    },
    /// The record before the checkpoint is not the one that was folded.
    OtherRecord {
        /// Its offset.
        offset: LogOffset,
    },
    /// What is stored cannot be read.
    Unreadable {
        /// What, and how it failed.
        detail: String,
    },
    /// The index of duplicates cannot be used.
    Index {
        /// How it failed, with what to do.
        detail: String,
    },
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherLog { checkpoint, found } => write!(
                f,
                "the checkpoint was taken from log {} ({}, {} partitions, {}), but this is log {} ({}, {} partitions, {})",
                checkpoint.cluster_id,
                checkpoint.topic,
                checkpoint.partitions,
                checkpoint.partitioner,
                found.cluster_id,
                found.topic,
                found.partitions,
                found.partitioner
            ),
            Self::PartitionsChanged { checkpoint, found } => write!(
                f,
                "the checkpoint was taken from {checkpoint} partitions, but the log has {found}"
            ),
            Self::AheadOfLog { next, log_end } => {
                write!(f, "the checkpoint is at offset {next}, but the log ends at {log_end}")
            }
            Self::LogTrimmed { next, log_first } => write!(
                f,
                "the next record to fold is at offset {next}, but the log begins at {log_first}"
            ),
            Self::OtherRecord { offset } => write!(
                f,
                "the record at offset {offset} is not the one that was folded before the checkpoint"
            ),
            Self::Unreadable { detail } | Self::Index { detail } => f.write_str(detail),
        }
    }
}

impl StopReason {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::OtherLog { .. } | Self::AheadOfLog { .. } | Self::OtherRecord { .. } => {
                "the log was recreated or restored from an older copy; point the configuration back at the log that was folded, or give the new log an empty ClickHouse database"
            }
            Self::PartitionsChanged { .. } => {
                "learners have moved between partitions; set the old partition count again, or fold the log into an empty ClickHouse database"
            }
            Self::LogTrimmed { .. } => {
                "the log's retention removed records before they were folded; restore the log from a copy, or fold from the lake into an empty ClickHouse database"
            }
            Self::Unreadable { .. } => {
                "run the version of chalkstream that wrote it, or restore ClickHouse from a backup"
            }
            Self::Index { .. } => {
                "check free disk space and permissions of the index folder; it may be deleted, it is filled again from the log"
            }
        }
    }

    /// A short name for metrics and JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::OtherLog { .. } => "other_log",
            Self::PartitionsChanged { .. } => "partitions_changed",
            Self::AheadOfLog { .. } => "ahead_of_log",
            Self::LogTrimmed { .. } => "log_trimmed",
            Self::OtherRecord { .. } => "other_record",
            Self::Unreadable { .. } => "unreadable",
            Self::Index { .. } => "index",
        }
    }
}

/// Decides from the checkpoint and the log alone.
pub fn decide(checkpoint: Option<&Checkpoint>, found: &Found) -> Restore {
    let Some(checkpoint) = checkpoint else {
        return match found.bounds.first {
            LogOffset::ZERO => Restore::StartFresh,
            log_first => Restore::Stop(StopReason::LogTrimmed { next: LogOffset::ZERO, log_first }),
        };
    };
    if checkpoint.log != found.log {
        let same_but_for_partitions =
            LogName { partitions: found.log.partitions, ..checkpoint.log.clone() } == found.log;
        return Restore::Stop(if same_but_for_partitions {
            StopReason::PartitionsChanged {
                checkpoint: checkpoint.log.partitions,
                found: found.log.partitions,
            }
        } else {
            StopReason::OtherLog {
                checkpoint: Box::new(checkpoint.log.clone()),
                found: Box::new(found.log.clone()),
            }
        });
    }
    let next = checkpoint.next;
    if found.bounds.end < next {
        return Restore::Stop(StopReason::AheadOfLog { next, log_end: found.bounds.end });
    }
    if next < found.bounds.first {
        return Restore::Stop(StopReason::LogTrimmed { next, log_first: found.bounds.first });
    }
    match (&checkpoint.last, found.last) {
        (Some(last), Some(fingerprint)) if last.fingerprint != fingerprint => {
            Restore::Stop(StopReason::OtherRecord { offset: last.offset })
        }
        // Retention may have removed the record just before the checkpoint; then nothing that has
        // yet to be folded is missing, and there is nothing left to compare.
        (Some(_) | None, _) => Restore::Resume { from: next },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::LastRecord;

    fn log() -> LogName {
        LogName {
            cluster_id: "a".into(),
            topic: "chalkstream.events".into(),
            partitions: 12,
            partitioner: "murmur2".into(),
        }
    }

    fn at(next: u64) -> Checkpoint {
        let last = next.checked_sub(1).map(|offset| LastRecord {
            offset: LogOffset::new(offset),
            timestamp_ms: 0,
            fingerprint: Fingerprint::from_bytes([7; 16]),
        });
        Checkpoint::new(LogOffset::new(next), log(), last)
    }

    fn holds(first: u64, end: u64, last: Option<u8>) -> Found {
        let bounds = LogBounds { first: LogOffset::new(first), end: LogOffset::new(end) };
        let last = last.map(|byte| Fingerprint::from_bytes([byte; 16]));
        Found { log: log(), bounds, last }
    }

    #[track_caller]
    fn check(checkpoint: Option<Checkpoint>, found: Found, expected: Restore) {
        assert_eq!(decide(checkpoint.as_ref(), &found), expected);
    }

    #[track_caller]
    fn check_stop(checkpoint: Option<Checkpoint>, found: Found, name: &str) {
        match decide(checkpoint.as_ref(), &found) {
            Restore::Stop(reason) => {
                assert_eq!(reason.name(), name);
                assert!(!reason.hint().is_empty());
            }
            other @ (Restore::StartFresh | Restore::Resume { .. }) => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_a_checkpoint_folding_begins_where_the_log_does() {
        check(None, holds(0, 0, None), Restore::StartFresh);
        check(None, holds(0, 9, None), Restore::StartFresh);
        check_stop(None, holds(1, 9, None), "log_trimmed");
    }

    #[test]
    fn a_checkpoint_of_this_log_resumes_exactly_there() {
        let resume = |from| Restore::Resume { from: LogOffset::new(from) };
        check(Some(at(0)), holds(0, 9, None), resume(0));
        check(Some(at(5)), holds(0, 9, Some(7)), resume(5));
        check(Some(at(9)), holds(0, 9, Some(7)), resume(9));
        // The record before the checkpoint was trimmed, but nothing after it.
        check(Some(at(5)), holds(5, 9, None), resume(5));
    }

    #[test]
    fn another_log_stops() {
        check_stop(Some(at(10)), holds(0, 9, None), "ahead_of_log");
        check_stop(Some(at(5)), holds(6, 9, None), "log_trimmed");
        check_stop(Some(at(5)), holds(0, 9, Some(8)), "other_record");
        let mut found = holds(0, 9, Some(7));
        found.log.cluster_id = "b".into();
        check_stop(Some(at(5)), found.clone(), "other_log");
        found.log.cluster_id = "a".into();
        found.log.partitions = 24;
        check_stop(Some(at(5)), found.clone(), "partitions_changed");
        found.log.partitioner = "crc32".into();
        check_stop(Some(at(5)), found, "other_log");
    }

    #[test]
    fn a_checkpoint_survives_encoding_and_refuses_other_formats() {
        let bytes = at(5).encode().unwrap();
        assert_eq!(Checkpoint::decode(&bytes).unwrap(), at(5));
        let newer = String::from_utf8(bytes).unwrap().replace("\"format\":1", "\"format\":2");
        assert!(matches!(
            Checkpoint::decode(newer.as_bytes()),
            Err(crate::checkpoint::DecodeError::Format { found: 2 })
        ));
        assert!(Checkpoint::decode(b"{}").is_err());
    }
}
