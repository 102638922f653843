//! Errors of a request as a whole, as RFC 9457 problem details.
//!
//! Always true: a problem says what is wrong and what to do; it never holds a key; every status that
//! asks to be tried again carries `Retry-After`.
//! Not here: the fault of one of many in a request, which is data.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::trace;
use crate::who::limits::limit::Limit;

/// The encodings that a request may use.
const ACCEPTED_ENCODINGS: &str = "gzip, zstd, br, deflate, identity";

/// A client's text for a message: short, and without what is not printable.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $variant:ident = $slug:literal $status:ident $title:literal,)*) => {
        /// Every problem that a request can meet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ProblemKind {
            $($(#[doc = $doc])* $variant,)*
        }

        impl ProblemKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in the URN of `type`.
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$variant => $slug,)* }
            }

            /// The HTTP status.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// The same for every occurrence.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

kinds! {
    /// The body is not JSON, or not one of the shapes that hold events.
    BrokenBody = "broken-body" BAD_REQUEST "The body cannot be read",
    /// The compressed body is damaged, or its end is missing.
    BrokenCompression = "broken-compression" BAD_REQUEST "The body cannot be decompressed",
    /// A query parameter that does not exist, or a wrong value.
    BrokenQuery = "broken-query" BAD_REQUEST "The query string is wrong",
    /// No credential, or not one that could hold a key.
    MissingCredential = "missing-credential" UNAUTHORIZED "A write key is needed",
    /// A key that this server does not know.
    UnknownKey = "unknown-key" UNAUTHORIZED "The write key is not valid",
    /// A key whose time is over.
    ExpiredKey = "expired-key" UNAUTHORIZED "The write key has expired",
    /// A key that has been revoked.
    RevokedKey = "revoked-key" UNAUTHORIZED "The write key has been revoked",
    /// A token that is damaged, expired, for somebody else, or signed by nobody known.
    InvalidToken = "invalid-token" UNAUTHORIZED "The token is not valid",
    /// `/metrics` was asked for without its token.
    MetricsToken = "metrics-token" UNAUTHORIZED "The token for metrics is missing or wrong",
    /// The key lacks a scope.
    MissingScope = "missing-scope" FORBIDDEN "The credential may not do this",
    /// A credential for several schools, and no school named.
    SchoolMissing = "school-missing" BAD_REQUEST "The request must name its school",
    /// The school named is not one of the credential's.
    SchoolNotAllowed = "school-not-allowed" FORBIDDEN "The credential is not for this school",
    /// A publishable key in a page that it is not for.
    OriginNotAllowed = "origin-not-allowed" FORBIDDEN "The key is not for this page",
    /// A secret key in a query.
    SecretInQuery = "secret-in-query" FORBIDDEN "A secret key does not belong in a URL",
    /// No such path, or no such schema.
    NotFound = "not-found" NOT_FOUND "Nothing is here",
    /// The path exists, the method does not.
    MethodNotAllowed = "method-not-allowed" METHOD_NOT_ALLOWED "The method does not fit the path",
    /// The body came too slowly.
    BodyTimeout = "body-timeout" REQUEST_TIMEOUT "The body did not arrive in time",
    /// The body is larger than allowed, as sent or after decompression.
    BodyTooLarge = "body-too-large" PAYLOAD_TOO_LARGE "The body is too large",
    /// More events than one request may hold.
    TooManyEvents = "too-many-events" PAYLOAD_TOO_LARGE "The request holds too many events",
    /// A content type that holds no events.
    UnsupportedType = "unsupported-type" UNSUPPORTED_MEDIA_TYPE "The content type is not supported",
    /// A content encoding that is not supported.
    UnsupportedEncoding = "unsupported-encoding" UNSUPPORTED_MEDIA_TYPE "The content encoding is not supported",
    /// The credential is over a limit.
    RateLimited = "rate-limited" TOO_MANY_REQUESTS "Too much in too short a time",
    /// A bug: what happened to the events is not known.
    Internal = "internal" INTERNAL_SERVER_ERROR "The server failed",
    /// Too many bytes in flight.
    Busy = "busy" SERVICE_UNAVAILABLE "The server is busy",
    /// The log did not acknowledge in time.
    Unacknowledged = "unacknowledged" SERVICE_UNAVAILABLE "The log did not acknowledge in time",
    /// The keys that tokens are checked with could not be fetched.
    TokenKeysUnavailable = "token-keys-unavailable" SERVICE_UNAVAILABLE "Tokens cannot be checked now",
    /// The server is about to stop, or not yet ready.
    NotReady = "not-ready" SERVICE_UNAVAILABLE "The server is not taking requests",
}

/// The body of every answer that is about the request as a whole (`application/problem+json`).
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemBody<'a> {
    /// `urn:chalkstream:problem:` and the problem's name.
    #[schema(example = "urn:chalkstream:problem:broken-body")]
    r#type: String,
    /// The same for every occurrence of the type.
    title: &'a str,
    /// The HTTP status again.
    status: u16,
    /// What is wrong here, and what to do.
    detail: &'a str,
    /// Line of a body that is not JSON, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// Column of a body that is not JSON, in bytes from 1; 0 where a line ends too early.
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    /// Whose limit was reached: `credential` or `process`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "credential")]
    scope: Option<&'static str>,
    /// The request's trace, where traces are collected.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "4bf92f3577b34da6a3ce929d0e0e4736")]
    trace_id: Option<String>,
    /// What became of the events of which it is known all the same; those accepted or duplicate are
    /// durable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    results: Option<&'a RawValue>,
}

/// One problem of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    kind: ProblemKind,
    detail: String,
    position: Option<(usize, usize)>,
    retry_after: Option<Duration>,
    limit: Option<Limit>,
}

impl Problem {
    /// A problem with what is wrong here, and what to do.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), position: None, retry_after: None, limit: None }
    }

    /// Which problem it is.
    pub fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// What is wrong here, and what to do.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Where in a body that is not JSON: its line, and its column in bytes.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.position
    }

    /// When the request may be sent again, if that can help.
    pub fn again_after(&self) -> Option<Duration> {
        let again = matches!(self.kind.status().as_u16(), 408 | 429 | 500 | 503);
        again.then(|| self.retry_after.unwrap_or(Duration::from_secs(1)))
    }

    /// At this line and column of a body that is not JSON.
    #[must_use]
    pub fn at(mut self, line: usize, column: usize) -> Self {
        self.position = Some((line, column));
        self
    }

    /// When the request may be sent again.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The limit that was reached.
    #[must_use]
    pub fn over(mut self, limit: Limit) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The limit that was reached, if one was.
    pub fn limit(&self) -> Option<Limit> {
        self.limit
    }
}

/// `Retry-After` in whole seconds, at least one; who comes back then is not too early.
pub fn retry_after_value(after: Duration) -> HeaderValue {
    let begun = u64::from(after.subsec_nanos() > 0);
    HeaderValue::from(after.as_secs().saturating_add(begun).max(1))
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.respond(None)
    }
}

impl Problem {
    /// The answer, with the `results` of single events where some are known.
    pub fn respond(self, results: Option<&RawValue>) -> Response {
        let status = self.kind.status();
        let body = ProblemBody {
            r#type: format!("urn:chalkstream:problem:{}", self.kind.slug()),
            title: self.kind.title(),
            status: status.as_u16(),
            detail: &self.detail,
            line: self.position.map(|(line, _)| line),
            column: self.position.map(|(_, column)| column),
            scope: self.limit.map(Limit::scope),
            trace_id: trace::id(),
            results,
        };
        // Strings and numbers alone: serialising them cannot fail.
        let bytes = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Body::from(bytes));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, json);
        match self.kind {
            ProblemKind::MissingCredential
            | ProblemKind::UnknownKey
            | ProblemKind::ExpiredKey
            | ProblemKind::RevokedKey
            | ProblemKind::MetricsToken => {
                // Not Basic, though it is accepted: browsers would ask the user for a password.
                let scheme = HeaderValue::from_static("Bearer realm=\"chalkstream\"");
                headers.insert(header::WWW_AUTHENTICATE, scheme);
            }
            ProblemKind::InvalidToken => {
                let scheme = "Bearer realm=\"chalkstream\", error=\"invalid_token\"";
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
            }
            ProblemKind::MissingScope => {
                let scope = "Bearer error=\"insufficient_scope\", scope=\"events:write\"";
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(scope));
            }
            ProblemKind::BodyTimeout
            | ProblemKind::RateLimited
            | ProblemKind::Internal
            | ProblemKind::Busy
            | ProblemKind::Unacknowledged
            | ProblemKind::TokenKeysUnavailable
            | ProblemKind::NotReady => {
                let after = self.retry_after.unwrap_or(Duration::from_secs(1));
                headers.insert(header::RETRY_AFTER, retry_after_value(after));
            }
            ProblemKind::UnsupportedEncoding => {
                // RFC 7694: tells which encodings a request may use.
                let encodings = HeaderValue::from_static(ACCEPTED_ENCODINGS);
                headers.insert(header::ACCEPT_ENCODING, encodings);
            }
            ProblemKind::BrokenBody
            | ProblemKind::BrokenCompression
            | ProblemKind::BrokenQuery
            | ProblemKind::SchoolMissing
            | ProblemKind::SchoolNotAllowed
            | ProblemKind::OriginNotAllowed
            | ProblemKind::SecretInQuery
            | ProblemKind::NotFound
            | ProblemKind::MethodNotAllowed
            | ProblemKind::BodyTooLarge
            | ProblemKind::TooManyEvents
            | ProblemKind::UnsupportedType => {}
        }
        response
    }
}
