//! From the claims of a token to what it may do. Pure: the time is an argument.

use std::time::Duration;

use chalkstream_schemas::{SchoolId, Timestamp, UserId};
use serde_json::{Map, Value};

use super::error::TokenError;
use super::options::JwtOptions;
use crate::who::credential::Credential;
use crate::who::grant::Scope;

type Claims = Map<String, Value>;

/// What the claims allow at `now`. The signature has been checked.
pub(super) fn credential(
    claims: &Claims,
    options: &JwtOptions,
    max_age: Duration,
    now: Timestamp,
) -> Result<Credential, TokenError> {
    check_times(claims, options, now)?;
    check_age(claims, options, max_age, now)?;
    check_audience(claims, options)?;
    let scopes = scopes(claims, options)?;
    let learner = match scopes.contains(&Scope::EventsLearner) {
        true => Some(learner(claims, options)?),
        false => None,
    };
    let (school_id, also_schools) = schools(claims, options)?;
    Ok(Credential {
        also_schools: also_schools.into(),
        learner,
        app: options.app.as_deref().map(Into::into),
        ..Credential::new(format!("jwt:{}", options.name), school_id, scopes)
    })
}

/// A claim by its name, or by its path if that begins with `/`.
fn find<'c>(claims: &'c Claims, name: &str) -> Option<&'c Value> {
    let value = match name.strip_prefix('/') {
        None => claims.get(name),
        Some(path) => {
            let mut names = path.split('/');
            let first = names.next().and_then(|name| claims.get(name));
            names.fold(first, |value, name| value?.get(name))
        }
    };
    value.filter(|value| !value.is_null())
}

fn wrong(claim: &str, fault: &'static str) -> TokenError {
    TokenError::Claim { claim: claim.to_owned(), fault }
}

/// Seconds since 1970, perhaps with a fraction, as `NumericDate` of RFC 7519.
fn time(claims: &Claims, name: &str) -> Result<Option<Timestamp>, TokenError> {
    let Some(value) = find(claims, name) else { return Ok(None) };
    let seconds = value.as_f64().ok_or_else(|| wrong(name, "is not a number of seconds"))?;
    // What is beyond any date is as good as the last one.
    #[expect(clippy::cast_possible_truncation, reason = "a float that is too large saturates")]
    let ms = (seconds * 1000.0) as i64;
    let otherwise = if ms < 0 { Timestamp::from_ms(0) } else { Timestamp::MAX };
    Ok(Some(Timestamp::try_from_ms(ms).unwrap_or(otherwise)))
}

fn check_times(claims: &Claims, options: &JwtOptions, now: Timestamp) -> Result<(), TokenError> {
    let leeway = options.leeway.get();
    let at = time(claims, "exp")?.ok_or_else(|| wrong("exp", "is missing; a token must expire"))?;
    if at.plus(leeway) <= now {
        return Err(TokenError::Expired { at });
    }
    match time(claims, "nbf")? {
        Some(at) if at > now.plus(leeway) => Err(TokenError::NotYet { at }),
        Some(_) | None => Ok(()),
    }
}

/// A token that was stolen is of use no longer than `max_age`, whatever its issuer wrote into it.
fn check_age(
    claims: &Claims,
    options: &JwtOptions,
    max_age: Duration,
    now: Timestamp,
) -> Result<(), TokenError> {
    if max_age.is_zero() {
        return Ok(());
    }
    let leeway = options.leeway.get();
    match (time(claims, "iat")?, time(claims, "exp")?) {
        (Some(at), _) if at > now.plus(leeway) => Err(TokenError::NotYet { at }),
        (Some(at), _) if at.plus(max_age).plus(leeway) <= now => {
            Err(TokenError::TooOld { at, hours: max_age.as_secs().div_ceil(3_600) })
        }
        (None, Some(end)) if end > now.plus(max_age).plus(leeway) => Err(wrong(
            "iat",
            "is missing, and its `exp` is further away than tokens may live here (`ingest.max_token_age`)",
        )),
        _ => Ok(()),
    }
}

/// One text, or an array of them.
fn texts(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(text) => Some(vec![text]),
        Value::Array(values) => values.iter().map(Value::as_str).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

fn check_audience(claims: &Claims, options: &JwtOptions) -> Result<(), TokenError> {
    let named = find(claims, "aud").and_then(texts).unwrap_or_default();
    if named.iter().any(|name| options.audience.iter().any(|ours| ours == name)) {
        return Ok(());
    }
    let names = options.audience.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
    Err(TokenError::Audience { expected: names.join(" or ") })
}

/// The scopes that are ours; a token may have others, for other services.
fn scopes(claims: &Claims, options: &JwtOptions) -> Result<Vec<Scope>, TokenError> {
    let name = &options.scope_claim;
    let Some(value) = find(claims, name) else { return Ok(Vec::new()) };
    let texts = texts(value)
        .ok_or_else(|| wrong(name, "is neither a text of scopes nor an array of them"))?;
    let words = texts.iter().flat_map(|text| text.split_ascii_whitespace());
    let mut scopes = words.filter_map(|word| word.parse().ok()).collect::<Vec<Scope>>();
    scopes.sort_unstable();
    scopes.dedup();
    Ok(scopes)
}

fn learner(claims: &Claims, options: &JwtOptions) -> Result<UserId, TokenError> {
    let name = &options.learner_claim;
    let value = find(claims, name).ok_or_else(|| {
        wrong(name, "is missing; a token with `events:learner` names its learner")
    })?;
    let text = value.as_str().ok_or_else(|| wrong(name, "is not a text"))?;
    UserId::parse(text)
        .map_err(|_rule| wrong(name, "is no user id: 1 to 128 bytes without control characters"))
}

fn schools(claims: &Claims, options: &JwtOptions) -> Result<(SchoolId, Vec<SchoolId>), TokenError> {
    let name = &options.school_claim;
    let Some(value) = find(claims, name) else {
        return match options.schools.as_slice() {
            [only] => Ok((only.clone(), Vec::new())),
            _ => Err(wrong(name, "is missing; it names the school")),
        };
    };
    let names =
        texts(value).ok_or_else(|| wrong(name, "is neither a text nor an array of texts"))?;
    let mut schools = Vec::with_capacity(names.len());
    for text in names {
        let school = SchoolId::parse(text).map_err(|_rule| {
            wrong(name, "is no school's id: 1 to 128 bytes without control characters")
        })?;
        if !options.schools.is_empty() && !options.schools.contains(&school) {
            return Err(wrong(name, "names a school that this issuer does not speak for here"));
        }
        if !schools.contains(&school) {
            schools.push(school);
        }
    }
    let mut schools = schools.into_iter();
    let first = schools.next().ok_or_else(|| wrong(name, "names no school"))?;
    Ok((first, schools.collect()))
}
