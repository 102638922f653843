//! Where "now" comes from, so that tests can step it.

use std::fmt::Debug;
use std::time::{SystemTime, UNIX_EPOCH};

use chalkstream_schemas::Timestamp;

/// A source of the time at which events are received.
pub trait Clock: Debug + Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since_epoch.as_millis())
            .ok()
            .and_then(Timestamp::try_from_ms)
            .unwrap_or(Timestamp::MAX)
    }
}
