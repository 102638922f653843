//! Whose tokens are taken, and how they are read: `[[ingest.jwt]]`.
//!
//! Always true: an issuer has one source of keys; a secret stands in a file or in the environment,
//! never here; an issuer signs with secrets or with public keys, never with both.

use std::path::PathBuf;

use chalkstream_schemas::SchoolId;
use jsonwebtoken::Algorithm;
use serde::{Deserialize, Serialize};

use crate::units::Span;

/// How tokens may be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256 and a shared secret.
    #[serde(rename = "HS256")]
    Hs256,
    /// RSA with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl JwtAlgorithm {
    /// The name in a token's header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    pub(super) const fn get(self) -> Algorithm {
        match self {
            Self::Hs256 => Algorithm::HS256,
            Self::Rs256 => Algorithm::RS256,
            Self::Es256 => Algorithm::ES256,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }
}

/// One issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtOptions {
    /// A short name that is no secret: its tokens are `jwt:<name>` in logs and tables.
    pub name: String,
    /// What `iss` must be.
    pub issuer: String,
    /// Of these, `aud` must hold one.
    pub audience: Vec<String>,
    /// How its tokens may be signed.
    pub algorithms: Vec<JwtAlgorithm>,
    /// Where its public keys are published, as a JWK set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// A file with a JWK set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<PathBuf>,
    /// A file with public keys in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key_file: Option<PathBuf>,
    /// A file with the shared secret; a newline at its end does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// The variable of the environment that holds the shared secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
    /// How often keys are fetched, or the file is read, again.
    #[serde(default = "refresh")]
    pub refresh: Span,
    /// How far clocks may differ.
    #[serde(default = "leeway")]
    pub leeway: Span,
    /// The schools that its tokens may be for; any where there are none. With one alone, tokens need
    /// not name it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schools: Vec<SchoolId>,
    /// The claim that names the school, or several in an array. `/a/b` is `b` inside `a`.
    #[serde(default = "school_claim")]
    pub school_claim: String,
    /// The claim with the scopes, separated by spaces or in an array. Others than ours are ignored.
    #[serde(default = "scope_claim")]
    pub scope_claim: String,
    /// The claim that names the learner, for `events:learner`.
    #[serde(default = "learner_claim")]
    pub learner_claim: String,
    /// The application that has its tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
}

fn refresh() -> Span {
    Span::secs(600)
}

fn leeway() -> Span {
    Span::secs(60)
}

fn school_claim() -> String {
    "school_id".to_owned()
}

fn scope_claim() -> String {
    "scope".to_owned()
}

fn learner_claim() -> String {
    "sub".to_owned()
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    JwksUrl(url::Url),
    JwksFile(PathBuf),
    PublicKeyFile(PathBuf),
    SecretFile(PathBuf),
    SecretEnv(String),
}

/// An issuer that cannot work as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("[[ingest.jwt]] `{name}`: {message}")]
pub struct JwtError {
    /// Its name.
    pub name: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl JwtOptions {
    pub(super) fn wrong(&self, message: impl Into<String>) -> JwtError {
        JwtError { name: self.name.clone(), message: message.into() }
    }

    /// Where the keys are; checks everything else on the way.
    pub(super) fn source(&self) -> Result<Source, JwtError> {
        let label = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(label) {
            return Err(self.wrong("`name` has 1 to 64 letters, digits, `-`, `_` or `.`"));
        }
        if self.issuer.is_empty() {
            return Err(self.wrong("`issuer` is empty; it is what `iss` in the tokens must be"));
        }
        if self.audience.is_empty() {
            return Err(self.wrong("`audience` is empty: tokens that the issuer made for others would be taken; name what `aud` must hold"));
        }
        let secret = self.algorithms.contains(&JwtAlgorithm::Hs256);
        if self.algorithms.is_empty() {
            return Err(self.wrong("`algorithms` is empty; it takes HS256, RS256, ES256 and EdDSA"));
        }
        if secret && self.algorithms.len() > 1 {
            return Err(self.wrong("HS256 (a shared secret) and public keys do not go together in one issuer; configure two"));
        }
        if self.refresh.get() < std::time::Duration::from_secs(1) {
            return Err(self.wrong("`refresh` must be a second at least"));
        }
        let jwks_url = self.jwks_url.as_deref().map(|url| self.parse_url(url)).transpose()?;
        let mut sources = [
            jwks_url.map(Source::JwksUrl),
            self.jwks_file.clone().map(Source::JwksFile),
            self.public_key_file.clone().map(Source::PublicKeyFile),
            self.secret_file.clone().map(Source::SecretFile),
            self.secret_env.clone().map(Source::SecretEnv),
        ]
        .into_iter()
        .flatten();
        let (Some(source), None) = (sources.next(), sources.next()) else {
            return Err(self.wrong("exactly one of `jwks_url`, `jwks_file`, `public_key_file`, `secret_file` and `secret_env` must be set"));
        };
        match (&source, secret) {
            (Source::SecretFile(_) | Source::SecretEnv(_), false) => {
                Err(self.wrong("a shared secret goes with `algorithms = [\"HS256\"]` alone"))
            }
            (Source::JwksUrl(_) | Source::PublicKeyFile(_), true) => Err(self.wrong(
                "HS256 needs a shared secret: set `secret_file`, `secret_env` or `jwks_file`",
            )),
            (Source::JwksUrl(_) | Source::PublicKeyFile(_), false)
            | (Source::SecretFile(_) | Source::SecretEnv(_), true)
            | (Source::JwksFile(_), _) => Ok(source),
        }
    }

    /// Whoever can change the keys on their way can write what he likes.
    fn parse_url(&self, text: &str) -> Result<url::Url, JwtError> {
        let url = url::Url::parse(text)
            .map_err(|error| self.wrong(format!("`jwks_url` is no URL: {error}")))?;
        let here = match url.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(self.wrong("`jwks_url` must not hold a password; a JWK set is public"));
        }
        match url.scheme() {
            "https" => Ok(url),
            "http" if here => Ok(url),
            _ => {
                Err(self
                    .wrong("`jwks_url` must begin with https:// (http:// on this machine alone)"))
            }
        }
    }
}

/// Checks each issuer, and what one alone cannot show. Files are read later.
pub fn check_issuers(issuers: &[JwtOptions]) -> Result<(), JwtError> {
    for (place, issuer) in issuers.iter().enumerate() {
        issuer.source()?;
        for other in issuers.iter().take(place) {
            if other.name == issuer.name {
                return Err(issuer.wrong("another one has the same `name`"));
            }
            if other.issuer == issuer.issuer {
                return Err(issuer.wrong("another one has the same `issuer`"));
            }
        }
    }
    Ok(())
}
