//! What a key allows, and what is known about it.
//!
//! In: what an administrator asks for, or a stored key. Out: a [`Grant`] that [`Grant::check`] found
//! without contradiction.
//! Always true: a publishable key writes and does nothing else; a key that is bound to a learner has
//! `events:learner`, and no other key has.
//! Not here: how keys are stored, and who presents one.

use std::fmt;

use chalkstream_schemas::{SchoolId, Timestamp, UserId};
use serde::{Deserialize, Serialize};

use crate::units::Span;
use crate::who::keys::error::KeyError;

/// What a credential allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Send events.
    #[serde(rename = "events:write")]
    EventsWrite,
    /// Send events of any age; implies `events:write`.
    #[serde(rename = "events:backfill")]
    EventsBackfill,
    /// Send events of one learner, whom the credential names. It narrows the other scopes.
    #[serde(rename = "events:learner")]
    EventsLearner,
}

impl Scope {
    /// Every scope.
    pub const ALL: &[Self] = &[Self::EventsWrite, Self::EventsBackfill, Self::EventsLearner];

    /// The public name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EventsWrite => "events:write",
            Self::EventsBackfill => "events:backfill",
            Self::EventsLearner => "events:learner",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|scope| scope.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.iter().map(|scope| scope.as_str()).collect::<Vec<_>>();
            format!("there is no scope `{text}`; the scopes are {}", known.join(", "))
        })
    }
}

/// The rights of a key. A key that is rotated hands them to its successor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The school whose events the key may send.
    pub school_id: SchoolId,
    /// What it allows, sorted.
    pub scopes: Vec<Scope>,
    /// More schools, for a vendor that serves several: each request then names its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_schools: Vec<SchoolId>,
    /// The application that has the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Whether it may stand in a page that anybody can read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub publishable: bool,
    /// The web origins that a publishable key is for; any where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    /// The only learner whose events it may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learner: Option<UserId>,
    /// Instead of `ingest.max_age`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
    /// Instead of `ingest.max_future`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_future: Option<Span>,
}

impl Grant {
    /// Rights in one school, and nothing special.
    pub fn new(school_id: SchoolId, scopes: &[Scope]) -> Self {
        let mut grant = Self {
            school_id,
            scopes: scopes.to_vec(),
            also_schools: Vec::new(),
            app: None,
            publishable: false,
            origins: Vec::new(),
            learner: None,
            max_age: None,
            max_future: None,
        };
        grant.tidy();
        grant
    }

    /// Puts lists in order, each entry once.
    pub(super) fn tidy(&mut self) {
        self.scopes.sort_unstable();
        self.scopes.dedup();
        self.also_schools.retain(|school| *school != self.school_id);
        self.also_schools.sort_unstable();
        self.also_schools.dedup();
    }

    /// Whether the parts go together; the error says which do not, and what to do.
    pub fn check(&self) -> Result<(), String> {
        let learner_scope = self.scopes.contains(&Scope::EventsLearner);
        match (&self.learner, learner_scope) {
            (None, true) => return Err("a key with `events:learner` must name its learner; tokens (JWT) name theirs themselves".to_owned()),
            (Some(_), false) => return Err("a key that is bound to a learner needs the scope `events:learner`".to_owned()),
            (Some(_), true) | (None, false) => {}
        }
        if self.publishable {
            if self.scopes != [Scope::EventsWrite] {
                return Err("a publishable key can be read by anybody, so it may have the scope `events:write` alone".to_owned());
            }
            if !self.also_schools.is_empty() {
                return Err(
                    "a publishable key can be read by anybody, so it may serve one school alone"
                        .to_owned(),
                );
            }
        } else if !self.origins.is_empty() {
            return Err("only publishable keys have origins: a browser's `Origin` protects nothing where the key is secret".to_owned());
        }
        for origin in &self.origins {
            check_origin(origin)?;
        }
        if self.max_age.is_some() && self.scopes.contains(&Scope::EventsBackfill) {
            return Err("a key with `events:backfill` takes events of any age, so it cannot have a `max_age`".to_owned());
        }
        if let Some(app) = &self.app
            && (app.is_empty() || app.len() > 128 || app.chars().any(char::is_control))
        {
            return Err("an app's name has 1 to 128 bytes and no control characters".to_owned());
        }
        Ok(())
    }
}

/// An origin as browsers send it: scheme, host and perhaps a port.
pub(crate) fn check_origin(origin: &str) -> Result<(), String> {
    let parsed = url::Url::parse(origin).ok().map(|url| url.origin());
    match parsed {
        Some(known) if known.is_tuple() && known.ascii_serialization() == origin => Ok(()),
        Some(known) if known.is_tuple() => Err(format!(
            "`{origin}` is not how browsers send an origin; write `{}`",
            known.ascii_serialization()
        )),
        _ => Err(format!("`{origin}` is no web origin; write it like https://app.example")),
    }
}

/// What is known about a key; never the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// The first characters of the key, which name it in lists, logs and tables.
    pub key_id: String,
    /// What it allows.
    pub grant: Grant,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is not valid any more, if it was made so.
    pub expires_at: Option<Timestamp>,
    /// What takes its place, once it was rotated.
    pub rotated: Option<Rotated>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

/// A key's successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// Until when the old key is valid beside the new one.
    pub until: Timestamp,
    /// The new key's name.
    pub successor: String,
}

/// Where a key is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Valid.
    Active,
    /// Valid still; its successor is, too.
    Rotating {
        /// When the overlap ends.
        until: Timestamp,
    },
    /// No longer valid, since its time was over.
    Expired {
        /// Since when.
        at: Timestamp,
    },
    /// No longer valid, since somebody decided so.
    Revoked {
        /// Since when.
        at: Timestamp,
    },
}

impl KeyState {
    /// The public name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Rotating { .. } => "rotating",
            Self::Expired { .. } => "expired",
            Self::Revoked { .. } => "revoked",
        }
    }

    /// Whether the key may be used.
    pub const fn is_valid(self) -> bool {
        match self {
            Self::Active | Self::Rotating { .. } => true,
            Self::Expired { .. } | Self::Revoked { .. } => false,
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active | Self::Expired { .. } | Self::Revoked { .. } => f.pad(self.name()),
            Self::Rotating { until } => write!(f, "rotating until {until}"),
        }
    }
}

impl KeyInfo {
    /// Where the key is in its life at `now`.
    pub fn state(&self, now: Timestamp) -> KeyState {
        if let Some(at) = self.revoked_at {
            return KeyState::Revoked { at };
        }
        let until = self.rotated.as_ref().map(|rotated| rotated.until);
        let end = [self.expires_at, until].into_iter().flatten().min();
        match (end, until) {
            (Some(at), _) if at <= now => KeyState::Expired { at },
            (_, Some(until)) => KeyState::Rotating { until },
            (_, None) => KeyState::Active,
        }
    }

    /// The rights of the key that takes its place, and until when that is valid: as long as this
    /// one was made for.
    pub(super) fn successor(&self, now: Timestamp) -> Result<(Grant, Option<Timestamp>), KeyError> {
        let state = self.state(now);
        match state {
            KeyState::Active => {
                let lifetime = self.expires_at.map(|at| at.ms_since(self.created_at));
                Ok((self.grant.clone(), lifetime.map(|ms| now.plus_ms(ms))))
            }
            KeyState::Rotating { .. } | KeyState::Expired { .. } | KeyState::Revoked { .. } => {
                Err(KeyError::NotActive { key_id: self.key_id.clone(), state: state.to_string() })
            }
        }
    }
}
