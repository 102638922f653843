//! What is wrong with a token.

use chalkstream_schemas::Timestamp;

/// Longer than any token that a browser would send along.
pub(super) const TOKEN_MAX_BYTES: usize = 16 << 10;

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
    #[error(
        "the token was issued at {at}, and tokens live {hours} hours here at most (`ingest.max_token_age`); get a new one"
    )]
    TooOld { at: Timestamp, hours: u64 },
    #[error("the token is not valid before {at}; is the clock of its issuer right?")]
    NotYet { at: Timestamp },
    #[error("the token is for somebody else: its `aud` must hold {expected}")]
    Audience { expected: String },
    #[error("the token's claim `{claim}` {fault}")]
    Claim { claim: String, fault: &'static str },
    #[error("the keys of the token's issuer could not be had; send the request again later")]
    KeysUnavailable,
}
