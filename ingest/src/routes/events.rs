//! `POST /v1/events`: takes events in and says what became of each.
//!
//! Always true: 200 only after everything accepted is durable. The statuses, in this order:
//! nothing in the batch, or nothing refused and something good: 200; every event rejected: 422;
//! every event refused for a limit: 429, for other reasons too: 503; some refused: 200, because each
//! event has its fate and only those refused need sending again. All three carry `Retry-After`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use chalkstream_access::{Limit, Problem, ProblemBody, ProblemKind, retry_after_value};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::value::to_raw_value;
use tracing::Instrument as _;
use utoipa::ToSchema;

use crate::app::App;
use crate::body::{self, Encoding, Read};
use crate::decode::{self, Format};
use crate::fate::{Fate, Outcome, Settled, Tally};
use crate::intake::{self, Unanswered};
use crate::options::IngestOptions;
use crate::query::Query;
use crate::refusals;
use crate::trace::part;

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
    /// Whose limit it was refused for: `learner` or `school`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "learner")]
    pub(crate) scope: Option<&'static str>,
}

/// Send events
///
/// The body is one event, an array of events, `{"sent_at": …, "events": […]}`, NDJSON, or the
/// protobuf message `EventBatch`, plain or compressed. Every event gets one fate; sending again is always safe.
#[utoipa::path(
    post,
    path = "/v1/events",
    tag = "events",
    params(
        ("results" = Option<String>, Query, description = "`all` names accepted events too"),
        ("key" = Option<String>, Query, description = "A publishable key, for browsers' beacons, which can send no header; the body may then be `text/plain`"),
        ("validate" = Option<bool>, Query, description = "`true` answers the same and stores nothing"),
        ("Chalkstream-School" = Option<String>, Header, description = "The school of the events, where the credential is for several"),
        ("Content-Encoding" = Option<String>, Header, description = "`gzip`, `zstd`, `br` or `deflate`"),
    ),
    request_body(
        content(
            (serde_json::Value = "application/json"),
            (String = "application/x-ndjson"),
            (String = "text/plain"),
            (Vec<u8> = "application/x-protobuf"),
        ),
        description = "Events; their schemas are at /v1/schemas/{type}",
    ),
    responses(
        (status = 200, description = "Every event has its fate, and each accepted one is durable. With `Retry-After`: send those refused again", body = Answer<'_>),
        (status = 422, description = "Every event was rejected; do not send them again", body = Answer<'_>),
        (status = 400, description = "The body cannot be read", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 401, description = "No valid write key or token", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 403, description = "The credential may not send these events, or not for this school or page", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly; send it again", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 413, description = "Too many bytes or events", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 415, description = "Unknown content type or encoding", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 429, description = "Over a limit; send it again after `Retry-After`. The body is an answer with every event refused, or a problem", body = Answer<'_>),
        (status = 500, description = "The server failed; send it again", body = ProblemBody<'_>, content_type = "application/problem+json"),
        (status = 503, description = "Nothing can be taken now; send it again after `Retry-After`. The body is an answer with every event refused, or a problem", body = Answer<'_>),
    ),
    security(("write_key" = []), ("basic" = []), ("token" = []), ("beacon" = [])),
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
            body::discard_refused(&headers, &mut body).await;
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
    app.lifecycle.check_draining(options.retry_after.get())?;
    let query = Query::parse(query)?;
    let credential = match &query.key {
        Some(_) if headers.contains_key(header::AUTHORIZATION) => {
            let detail =
                "a key is in the query and another credential in `Authorization`; send one of them";
            return Err(Problem::new(ProblemKind::BrokenQuery, detail));
        }
        Some(key) => app.gate.beacon(key, headers)?,
        None => app.gate.writer(headers).await?,
    };
    let format = Format::of(headers, query.key.is_some())?;
    let encoding = Encoding::of(headers)?;
    let door = app.door(Some(&credential));
    let reached = |problem: &Problem| app.limits.reached(problem, Some(&credential));
    let Read { bytes, mut permit } = body::read(body, encoding, headers, &door, &options)
        .instrument(part!("read body"))
        .await
        .inspect_err(reached)?;
    app.metrics.body(bytes.len());
    let batch = decode::split(bytes, format, &options, &mut permit).inspect_err(reached)?;
    Ok(match intake::take(app, batch, credential, query.wants, permit).await {
        Ok(outcome) => answer(&outcome, query.wants.name_all, &options),
        Err(unanswered) => unanswered_response(unanswered, &options),
    })
}

/// The status of an answer and whether to try again, from the fates alone.
pub(crate) fn status(tally: Tally) -> (StatusCode, bool) {
    let Tally { accepted, duplicate, rejected, refused, limited } = tally;
    let events = accepted + duplicate + rejected + refused;
    if events > 0 && rejected == events {
        (StatusCode::UNPROCESSABLE_ENTITY, false)
    } else if events > 0 && limited == events {
        (StatusCode::TOO_MANY_REQUESTS, true)
    } else if events > 0 && refused == events {
        (StatusCode::SERVICE_UNAVAILABLE, true)
    } else {
        (StatusCode::OK, refused > 0)
    }
}

fn answer(outcome: &Outcome, name_all: bool, options: &IngestOptions) -> Response {
    let tally = outcome.tally;
    let Tally { accepted, duplicate, rejected, refused, limited: _ } = tally;
    let messages = refusals::messages(tally, options);
    let results = results(outcome, name_all, &messages).collect();
    let body = Answer { accepted, duplicate, rejected, refused, results };
    // Strings and numbers alone: serialising them cannot fail.
    let bytes = serde_json::to_vec(&body).unwrap_or_default();
    let (status, again) = status(tally);
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if again {
        let after = outcome.retry_after.unwrap_or(options.retry_after.get());
        headers.insert(header::RETRY_AFTER, retry_after_value(after));
    }
    response
}

/// The problem, and what is known all the same.
fn unanswered_response(unanswered: Unanswered, options: &IngestOptions) -> Response {
    let Unanswered { problem, known } = unanswered;
    let messages = refusals::messages(Tally::of(known.iter().map(|(_, event)| event)), options);
    let known = known_results(&known, &messages).collect::<Vec<_>>();
    let results = (!known.is_empty()).then(|| to_raw_value(&known).ok()).flatten();
    problem.respond(results.as_deref())
}

/// The results of events that have their fate, with their places. `messages` are those of
/// [`EventResult::of`].
pub(crate) fn known_results<'a>(
    known: &'a [(usize, Settled)],
    messages: &'a [String],
) -> impl Iterator<Item = EventResult<'a>> {
    known.iter().map(|(index, event)| EventResult::of(*index, event, messages))
}

/// What an answer names: what was not accepted, or every event. `messages` are those of
/// [`EventResult::of`].
pub(crate) fn results<'a>(
    outcome: &'a Outcome,
    name_all: bool,
    messages: &'a [String],
) -> impl Iterator<Item = EventResult<'a>> {
    let named = move |event: &Settled| name_all || !matches!(event.fate, Fate::Accepted(_));
    let events = outcome.settled.iter().enumerate().filter(move |(_, event)| named(event));
    events.map(|(index, event)| EventResult::of(index, event, messages))
}

impl<'a> EventResult<'a> {
    /// `messages` are about the reasons to refuse, in their order.
    pub(crate) fn of(index: usize, event: &'a Settled, messages: &'a [String]) -> Self {
        let id = event.id.as_deref();
        let plain = |status| Self {
            index,
            id,
            status,
            reason: None,
            field: None,
            message: None,
            scope: None,
        };
        match &event.fate {
            Fate::Accepted(_) => plain("accepted"),
            Fate::Duplicate => plain("duplicate"),
            Fate::Rejected(rejection) => Self {
                reason: Some(rejection.reason.as_str()),
                field: rejection.field.as_deref(),
                message: Some(&rejection.message),
                ..plain("rejected")
            },
            Fate::Refused(reason) => Self {
                reason: Some(reason.as_str()),
                message: messages.get(*reason as usize).map(String::as_str),
                scope: Limit::of(*reason).map(Limit::scope),
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
        check_limited(fates, 0, expected, retry);
    }

    #[track_caller]
    fn check_limited(fates: [usize; 4], limited: usize, expected: u16, retry: bool) {
        let [accepted, duplicate, rejected, refused] = fates;
        let (found, again) = status(Tally { accepted, duplicate, rejected, refused, limited });
        assert_eq!((found.as_u16(), again), (expected, retry), "{fates:?}, {limited}");
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
        check_limited([0, 0, 0, 3], 3, 429, true);
        check_limited([0, 0, 0, 3], 2, 503, true);
        check_limited([0, 0, 1, 2], 2, 200, true);
    }
}
