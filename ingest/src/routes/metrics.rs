//! `/metrics`: for Prometheus, and for whom section `[ingest.metrics]` lets in.
//!
//! Always true: the token is kept as its hash and never shown; what is scraped holds counts and
//! times, and no school, key or user.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::app::App;
use crate::options::{IngestOptions, OptionsError};
use crate::problem::{Problem, ProblemBody, ProblemKind};

/// Who may read `/metrics`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsOptions {
    /// Everybody, who has the token, or nobody.
    pub access: MetricsAccess,
    /// A file that holds the token, for `access = "token"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

/// Who may read `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricsAccess {
    /// Everybody who reaches the port, which by default is this machine alone.
    #[default]
    Public,
    /// Who sends `Authorization: Bearer <token>`.
    Token,
    /// Nobody: the path is not found.
    Off,
}

/// What a scrape is checked against.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Guard {
    Public,
    Token([u8; 32]),
    Off,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Public => "Public",
            Self::Token(_) => "Token(***)",
            Self::Off => "Off",
        })
    }
}

impl Guard {
    /// From the options, and the file that they name.
    pub(crate) fn of(options: &IngestOptions) -> Result<Self, OptionsError> {
        let MetricsOptions { access, token_file } = &options.metrics;
        let wrong = |what: String| OptionsError::Section { section: "ingest.metrics", what };
        match access {
            MetricsAccess::Public => Ok(Self::Public),
            MetricsAccess::Off => Ok(Self::Off),
            MetricsAccess::Token => {
                let Some(path) = token_file else {
                    return Err(wrong(
                        "access = \"token\" needs `token_file`, a file that holds the token"
                            .to_owned(),
                    ));
                };
                let shown = path.display();
                let text = std::fs::read_to_string(path).map_err(|error| {
                    wrong(format!("`token_file`: could not read {shown}: {error}"))
                })?;
                match text.trim() {
                    "" => Err(wrong(format!("`token_file`: {shown} is empty"))),
                    token => Ok(Self::Token(Sha256::digest(token).into())),
                }
            }
        }
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        match self {
            Self::Public => Ok(()),
            Self::Off => {
                let detail = "the metrics are turned off (`ingest.metrics.access`)";
                Err(Problem::new(ProblemKind::NotFound, detail))
            }
            Self::Token(hash) => {
                let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
                let token = sent.and_then(|text| text.split_once(' '));
                let fits = token.is_some_and(|(scheme, token)| {
                    scheme.eq_ignore_ascii_case("bearer")
                        // Hashes are compared: their bytes tell nothing of how near a guess is.
                        && <[u8; 32]>::from(Sha256::digest(token.trim())) == *hash
                });
                if fits {
                    return Ok(());
                }
                let detail = "send `Authorization: Bearer <token>` with the token of `ingest.metrics.token_file`";
                Err(Problem::new(ProblemKind::MetricsToken, detail))
            }
        }
    }
}

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
