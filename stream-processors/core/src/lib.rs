//! What events come to: pure folds from the log to rows, and the models inside them.
//!
//! In: events and control records of one partition, in log order, each once. Out: rows for
//! ClickHouse ([`RowSink`]) and packed states for the checkpoint ([`StateRow`]).
//! Always true: the same records give the same rows and states, wherever a restore falls between
//! them; time is event time.
//! Not here: duplicates (the runtime drops them before), clocks, I/O, async. A test fails if this
//! crate comes to depend on tokio, rdkafka or clickhouse.
//!
//! To add an aggregate: one file in `folds/` that implements [`fold::LearnerFold`] or
//! [`fold::SharedFold`], one line in `registry.rs`, one migration and one view in `sql/`.
#![warn(missing_docs)]

pub mod batch;
pub mod codec;
pub mod control;
mod entries;
pub mod fold;
pub mod folds;
mod learner;
pub mod models;
pub mod partition;
mod registry;
pub mod row;
mod shared;
mod spans;
pub mod symbols;
#[cfg(test)]
mod testing;

pub use batch::{MONTHS_MAX, RowBatch, TableBatch};
pub use codec::DecodeError;
pub use control::ControlError;
pub use partition::{PartitionState, StateRow};
pub use row::{Column, Day, Kind, Month, Position, RowSink, RowWriter, TableRow};
