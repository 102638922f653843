//! What every port shares, in two rooms.
//!
//! `who`: who asks, may they, and how much. In: a request's headers, keys, tokens, limits. Out: a
//! [`Credential`], room for its bytes, or a [`Problem`] that says what to do.
//! `port`: how a port listens. In: a listener and routes. Out: a [`RunningPort`].
//! Always true: no problem, log line or metric holds any part of a secret; options are handed down,
//! and no module here knows the section that they were read from, unless it is told.
//! Not here: what a request brings or asks for (`ingest`, `sql`), and where options come from.

mod clock;
mod live;
mod notice;
mod port;
mod problem;
mod trace;
mod units;
mod who;

pub use clock::{Clock, SystemClock};
pub use live::{Built, Live, Options, SectionError};
pub use notice::Notice;
pub use port::connection::Connections;
pub use port::cors::{CorsOptions, cors_layer};
pub use port::lifecycle::{Lifecycle, Working};
pub use port::metrics;
pub use port::scrape::{MetricsAccess, MetricsOptions, ScrapeGuard};
pub use port::server::{Drained, Port, RunningPort, StartError};
pub use port::tls::TlsOptions;
pub use problem::{Problem, ProblemBody, ProblemKind, printable, retry_after_value};
pub use tokio_rustls::rustls::ServerConfig;
pub use trace::{
    TARGET as TRACE_TARGET, answered, collect as collect_traces, id as trace_id,
    request as request_span,
};
pub use units::{ByteSize, Span};
pub use who::admission::{Admission, Door, Full, Permit};
pub use who::credential::{AuthError, Credential};
pub use who::gate::Gate;
pub use who::grant::{Grant, KeyInfo, KeyState, Rotated, Scope};
pub use who::keys::error::KeyError;
pub use who::keys::{KeyStore, KeysHome, KeysOptions, WriteKey};
pub use who::limits::bucket::Key as BucketKey;
pub use who::limits::limit::Limit;
pub use who::limits::options::LimitsOptions;
pub use who::limits::quota::{Day, NodeQuota, SchoolQuota};
pub use who::limits::{HeldBack, Limits};
pub use who::token::Tokens;
pub use who::token::keyring::Refreshed;
pub use who::token::options::{JwtAlgorithm, JwtError, JwtOptions, check_issuers};
