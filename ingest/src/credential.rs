//! The credential of a request: which key came with it, and may it write.
//!
//! In: the `Authorization` header. Out: a [`Credential`], or a problem that says what to send.
//! Always true: no problem and no log line holds any part of a key beyond its id.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};

use crate::keys::{AuthError, Credential, KeyStore};
use crate::problem::{Problem, ProblemKind};

const HOW: &str = "send `Authorization: Bearer <write key>`; `chalkstream keys create --school <school>` makes a key";

/// The credential, if it may send events.
pub(crate) fn writer(keys: &KeyStore, headers: &HeaderMap) -> Result<Arc<Credential>, Problem> {
    let key = presented(headers)?;
    let credential = keys.authenticate(&key).map_err(|error| match error {
        AuthError::Unknown => Problem::new(
            ProblemKind::UnknownKey,
            format!("the write key is not known here: check that it is complete and belongs to this server, or {HOW}"),
        ),
        AuthError::Revoked { .. } => Problem::new(
            ProblemKind::RevokedKey,
            format!("{error}; `chalkstream keys create --school <school>` makes another"),
        ),
    })?;
    if credential.may_write() {
        Ok(credential)
    } else {
        let detail = format!(
            "the key {} lacks the scope `events:write`; `chalkstream keys create --school {} --scope events:write` makes one that has it",
            credential.key_id, credential.school_id
        );
        Err(Problem::new(ProblemKind::MissingScope, detail))
    }
}

fn presented(headers: &HeaderMap) -> Result<String, Problem> {
    let missing =
        |what: &str| Problem::new(ProblemKind::MissingCredential, format!("{what}: {HOW}"));
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or_else(|| missing("no `Authorization` header"))?;
    if values.next().is_some() {
        return Err(missing("more than one `Authorization` header"));
    }
    let text = value.to_str().map_err(|_binary| missing("`Authorization` is not plain text"))?;
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let rest = rest.trim();
    let key = if scheme.eq_ignore_ascii_case("bearer") {
        rest.to_owned()
    } else if scheme.eq_ignore_ascii_case("basic") {
        let decoded = STANDARD
            .decode(rest)
            .map_err(|_not_base64| missing("`Authorization: Basic` is not base64"))?;
        let pair = String::from_utf8(decoded)
            .map_err(|_not_utf8| missing("`Authorization: Basic` is not UTF-8"))?;
        pair.split_once(':').map_or(pair.as_str(), |(user, _password)| user).to_owned()
    } else {
        return Err(missing("the scheme of `Authorization` is neither Bearer nor Basic"));
    };
    if key.is_empty() { Err(missing("the write key is empty")) } else { Ok(key) }
}
