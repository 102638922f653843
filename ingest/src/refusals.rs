//! What clients are told about events that were refused.

use chalkstream_schemas::RefuseReason;

use crate::fate::Tally;
use crate::options::IngestOptions;

/// What clients are told about refused events, in the order of [`RefuseReason::ALL`]; nothing where
/// none was refused.
pub(crate) fn messages(tally: Tally, options: &IngestOptions) -> Vec<String> {
    let reasons = if tally.refused > 0 { RefuseReason::ALL } else { &[] };
    let limits = &options.limits;
    let message = |reason: &RefuseReason| match reason {
        RefuseReason::RateLimited => format!(
            "this learner has sent more than {} events a minute; send it again after Retry-After",
            limits.learner_events_per_minute
        ),
        RefuseReason::QuotaExceeded => format!(
            "the school has used up its {} events of this day (UTC); send it again after Retry-After",
            limits.school_events_per_day
        ),
        RefuseReason::TooManyUsers => format!(
            "this publishable key has brought more than {} new users a minute; send it again after Retry-After",
            limits.publishable_new_users_per_minute
        ),
        RefuseReason::Unavailable => {
            "the event log cannot take it now; send it again after Retry-After".to_owned()
        }
    };
    reasons.iter().map(message).collect()
}
