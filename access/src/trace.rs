//! Traces: one span a request, continued from `traceparent`.
//!
//! Always true: no attribute holds user ids, bodies, queries or keys. Nothing is made while nobody
//! collects traces: a request then costs a look at a static.
//! Not here: where spans go, and which share of them (the binary's `[telemetry]`).

use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::{HeaderMap, Request};
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::TraceContextExt as _;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// What the layer that collects traces takes; its log lines are taken by nobody.
pub const TARGET: &str = "chalkstream_ingest::spans";

/// Whether somebody collects. Not asked of `tracing`: with filters by layer its answer lingers, and
/// would hide the next span from the log lines.
static COLLECTED: AtomicBool = AtomicBool::new(false);

/// From now on requests of this process have spans.
pub fn collect() {
    COLLECTED.store(true, Ordering::Relaxed);
}

/// The span of a request; none while nobody collects.
pub fn request<B>(request: &Request<B>, route: &'static str) -> Span {
    if !COLLECTED.load(Ordering::Relaxed) {
        return Span::none();
    }
    let method = request.method().as_str();
    // At the highest level, so that every log line of the request has its trace id.
    let span = tracing::error_span!(
        target: TARGET,
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = tracing::field::Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = tracing::field::Empty,
        trace_id = tracing::field::Empty,
    );
    let parent = opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.extract(&Headers(request.headers()))
    });
    if let Err(error) = span.set_parent(parent) {
        tracing::debug!(%error, "a trace begins anew");
    }
    if let Some(id) = id_of(&span) {
        span.record("trace_id", id);
    }
    span
}

/// Tells the span how its request ended.
pub fn answered(span: &Span, status: http::StatusCode) {
    if span.is_disabled() {
        return;
    }
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

/// The id of the trace that is under way here, as 32 hexadecimal digits.
pub fn id() -> Option<String> {
    id_of(&Span::current())
}

fn id_of(span: &Span) -> Option<String> {
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_valid().then(|| context.trace_id().to_string())
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_made_while_nobody_collects() {
        let span = request(&Request::new(()), "/v1/events");
        assert!(span.is_disabled());
        assert_eq!(id(), None);
    }
}
