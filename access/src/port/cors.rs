//! Which web pages may send events: `[ingest.cors]`.
//!
//! Always true: without an allow-list no page of another origin may read an answer; only `/v1/…` is
//! opened, never metrics or health; cookies are never asked for, since a key or a token comes in a
//! header. What a browser forbids a page is no protection against other programs.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, header, request};
use serde::{Deserialize, Serialize};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::units::Span;
use crate::who::gate::SCHOOL;
use crate::who::grant::check_origin;

/// Any origin.
const ANY: &str = "*";

/// Which pages may send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CorsOptions {
    /// Origins such as `https://app.example`, or `*` for any.
    pub origins: Vec<String>,
    /// How long browsers may remember the answer to a preflight request.
    pub max_age: Span,
}

impl Default for CorsOptions {
    fn default() -> Self {
        Self { origins: Vec::new(), max_age: Span::secs(600) }
    }
}

impl CorsOptions {
    /// Whether each origin is written as browsers send it.
    pub fn check(&self) -> Result<(), String> {
        self.origins
            .iter()
            .filter(|origin| *origin != ANY)
            .try_for_each(|origin| check_origin(origin))
    }
}

/// The layer that answers browsers, where pages may send at all.
pub fn cors_layer(options: &CorsOptions) -> Option<CorsLayer> {
    if options.origins.is_empty() {
        return None;
    }
    let origins = options.origins.clone();
    let allowed = move |origin: &HeaderValue, request: &request::Parts| {
        request.uri.path().starts_with("/v1/")
            && origins.iter().any(|known| known == ANY || known.as_bytes() == origin.as_bytes())
    };
    let asked = [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        SCHOOL,
        HeaderName::from_static("traceparent"),
        HeaderName::from_static("tracestate"),
    ];
    Some(
        CorsLayer::new()
            .allow_origin(AllowOrigin::predicate(allowed))
            .allow_methods([Method::GET, Method::POST])
            .allow_headers(asked)
            .expose_headers([header::RETRY_AFTER])
            .max_age(Duration::from_secs(options.max_age.get().as_secs())),
    )
}
