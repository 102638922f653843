//! The limits there are, by their names.

use chalkstream_schemas::RefuseReason;

/// What can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// `credential_requests_per_second`
    CredentialRequests,
    /// `credential_events_per_second`
    CredentialEvents,
    /// `credential_in_flight_percent`
    CredentialBytes,
    /// `learner_events_per_minute`
    LearnerEvents,
    /// `school_events_per_day`
    SchoolEvents,
    /// `publishable_new_users_per_minute`
    NewUsers,
    /// `ingest.max_in_flight`
    ProcessBytes,
}

impl Limit {
    /// Every limit.
    pub const ALL: &[Self] = &[
        Self::CredentialRequests,
        Self::CredentialEvents,
        Self::CredentialBytes,
        Self::LearnerEvents,
        Self::SchoolEvents,
        Self::NewUsers,
        Self::ProcessBytes,
    ];

    /// What is limited.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CredentialRequests => "requests",
            Self::CredentialEvents | Self::LearnerEvents | Self::SchoolEvents => "events",
            Self::CredentialBytes | Self::ProcessBytes => "bytes",
            Self::NewUsers => "new_users",
        }
    }

    /// For whom.
    pub const fn scope(self) -> &'static str {
        match self {
            Self::CredentialRequests
            | Self::CredentialEvents
            | Self::CredentialBytes
            | Self::NewUsers => "credential",
            Self::LearnerEvents => "learner",
            Self::SchoolEvents => "school",
            Self::ProcessBytes => "process",
        }
    }

    /// The limit that an event was refused for.
    pub const fn of(reason: RefuseReason) -> Option<Self> {
        match reason {
            RefuseReason::RateLimited => Some(Self::LearnerEvents),
            RefuseReason::QuotaExceeded => Some(Self::SchoolEvents),
            RefuseReason::TooManyUsers => Some(Self::NewUsers),
            RefuseReason::Unavailable => None,
        }
    }
}
