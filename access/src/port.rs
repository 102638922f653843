//! How a port listens: connections within limits, TLS, CORS, who may read its metrics, and its stop.

pub(crate) mod connection;
pub(crate) mod cors;
pub(crate) mod lifecycle;
pub mod metrics;
pub(crate) mod scrape;
pub(crate) mod server;
pub(crate) mod tls;
