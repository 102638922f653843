//! What became of events, counted: the fates with their public names, and series of counts.
//!
//! In: fates of events. Out: [`OutcomeCounts`], the counts of one counting node so far.
//! Always true: counts of an instance only grow, so of two the higher one is the newer.
//! Not here: counting and its limits (ingest), the table (the processors).

use std::sync::Arc;

use uuid::Uuid;

use crate::ids::SchoolId;
use crate::reason::{RefuseReason, RejectReason};
use crate::time::Timestamp;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventOutcome {
    /// Made durable.
    Accepted,
    /// Durable before.
    Duplicate,
    /// At fault, for good.
    Rejected(RejectReason),
    /// Not taken for now.
    Refused(RefuseReason),
}

impl EventOutcome {
    /// The public name of the fate.
    pub const fn status(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Rejected(_) => "rejected",
            Self::Refused(_) => "refused",
        }
    }

    /// The public name of the reason; empty where the fate has none.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Accepted | Self::Duplicate => "",
            Self::Rejected(reason) => reason.as_str(),
            Self::Refused(reason) => reason.as_str(),
        }
    }

    /// The outcome with these names.
    pub fn from_names(status: &str, reason: &str) -> Option<Self> {
        match (status, reason) {
            ("accepted", "") => Some(Self::Accepted),
            ("duplicate", "") => Some(Self::Duplicate),
            ("rejected", reason) => RejectReason::from_name(reason).map(Self::Rejected),
            ("refused", reason) => RefuseReason::from_name(reason).map(Self::Refused),
            _ => None,
        }
    }
}

/// Events that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutcomeSeries {
    /// Begin of the hour in which they were received, in UTC.
    pub hour: Timestamp,
    /// The school of the credential.
    pub school_id: SchoolId,
    /// The key that was used.
    pub key_id: Arc<str>,
    /// The application; empty if none was named.
    pub app: Box<str>,
    /// The canonical name of the type; empty if none was named that exists.
    pub type_name: Box<str>,
    /// What became of them.
    pub outcome: EventOutcome,
}

/// Counts since somebody began to count from zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutcomeCounts {
    /// Who, and since which beginning: a new one for each.
    pub instance: Uuid,
    /// Some of the series, with all their events since that beginning.
    pub counts: Vec<(OutcomeSeries, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_found_by_its_names() {
        let rejected = RejectReason::ALL.iter().copied().map(EventOutcome::Rejected);
        let refused = RefuseReason::ALL.iter().copied().map(EventOutcome::Refused);
        let plain = [EventOutcome::Accepted, EventOutcome::Duplicate];
        for outcome in plain.into_iter().chain(rejected).chain(refused) {
            let found = EventOutcome::from_names(outcome.status(), outcome.reason());
            assert_eq!(found, Some(outcome));
        }
        for (status, reason) in [("accepted", "too_old"), ("rejected", ""), ("lost", "")] {
            assert_eq!(EventOutcome::from_names(status, reason), None, "{status} {reason}");
        }
    }
}
