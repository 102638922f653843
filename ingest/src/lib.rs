//! Ingest: events come in by HTTP, get one fate each, and are durable when the answer says so.
//!
//! In: `POST /v1/events` with a school's write key. Out: records in the event log, rejected events
//! in the rejected log, and an answer that names what was not accepted.
//! Always true: `accepted` means durable; every event of a request gets exactly one fate; a retry
//! is always safe; one event's fault never sinks its batch.
//! Not here: what an event is (schemas), how the log keeps it (event-log), and making tables exact
//! (stream processors). `README.md` of this crate is the page for client developers.

mod app;
mod assembly;
mod body;
mod condition;
mod decode;
mod dedup;
mod fate;
mod grpc;
mod intake;
mod ledger;
mod metrics;
mod openapi;
mod options;
mod outcomes;
mod pipeline;
mod query;
mod refusals;
mod replay;
mod routes;
mod server;
mod tail;
mod trace;

pub use assembly::{Ingest, IngestParts};
pub use metrics::events::Books;
pub use options::{DedupKind, DedupOptions, IngestOptions, OptionsError, RedisUrl};
pub use server::RunningIngest;
pub use tail::{TailFilter, TailedEvent};
