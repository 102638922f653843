//! Ingest over real HTTP, on the real embedded log; faults are injected around it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and the helpers of tests are part of them"
)]

mod answers;
mod bombs;
mod clock;
mod concurrency;
mod documents;
mod faults;
mod harness;
mod key_changes;
mod malformed;
mod outcomes;
mod replay;
mod requests;
mod rights;
mod shutdown;
