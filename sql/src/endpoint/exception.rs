//! Errors as ClickHouse's HTTP interface tells them.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};

use crate::Exception;

/// The status that ClickHouse gives to an exception.
pub(super) fn status_of(code: u32) -> StatusCode {
    match code {
        // REQUIRED_PASSWORD
        194 => StatusCode::UNAUTHORIZED,
        // UNKNOWN_USER, WRONG_PASSWORD, AUTHENTICATION_FAILED, ACCESS_DENIED
        192 | 193 | 516 | 497 => StatusCode::FORBIDDEN,
        // Text, dates and numbers that do not parse; bad syntax, types and arguments.
        6 | 25 | 26 | 27 | 36 | 38 | 41 | 43 | 53 | 62 | 72 | 117 | 139 | 164 | 167 | 168 | 169
        | 170 | 171 | 180 | 182 | 184 | 215 | 221 | 319 | 344 | 372 | 373 | 407 | 436 | 456
        | 457 | 467 | 469 | 472 => StatusCode::BAD_REQUEST,
        // UNKNOWN_ TABLE, FUNCTION, IDENTIFIER, TYPE, STORAGE, DATABASE, SETTING, FORMAT …
        46 | 47 | 50 | 56 | 60 | 63 | 73 | 81 | 87 | 115 | 213 | 511 => StatusCode::NOT_FOUND,
        // TOO_LARGE … QUERY_IS_TOO_LARGE
        131 | 290 | 307 => StatusCode::PAYLOAD_TOO_LARGE,
        // NOT_IMPLEMENTED
        48 => StatusCode::NOT_IMPLEMENTED,
        // TIMEOUT_EXCEEDED
        159 => StatusCode::REQUEST_TIMEOUT,
        // SOCKET_TIMEOUT, TOO_MANY_SIMULTANEOUS_QUERIES, CANNOT_SCHEDULE_TASK, SHUTTING_DOWN
        209 | 202 | 439 | 734 => StatusCode::SERVICE_UNAVAILABLE,
        // HTTP_LENGTH_REQUIRED
        381 => StatusCode::LENGTH_REQUIRED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The text of an exception, one line.
pub(super) fn text_of(exception: &Exception, version: &str) -> String {
    format!("{exception} (version {version})\n")
}

/// An answer that is an exception and nothing else.
pub(super) fn answer(exception: &Exception, version: &str) -> Response {
    let mut response = Response::new(Body::from(text_of(exception, version)));
    let status = status_of(exception.code);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("x-clickhouse-exception-code", HeaderValue::from(exception.code));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    if status == StatusCode::UNAUTHORIZED {
        let basic = HeaderValue::from_static("Basic realm=\"ClickHouse server HTTP API\"");
        headers.insert(header::WWW_AUTHENTICATE, basic);
    }
    response
}

/// What ends an answer that fails in the middle; clients know it by the tag in the headers.
pub(super) fn trailer(exception: &Exception, version: &str, tag: &str) -> Vec<u8> {
    let text = text_of(exception, version);
    format!("\r\n__exception__\r\n{tag}\r\n{text}{} {tag}\r\n__exception__\r\n", text.len())
        .into_bytes()
}
