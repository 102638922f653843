//! `POST /v1/events`: takes events in and says what became of each.
//!
//! Always true: 200 only after everything accepted is durable. The statuses, in this order:
//! nothing in the batch, or nothing refused and something good: 200; every event rejected: 422;
//! every event refused: 503 with `Retry-After`; some refused: 200 with `Retry-After`, because each
//! event has its fate and only those refused need sending again.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio::time::Instant;
use tracing::Instrument as _;
use utoipa::ToSchema;

use crate::app::App;
use crate::body::{self, Encoding, Read};
use crate::decode::{self, Batch, Format};
use crate::fate::{Fate, Outcome, Settled, Tally};
use crate::keys::Credential;
use crate::options::IngestOptions;
use crate::problem::{Problem, ProblemBody, ProblemKind, retry_after_value};
use crate::trace::part;

/// How much longer than the pipeline the answer waits, so that a request which waited in vain for
/// another one can still say what became of each event.
const GRACE: Duration = Duration::from_millis(250);

/// What became of the events of a request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Answer<'a> {
    /// Durable in the log, by this request.
    accepted: usize,
    /// Durable in the log already.
    duplicate: usize,
    /// At fault, for good: do not send them again as they are.
    rejected: usize,
    /// Not taken for now: send them again.
    refused: usize,
    /// Every event that was not accepted, in the order of the request; with `?results=all` every
    /// event.
    results: Vec<EventResult<'a>>,
}

/// What became of one event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventResult<'a> {
    /// Its place in the request, from 0.
    pub(crate) index: usize,
    /// Its id as it was sent, where it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<&'a str>,
    /// `accepted`, `duplicate`, `rejected` or `refused`.
    #[schema(example = "rejected")]
    pub(crate) status: &'static str,
    /// Why it was rejected or refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "missing_field")]
    pub(crate) reason: Option<&'static str>,
    /// The field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "data.item_id")]
    pub(crate) field: Option<&'a str>,
    /// What is wrong and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<&'a str>,
}

/// Send events
///
/// The body is one event, an array of events, `{"sent_at": …, "events": […]}`, or NDJSON, plain or
/// compressed. Every event gets one fate; sending again is always safe.
#[utoipa::path(
    post,
    path = "/v1/events",
    tag = "events",
    params(
        ("results" = Option<String>, Query, description = "`all` names accepted events too"),
        ("Content-Encoding" = Option<String>, Header, description = "`gzip` or `zstd`"),
    ),
    request_body(
        content(
            (serde_json::Value = "application/json"),
            (String = "application/x-ndjson"),
        ),
        description = "Events; their schemas are at /v1/schemas/{type}",
    ),
    responses(
        (status = 200, description = "Every event has its fate, and each accepted one is durable. With `Retry-After`: send those refused again", body = Answer<'_>),
        (status = 422, description = "Every event was rejected; do not send them again", body = Answer<'_>),
        (status = 400, description = "The body cannot be read", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 401, description = "No valid write key", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 403, description = "The key may not send events", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly; send it again", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 413, description = "Too many bytes or events", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 415, description = "Unknown content type or encoding", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 500, description = "The server failed; send it again", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 503, description = "Nothing can be taken now; send it again after `Retry-After`. The body is an answer with every event refused, or a problem", body = Answer<'_>),
    ),
    security(("write_key" = []), ("basic" = [])),
)]
pub(crate) async fn post_events(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    mut body: Body,
) -> Response {
    match take_in(&app, query.as_deref(), &headers, &mut body).await {
        Ok(response) => response,
        Err(problem) => {
            // Who asked first has sent nothing yet, and need not once it has the answer.
            if !headers.contains_key(header::EXPECT) {
                body::discard(&mut body).await;
            }
            problem.into_response()
        }
    }
}

async fn take_in(
    app: &Arc<App>,
    query: Option<&str>,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Response, Problem> {
    let options = app.options.get();
    app.lifecycle.check_draining(&options)?;
    let credential = app.gate.writer(headers).await?;
    let name_all = wants_all(query)?;
    let format = Format::of(headers)?;
    let encoding = Encoding::of(headers)?;
    let Read { bytes, permit } = body::read(body, encoding, headers, &app.admission, &options)
        .instrument(part!("read body"))
        .await?;
    app.metrics.body(bytes.len());
    let batch = decode::split(bytes, format, options.max_events.get())?;
    // The deadline counts from here: a slow client has its own.
    let deadline = Instant::now() + options.request_timeout.get();
    let work = decide(Arc::clone(app), batch, credential, name_all, deadline, permit);
    match tokio::time::timeout_at(deadline + GRACE, tokio::spawn(work.in_current_span())).await {
        Ok(Ok(outcome)) => Ok(answer(&outcome, name_all, &options)),
        Ok(Err(failed)) => {
            app.metrics.panicked();
            tracing::error!(%failed, "a request failed");
            Err(unknown(ProblemKind::Internal, "the request failed", &options))
        }
        Err(_elapsed) => {
            let what = "the log did not acknowledge in time";
            Err(unknown(ProblemKind::Unacknowledged, what, &options))
        }
    }
}

/// Runs in a task of its own, to its end, whatever becomes of the connection.
async fn decide(
    app: Arc<App>,
    batch: Batch,
    credential: Arc<Credential>,
    name_all: bool,
    deadline: Instant,
    permit: crate::admission::Permit,
) -> Outcome {
    let working = app.lifecycle.work();
    let outcome = app.pipeline.run(&batch, &credential, name_all, deadline).await;
    drop(permit);
    drop(working);
    outcome
}

fn unknown(kind: ProblemKind, what: &str, options: &IngestOptions) -> Problem {
    let detail = format!(
        "{what}, so it is not known which events are durable; send all of them again, what is durable is then a duplicate"
    );
    Problem::new(kind, detail).retry_after(options.retry_after.get())
}

/// Reads the query string. What is not known is refused, not ignored: a parameter of a newer
/// version may mean that nothing must be stored.
fn wants_all(query: Option<&str>) -> Result<bool, Problem> {
    let mut all = false;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        if pair == "results=all" {
            all = true;
        } else {
            // The name alone: a value may be a secret.
            let name = pair.split_once('=').map_or(pair, |(name, _)| name);
            let name = body::printable(name);
            let detail = format!("`{name}` is not understood; the only parameter is `results=all`");
            return Err(Problem::new(ProblemKind::BrokenQuery, detail));
        }
    }
    Ok(all)
}

/// The status of an answer and whether to try again, from the fates alone.
pub(crate) fn status(tally: Tally) -> (StatusCode, bool) {
    let Tally { accepted, duplicate, rejected, refused } = tally;
    let events = accepted + duplicate + rejected + refused;
    if events > 0 && rejected == events {
        (StatusCode::UNPROCESSABLE_ENTITY, false)
    } else if events > 0 && refused == events {
        (StatusCode::SERVICE_UNAVAILABLE, true)
    } else {
        (StatusCode::OK, refused > 0)
    }
}

fn answer(outcome: &Outcome, name_all: bool, options: &IngestOptions) -> Response {
    let tally = outcome.tally;
    let Tally { accepted, duplicate, rejected, refused } = tally;
    let results = results(outcome, name_all).collect();
    let body = Answer { accepted, duplicate, rejected, refused, results };
    // Strings and numbers alone: serialising them cannot fail.
    let bytes = serde_json::to_vec(&body).unwrap_or_default();
    let (status, again) = status(tally);
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if again {
        headers.insert(header::RETRY_AFTER, retry_after_value(options.retry_after.get()));
    }
    response
}

/// What an answer names: what was not accepted, or every event.
pub(crate) fn results(outcome: &Outcome, name_all: bool) -> impl Iterator<Item = EventResult<'_>> {
    let named = move |event: &Settled| name_all || event.fate != Fate::Accepted;
    let events = outcome.settled.iter().enumerate().filter(move |(_, event)| named(event));
    events.map(|(index, event)| EventResult::of(index, event))
}

impl<'a> EventResult<'a> {
    fn of(index: usize, event: &'a Settled) -> Self {
        let id = event.id.as_deref();
        let plain = |status| Self { index, id, status, reason: None, field: None, message: None };
        match &event.fate {
            Fate::Accepted => plain("accepted"),
            Fate::Duplicate => plain("duplicate"),
            Fate::Rejected(rejection) => Self {
                reason: Some(rejection.reason.as_str()),
                field: rejection.field.as_deref(),
                message: Some(&rejection.message),
                ..plain("rejected")
            },
            Fate::Refused(reason) => Self {
                reason: Some(reason.as_str()),
                message: Some("the event log cannot take it now; send it again after Retry-After"),
                ..plain("refused")
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fates: [usize; 4], expected: u16, retry: bool) {
        let [accepted, duplicate, rejected, refused] = fates;
        let (found, again) = status(Tally { accepted, duplicate, rejected, refused });
        assert_eq!((found.as_u16(), again), (expected, retry), "{fates:?}");
    }

    #[test]
    fn the_status_follows_from_the_fates() {
        check([0, 0, 0, 0], 200, false);
        check([3, 0, 0, 0], 200, false);
        check([0, 3, 0, 0], 200, false);
        check([1, 1, 1, 0], 200, false);
        check([0, 1, 2, 0], 200, false);
        check([0, 0, 3, 0], 422, false);
        check([0, 0, 0, 3], 503, true);
        check([1, 0, 0, 2], 200, true);
        check([0, 1, 0, 2], 200, true);
        check([0, 0, 1, 2], 200, true);
    }

    #[test]
    fn a_parameter_that_is_not_known_is_refused_without_its_value() {
        assert_eq!(wants_all(None), Ok(false));
        assert_eq!(wants_all(Some("")), Ok(false));
        assert_eq!(wants_all(Some("results=all")), Ok(true));
        for query in ["validate=true", "results=some", "results=all&key=csk_secret"] {
            let problem = wants_all(Some(query)).unwrap_err();
            assert_eq!(problem.kind(), ProblemKind::BrokenQuery);
            assert!(!format!("{problem:?}").contains("secret"));
        }
    }
}
