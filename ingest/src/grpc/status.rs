//! From a problem to a gRPC status: its code, its words, and when to try again.
//!
//! Always true: a status that may be tried again carries `google.rpc.RetryInfo`; each carries
//! `google.rpc.ErrorInfo` with the problem's name as its reason and, where a limit was reached, its
//! `scope`; the trace's id, where there is one, as `google.rpc.RequestInfo`; and what became of the events
//! of which it is known all the same, as an `IngestBatchResponse`.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use chalkstream_access::{Limit, Problem, trace_id};
use http::Response;
use prost::Message as _;
use prost_types::Any;
use tonic::{Code, Status};

use super::proto::IngestBatchResponse;
use crate::metrics::Ended;

const DOMAIN: &str = "chalkstream";

/// `google.rpc.Status`, which `grpc-status-details-bin` holds.
#[derive(Clone, PartialEq, prost::Message)]
struct Details {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// `google.rpc.RequestInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RequestInfo {
    #[prost(string, tag = "1")]
    request_id: String,
}

/// The status of a problem.
pub(super) fn of(problem: &Problem) -> Status {
    of_problem(problem, None)
}

/// The status of a problem in spite of which these fates are known.
pub(super) fn of_known(problem: &Problem, known: &IngestBatchResponse) -> Status {
    of_problem(
        problem,
        Some(any("chalkstream.ingest.v1.IngestBatchResponse", &known.encode_to_vec())),
    )
}

fn of_problem(problem: &Problem, known: Option<Any>) -> Status {
    let code = code(problem.kind().status().as_u16());
    let scope = problem.limit().map(Limit::scope);
    let again_after = problem.again_after();
    build(code, problem.detail(), problem.kind().slug(), scope, again_after, known)
}

fn code(http_status: u16) -> Code {
    match http_status {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 | 405 => Code::Unimplemented,
        408 | 503 => Code::Unavailable,
        429 => Code::ResourceExhausted,
        400..=499 => Code::InvalidArgument,
        _ => Code::Internal,
    }
}

/// A status with its details.
pub(super) fn with_details(
    code: Code,
    message: &str,
    reason: &str,
    scope: Option<&str>,
    again_after: Option<Duration>,
) -> Status {
    build(code, message, reason, scope, again_after, None)
}

fn build(
    code: Code,
    message: &str,
    reason: &str,
    scope: Option<&str>,
    again_after: Option<Duration>,
    known: Option<Any>,
) -> Status {
    let reason = reason.replace('-', "_").to_ascii_uppercase();
    let metadata = scope.map(|scope| ("scope".to_owned(), scope.to_owned())).into_iter().collect();
    let info = ErrorInfo { reason, domain: DOMAIN.to_owned(), metadata };
    let mut details = vec![any("google.rpc.ErrorInfo", &info.encode_to_vec())];
    if let Some(after) = again_after {
        let retry_delay = prost_types::Duration::try_from(after).ok();
        let retry = RetryInfo { retry_delay };
        details.push(any("google.rpc.RetryInfo", &retry.encode_to_vec()));
    }
    if let Some(request_id) = trace_id() {
        let request = RequestInfo { request_id };
        details.push(any("google.rpc.RequestInfo", &request.encode_to_vec()));
    }
    details.extend(known);
    let details = Details { code: code.into(), message: message.to_owned(), details };
    Status::with_details(code, message, Bytes::from(details.encode_to_vec()))
}

fn any(name: &str, value: &[u8]) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: value.to_vec() }
}

/// What tonic says about a message that it could not read, in the codes of this service: what is
/// too large stays too large, so it must not look like something to try again.
pub(super) fn of_reading(status: Status) -> Status {
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted if status.details().is_empty() => {
            let message = format!("{}; send fewer events at a time", status.message());
            with_details(Code::InvalidArgument, &message, "body-too-large", None, None)
        }
        Code::Internal if status.details().is_empty() => {
            let message = format!("{}; encode the message again", status.message());
            with_details(Code::InvalidArgument, &message, "broken-body", None, None)
        }
        _ => status,
    }
}

/// An answer that is a status alone.
pub(super) fn respond(status: &Status) -> Response<Body> {
    let mut response = status.clone().into_http::<Body>();
    response.extensions_mut().insert(ended(status.code()));
    response
}

/// The answer with the status of this service, where tonic made one of its own.
pub(super) fn corrected(mut response: Response<Body>) -> Response<Body> {
    match response.extensions_mut().remove::<Status>() {
        Some(status) => respond(&of_reading(status)),
        None => response,
    }
}

/// How the request is counted: as the same one by HTTP.
fn ended(code: Code) -> Ended {
    match code {
        Code::Ok => Ended::Ok,
        Code::InvalidArgument => Ended::BadRequest,
        Code::Unauthenticated => Ended::Unauthorized,
        Code::PermissionDenied => Ended::Forbidden,
        Code::NotFound | Code::Unimplemented => Ended::NotFound,
        Code::ResourceExhausted => Ended::TooMany,
        Code::Unavailable => Ended::Unavailable,
        Code::Internal | Code::Unknown | Code::DataLoss => Ended::Failed,
        Code::Cancelled => Ended::Disconnected,
        Code::DeadlineExceeded => Ended::Timeout,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted | Code::OutOfRange => {
            Ended::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use chalkstream_access::ProblemKind;

    use super::*;

    #[test]
    fn every_problem_has_a_code_and_only_what_may_pass_asks_to_be_tried_again() {
        for kind in ProblemKind::ALL {
            let status = of(&Problem::new(*kind, "what is wrong"));
            let details = Details::decode(status.details()).unwrap();
            let again = details.details.iter().any(|any| any.type_url.ends_with("RetryInfo"));
            let http = kind.status().as_u16();
            assert_eq!(again, [408, 429, 500, 503].contains(&http), "{kind:?}");
            assert_eq!(details.code, i32::from(status.code()), "{kind:?}");
            assert_ne!(status.code(), Code::Unknown, "{kind:?}");
        }
        assert_eq!(of(&Problem::new(ProblemKind::Busy, "")).code(), Code::Unavailable);
        assert_eq!(of(&Problem::new(ProblemKind::RevokedKey, "")).code(), Code::Unauthenticated);
    }

    #[test]
    fn a_message_that_is_too_large_is_the_senders_fault() {
        for status in [Status::out_of_range("large"), Status::resource_exhausted("large")] {
            assert_eq!(of_reading(status).code(), Code::InvalidArgument);
        }
        let busy = with_details(Code::ResourceExhausted, "later", "busy", None, None);
        assert_eq!(of_reading(busy).code(), Code::ResourceExhausted);
    }
}
