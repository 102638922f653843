//! `/metrics`: for Prometheus, and for whom section `[ingest.metrics]` lets in.
//!
//! Always true: what is scraped holds counts and times, and no school, key or user.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chalkstream_access::{Problem, ProblemBody, ProblemKind};
use http::{HeaderMap, HeaderValue, header};

use crate::app::App;

/// Metrics for Prometheus
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    responses(
        (status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"),
        (status = 401, description = "The token of `ingest.metrics` is missing or wrong", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 404, description = "The metrics are turned off", body = ProblemBody<'_>, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    app.metrics_guard.get().check(&headers)?;
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &app.registry).map_err(|error| {
        Problem::new(ProblemKind::Internal, format!("the metrics could not be written: {error}"))
    })?;
    let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static(open_metrics))];
    Ok((content_type, text).into_response())
}
