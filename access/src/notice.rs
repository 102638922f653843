//! Log lines about what repeats, a few of them however often it happens.
//!
//! Always true: the first time is told at once, then at most one line in [`PAUSE`], with how often it
//! happened since the last.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_secs(10);

/// One kind of line.
#[derive(Debug)]
pub struct Notice {
    /// What no line has told yet.
    untold: AtomicU64,
    started: Instant,
    /// When the next line may be written, in milliseconds.
    next_ms: AtomicU64,
}

impl Default for Notice {
    fn default() -> Self {
        Self { untold: AtomicU64::new(0), started: Instant::now(), next_ms: AtomicU64::new(0) }
    }
}

impl Notice {
    /// It happened `times` times. How often since the last line, if a line is due.
    pub fn due(&self, times: u64) -> Option<u64> {
        self.due_at(times, self.started.elapsed())
    }

    fn due_at(&self, times: u64, now: Duration) -> Option<u64> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.untold.fetch_add(times, Ordering::Relaxed);
        let next = self.next_ms.load(Ordering::Relaxed);
        let (now, later) = (ms(now), ms(now + PAUSE));
        // Of several at once, one writes the line.
        let swap =
            || self.next_ms.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed);
        let ours = now >= next && swap().is_ok();
        ours.then(|| self.untold.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_of_all_that_happened_since_the_last() {
        let notice = Notice::default();
        assert_eq!(notice.due_at(1, Duration::ZERO), Some(1));
        for tenth in 1..100 {
            assert_eq!(notice.due_at(3, Duration::from_millis(tenth * 100)), None);
        }
        assert_eq!(notice.due_at(3, PAUSE), Some(300));
        assert_eq!(notice.due_at(2, PAUSE), None);
    }
}
