//! Tokens (JWT): who asks, told by somebody whom the operator trusts.
//!
//! In: a token that a client presents, and `[[ingest.jwt]]`. Out: a [`Credential`], or what is wrong
//! with the token.
//! Always true: nothing in a token is believed before its signature was checked, but which issuer's
//! keys to check it with; a key is used with the one algorithm that it is for, which the issuer must
//! have allowed, so that neither `none` nor a public key taken for a secret can pass; no message holds
//! any part of a token.
//! Not here: write keys (`keys`), HTTP (`gate`).

use std::sync::Arc;
use std::time::Duration;

use chalkstream_schemas::Timestamp;
use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::who::credential::Credential;

mod claims;
pub(crate) mod error;
pub(crate) mod keyring;
pub(crate) mod options;
#[cfg(test)]
mod tests;

use error::{TOKEN_MAX_BYTES, TokenError};
use keyring::{Keyring, Refreshed, VerifyKey};
use options::{JwtError, JwtOptions};

/// Keys that are tried for one token.
const TRIED: usize = 8;

/// Everybody whose tokens are taken.
#[derive(Debug, Default)]
pub struct Tokens {
    issuers: Vec<Issuer>,
    /// The longest life of a token; zero is any.
    max_age: Duration,
}

#[derive(Debug)]
struct Issuer {
    options: JwtOptions,
    keyring: Arc<Keyring>,
}

impl Tokens {
    /// Reads the keys that are in files. Those at a URL are fetched once it runs.
    pub fn new(options: &[JwtOptions]) -> Result<Self, JwtError> {
        let issuer = |options: &JwtOptions| {
            let keyring = Arc::new(Keyring::new(options)?);
            Ok(Issuer { options: options.clone(), keyring })
        };
        let issuers = options.iter().map(issuer).collect::<Result<_, _>>()?;
        Ok(Self { issuers, max_age: Duration::ZERO })
    }

    /// Takes no token that lives longer than `max_age`; zero is any.
    #[must_use]
    pub fn with_max_age(self, max_age: Duration) -> Self {
        Self { max_age, ..self }
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
        claims::credential(&claims, &issuer.options, self.max_age, now).map(Arc::new)
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
    pub fn refreshed(&self) -> impl Iterator<Item = (&str, Refreshed)> {
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
