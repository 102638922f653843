//! The lake, its archiver, reports and datasets over a real embedded log.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, outside of test functions"
)]

mod archiver;
mod datasets;
mod delta_reader;
mod kill;
mod reports;
mod support;
