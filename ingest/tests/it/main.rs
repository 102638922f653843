//! Ingest over real HTTP, on the real embedded log; faults are injected around it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and the helpers of tests are part of them"
)]

mod access;
mod answers;
mod beacons;
mod bombs;
mod clock;
mod collection;
mod compress;
mod concurrency;
mod cors;
mod documents;
mod faults;
mod flood;
mod grpc;
mod harness;
mod hostile;
mod key_changes;
mod limits;
mod logs;
mod malformed;
mod metrics;
mod openapi;
mod openmetrics;
mod outcomes;
mod protobuf;
mod replay;
mod requests;
mod rights;
mod segment;
mod shutdown;
mod tokens;
mod transport;
mod validate;
