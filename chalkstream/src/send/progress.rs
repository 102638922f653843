//! What was answered so far: counts, problems to show, and how far the file is done.
//!
//! Always true: `answered_through` is the number of events at the file's beginning that all have
//! their answer, whatever the workers did beyond it.

use std::collections::VecDeque;
use std::io::Read;

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use super::{Problem, Summary};

/// Problems that are kept for people to read; all are counted.
const PROBLEMS_KEPT: usize = 10;

#[derive(Debug, Default)]
struct State {
    summary: Summary,
    problems: Vec<Problem>,
    /// By worker: numbers of the events read but not answered, in order.
    pending: Vec<VecDeque<u64>>,
    next: u64,
    ended: bool,
}

/// Shared by the reader, the workers and whoever writes the journal.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    state: Mutex<State>,
}

impl Progress {
    /// `skip` events have their answer already; `bytes` is the file's length, where it is known;
    /// `shown` draws a bar on stderr.
    pub(crate) fn new(connections: usize, skip: u64, bytes: Option<u64>, shown: bool) -> Self {
        let bar = match (shown, bytes) {
            (false, _) => ProgressBar::hidden(),
            (true, Some(bytes)) => ProgressBar::new(bytes),
            (true, None) => ProgressBar::new_spinner(),
        };
        let template = "{bar:30} {percent:>3} %  {msg}  {eta} left";
        if let (Some(_), Ok(style)) = (bytes, ProgressStyle::with_template(template)) {
            bar.set_style(style);
        }
        let pending = vec![VecDeque::new(); connections.max(1)];
        Self { bar, state: Mutex::new(State { pending, next: skip, ..State::default() }) }
    }

    /// A reader that moves the bar.
    pub(super) fn counting(&self, file: std::fs::File) -> impl Read + Send + use<> {
        Counting { bar: self.bar.clone(), file }
    }

    /// The event was read and belongs to the worker from now on.
    pub(super) fn begin(&self, worker: usize, number: u64) {
        let mut state = self.state.lock();
        state.next = number + 1;
        if let Some(pending) = state.pending.get_mut(worker) {
            pending.push_back(number);
        }
    }

    /// Adds the fates of some events to the sum.
    pub(super) fn counted(&self, fates: &Summary) {
        let mut state = self.state.lock();
        let sum = &mut state.summary;
        sum.sent += fates.sent;
        sum.accepted += fates.accepted;
        sum.duplicate += fates.duplicate;
        sum.rejected += fates.rejected;
        sum.refused += fates.refused;
        let sent = sum.sent;
        drop(state);
        self.bar.set_message(format!("{} events", crate::output::grouped(sent)));
        self.bar.tick();
    }

    /// The worker's oldest `events` events all have their fate.
    pub(super) fn settled(&self, worker: usize, events: usize) {
        let mut state = self.state.lock();
        if let Some(pending) = state.pending.get_mut(worker) {
            let events = events.min(pending.len());
            pending.drain(..events);
        }
    }

    pub(super) fn problem(&self, problem: Problem) {
        let mut state = self.state.lock();
        if state.problems.len() < PROBLEMS_KEPT {
            state.problems.push(problem);
        }
    }

    pub(super) fn read_to_the_end(&self) {
        self.state.lock().ended = true;
    }

    /// Says something beside the bar.
    pub(super) fn say(&self, text: &str) {
        self.bar.suspend(|| crate::output::note(text));
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    pub(crate) fn summary(&self) -> Summary {
        self.state.lock().summary.clone()
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.state.lock().problems.clone()
    }

    /// How many events at the file's beginning all have their answer.
    pub(crate) fn answered_through(&self) -> u64 {
        let state = self.state.lock();
        let oldest = state.pending.iter().filter_map(|pending| pending.front()).min();
        oldest.copied().unwrap_or(state.next)
    }

    /// Whether every event of the file has its answer.
    pub(crate) fn complete(&self) -> bool {
        let state = self.state.lock();
        state.ended && state.pending.iter().all(VecDeque::is_empty)
    }
}

struct Counting {
    bar: ProgressBar,
    file: std::fs::File,
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bar.inc(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answered_beginning_ends_at_the_oldest_event_under_way() {
        let progress = Progress::new(2, 0, None, false);
        assert_eq!(progress.answered_through(), 0);
        for (worker, number) in [(0, 0), (1, 1), (1, 2), (0, 3), (1, 4)] {
            progress.begin(worker, number);
        }
        assert_eq!(progress.answered_through(), 0);
        progress.settled(1, 2);
        assert_eq!(progress.answered_through(), 0, "event 0 is under way");
        progress.settled(0, 2);
        assert_eq!(progress.answered_through(), 4, "event 4 is under way");
        progress.read_to_the_end();
        assert!(!progress.complete());
        progress.settled(1, 1);
        assert_eq!(progress.answered_through(), 5);
        assert!(progress.complete());
    }
}
