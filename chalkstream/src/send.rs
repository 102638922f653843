//! Sends a file of events: batches by learner, several under way, each until it has its answer.
//!
//! In: NDJSON or JSON, plain or gzip. Out: a [`Summary`] in which every event has one fate.
//! Always true: a learner's events arrive in the file's order (one learner, one worker, one request
//! at a time); what was not answered is sent again, which the server's deduplication makes safe;
//! the journal never claims an event that was not answered.
//! Not here: arguments and what is printed (`commands/send.rs`).

mod batch;
mod client;
mod input;
mod journal;
mod progress;
mod worker;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use batch::{Batch, Batcher};
pub(crate) use client::Target;
use input::{Events, Item};
pub(crate) use journal::Journal;
pub(crate) use progress::Progress;
use worker::Worker;

/// What to send, and how.
#[derive(Clone, Debug)]
pub(crate) struct SendOptions {
    /// `-` is standard input.
    pub(crate) file: PathBuf,
    pub(crate) target: Target,
    pub(crate) batch_events: usize,
    pub(crate) connections: usize,
    /// Give up when nothing could be sent for so long.
    pub(crate) patience: Duration,
    pub(crate) assign_ids: bool,
    /// Events of the file that an earlier run had answers for.
    pub(crate) skip: u64,
}

/// The fate of every event that was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    pub(crate) sent: u64,
    pub(crate) accepted: u64,
    pub(crate) duplicate: u64,
    pub(crate) rejected: u64,
    pub(crate) refused: u64,
}

/// An event that was not taken, for the person who sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Its line in NDJSON, else its number in the file.
    pub(crate) place: u64,
    pub(crate) reason: String,
    pub(crate) field: Option<String>,
    pub(crate) message: String,
}

/// Sends the whole file. On an error or a stop, `progress` still holds what was answered.
pub(crate) async fn run(
    options: SendOptions,
    progress: Arc<Progress>,
    stop: CancellationToken,
) -> Result<()> {
    let connections = options.connections.max(1);
    let mut channels = Vec::with_capacity(connections);
    let mut workers = tokio::task::JoinSet::new();
    let failed = stop.child_token();
    for number in 0..connections {
        let (batches, queue) = mpsc::channel::<Batch>(1);
        channels.push(batches);
        let worker = Worker {
            number,
            target: options.target.clone(),
            patience: options.patience,
            progress: Arc::clone(&progress),
            stop: failed.clone(),
        };
        workers.spawn(worker.run(queue));
    }
    let reading = {
        let (progress, failed) = (Arc::clone(&progress), failed.clone());
        tokio::task::spawn_blocking(move || read(&options, channels, &progress, &failed))
    };
    let mut result = Ok(());
    while let Some(ended) = workers.join_next().await {
        let ended = ended.context("a sender had a bug").flatten();
        if ended.is_err() {
            // The first failure is the reason; the others only followed it.
            failed.cancel();
            result = result.and(ended);
        }
    }
    let read = reading.await.context("the reader had a bug").flatten();
    result.and(read)
}

/// Reads the file and hands full batches to the workers; blocks while they are busy.
fn read(
    options: &SendOptions,
    channels: Vec<mpsc::Sender<Batch>>,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<()> {
    let source: Box<dyn Read + Send> = if options.file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        let file = std::fs::File::open(&options.file)
            .with_context(|| format!("could not open {}", options.file.display()))?;
        Box::new(progress.counting(file))
    };
    let name = options.file.file_name().unwrap_or(options.file.as_os_str());
    let name = name.to_string_lossy().into_owned();
    let ids = options.assign_ids.then_some(name.as_str());
    let mut events = Events::open(source, ids)
        .with_context(|| format!("could not read {}", options.file.display()))?;
    let mut batcher = Batcher::new(channels.len(), options.batch_events, events.sent_at());
    while let Some(item) = events.next_item()? {
        if stop.is_cancelled() {
            return Ok(());
        }
        let Item { number, .. } = item;
        if number < options.skip {
            continue;
        }
        progress.begin(item.worker(channels.len()), number);
        if let Some((worker, batch)) = batcher.push(item)
            && !hand_over(&channels, worker, batch)
        {
            return Ok(());
        }
    }
    for (worker, batch) in batcher.finish() {
        if !hand_over(&channels, worker, batch) {
            return Ok(());
        }
    }
    progress.read_to_the_end();
    Ok(())
}

/// False where the worker has stopped; it says why itself.
fn hand_over(channels: &[mpsc::Sender<Batch>], worker: usize, batch: Batch) -> bool {
    channels.get(worker).is_some_and(|channel| channel.blocking_send(batch).is_ok())
}
