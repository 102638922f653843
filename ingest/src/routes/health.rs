//! `/livez`, `/readyz` and `/openapi.json`: for operators and tools.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};

use crate::app::App;
use crate::problem::{Problem, ProblemBody};

/// Is the process alive
#[utoipa::path(
    get,
    path = "/livez",
    tag = "operation",
    responses((status = 200, description = "The process answers", body = String)),
)]
pub(crate) async fn livez() -> &'static str {
    "alive\n"
}

/// Does it take events
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operation",
    responses(
        (status = 200, description = "It takes events", body = String),
        (status = 503, description = "It does not yet, or no longer", body = ProblemBody<'_>, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, Problem> {
    app.lifecycle.check().map(|()| "ready\n")
}

/// This document
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "operation",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)),
)]
pub(crate) async fn openapi(State(app): State<Arc<App>>) -> Response {
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (content_type, app.openapi.clone()).into_response()
}
