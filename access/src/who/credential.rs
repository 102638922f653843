//! What a request may do, whoever asks: a key, or a token.
//!
//! Always true: it holds nothing secret, so it may be shown.

use std::sync::Arc;
use std::time::Duration;

use chalkstream_schemas::{SchoolId, Timestamp, UserId};

use crate::who::grant::{KeyInfo, Scope};

/// What a valid key or token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// A stable name that is no secret: the key's first characters, or `jwt:` and the issuer's name.
    /// All tokens of an issuer share it.
    pub key_id: Arc<str>,
    /// The school of every event that comes with it.
    pub school_id: SchoolId,
    /// More schools that a request may choose instead; then it must choose.
    pub also_schools: Arc<[SchoolId]>,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// The only learner whose events it may send.
    pub learner: Option<UserId>,
    /// Whether anybody may know it.
    pub publishable: bool,
    /// The web origins that it is for; any where there are none.
    pub origins: Arc<[String]>,
    /// The application that has it.
    pub app: Option<Arc<str>>,
    /// Instead of `ingest.max_age`; see [`Credential::max_age`].
    pub max_age: Option<Duration>,
    /// Instead of `ingest.max_future`.
    pub max_future: Option<Duration>,
}

impl Credential {
    /// Rights in one school, and nothing special.
    pub fn new(key_id: impl Into<Arc<str>>, school_id: SchoolId, scopes: Vec<Scope>) -> Self {
        Self {
            key_id: key_id.into(),
            school_id,
            also_schools: Arc::default(),
            scopes,
            learner: None,
            publishable: false,
            origins: Arc::default(),
            app: None,
            max_age: None,
            max_future: None,
        }
    }

    pub(super) fn of(info: &KeyInfo) -> Self {
        let grant = &info.grant;
        Self {
            also_schools: grant.also_schools.as_slice().into(),
            learner: grant.learner.clone(),
            publishable: grant.publishable,
            origins: grant.origins.as_slice().into(),
            app: grant.app.as_deref().map(Into::into),
            max_age: grant.max_age.map(|span| span.get()),
            max_future: grant.max_future.map(|span| span.get()),
            ..Self::new(info.key_id.as_str(), grant.school_id.clone(), grant.scopes.clone())
        }
    }

    /// Whether it may send events.
    pub fn may_write(&self) -> bool {
        self.scopes.iter().any(|scope| match scope {
            Scope::EventsWrite | Scope::EventsBackfill => true,
            Scope::EventsLearner => self.learner.is_some(),
        })
    }

    /// Whether its events may be of any age.
    pub fn may_backfill(&self) -> bool {
        self.scopes.contains(&Scope::EventsBackfill)
    }

    /// How old its events may be, where `otherwise` holds for credentials without their own limit.
    pub fn max_age(&self, otherwise: Duration) -> Option<Duration> {
        (!self.may_backfill()).then(|| self.max_age.unwrap_or(otherwise))
    }

    /// Whether it may send events of this user.
    pub fn may_send_for(&self, user: &str) -> bool {
        self.learner.as_ref().is_none_or(|learner| learner.as_str() == user)
    }

    /// Every school that it is for.
    pub fn schools(&self) -> impl Iterator<Item = &SchoolId> {
        std::iter::once(&self.school_id).chain(self.also_schools.iter())
    }
}

/// Why a key is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// This server has no such key.
    #[error("the write key is not known here")]
    Unknown,
    /// Its time is over.
    #[error("the write key {key_id} expired at {expired_at}")]
    Expired {
        /// The key's name.
        key_id: Arc<str>,
        /// When.
        expired_at: Timestamp,
    },
    /// It was revoked.
    #[error("the write key {key_id} was revoked at {revoked_at}")]
    Revoked {
        /// The key's name.
        key_id: Arc<str>,
        /// When.
        revoked_at: Timestamp,
    },
}
