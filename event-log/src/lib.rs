//! The event log: an ordered, durable sequence of records per partition, on two grounds.
//!
//! In: records with a partition, a key and bytes. Out: offsets, and the records in their order.
//! Always true: an offset that `append` returned is durable; within a partition offsets rise in
//! the order of acknowledgement; a record never changes; what a reader gets from an offset on is
//! the same every time.
//! Not here: what the bytes mean (schemas), duplicates (ingest answers for them, the stream
//! processors drop them), and who holds the data folder's lock (the binary).
#![warn(missing_docs)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

pub mod blobs;
pub mod breaker;
#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
pub mod control;
pub mod embedded;
mod error;
mod identities;
pub mod intake;
pub mod kafka;
mod partition;
pub mod seen;
pub mod spool;
#[cfg(any(test, feature = "test-support"))]
pub mod test_support;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use chalkstream_schemas::{ContentHash, EventIdentity, LogOffset, PartitionId, Timestamp};

use crate::breaker::BreakerState;
pub use crate::error::{AppendError, Error, Retry};
pub use crate::intake::{Intake, IntakeStatus, Kept};
pub use crate::partition::{PARTITIONER, partition_of, partition_of_key};

/// How many partitions a new log's topics get.
pub const DEFAULT_PARTITIONS: u32 = 12;

/// A sequence of records per partition, for one purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Accepted events and control records, by learner.
    Events,
    /// Rejected events, with reason and raw bytes.
    Rejected,
}

impl Topic {
    /// Every topic, in a fixed order.
    pub const ALL: [Self; 2] = [Self::Events, Self::Rejected];

    /// The public name, which is also the name of the Kafka topic.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Events => "chalkstream.events",
            Self::Rejected => "chalkstream.rejected",
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A record to append.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Where it goes; see [`partition_of`].
    pub partition: PartitionId,
    /// What it is about; see [`record_key`](chalkstream_schemas::record_key).
    pub key: Bytes,
    /// The bytes to keep.
    pub payload: Bytes,
    /// When the server received it.
    pub timestamp: Timestamp,
    /// What the index of seen events keeps with it. Kafka has no such index and ignores it.
    pub identity: Option<(EventIdentity, ContentHash)>,
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its place in its partition.
    pub offset: LogOffset,
    /// When the server received it.
    pub timestamp: Timestamp,
    /// As appended.
    pub key: Bytes,
    /// As appended.
    pub payload: Bytes,
}

/// What a partition holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// The oldest offset that can still be read.
    pub first: LogOffset,
    /// The offset that the next record gets.
    pub end: LogOffset,
}

/// What makes two logs the same log: offsets of one mean nothing in another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// A UUID made when the embedded log was, or the Kafka cluster's id.
    pub cluster_id: String,
    /// Partitions of [`Topic::Events`].
    pub partitions: u32,
    /// How a learner's partition is chosen.
    pub partitioner: &'static str,
}

/// A durable log. Cheap to share; every method may run concurrently.
#[async_trait]
pub trait EventLog: Send + Sync + fmt::Debug {
    /// Which log this is.
    fn identity(&self) -> &LogIdentity;

    /// How many partitions a topic has; they are numbered from 0.
    fn partitions(&self, topic: Topic) -> u32;

    /// Appends the records, those of one partition in the order given.
    ///
    /// Resolves once, when every record has its fate, one outcome per record in the order given.
    /// `Ok` means durable at that offset. What an `Err` leaves in the log is said by
    /// [`AppendError::may_be_written`]. Dropping the future does not take the records back.
    async fn append(
        &self,
        topic: Topic,
        records: Vec<NewRecord>,
    ) -> Vec<Result<LogOffset, AppendError>>;

    /// First and next offset of a partition.
    async fn bounds(&self, topic: Topic, partition: PartitionId) -> Result<LogBounds, Error>;

    /// Records from `from` on, in order, about `max_bytes` of them and at least one if there is
    /// one; empty at the end.
    ///
    /// With gaps (Kafka may have them) the first record is the first at or after `from`. An offset
    /// below the first or above the end is an [`Error::OutOfRange`].
    async fn read(
        &self,
        topic: Topic,
        partition: PartitionId,
        from: LogOffset,
        max_bytes: usize,
    ) -> Result<Vec<StoredRecord>, Error>;

    /// Joins a group of readers of the topic.
    async fn subscribe(&self, topic: Topic, group: &str) -> Result<Box<dyn Subscription>, Error>;

    /// Takes no more records, lets those under way finish, and frees what it holds.
    async fn close(&self) -> Result<(), Error>;
}

/// One reader of a group: partitions come and go, records come in order from where it says.
#[async_trait]
pub trait Subscription: Send + fmt::Debug {
    /// Waits for the next delivery. Cancel-safe: a dropped future loses nothing.
    ///
    /// An error with [`Retry::Later`] may be followed by more deliveries.
    async fn next(&mut self) -> Result<Delivery, Error>;

    /// Delivers the partition's records from exactly `from` on, in order.
    ///
    /// Before it, nothing of an assigned partition is delivered; again, it starts over from there.
    async fn start(&mut self, partition: PartitionId, from: LogOffset) -> Result<(), Error>;

    /// The group's offset of a partition: the next record to read, or `None` if never committed.
    async fn committed(&self, partition: PartitionId) -> Result<Option<LogOffset>, Error>;

    /// Moves the group's offsets. They are hints for lag and restarts, never the authority.
    async fn commit(&mut self, positions: &[(PartitionId, LogOffset)]) -> Result<(), Error>;
}

/// What a [`Subscription`] hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// These partitions are this reader's from now on; [`Subscription::start`] each.
    Assigned(Vec<PartitionId>),
    /// These are no longer; no record of theirs follows.
    Revoked(Vec<PartitionId>),
    /// The next records of a partition, at least one.
    Records {
        /// Whose they are.
        partition: PartitionId,
        /// In order.
        records: Vec<StoredRecord>,
    },
}

/// How an index of seen events is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenStatus {
    /// Entries of this node's own index, about; the embedded log does not tell.
    pub entries: Option<u64>,
    /// The part that many nodes share, where there is one.
    pub shared: Option<SharedStatus>,
}

/// How the shared part of an index is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedStatus {
    /// Whether it answers.
    pub state: BreakerState,
    /// Calls that failed, or took too long.
    pub errors: u64,
    /// Events that were looked up without it.
    pub looked_up_alone: u64,
    /// Events that it was not told of.
    pub committed_alone: u64,
}

/// Which events were acknowledged before, so that a client's retry is answered `duplicate`.
///
/// It answers clients and is bounded by a horizon; what makes tables exact is the processors'
/// own deduplication.
#[async_trait]
pub trait SeenIndex: Send + Sync + fmt::Debug {
    /// For each identity the content it was first acknowledged with, in the order given.
    async fn lookup(&self, identities: &[EventIdentity])
    -> Result<Vec<Option<ContentHash>>, Error>;

    /// Keeps what the log acknowledged. The embedded log did so in the append already.
    async fn commit(&self, acknowledged: &[(EventIdentity, ContentHash)]) -> Result<(), Error>;

    /// How it is doing. One of this process alone has nothing to tell.
    fn status(&self) -> SeenStatus {
        SeenStatus::default()
    }
}
