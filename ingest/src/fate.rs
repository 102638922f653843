//! What may become of an event, and what became of those of a request.

use std::time::Duration;

use chalkstream_access::Limit;
use chalkstream_schemas::{EventId, EventOutcome, EventRef, EventType, RefuseReason, Rejection};

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Durable in the log, by this request.
    Accepted(EventType),
    /// Durable in the log already.
    Duplicate,
    /// At fault; durable in the rejected log.
    Rejected(Box<Rejection>),
    /// Not taken for now.
    Refused(RefuseReason),
}

impl Fate {
    /// What it is counted as.
    pub(crate) fn outcome(&self) -> EventOutcome {
        match self {
            Self::Accepted(_) => EventOutcome::Accepted,
            Self::Duplicate => EventOutcome::Duplicate,
            Self::Rejected(rejection) => EventOutcome::Rejected(rejection.reason),
            Self::Refused(reason) => EventOutcome::Refused(*reason),
        }
    }
}

/// A fate with the event's id as its sender knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) id: Option<String>,
    pub(crate) fate: Fate,
}

/// How many events of a request met each fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) accepted: usize,
    pub(crate) duplicate: usize,
    pub(crate) rejected: usize,
    pub(crate) refused: usize,
    /// Of those refused, the ones that are over a limit.
    pub(crate) limited: usize,
}

impl Tally {
    pub(crate) fn of<'a>(settled: impl IntoIterator<Item = &'a Settled>) -> Self {
        let mut tally = Self::default();
        for event in settled {
            if let Fate::Refused(reason) = event.fate {
                tally.limited += usize::from(Limit::of(reason).is_some());
            }
            *match event.fate {
                Fate::Accepted(_) => &mut tally.accepted,
                Fate::Duplicate => &mut tally.duplicate,
                Fate::Rejected(_) => &mut tally.rejected,
                Fate::Refused(_) => &mut tally.refused,
            } += 1;
        }
        tally
    }
}

/// Every event's fate, in the order of the request.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) settled: Vec<Settled>,
    /// When what is over a limit may pass.
    pub(crate) retry_after: Option<Duration>,
}

/// The event's id as its sender knows it.
pub(crate) fn client_id(event: &EventRef<'_>) -> String {
    as_sent(event.id, event.original_id.as_deref())
}

/// The id as it was sent, where that was not a UUID.
pub(crate) fn as_sent(id: EventId, original: Option<&str>) -> String {
    original.map_or_else(|| id.to_string(), str::to_owned)
}
