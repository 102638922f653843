//! Ingest: events come in by HTTP, get one fate each, and are durable when the answer says so.
//!
//! In: `POST /v1/events` with a school's write key. Out: records in the event log, rejected events
//! in the rejected log, and an answer that names what was not accepted.
//! Always true: `accepted` means durable; every event of a request gets exactly one fate; a retry
//! is always safe; one event's fault never sinks its batch.
//! Not here: what an event is (schemas), how the log keeps it (event-log), and making tables exact
//! (stream processors). `README.md` of this crate is the page for client developers.

mod admission;
mod app;
mod body;
pub mod clock;
mod condition;
mod cors;
mod credential;
mod decode;
mod dedup;
mod fate;
mod grpc;
mod intake;
pub mod keys;
pub mod limits;
mod live;
mod metrics;
mod notice;
mod openapi;
pub mod options;
mod outcomes;
mod pipeline;
pub mod problem;
mod query;
mod replay;
mod routes;
mod server;
mod tail;
mod tls;
mod token;
mod trace;

pub use app::{Ingest, IngestParts, Lifecycle};
pub use clock::{Clock, SystemClock};
pub use cors::CorsOptions;
pub use keys::{
    Credential, Grant, KeyError, KeyInfo, KeyState, KeyStore, KeysHome, KeysOptions, Scope,
    WriteKey,
};
pub use limits::{LimitsOptions, NodeQuota, SchoolQuota};
pub use metrics::events::Books;
pub use options::{ByteSize, DedupKind, DedupOptions, IngestOptions, OptionsError, RedisUrl, Span};
pub use problem::{Problem, ProblemKind};
pub use routes::metrics::{MetricsAccess, MetricsOptions};
pub use server::{Drained, RunningIngest, StartError};
pub use tail::{TailFilter, TailedEvent};
pub use tls::TlsOptions;
pub use token::{JwtAlgorithm, JwtError, JwtOptions};
pub use trace::{TARGET as TRACE_TARGET, collect as collect_traces};
