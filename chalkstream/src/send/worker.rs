//! One connection's work: a batch at a time, each until it has its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::failure::Advice;

use super::batch::Batch;
use super::client::{Answer, Outcome};
use super::{Problem, Progress, Summary, Target};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) number: usize,
    pub(super) target: Target,
    pub(super) patience: Duration,
    pub(super) progress: Arc<Progress>,
    pub(super) stop: CancellationToken,
}

impl Worker {
    /// Ends with the queue, at a stop, or with an error that no later try can mend.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Batch>) -> anyhow::Result<()> {
        loop {
            let batch = tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                batch = queue.recv() => batch,
            };
            let Some(batch) = batch else { return Ok(()) };
            self.deliver(batch).await?;
        }
    }

    /// Sends the batch, in parts if it is too large, until every event has its fate. A stop waits
    /// for the answer of what is under way, and sends nothing more.
    async fn deliver(&self, batch: Batch) -> anyhow::Result<()> {
        let events = batch.lines.len();
        let mut parts = vec![batch];
        let mut pauses = Pauses::new(self.patience);
        let mut told = false;
        while let Some(batch) = parts.pop() {
            if self.stop.is_cancelled() {
                return Ok(());
            }
            match self.target.post(&batch).await {
                Outcome::Answered(answer, after) => {
                    let refused = self.tally(&batch, &answer);
                    // Patience is for a server that takes nothing: a learner's limit lets a part
                    // of the batch pass each time.
                    if refused.lines.len() < batch.lines.len() {
                        pauses = Pauses::new(self.patience);
                    }
                    if refused.lines.is_empty() {
                        continue;
                    }
                    if pauses.over() {
                        let refused = refused.lines.len() as u64;
                        let fates = Summary { sent: refused, refused, ..Summary::default() };
                        self.progress.counted(&fates);
                        continue;
                    }
                    parts.push(refused);
                    pauses.wait(after, &self.stop).await;
                }
                Outcome::Retry { why, after } => {
                    if pauses.over() {
                        return Err(Advice::new(
                            format!("gave up after {} s without an answer: {why}", self.patience.as_secs()),
                            "run the same command again once the server answers; it goes on where this one stopped",
                        )
                        .into());
                    }
                    if !told {
                        self.progress.say(&format!("{why}; trying again"));
                        told = true;
                    }
                    parts.push(batch);
                    pauses.wait(after, &self.stop).await;
                }
                Outcome::TooLarge => match batch.halves() {
                    // The first half is taken from the end of the list first.
                    Some([first, second]) => parts.extend([second, first]),
                    None => self.too_large(&batch),
                },
                Outcome::Fatal(error) => return Err(error),
            }
        }
        self.progress.settled(self.number, events);
        Ok(())
    }

    /// Counts the fates and returns what was refused, in order.
    fn tally(&self, batch: &Batch, answer: &Answer) -> Batch {
        let mut refused = Batch { lines: Vec::new(), sent_at: batch.sent_at.clone() };
        for result in &answer.results {
            let Some(line) = batch.lines.get(result.index) else { continue };
            match result.status.as_str() {
                "refused" => refused.lines.push(line.clone()),
                "rejected" => self.progress.problem(Problem {
                    place: line.place,
                    reason: result.reason.clone().unwrap_or_default(),
                    field: result.field.clone(),
                    message: result.message.clone().unwrap_or_default(),
                }),
                _ => {}
            }
        }
        let done = batch.lines.len().saturating_sub(refused.lines.len());
        let fates = Summary {
            sent: done as u64,
            accepted: answer.accepted,
            duplicate: answer.duplicate,
            rejected: answer.rejected,
            refused: answer.refused.saturating_sub(refused.lines.len() as u64),
        };
        self.progress.counted(&fates);
        refused
    }

    /// A single event above the server's limit for bodies.
    fn too_large(&self, batch: &Batch) {
        for line in &batch.lines {
            self.progress.problem(Problem {
                place: line.place,
                reason: "event_too_large".to_owned(),
                field: None,
                message: format!("{} bytes are more than the server takes", line.raw.len()),
            });
        }
        let events = batch.lines.len() as u64;
        let fates = Summary { sent: events, rejected: events, ..Summary::default() };
        self.progress.counted(&fates);
    }
}

/// Growing pauses with jitter, until patience ends.
#[derive(Debug)]
struct Pauses {
    began: Instant,
    patience: Duration,
    next: Duration,
}

impl Pauses {
    fn new(patience: Duration) -> Self {
        Self { began: Instant::now(), patience, next: FIRST_PAUSE }
    }

    fn over(&self) -> bool {
        self.began.elapsed() >= self.patience
    }

    /// At least what the server asked for; up to as long again, so that clients do not come at once.
    async fn wait(&mut self, asked: Option<Duration>, stop: &CancellationToken) {
        let pause = asked.unwrap_or(self.next);
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        let jitter = rand::rng().random_range(0.0..0.5);
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause.mul_f64(1.0 + jitter)) => {}
        }
    }
}
