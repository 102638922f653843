//! The stream processors' runtime: the shell around the pure folds of `chalkstream-core`.
//!
//! In: the event log. Out: ClickHouse's tables, each event counted exactly once, and checkpoints to
//! go on from. [`Processor`] folds; [`RejectedWriter`] keeps `rejected_events`; [`FirstSeen`] knows
//! which event came first, for the archiver too.
//! Not here: what events mean (`chalkstream-core`), SQL (`chalkstream-sql`), the lake (`batch-jobs`).
//! ARCHITECTURE.md argues each step with a crash at it.

mod backoff;
pub mod checkpoint;
pub mod crash;
pub mod decide;
pub mod epoch;
pub mod fingerprint;
pub mod first_seen;
mod flush;
mod fold;
pub mod metrics;
pub mod processor;
pub mod progress;
pub mod rejected;
mod rejects;
mod restore;
pub mod tables;

pub use first_seen::{FirstSeen, FirstSeenOptions, History, Seen, SeenRange, Verdict};
pub use processor::{Error, Processor, ProcessorHandle, ProcessorOptions, ProcessorTuning};
pub use progress::{PartitionProgress, PartitionStatus, Progress};
pub use rejected::{RejectedHandle, RejectedOptions, RejectedWriter};
