//! A key as it is stored: its hash, and what is known about it.
//!
//! Always true: an unknown field or scope is an error, never ignored; what an older version wrote is
//! read, since every field that came later may be absent.

use chalkstream_schemas::{SchoolId, Timestamp, UserId};
use serde::{Deserialize, Serialize};

use super::known::Hash;
use crate::units::Span;
use crate::who::grant::{Grant, KeyInfo, Rotated, Scope};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredKey {
    pub(super) key_id: String,
    sha256: String,
    school_id: SchoolId,
    scopes: Vec<Scope>,
    created_at: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    also_schools: Vec<SchoolId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    publishable: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    origins: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    learner: Option<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_age: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_future: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotated_until: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    successor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked_at: Option<String>,
}

impl StoredKey {
    pub(super) fn of(info: &KeyInfo, hash: &Hash) -> Self {
        let grant = info.grant.clone();
        let rotated = info.rotated.as_ref();
        Self {
            key_id: info.key_id.clone(),
            sha256: hex::encode(hash),
            school_id: grant.school_id,
            scopes: grant.scopes,
            created_at: info.created_at.to_string(),
            also_schools: grant.also_schools,
            app: grant.app,
            publishable: grant.publishable,
            origins: grant.origins,
            learner: grant.learner,
            max_age: grant.max_age,
            max_future: grant.max_future,
            expires_at: info.expires_at.map(|time| time.to_string()),
            rotated_until: rotated.map(|rotated| rotated.until.to_string()),
            successor: rotated.map(|rotated| rotated.successor.clone()),
            revoked_at: info.revoked_at.map(|time| time.to_string()),
        }
    }

    /// The error says what is wrong with this key.
    pub(super) fn parse(self) -> Result<(KeyInfo, Hash), String> {
        let mut hash = [0; 32];
        hex::decode_to_slice(&self.sha256, &mut hash)
            .map_err(|error| format!("sha256 is not 64 hexadecimal digits: {error}"))?;
        let rotated = match (time("rotated_until", self.rotated_until)?, self.successor) {
            (Some(until), Some(successor)) => Some(Rotated { until, successor }),
            (None, None) => None,
            _ => return Err("rotated_until and successor need each other".to_owned()),
        };
        let mut grant = Grant {
            school_id: self.school_id,
            scopes: self.scopes,
            also_schools: self.also_schools,
            app: self.app,
            publishable: self.publishable,
            origins: self.origins,
            learner: self.learner,
            max_age: self.max_age,
            max_future: self.max_future,
        };
        grant.tidy();
        grant.check()?;
        let info = KeyInfo {
            key_id: self.key_id,
            grant,
            created_at: parse_time("created_at", &self.created_at)?,
            expires_at: time("expires_at", self.expires_at)?,
            rotated,
            revoked_at: time("revoked_at", self.revoked_at)?,
        };
        Ok((info, hash))
    }
}

fn time(name: &str, text: Option<String>) -> Result<Option<Timestamp>, String> {
    text.map(|text| parse_time(name, &text)).transpose()
}

pub(super) fn parse_time(name: &str, text: &str) -> Result<Timestamp, String> {
    Timestamp::parse_rfc3339(text).map_err(|error| format!("{name}: {error}"))
}
