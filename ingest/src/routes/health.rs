//! `/livez`, `/readyz` and `/openapi.json`: for operators and tools.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chalkstream_access::{Problem, ProblemBody, ProblemKind};
use http::{HeaderValue, header};

use crate::app::App;
use crate::condition::{Condition, Report};

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
///
/// `ready`; or `degraded` with what is wrong, a line each, while events are still made durable.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operation",
    responses(
        (status = 200, description = "It takes events; `degraded` names what does not work meanwhile", body = String),
        (status = 503, description = "It does not yet, no longer, or cannot make events durable now", body = ProblemBody<'_>, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> Result<String, Problem> {
    app.lifecycle.check()?;
    let mut report = app.durability.report();
    if let Some((since, why)) = app.gate.keys.trouble() {
        let seconds = since.as_secs();
        let reason = format!("changes of write keys have not been seen for {seconds} s: {why}");
        report.add(Condition::Degraded, reason);
    }
    let Report { condition, mut reasons } = report;
    if condition == Condition::Unready {
        return Err(Problem::new(ProblemKind::NotReady, reasons.join("; ")));
    }
    reasons.insert(0, condition.as_str().to_owned());
    Ok(reasons.join("\n") + "\n")
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
