//! `POST /v1/batch` and `POST /v1/track`: Segment's HTTP API, so that its SDKs work as they are.
//!
//! Always true: the statuses make the official SDKs do the right thing: 200 with
//! `{"success": true}` when nothing needs sending again; 429 or 503 with `Retry-After` as soon as one
//! event was refused, and they send the batch again, which is safe; 400 when every event was
//! rejected, and they drop it and say so. Errors have `code` and `message`, which they print.
//! Not here: what a message means ([`crate::decode::segment`]; the mapping is in `SEGMENT.md`).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use chalkstream_access::{ByteSize, Credential, Problem, ProblemKind, retry_after_value};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::events::EventResult;
use crate::app::App;
use crate::body::{self, Encoding, Read};
use crate::decode::Format;
use crate::decode::segment::{self, Call, Translated};
use crate::fate::{Fate, Outcome, Tally};
use crate::intake::{self, Unanswered};
use crate::options::IngestOptions;
use crate::query::Query;
use crate::refusals;

/// Largest body without an `Authorization` header: its key, which stands in it, is not known before
/// it is read. SDKs send at most 500 KB at a time.
const UNKNOWN_SENDER_MAX: ByteSize = ByteSize::kib(512);

/// The answer to Segment's SDKs.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct SegmentAnswer<'a> {
    /// Whether the batch is done with.
    success: bool,
    /// What went wrong, in a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// What went wrong, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    /// Events that are durable, by this request or one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<usize>,
    /// Messages that have no meaning here, such as `identify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<usize>,
    /// Every message whose event was rejected or refused; with 429 and 503 also those whose event is
    /// durable already. `index` is its place in the batch.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    results: Vec<EventResult<'a>>,
}

/// Segment's batch call
///
/// Takes what Segment's SDKs send: `{"batch": […], "sentAt": …}`. `track`, `page` and `screen` become
/// events, `identify`, `group` and `alias` are skipped.
#[utoipa::path(
    post,
    path = "/v1/batch",
    tag = "segment",
    params(("validate" = Option<bool>, Query, description = "`true` answers the same and stores nothing")),
    request_body(content((serde_json::Value = "application/json"))),
    responses(
        (status = 200, description = "Nothing needs sending again", body = SegmentAnswer<'_>),
        (status = 400, description = "The body cannot be read, or every event was rejected", body = SegmentAnswer<'_>),
        (status = 401, description = "No valid write key in `Authorization` or `writeKey`", body = SegmentAnswer<'_>),
        (status = 403, description = "The key may not send events", body = SegmentAnswer<'_>),
        (status = 408, description = "The body came too slowly; send it again", body = SegmentAnswer<'_>),
        (status = 413, description = "Too many bytes or messages", body = SegmentAnswer<'_>),
        (status = 415, description = "Unknown content type or encoding", body = SegmentAnswer<'_>),
        (status = 429, description = "Over a limit; send it again after `Retry-After`", body = SegmentAnswer<'_>),
        (status = 500, description = "The server failed; send it again", body = SegmentAnswer<'_>),
        (status = 503, description = "An event cannot be taken now; send the batch again after `Retry-After`", body = SegmentAnswer<'_>),
    ),
    security(("basic" = []), ("write_key" = [])),
)]
pub(crate) async fn post_batch(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    mut body: Body,
) -> Response {
    respond(&app, Call::Batch, query.as_deref(), &headers, &mut body).await
}

/// Segment's track call
///
/// Takes one `track` message.
#[utoipa::path(
    post,
    path = "/v1/track",
    tag = "segment",
    params(("validate" = Option<bool>, Query, description = "`true` answers the same and stores nothing")),
    request_body(content((serde_json::Value = "application/json"))),
    responses(
        (status = 200, description = "The event is durable", body = SegmentAnswer<'_>),
        (status = 400, description = "The body cannot be read, or its event was rejected", body = SegmentAnswer<'_>),
        (status = 401, description = "No valid write key in `Authorization` or `writeKey`", body = SegmentAnswer<'_>),
        (status = 503, description = "The event cannot be taken now; send it again after `Retry-After`", body = SegmentAnswer<'_>),
    ),
    security(("basic" = []), ("write_key" = [])),
)]
pub(crate) async fn post_track(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    mut body: Body,
) -> Response {
    respond(&app, Call::Track, query.as_deref(), &headers, &mut body).await
}

async fn respond(
    app: &Arc<App>,
    call: Call,
    query: Option<&str>,
    headers: &HeaderMap,
    body: &mut Body,
) -> Response {
    match take_in(app, call, query, headers, body).await {
        Ok(response) => response,
        Err(problem) => {
            body::discard_refused(headers, body).await;
            explain(problem, Vec::new())
        }
    }
}

async fn take_in(
    app: &Arc<App>,
    call: Call,
    query: Option<&str>,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Response, Problem> {
    let now = app.options.get();
    app.lifecycle.check_draining(now.retry_after.get())?;
    let query = Query::parse(query)?;
    if query.key.is_some() {
        let detail = "a key in the query is for /v1/events alone; send it in `Authorization` or as `writeKey` in the body";
        return Err(Problem::new(ProblemKind::BrokenQuery, detail));
    }
    Format::check_segment(headers)?;
    let encoding = Encoding::of(headers)?;
    let known = headers.contains_key(header::AUTHORIZATION);
    let (credential, options) = if known {
        (Some(app.gate.writer(headers).await?), Arc::clone(&now))
    } else {
        (None, Arc::new(for_unknown_sender(&now)))
    };
    let door = app.door(credential.as_deref());
    let reached = |problem: &Problem| app.limits.reached(problem, credential.as_deref());
    let Read { bytes, mut permit } =
        body::read(body, encoding, headers, &door, &options).await.inspect_err(reached)?;
    app.metrics.body(bytes.len());
    let messages = segment::read(&bytes, call, &options)?;
    let credential = match credential {
        Some(credential) => credential,
        None => writer_in_body(app, headers, messages.write_key.as_deref()).await?,
    };
    let translated = messages.translate(bytes.len(), &options, &mut permit)?;
    let Translated { batch, places, skipped } = translated;
    Ok(match intake::take(app, batch, credential, query.wants, permit).await {
        Ok(outcome) => answer(&outcome, &places, skipped, &now),
        Err(Unanswered { problem, known }) => {
            let tally = Tally::of(known.iter().map(|(_, event)| event));
            let messages = refusals::messages(tally, &now);
            let known = known.iter().filter_map(|(index, event)| {
                Some(EventResult::of(*places.get(*index)?, event, &messages))
            });
            explain(problem, known.collect())
        }
    })
}

fn for_unknown_sender(options: &IngestOptions) -> IngestOptions {
    IngestOptions {
        max_body: options.max_body.min(UNKNOWN_SENDER_MAX),
        max_compressed_body: options.max_compressed_body.min(UNKNOWN_SENDER_MAX),
        ..options.clone()
    }
}

/// The credential of a key in the body, as if it stood in the header.
async fn writer_in_body(
    app: &App,
    headers: &HeaderMap,
    write_key: Option<&str>,
) -> Result<Arc<Credential>, Problem> {
    let mut headers = headers.clone();
    if let Some(write_key) = write_key
        && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {write_key}"))
    {
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    app.gate.writer(&headers).await
}

/// What the SDK has to do next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Done,
    Drop,
    Again(StatusCode),
}

fn next(tally: Tally) -> Next {
    let Tally { accepted, duplicate, rejected, refused, limited } = tally;
    match (refused, rejected) {
        (0, 0) => Next::Done,
        (0, _) if accepted + duplicate == 0 => Next::Drop,
        (0, _) => Next::Done,
        _ if limited == refused => Next::Again(StatusCode::TOO_MANY_REQUESTS),
        _ => Next::Again(StatusCode::SERVICE_UNAVAILABLE),
    }
}

fn answer(
    outcome: &Outcome,
    places: &[usize],
    skipped: usize,
    options: &IngestOptions,
) -> Response {
    let tally = outcome.tally;
    let messages = refusals::messages(tally, options);
    let next = next(tally);
    // Who has to send all of it again hears what is durable already.
    let name_all = matches!(next, Next::Again(_));
    let is_durable = |fate: &Fate| matches!(fate, Fate::Accepted(_) | Fate::Duplicate);
    let results = outcome
        .settled
        .iter()
        .zip(places)
        .filter(|(event, _)| name_all || !is_durable(&event.fate))
        .map(|(event, place)| EventResult::of(*place, event, &messages))
        .collect::<Vec<_>>();
    let (status, code) = match next {
        Next::Done => (StatusCode::OK, None),
        Next::Drop => (StatusCode::BAD_REQUEST, Some("rejected")),
        Next::Again(status) => (status, Some("refused")),
    };
    let message = code.and_then(|_| results.iter().find_map(|result| result.message));
    let answer = SegmentAnswer {
        success: code.is_none(),
        code,
        message,
        accepted: Some(tally.accepted + tally.duplicate),
        skipped: Some(skipped),
        results,
    };
    let mut response = json(status, &answer);
    if matches!(next, Next::Again(_)) {
        let after = outcome.retry_after.unwrap_or(options.retry_after.get());
        let after = retry_after_value(after);
        response.headers_mut().insert(header::RETRY_AFTER, after);
    }
    response
}

/// A problem as SDKs read it, with its status and headers, and what is known of events all the same.
fn explain(problem: Problem, results: Vec<EventResult<'_>>) -> Response {
    let answer = SegmentAnswer {
        code: Some(problem.kind().slug()),
        message: Some(problem.detail()),
        results,
        ..SegmentAnswer::default()
    };
    let mut explained = json(problem.kind().status(), &answer);
    let (parts, _body) = problem.into_response().into_parts();
    for (name, value) in parts.headers {
        if let Some(name) = name.filter(|name| name != header::CONTENT_TYPE) {
            explained.headers_mut().insert(name, value);
        }
    }
    explained
}

fn json(status: StatusCode, answer: &SegmentAnswer<'_>) -> Response {
    // Strings and numbers alone: serialising them cannot fail.
    let mut response = Response::new(Body::from(serde_json::to_vec(answer).unwrap_or_default()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fates: [usize; 4], expected: Next) {
        let [accepted, duplicate, rejected, refused] = fates;
        let tally = Tally { accepted, duplicate, rejected, refused, limited: 0 };
        assert_eq!(next(tally), expected, "{fates:?}");
    }

    #[test]
    fn the_status_makes_an_sdk_retry_or_drop() {
        check([0, 0, 0, 0], Next::Done);
        check([2, 1, 0, 0], Next::Done);
        check([1, 0, 5, 0], Next::Done);
        check([0, 1, 5, 0], Next::Done);
        check([0, 0, 1, 0], Next::Drop);
        check([9, 0, 0, 1], Next::Again(StatusCode::SERVICE_UNAVAILABLE));
        check([0, 0, 1, 1], Next::Again(StatusCode::SERVICE_UNAVAILABLE));
        let tally = Tally { refused: 1, limited: 1, ..Tally::default() };
        assert_eq!(next(tally), Next::Again(StatusCode::TOO_MANY_REQUESTS));
    }
}
