//! Waits for the end of parts that run by themselves, to name it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use chalkstream_batch_jobs::archiver;
use chalkstream_event_log::embedded::EmbeddedLog;
use chalkstream_stream_processors::Progress;
use tokio::sync::watch::Receiver;

use crate::failure::Advice;

const POLL: Duration = Duration::from_millis(500);
const DISK_EVERY: Duration = Duration::from_secs(10);
/// Below this the disk may be full before anybody looks again.
pub(crate) const LOW_DISK_BYTES: u64 = 1 << 30;

/// Ends when the log has stopped writing: after a failed write nothing more may be written.
pub(super) async fn embedded_log(log: Arc<EmbeddedLog>) -> Result<()> {
    loop {
        if let Some(reason) = log.stopped() {
            bail!(Advice::new(
                format!("the event log takes no more records: {reason}"),
                "make room on the disk or repair it, then start again; nothing acknowledged is lost",
            ));
        }
        tokio::time::sleep(POLL).await;
    }
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
            bail!(reason);
        }
        if stop != told {
            if let Some(reason) = &stop {
                tracing::error!(reason, "a partition is no longer folded; events are still taken");
            }
            told = stop;
        }
        if progress.changed().await.is_err() {
            bail!("it has ended; its log lines tell why");
        }
    }
}

/// Ends when the archiver has.
pub(super) async fn archiver(mut progress: Receiver<archiver::Progress>) -> Result<()> {
    loop {
        let stopped = progress.borrow_and_update().stopped.clone();
        if let Some(reason) = stopped {
            bail!(reason);
        }
        if progress.changed().await.is_err() {
            bail!("it has ended; its log lines tell why");
        }
    }
}
