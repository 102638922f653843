//! What runs in batch: the lake and its archiver, reports, datasets.
//!
//! In: the event log (archiver), then the lake alone. Out: Delta tables, report files, datasets.
//! Always true: every figure names the version of the lake that it comes from, and what the folds
//! compute in the stream is computed here by the same core code.
//! Not here: HTTP, ClickHouse, command lines.

pub mod archiver;
pub mod datasets;
pub mod lake;
pub mod replay;
pub mod reports;
