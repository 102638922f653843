//! The credential of a request: who asks, by a key or a token, and may they write.
//!
//! In: a request's headers, or the key in a beacon's query. Out: a [`Credential`] for one school, or
//! a problem that says what to send.
//! Always true: no problem and no log line holds any part of a token, or of a key beyond its id; a key that stood in
//! a URL is taken only if anybody may know it; a credential for several schools gets the one that the
//! request names; a request is counted against its credential's limits before its body is read.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, header};

use crate::clock::Clock;
use crate::live::Built;
use crate::problem::{Problem, ProblemKind, printable};
use crate::who::credential::{AuthError, Credential};
use crate::who::keys::KeyStore;
use crate::who::limits::Limits;
use crate::who::limits::options::LimitsOptions;
use crate::who::token::Tokens;
use crate::who::token::error::TokenError;

/// Names the school of a request whose credential is for several.
pub(crate) const SCHOOL: HeaderName = HeaderName::from_static("chalkstream-school");

const HOW: &str = "send `Authorization: Bearer <write key or token>`; `chalkstream keys create --school <school>` makes a key";

/// Tells who asks. Clones share the keys.
#[derive(Clone, Debug)]
pub struct Gate {
    /// The keys that are known.
    pub keys: KeyStore,
    /// Tells what has expired.
    pub clock: Arc<dyn Clock>,
    /// Whose tokens are taken.
    pub tokens: Arc<Tokens>,
    /// What each credential has used.
    pub limits: Arc<Limits>,
    /// What each credential may use, as the options are now.
    pub limits_options: Arc<Built<LimitsOptions>>,
}

impl Gate {
    /// The credential in `Authorization`, if it may send events.
    pub async fn writer(&self, headers: &HeaderMap) -> Result<Arc<Credential>, Problem> {
        let presented = presented(headers)?;
        let credential = match Tokens::is_token(&presented) {
            true => self.token(&presented).await?,
            false => self.key(&presented)?,
        };
        self.let_in(credential, headers)
    }

    /// The credential of a key that stood in the query, as browsers' beacons have it.
    pub fn beacon(&self, key: &str, headers: &HeaderMap) -> Result<Arc<Credential>, Problem> {
        let credential = self.key(key)?;
        if credential.publishable {
            return self.let_in(credential, headers);
        }
        let detail = format!(
            "the key {} is secret, but was sent in the query, which proxies and browsers keep: revoke it (`chalkstream keys revoke {0}`), and use a publishable key there (`chalkstream keys create --school {} --publishable`)",
            credential.key_id, credential.school_id
        );
        Err(Problem::new(ProblemKind::SecretInQuery, detail))
    }

    /// Follows the changes of keys, and those of the keys of tokens.
    pub fn follow(&self, keys_every: Duration) {
        self.keys.follow(keys_every);
        self.tokens.follow();
    }

    async fn token(&self, token: &str) -> Result<Arc<Credential>, Problem> {
        self.tokens.verify(token, self.clock.now()).await.map_err(|error| {
            let kind = match error {
                TokenError::KeysUnavailable => ProblemKind::TokenKeysUnavailable,
                TokenError::NotConfigured
                | TokenError::Malformed
                | TokenError::TooLong
                | TokenError::UnknownIssuer
                | TokenError::Algorithm { .. }
                | TokenError::Critical
                | TokenError::UnknownKey
                | TokenError::Signature
                | TokenError::Expired { .. }
                | TokenError::TooOld { .. }
                | TokenError::NotYet { .. }
                | TokenError::Audience { .. }
                | TokenError::Claim { .. } => ProblemKind::InvalidToken,
            };
            Problem::new(kind, error.to_string())
        })
    }

    /// Counts the request: whoever has a credential is within its limits.
    fn let_in(
        &self,
        credential: Arc<Credential>,
        headers: &HeaderMap,
    ) -> Result<Arc<Credential>, Problem> {
        let credential = admit(credential, headers)?;
        self.limits.admit_request(&self.limits_options.get(), &credential)?;
        Ok(credential)
    }

    fn key(&self, key: &str) -> Result<Arc<Credential>, Problem> {
        let again = "`chalkstream keys create --school <school>` makes another";
        self.keys.authenticate(key, self.clock.now()).map_err(|error| match error {
            AuthError::Unknown => Problem::new(
                ProblemKind::UnknownKey,
                format!("the write key is not known here: check that it is complete and belongs to this server, or {HOW}"),
            ),
            AuthError::Expired { .. } => {
                Problem::new(ProblemKind::ExpiredKey, format!("{error}; {again}"))
            }
            AuthError::Revoked { .. } => {
                Problem::new(ProblemKind::RevokedKey, format!("{error}; {again}"))
            }
        })
    }
}

/// Checks what the request asks of its credential.
fn admit(credential: Arc<Credential>, headers: &HeaderMap) -> Result<Arc<Credential>, Problem> {
    if !credential.may_write() {
        let Credential { key_id, school_id, .. } = &*credential;
        let detail = match key_id.starts_with("jwt:") {
            true => format!(
                "the token ({key_id}) lacks a scope: its issuer must give it `events:write`, `events:backfill` or `events:learner`"
            ),
            false => format!(
                "the key {key_id} lacks the scope `events:write`; `chalkstream keys create --school {school_id} --scope events:write` makes one that has it"
            ),
        };
        return Err(Problem::new(ProblemKind::MissingScope, detail));
    }
    check_origin(&credential, headers)?;
    choose_school(credential, headers)
}

/// A browser says which page sends. Other programs do not, or may say anything.
fn check_origin(credential: &Credential, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let known = |allowed: &String| allowed.as_bytes() == origin.as_bytes();
    if credential.origins.is_empty() || credential.origins.iter().any(known) {
        return Ok(());
    }
    let origin = printable(&String::from_utf8_lossy(origin.as_bytes()));
    let detail = format!(
        "the key {} is not for pages of `{origin}`; make one that is: `chalkstream keys create --school {} --publishable --origin <origin>`",
        credential.key_id, credential.school_id
    );
    Err(Problem::new(ProblemKind::OriginNotAllowed, detail))
}

fn choose_school(
    credential: Arc<Credential>,
    headers: &HeaderMap,
) -> Result<Arc<Credential>, Problem> {
    let mut values = headers.get_all(SCHOOL).iter();
    let named = match (values.next(), values.next()) {
        (None, _) => None,
        (Some(one), None) => Some(one),
        (Some(_), Some(_)) => {
            let detail = "more than one `Chalkstream-School` header; a request is for one school";
            return Err(Problem::new(ProblemKind::SchoolMissing, detail));
        }
    };
    let Some(named) = named else {
        if credential.also_schools.is_empty() {
            return Ok(credential);
        }
        let detail = format!(
            "{} serves several schools, so every request names its own: send the header `Chalkstream-School` with one of {}",
            credential.key_id,
            schools(&credential)
        );
        return Err(Problem::new(ProblemKind::SchoolMissing, detail));
    };
    if credential.school_id.as_str().as_bytes() == named.as_bytes() {
        return Ok(credential);
    }
    let known =
        |school: &&_| chalkstream_schemas::SchoolId::as_str(school).as_bytes() == named.as_bytes();
    if let Some(school) = credential.also_schools.iter().find(known) {
        let school_id = school.clone();
        return Ok(Arc::new(Credential { school_id, ..Credential::clone(&credential) }));
    }
    let detail = format!(
        "{} may not send events of the school `{}` that `Chalkstream-School` names; it may for {}",
        credential.key_id,
        printable(&String::from_utf8_lossy(named.as_bytes())),
        schools(&credential)
    );
    Err(Problem::new(ProblemKind::SchoolNotAllowed, detail))
}

/// The schools of a credential, for whoever holds it.
fn schools(credential: &Credential) -> String {
    const NAMED: usize = 10;
    let mut names =
        credential.schools().take(NAMED).map(|school| format!("`{school}`")).collect::<Vec<_>>();
    let more = credential.schools().count() - names.len();
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names.join(", ")
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
