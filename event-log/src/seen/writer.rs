//! The threads that write a [`super::LocalIndex`].
//!
//! In: what requests had acknowledged. Out: an answer to each once it is kept.
//! Always true: all that waits is written as one run, so runs become visible in their order, and a
//! flood of small requests costs few writes; sealing runs beside it and holds nobody up, until it is
//! far behind. Dropping the sender ends the writer; before it ends, so does a seal.
//! Not here: what is known, and look-ups.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Inner;
use crate::identities::Entry;

/// Entries after which a run is written, whatever still waits.
const RUN_ENTRIES: usize = 16_384;

/// What one request wants kept.
pub(super) struct Commit {
    pub(super) entries: Vec<Entry>,
    pub(super) now_ms: u64,
    pub(super) done: oneshot::Sender<Result<(), Arc<fjall::Error>>>,
}

/// A running writer.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) commits: Sender<Commit>,
    pub(super) thread: JoinHandle<()>,
}

impl Writer {
    pub(super) fn start(inner: &Arc<Inner>) -> io::Result<Self> {
        let (commits, waiting) = mpsc::channel();
        let inner = Arc::clone(inner);
        let thread = std::thread::Builder::new()
            .name("seen-writer".into())
            .spawn(move || write(&inner, &waiting))?;
        Ok(Self { commits, thread })
    }
}

fn write(inner: &Arc<Inner>, waiting: &Receiver<Commit>) {
    let mut run = inner.seen.newest_run();
    let mut sealing = None;
    while let Ok(first) = waiting.recv() {
        while inner.seen.is_overfull() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let Commit { mut entries, mut now_ms, done } = first;
        let mut answers = vec![done];
        while entries.len() < RUN_ENTRIES
            && let Ok(next) = waiting.try_recv()
        {
            entries.extend(next.entries);
            now_ms = next.now_ms;
            answers.push(next.done);
        }
        run += 1;
        let mut batch = inner.db.batch();
        inner.seen.add(&mut batch, run, &entries);
        let kept = batch.commit().map_err(Arc::new);
        let full = kept.is_ok() && inner.seen.applied(run, &entries);
        for answer in answers {
            // A caller that left does not matter.
            drop(answer.send(kept.clone()));
        }
        // A seal that has not begun yet is not begun again.
        if full && sealing.as_ref().is_none_or(JoinHandle::is_finished) {
            join(sealing.take());
            sealing = seal(inner, now_ms);
        }
    }
    join(sealing);
}

/// Writes the newest entries as a table, in the background.
fn seal(inner: &Arc<Inner>, now_ms: u64) -> Option<JoinHandle<()>> {
    let inner = Arc::clone(inner);
    let work = move || {
        if let Err(error) = inner.seal(now_ms) {
            // Nothing is lost: the entries stay in memory and in the store.
            tracing::warn!(%error, "could not write the index of seen events; trying later");
        }
    };
    let thread = std::thread::Builder::new().name("seen-seal".into()).spawn(work);
    if let Err(error) = &thread {
        tracing::warn!(%error, "could not start a thread for the index of seen events");
    }
    thread.ok()
}

fn join(thread: Option<JoinHandle<()>>) {
    if thread.is_some_and(|thread| thread.join().is_err()) {
        tracing::error!("the thread that seals the index of seen events had a bug");
    }
}
