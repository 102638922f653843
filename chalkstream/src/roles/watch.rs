//! Waits for the end of parts that run by themselves, to name it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use chalkstream_batch_jobs::archiver;
use chalkstream_event_log::embedded::EmbeddedLog;
use chalkstream_stream_processors::{Progress, RejectedHandle};
use tokio::sync::oneshot;
use tokio::sync::watch::Receiver;
use tokio_util::sync::CancellationToken;

use crate::failure::Advice;

const POLL: Duration = Duration::from_millis(500);
const DISK_EVERY: Duration = Duration::from_secs(10);
/// Below this the disk may be full before anybody looks again.
pub(crate) const LOW_DISK_BYTES: u64 = 1 << 30;

/// Ends when the log has stopped writing: after a failed write nothing more may be written.
pub(super) async fn embedded_log(log: Arc<EmbeddedLog>) -> Result<()> {
    loop {
        if let Some(reason) = log.stopped() {
            return Err(log_stopped(&reason));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The failure of a log that has stopped.
pub(super) fn log_stopped(reason: &str) -> anyhow::Error {
    Advice::new(
        format!("the event log takes no more records: {reason}"),
        "make room on the disk or repair it, then start again; nothing acknowledged is lost",
    )
    .into()
}

/// The failure of a part that has ended by itself, whose first failure may be known.
fn ended_by_itself(reason: Option<String>) -> anyhow::Error {
    Advice::new(
        reason.unwrap_or_else(|| "it has ended by itself".to_owned()),
        "its log lines tell more; started again, it goes on from where it was, and nothing acknowledged is lost",
    )
    .into()
}

/// Warns before the disk is full, which stops everything.
pub(super) async fn disk(folder: PathBuf) -> Result<()> {
    let mut low = false;
    loop {
        let disk = rustix::fs::statvfs(&folder)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let is_low = free < LOW_DISK_BYTES;
        if is_low && !low {
            tracing::warn!(free_bytes = free, "the disk of the data folder is almost full");
        }
        low = is_low;
        tokio::time::sleep(DISK_EVERY).await;
    }
}

/// Ends when the processor has; tells of partitions that stop while others go on.
pub(super) async fn processor(mut progress: Receiver<Progress>) -> Result<()> {
    let mut told = None;
    loop {
        let (failed, stop) = {
            let now = progress.borrow_and_update();
            (now.failed.clone(), now.first_stop())
        };
        if let Some(reason) = failed {
            return Err(ended_by_itself(Some(reason)));
        }
        if stop != told {
            if let Some(reason) = &stop {
                tracing::error!(reason, "a partition is no longer folded; events are still taken");
            }
            told = stop;
        }
        if progress.changed().await.is_err() {
            return Err(ended_by_itself(None));
        }
    }
}

/// Ends when the archiver has.
pub(super) async fn archiver(mut progress: Receiver<archiver::Progress>) -> Result<()> {
    loop {
        let stopped = progress.borrow_and_update().stopped.clone();
        if let Some(reason) = stopped {
            return Err(ended_by_itself(Some(reason)));
        }
        if progress.changed().await.is_err() {
            return Err(ended_by_itself(None));
        }
    }
}

/// A part that a task owns, to notice its end, and that is stopped from elsewhere.
#[derive(Debug)]
pub(super) struct Watched {
    stop: CancellationToken,
    ended: oneshot::Receiver<Result<()>>,
}

impl Watched {
    /// Stops the part. One that ended before has said so.
    pub(super) async fn shutdown(self) -> Result<()> {
        self.stop.cancel();
        self.ended.await.unwrap_or(Ok(()))
    }
}

/// The future ends when the writer does so by itself; told to stop, it reports how that went.
pub(super) fn rejected(
    writer: RejectedHandle,
) -> (Watched, impl Future<Output = Result<()>> + Send + use<>) {
    let stop = CancellationToken::new();
    let (report, ended) = oneshot::channel();
    let told = stop.clone();
    let until_ended = async move {
        while writer.is_running() {
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = told.cancelled() => {
                    let stopped = writer.shutdown().await.map_err(anyhow::Error::from);
                    if let Err(Err(error)) = report.send(stopped) {
                        tracing::warn!(error = format!("{error:#}"), "not stopped cleanly");
                    }
                    return Ok(());
                }
            }
        }
        writer.shutdown().await?;
        Err(ended_by_itself(None))
    };
    (Watched { stop, ended }, until_ended)
}

#[cfg(test)]
mod tests {
    use chalkstream_event_log::EventLog;
    use chalkstream_event_log::embedded::EmbeddedOptions;
    use chalkstream_sql::{ReaderLimits, migrations};
    use chalkstream_stream_processors::metrics::Metrics;
    use chalkstream_stream_processors::{RejectedOptions, RejectedWriter};

    use super::*;
    use crate::folder::DataFolder;
    use crate::parts;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_end_of_the_writer_of_rejected_events_is_noticed_or_told() {
        let root = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(root.path()).await.unwrap();
        let engine = parts::embedded_clickhouse(&folder, parts::FREE_PORT, ReaderLimits::default())
            .await
            .unwrap();
        migrations::migrate(&engine.database()).await.unwrap();
        let log = EmbeddedLog::open(EmbeddedOptions::new(folder.layout().log())).unwrap();
        let start = async || {
            let log = Arc::clone(&log) as Arc<dyn EventLog>;
            let options = RejectedOptions::new(log, engine.database(), Metrics::default());
            let writer = RejectedWriter::start(options).await.unwrap();
            writer.wait_until_caught_up().await.unwrap();
            writer
        };
        let (told, until_ended) = rejected(start().await);
        let running = tokio::spawn(until_ended);
        told.shutdown().await.unwrap();
        running.await.unwrap().unwrap();

        let (watched, until_ended) = rejected(start().await);
        let running = tokio::spawn(until_ended);
        log.close().await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(30), running).await;
        let error = format!("{:#}", ended.unwrap().unwrap().unwrap_err());
        assert!(error.contains("the event log"), "{error}");
        // It has said why; stopping it later is no second failure.
        watched.shutdown().await.unwrap();
        engine.shutdown().await;
    }
}
