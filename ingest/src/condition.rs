//! Whether events can be made durable now, and what does not work as it should.
//!
//! In: how the log's intake and the index of seen events are doing. Out: what `/readyz` says.
//! Always true: `Unready` only where an event sent now would be refused for want of a place to keep
//! it; whatever else is wrong is `Degraded`, since events are still taken. Pure but for asking.
//! Not here: starting and stopping ([`chalkstream_access::Lifecycle`]).

use std::sync::Arc;

use chalkstream_event_log::breaker::BreakerState;
use chalkstream_event_log::intake::IntakeStatus;
use chalkstream_event_log::spool::SpoolStatus;
use chalkstream_event_log::{Intake, SeenIndex, SeenStatus};

/// A spool with less room than a usual request needs counts as full.
const ROOM_FOR_A_REQUEST: u64 = 64 << 10;

/// How ingest is doing as a whole; the worst part counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Condition {
    Ready,
    Degraded,
    Unready,
}

impl Condition {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Unready => "unready",
        }
    }
}

/// The condition, and a sentence for each thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) condition: Condition,
    pub(crate) reasons: Vec<String>,
}

impl Report {
    pub(crate) fn add(&mut self, condition: Condition, reason: String) {
        self.condition = self.condition.max(condition);
        self.reasons.push(reason);
    }
}

/// What events become durable in.
#[derive(Clone, Debug)]
pub(crate) struct Durability {
    pub(crate) log: Arc<dyn Intake>,
    pub(crate) seen: Arc<dyn SeenIndex>,
}

impl Durability {
    pub(crate) fn report(&self) -> Report {
        judge(&self.log.status(), &self.seen.status())
    }
}

/// Pure: every fact is an argument.
fn judge(log: &IntakeStatus, seen: &SeenStatus) -> Report {
    let mut report = Report { condition: Condition::Ready, reasons: Vec::new() };
    if let Some(breaker) = log.breaker {
        match breaker.state {
            BreakerState::Closed => {}
            BreakerState::HalfOpen => {
                report.add(Condition::Degraded, "Kafka answers again and is on trial".to_owned());
            }
            BreakerState::Open => {
                let takes = log.spool.as_ref().is_some_and(takes);
                let condition = if takes { Condition::Degraded } else { Condition::Unready };
                report.add(condition, "Kafka does not answer".to_owned());
            }
        }
    }
    if let Some(spool) = &log.spool {
        judge_spool(spool, &mut report);
    }
    if let Some(shared) = seen.shared
        && shared.state != BreakerState::Closed
    {
        let reason = "Redis does not answer: a retry on another node may be answered `accepted` \
                      once more; the processors count it once";
        report.add(Condition::Degraded, reason.to_owned());
    }
    report
}

fn judge_spool(spool: &SpoolStatus, report: &mut Report) {
    if spool.records > 0 {
        let (records, bytes) = (spool.records, spool.bytes);
        let mut reason = format!("{records} records ({bytes} bytes) wait in the spool");
        if let Some(age) = spool.oldest_age {
            reason.push_str(&format!(", the oldest for {} s", age.as_secs()));
        }
        report.add(Condition::Degraded, reason);
    }
    if let Some(why) = &spool.shut {
        report.add(Condition::Degraded, format!("the spool cannot be written: {why}"));
    } else if !takes(spool) {
        report.add(Condition::Degraded, format!("the spool is full ({} bytes)", spool.max_bytes));
    }
    if let Some(why) = &spool.stuck {
        report.add(Condition::Degraded, format!("the spool cannot be forwarded: {why}"));
    }
}

fn takes(spool: &SpoolStatus) -> bool {
    spool.shut.is_none() && spool.bytes.saturating_add(ROOM_FOR_A_REQUEST) <= spool.max_bytes
}

#[cfg(test)]
mod tests {
    use chalkstream_event_log::SharedStatus;
    use chalkstream_event_log::intake::BreakerStatus;

    use super::*;

    fn log(state: BreakerState, spool: Option<SpoolStatus>) -> IntakeStatus {
        IntakeStatus { breaker: Some(BreakerStatus { state, times_opened: 1 }), spool }
    }

    #[track_caller]
    fn check(log: &IntakeStatus, redis: Option<BreakerState>, expected: Condition, part: &str) {
        let shared = redis.map(|state| SharedStatus {
            state,
            errors: 0,
            looked_up_alone: 0,
            committed_alone: 0,
        });
        let report = judge(log, &SeenStatus { shared, entries: None });
        assert_eq!(report.condition, expected, "{report:?}");
        assert!(report.reasons.join("; ").contains(part), "{report:?}");
        assert_eq!(report.reasons.is_empty(), expected == Condition::Ready);
    }

    #[test]
    fn unready_is_only_what_cannot_keep_an_event() {
        use BreakerState::{Closed, HalfOpen, Open};
        use Condition::{Degraded, Ready, Unready};
        let empty = || SpoolStatus { max_bytes: 1 << 20, ..SpoolStatus::default() };
        let waiting = || SpoolStatus { records: 7, bytes: 900, ..empty() };
        let full = || SpoolStatus { records: 7, bytes: 1 << 20, ..empty() };
        let shut = || SpoolStatus { shut: Some("no space left".into()), ..waiting() };
        let stuck = || SpoolStatus { stuck: Some("not authorised".into()), ..waiting() };
        check(&IntakeStatus::default(), None, Ready, "");
        check(&log(Closed, None), Some(Closed), Ready, "");
        check(&log(Closed, Some(empty())), None, Ready, "");
        check(&log(Closed, None), Some(Open), Degraded, "Redis");
        check(&log(HalfOpen, None), None, Degraded, "trial");
        check(&log(Open, None), None, Unready, "Kafka does not answer");
        check(&log(Open, Some(waiting())), None, Degraded, "7 records (900 bytes)");
        check(&log(Open, Some(full())), None, Unready, "the spool is full");
        check(&log(Open, Some(shut())), None, Unready, "no space left");
        check(&log(Closed, Some(shut())), None, Degraded, "no space left");
        check(&log(Open, Some(stuck())), None, Degraded, "not authorised");
    }
}
