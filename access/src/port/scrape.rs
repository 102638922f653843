//! Who may read `/metrics`.
//!
//! Always true: the token is kept as its hash and never shown.

use std::path::PathBuf;

use http::{HeaderMap, header};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::live::SectionError;
use crate::problem::{Problem, ProblemKind};

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
pub enum ScrapeGuard {
    /// Everybody.
    Public,
    /// Whose token has this hash.
    Token([u8; 32]),
    /// Nobody.
    Off,
}

impl std::fmt::Debug for ScrapeGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Public => "Public",
            Self::Token(_) => "Token(***)",
            Self::Off => "Off",
        })
    }
}

impl ScrapeGuard {
    /// From the options, and the file that they name. The error names `section`.
    pub fn of(section: &'static str, options: &MetricsOptions) -> Result<Self, SectionError> {
        let MetricsOptions { access, token_file } = options;
        let wrong = |what: String| SectionError { section, what };
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

    /// Whether a request with these headers may read.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
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
