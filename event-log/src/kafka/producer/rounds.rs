//! When waiting calls are handed to librdkafka: in rounds, so that batches are as large as they need
//! to be.
//!
//! A broker pays for a batch what it pays for some two hundred records (0.3 ms of processor time here).
//! So what comes while enough is on its way waits for an
//! acknowledgement, and then goes together: an idle log is asked at once, a busy one for much at a time.
//! Always true: calls are taken in the order they came; however long Kafka owes answers, a call can be
//! taken after `wait_max`, so a slow partition or broker cannot hold up the others for long.
//! Not here: how many bytes may wait (the caller), sending.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::calls::Tracker;
use crate::{NewRecord, Topic};

/// Rounds that are under way at once: while one is written the next is collected.
const ROUNDS: usize = 2;

/// One call of `append`, not sent yet.
pub(super) struct Waiting {
    pub(super) topic: Topic,
    /// How many the topic has.
    pub(super) partitions: u32,
    pub(super) records: Vec<NewRecord>,
    pub(super) tracker: Arc<Tracker>,
}

/// The calls that wait, and how many rounds are under way.
pub(super) struct Rounds {
    wait_max: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<Waiting>,
    /// When the first of those that wait goes, whatever is under way.
    due: Option<Instant>,
    under_way: usize,
    closing: bool,
}

impl Rounds {
    /// Rounds in which a call waits so long at most for others to be acknowledged.
    pub(super) fn new(wait_max: Duration) -> Self {
        Self { wait_max, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Lets a call wait for its round; false, and the call is gone, once the rounds are closed.
    pub(super) fn push(&self, call: Waiting) -> bool {
        let mut state = self.state.lock();
        if state.closing {
            return false;
        }
        state.waiting.push(call);
        if state.due.is_none() {
            state.due = Some(Instant::now() + self.wait_max);
            drop(state);
            self.changed.notify_one();
        }
        true
    }

    /// Waits for the calls of the next round; none once the rounds are closed and nothing waits.
    pub(super) fn next(self: &Arc<Self>) -> Option<(Arc<Round>, Vec<Waiting>)> {
        let mut state = self.state.lock();
        loop {
            match state.due {
                Some(due) if state.under_way < ROUNDS || state.closing || due <= Instant::now() => {
                    state.due = None;
                    state.under_way += 1;
                    let calls = std::mem::take(&mut state.waiting);
                    return Some((Arc::new(Round(Arc::clone(self))), calls));
                }
                Some(due) => {
                    self.changed.wait_until(&mut state, due);
                }
                None if state.closing => return None,
                None => self.changed.wait(&mut state),
            }
        }
    }

    /// Takes no more; what waits goes at once.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.changed.notify_one();
    }

    /// Takes no more, and lets go of what waits: nobody sends it.
    pub(super) fn abandon(&self) {
        let calls = {
            let mut state = self.state.lock();
            state.closing = true;
            state.due = None;
            std::mem::take(&mut state.waiting)
        };
        drop(calls);
    }
}

/// A round under way. It ends when its last call lets go.
pub(super) struct Round(Arc<Rounds>);

impl Drop for Round {
    fn drop(&mut self) {
        self.0.state.lock().under_way -= 1;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::Receiver;

    use super::*;
    use crate::kafka::producer::calls::{InFlight, Outcomes};

    /// Longer than any test runs.
    const HOUR: Duration = Duration::from_secs(3_600);

    fn push(rounds: &Rounds) -> Receiver<Outcomes> {
        let (tracker, outcomes) = Tracker::new(1, InFlight::added(0, Arc::default()));
        let call = Waiting { topic: Topic::Events, partitions: 1, records: Vec::new(), tracker };
        assert!(rounds.push(call), "the rounds are open");
        outcomes
    }

    /// Takes the next round, of so many calls.
    #[track_caller]
    fn take(rounds: &Arc<Rounds>, calls: usize) -> Arc<Round> {
        let (round, taken) = rounds.next().expect("a round");
        assert_eq!(taken.len(), calls);
        round
    }

    #[test]
    fn an_idle_log_is_asked_at_once_and_a_busy_one_for_all_that_waits() {
        let rounds = Arc::new(Rounds::new(HOUR));
        let mut under_way: Vec<_> = (0..ROUNDS)
            .map(|_| {
                push(&rounds);
                take(&rounds, 1)
            })
            .collect();
        for _ in 0..3 {
            push(&rounds);
        }
        let waiting = Arc::clone(&rounds);
        let next = std::thread::spawn(move || take(&waiting, 3));
        under_way.pop();
        under_way.push(next.join().unwrap());
        drop(under_way);
        assert_eq!(rounds.state.lock().under_way, 0);
    }

    #[test]
    fn what_waits_goes_after_a_while_although_nothing_ends() {
        let rounds = Arc::new(Rounds::new(Duration::from_millis(5)));
        let mut under_way = Vec::new();
        for calls in 1..=ROUNDS + 2 {
            let began = Instant::now();
            (0..calls).for_each(|_| drop(push(&rounds)));
            under_way.push(take(&rounds, calls));
            let waited = began.elapsed() >= Duration::from_millis(5);
            assert!(waited || calls <= ROUNDS, "round {calls} did not wait");
        }
    }

    #[test]
    fn what_waits_when_the_rounds_are_closed_still_goes() {
        let rounds = Arc::new(Rounds::new(HOUR));
        push(&rounds);
        rounds.close();
        take(&rounds, 1);
        assert!(rounds.next().is_none());
    }

    #[test]
    fn what_nobody_sends_is_not_waited_for() {
        let rounds = Arc::new(Rounds::new(HOUR));
        let outcomes = push(&rounds);
        rounds.abandon();
        assert!(outcomes.blocking_recv().is_err());
        assert!(rounds.next().is_none());
    }
}
