//! Tokens (JWT): who asks, told by somebody whom the operator trusts.
//!
//! In: a token that a client presents, and `[[ingest.jwt]]`. Out: a [`Credential`], or what is wrong
//! with the token.
//! Always true: nothing in a token is believed before its signature was checked, but which issuer's
//! keys to check it with; a key is used with the one algorithm that it is for, which the issuer must
//! have allowed, so that neither `none` nor a public key taken for a secret can pass; no message holds
//! any part of a token.
//! Not here: write keys (`keys`), HTTP (`credential`).

use std::sync::Arc;
use std::time::Duration;

use chalkstream_schemas::Timestamp;
use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::keys::Credential;

mod claims;
mod keyring;
mod options;
#[cfg(test)]
mod tests;

pub(crate) use keyring::Refreshed;
use keyring::{Keyring, VerifyKey};
pub(crate) use options::check;
pub use options::{JwtAlgorithm, JwtError, JwtOptions};

/// Longer than any token that a browser would send along.
const TOKEN_MAX_BYTES: usize = 16 << 10;
/// Keys that are tried for one token.
const TRIED: usize = 8;

/// Everybody whose tokens are taken.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    issuers: Vec<Issuer>,
}

#[derive(Debug)]
struct Issuer {
    options: JwtOptions,
    keyring: Arc<Keyring>,
}

/// What is wrong with a token. It says what the server expects; it repeats nothing but times.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("tokens (JWT) are not taken here; send a write key, or configure `[[ingest.jwt]]`")]
    NotConfigured,
    #[error(
        "the token is no JWT: it must have three parts of base64url, of which the first two are JSON objects"
    )]
    Malformed,
    #[error("the token is longer than {TOKEN_MAX_BYTES} bytes")]
    TooLong,
    #[error("the token has no `iss`, or one that is not known here")]
    UnknownIssuer,
    #[error("the token's `alg` is not one that its issuer signs with; here that is {allowed}")]
    Algorithm { allowed: String },
    #[error("the token's header has `crit`, which asks for something that is not supported")]
    Critical,
    #[error("the token's key (`kid`) is not one of its issuer's keys")]
    UnknownKey,
    #[error("the signature of the token does not fit its content and its issuer's keys")]
    Signature,
    #[error("the token expired at {at}; get a new one")]
    Expired { at: Timestamp },
    #[error("the token is not valid before {at}; is the clock of its issuer right?")]
    NotYet { at: Timestamp },
    #[error("the token is for somebody else: its `aud` must hold {expected}")]
    Audience { expected: String },
    #[error("the token's claim `{claim}` {fault}")]
    Claim { claim: String, fault: &'static str },
    #[error("the keys of the token's issuer could not be had; send the request again later")]
    KeysUnavailable,
}

impl Tokens {
    /// Reads the keys that are in files. Those at a URL are fetched once it runs.
    pub(crate) fn new(options: &[JwtOptions]) -> Result<Self, JwtError> {
        let issuer = |options: &JwtOptions| {
            let keyring = Arc::new(Keyring::new(options)?);
            Ok(Issuer { options: options.clone(), keyring })
        };
        Ok(Self { issuers: options.iter().map(issuer).collect::<Result<_, _>>()? })
    }

    /// Fetches keys now and again, from tasks that end with this.
    pub(crate) fn follow(&self) {
        for issuer in &self.issuers {
            keyring::follow(&issuer.keyring);
        }
    }

    /// Whether a credential has the shape of a token. No write key has.
    pub(crate) fn is_token(text: &str) -> bool {
        text.bytes().filter(|byte| *byte == b'.').count() == 2
    }

    /// What the token stands for at `now`.
    pub(crate) async fn verify(
        &self,
        token: &str,
        now: Timestamp,
    ) -> Result<Arc<Credential>, TokenError> {
        if self.issuers.is_empty() {
            return Err(TokenError::NotConfigured);
        }
        if token.len() > TOKEN_MAX_BYTES {
            return Err(TokenError::TooLong);
        }
        let issuer = self.issuer(token)?;
        let (kid, algorithm) = issuer.header(token)?;
        let keys = issuer.keyring.find(kid.as_deref(), algorithm).await?;
        let claims = verified(token, algorithm, &keys)?;
        claims::credential(&claims, &issuer.options, now).map(Arc::new)
    }

    /// Whose keys to check the token with. This much is read before it is believed.
    fn issuer(&self, token: &str) -> Result<&Issuer, TokenError> {
        #[derive(Deserialize)]
        struct Unverified {
            iss: Option<Value>,
        }
        let read = jsonwebtoken::dangerous::insecure_decode_claims::<Unverified>(token);
        let Unverified { iss } = read.map_err(|_unreadable| TokenError::Malformed)?;
        let named = iss.as_ref().and_then(Value::as_str).ok_or(TokenError::UnknownIssuer)?;
        let mut issuers = self.issuers.iter();
        issuers.find(|issuer| issuer.options.issuer == named).ok_or(TokenError::UnknownIssuer)
    }

    /// How fetching keys went, by issuer.
    pub(crate) fn refreshed(&self) -> impl Iterator<Item = (&str, Refreshed)> {
        self.issuers.iter().map(|issuer| (issuer.options.name.as_str(), issuer.keyring.refreshed()))
    }
}

impl Issuer {
    fn header(&self, token: &str) -> Result<(Option<String>, Algorithm), TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| match error.kind() {
            // What `alg` says is not even the name of an algorithm that is known.
            ErrorKind::Json(_) if readable(token) => self.wrong_algorithm(),
            _ => TokenError::Malformed,
        })?;
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        let allowed = self.options.algorithms.iter().any(|allowed| allowed.get() == header.alg);
        if allowed { Ok((header.kid, header.alg)) } else { Err(self.wrong_algorithm()) }
    }

    fn wrong_algorithm(&self) -> TokenError {
        let names = self.options.algorithms.iter().map(|allowed| allowed.as_str());
        TokenError::Algorithm { allowed: names.collect::<Vec<_>>().join(", ") }
    }
}

/// Whether the header is a JSON object, whatever it says.
fn readable(token: &str) -> bool {
    use base64::Engine as _;
    let header = token.split('.').next().unwrap_or_default();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header);
    bytes.is_ok_and(|bytes| serde_json::from_slice::<Map<String, Value>>(&bytes).is_ok())
}

/// The claims, if one of the keys has signed them.
fn verified(
    token: &str,
    algorithm: Algorithm,
    keys: &[VerifyKey],
) -> Result<Map<String, Value>, TokenError> {
    // The signature alone; what the claims must say is checked where it can be said.
    let mut signature_alone = Validation::new(algorithm);
    signature_alone.required_spec_claims.clear();
    signature_alone.validate_exp = false;
    signature_alone.validate_aud = false;
    for key in keys.iter().take(TRIED) {
        match jsonwebtoken::decode(token, &key.key, &signature_alone) {
            Ok(data) => return Ok(data.claims),
            Err(error) => match error.kind() {
                ErrorKind::Json(_) | ErrorKind::Base64(_) | ErrorKind::Utf8(_) => {
                    return Err(TokenError::Malformed);
                }
                // Another key of the issuer may have signed it.
                _ => {}
            },
        }
    }
    Err(TokenError::Signature)
}

/// How long a fetch of keys may take.
const FETCH_WITHIN: Duration = Duration::from_secs(5);
