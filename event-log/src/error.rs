//! What can go wrong with a log, for people and for the caller that must decide what to do next.
//!
//! Always true: `Display` says what and where, `hint` says how to fix it, `retry` says whether the
//! same call may succeed later. Causes are the source chain.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use chalkstream_schemas::{LogOffset, PartitionId};

use crate::{LogBounds, Topic};

/// Whether the same call can succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Yes: the trouble passes by itself.
    Later,
    /// No: somebody must act first.
    Never,
}

/// Why one record has no offset.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// The queue in front of the log is full. Nothing was written.
    #[error(
        "the log cannot take more now: {queued_bytes} of {limit_bytes} bytes wait to be written"
    )]
    Busy {
        /// Bytes that wait.
        queued_bytes: usize,
        /// How many may.
        limit_bytes: usize,
    },
    /// The record is larger than the log takes. Nothing was written.
    #[error("a record of {bytes} bytes is too large; the log takes {limit_bytes}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest size.
        limit_bytes: usize,
    },
    /// There is no such partition. Nothing was written.
    #[error("{topic} has no {partition}; it has {partitions}")]
    NoSuchPartition {
        /// Of this topic.
        topic: Topic,
        /// The one asked for.
        partition: PartitionId,
        /// How many there are.
        partitions: u32,
    },
    /// The log takes no more records: it was closed, or stopped after a failed write before this
    /// call. Nothing was written.
    #[error("the log takes no more records: {reason}")]
    Stopped {
        /// Why.
        reason: Arc<str>,
    },
    /// The log does not answer, or has no room, for now. Nothing was written.
    #[error("the log is not available: {reason}")]
    Unavailable {
        /// Why.
        reason: Arc<str>,
    },
    /// Writing failed, or no acknowledgement came in time. The record may be in the log or not, so
    /// sending it again gives it at least once.
    #[error("the log did not acknowledge the record: {reason}")]
    Unacknowledged {
        /// Why.
        reason: Arc<str>,
    },
}

impl AppendError {
    /// Whether the record may stand in the log all the same.
    pub const fn may_be_written(&self) -> bool {
        match self {
            Self::Unacknowledged { .. } => true,
            Self::Busy { .. }
            | Self::TooLarge { .. }
            | Self::NoSuchPartition { .. }
            | Self::Stopped { .. }
            | Self::Unavailable { .. } => false,
        }
    }

    /// Whether to try again.
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Busy { .. }
            | Self::Unacknowledged { .. }
            | Self::Unavailable { .. }
            | Self::Stopped { .. } => Retry::Later,
            Self::TooLarge { .. } | Self::NoSuchPartition { .. } => Retry::Never,
        }
    }
}

/// Why a log could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A read before the first or after the end.
    #[error(
        "{topic} {partition} holds offsets {} to {} (exclusive), not {from}",
        bounds.first, bounds.end
    )]
    OutOfRange {
        /// Of this topic.
        topic: Topic,
        /// And this partition.
        partition: PartitionId,
        /// The offset asked for.
        from: LogOffset,
        /// What there is.
        bounds: LogBounds,
    },
    /// There is no such partition.
    #[error("{topic} has no {partition}; it has {partitions}")]
    NoSuchPartition {
        /// Of this topic.
        topic: Topic,
        /// The one asked for.
        partition: PartitionId,
        /// How many there are.
        partitions: u32,
    },
    /// `start` or `commit` for a partition that this reader does not hold.
    #[error("{partition} of {topic} is not assigned to this reader")]
    NotAssigned {
        /// Of this topic.
        topic: Topic,
        /// The partition.
        partition: PartitionId,
    },
    /// Another handle, or another process, has the folder open.
    #[error("{} is open already, in this process or another", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// Stored bytes are not what was written.
    #[error("{} is damaged: {detail}", path.display())]
    Damaged {
        /// The folder or file.
        path: PathBuf,
        /// Where in it, and how.
        detail: String,
    },
    /// Recovery found fewer commits than were acknowledged.
    #[error(
        "{} lost acknowledged records: commit {acknowledged} was acknowledged, but only commits \
         up to {found} could be recovered{}",
        path.display(), Kept(kept.as_ref())
    )]
    LostRecords {
        /// The folder.
        path: PathBuf,
        /// The newest commit that was acknowledged.
        acknowledged: u64,
        /// The newest commit that is there.
        found: u64,
        /// Where the journals are kept as they were found.
        kept: Option<PathBuf>,
    },
    /// Written by another version of Chalkstream.
    #[error("{} has format {found:?}; this version reads {expected:?}", path.display())]
    Format {
        /// The folder.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What is understood.
        expected: String,
    },
    /// The operating system refused something.
    #[error("could not {doing} {}", path.display())]
    Io {
        /// What was being done, as in "could not …".
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The embedded store refused something.
    #[error("could not {doing} in {}", path.display())]
    Store {
        /// What was being done, as in "could not …".
        doing: &'static str,
        /// The store's folder.
        path: PathBuf,
        /// Why not.
        source: Arc<fjall::Error>,
    },
    /// A write failed earlier, and nothing is written after a failed write.
    #[error("the log in {} has stopped: {reason}", path.display())]
    Stopped {
        /// The folder.
        path: PathBuf,
        /// What failed.
        reason: Arc<str>,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// A record could not be appended.
    #[error("could not append to {partition} of {topic}")]
    Append {
        /// To this topic.
        topic: Topic,
        /// And partition.
        partition: PartitionId,
        /// Why not.
        source: AppendError,
    },
    /// No blob has this hash.
    #[error("there is no blob {hash} in {}", path.display())]
    BlobMissing {
        /// Its hash in hexadecimal.
        hash: String,
        /// The folder.
        path: PathBuf,
    },
    /// An option that cannot work.
    #[error("{key} {reason}")]
    Option {
        /// Its name.
        key: String,
        /// Completes the sentence.
        reason: String,
    },
    /// Kafka refused something, or could not be reached.
    #[error("could not {doing} on Kafka at {brokers}")]
    Kafka {
        /// What was being done, as in "could not …".
        doing: String,
        /// The bootstrap addresses.
        brokers: String,
        /// Why not.
        source: Box<rdkafka::error::KafkaError>,
    },
    /// A spool holds records of another log than the one that is configured.
    #[error(
        "the spool in {} holds records for another log ({found}) than this one ({expected})",
        path.display()
    )]
    ForeignSpool {
        /// The spool's folder.
        path: PathBuf,
        /// Cluster, partitions and partitioner of the log that its records are for.
        found: String,
        /// Those of the log that is configured.
        expected: String,
    },
    /// A part of the log ended that must not.
    #[error("{what} ended unexpectedly")]
    Internal {
        /// Which.
        what: &'static str,
    },
}

impl Error {
    /// Whether to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Kafka { source, .. } => crate::kafka::retry(source),
            Self::Append { source, .. } => source.retry(),
            Self::OutOfRange { .. }
            | Self::NoSuchPartition { .. }
            | Self::NotAssigned { .. }
            | Self::Locked { .. }
            | Self::Damaged { .. }
            | Self::LostRecords { .. }
            | Self::Format { .. }
            | Self::Io { .. }
            | Self::Store { .. }
            | Self::Stopped { .. }
            | Self::Closed
            | Self::BlobMissing { .. }
            | Self::Option { .. }
            | Self::ForeignSpool { .. }
            | Self::Internal { .. } => Retry::Never,
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::OutOfRange { .. } => {
                "the log was trimmed, or it is another log than before; start from its first \
                 offset, or run `chalkstream rebuild`"
            }
            Self::NoSuchPartition { .. } => {
                "the log has another number of partitions than expected; a new number needs a new \
                 epoch (`chalkstream rebuild`)"
            }
            Self::Locked { path } => {
                return Some(format!(
                    "stop the other process (`fuser {}` names it), or choose another data folder",
                    path.join("lock").display()
                ));
            }
            Self::Damaged { .. } => {
                "check the disk (`dmesg`, `smartctl`), then restore the folder from a copy; events \
                 that are in the lake already are safe there"
            }
            Self::LostRecords { .. } => {
                "check the disk, then restore the folder from a copy. Starting with what is left \
                 loses the records named here; to do so all the same, delete the file \
                 `acknowledged` in the log's folder"
            }
            Self::Format { .. } => "use the version of Chalkstream that wrote it, or a newer one",
            Self::Io { source, path, .. } => return io_hint(source, path),
            Self::Store { source, path, .. } => {
                return match find_io(source.as_ref()) {
                    Some(source) => io_hint(source, path),
                    None => Some(
                        "see the log of this process for the cause; if it stays after a \
                                  restart, restore the folder from a copy"
                            .into(),
                    ),
                };
            }
            Self::Stopped { .. } => {
                "nothing is written after a failed write; make room or repair the disk, then start \
                 again: everything acknowledged is kept"
            }
            Self::ForeignSpool { .. } => {
                "start with the log that the records are for until the spool is empty, or name \
                 another folder as `log.spool.path`; deleting the folder loses acknowledged events"
            }
            Self::BlobMissing { .. } => {
                "restore the folder from a copy, or let `log.blobs` name the one that all roles \
                 share; the log names blobs but does not hold them"
            }
            Self::Kafka { source, brokers, .. } => {
                return Some(crate::kafka::hint(source, brokers));
            }
            Self::Append { .. } => "try again; a control record that is repeated is ignored",
            Self::NotAssigned { .. }
            | Self::Closed
            | Self::Option { .. }
            | Self::Internal { .. } => return None,
        };
        Some(hint.into())
    }
}

/// What to do about an error of the operating system.
fn io_hint(source: &io::Error, path: &std::path::Path) -> Option<String> {
    let path = path.display();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(format!(
            "the disk is full: make room on the disk that holds {path}, then start again"
        )),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Some(format!("give this user the right to write to {path}"))
        }
        _ => None,
    }
}

/// The operating system's error below an error of the store.
pub(crate) fn find_io<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        next = error.source();
    }
    None
}

/// An error and its causes in one line, for places that keep only text.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}

/// Where the journals were kept, if they were.
struct Kept<'a>(Option<&'a PathBuf>);

impl fmt::Display for Kept<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => write!(f, " (the journals as found are kept in {})", path.display()),
            None => Ok(()),
        }
    }
}
