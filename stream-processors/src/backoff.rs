//! Waiting longer after each failure, and saying why without flooding the log.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// The waits between tries of one thing.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    failures: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST, failures: 0 }
    }
}

impl Backoff {
    /// Logs the failure and gives the pause to wait for. From the fifth failure on it is an error: somebody must act.
    pub(crate) fn wait(
        &mut self,
        error: &(dyn std::error::Error + 'static),
        doing: &str,
    ) -> tokio::time::Sleep {
        self.failures = self.failures.saturating_add(1);
        if self.failures < 5 {
            tracing::warn!(error, failures = self.failures, "{doing} failed; trying again");
        } else {
            tracing::error!(error, failures = self.failures, "{doing} keeps failing; trying again");
        }
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        tokio::time::sleep(wait)
    }
}
