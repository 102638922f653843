//! Ingest over real HTTP, on the real embedded log; faults are injected around it.

mod answers;
mod bombs;
mod concurrency;
mod documents;
mod faults;
mod harness;
mod key_changes;
mod malformed;
mod requests;
mod shutdown;
