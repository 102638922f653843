//! Ingest over real HTTP, on the real embedded log; faults are injected around it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and the helpers of tests are part of them"
)]

mod access;
mod answers;
mod bombs;
mod collection;
mod concurrency;
mod documents;
mod faults;
mod grpc;
mod harness;
mod key_changes;
mod malformed;
mod openapi;
mod outcomes;
mod replay;
mod requests;
mod rights;
mod shutdown;
mod transport;
