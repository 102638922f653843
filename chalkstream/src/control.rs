//! `control.sock`: what commands ask of the process that holds the data folder.
//!
//! HTTP over a Unix socket that only the folder's owner may open. Always true: whoever can connect
//! could edit the folder's files as well, so there is no further credential; the socket appears in
//! one step, with its mode, once the process can answer.

mod client;
mod replay;
mod server;
mod tail;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use chalkstream_event_log::breaker::BreakerState;
use chalkstream_event_log::intake::IntakeStatus;
use serde::{Deserialize, Serialize};

pub(crate) use client::{Access, Client, access, running};
pub(crate) use replay::{RejectedRow, ReplayAnswer, ReplayRequest};
pub(crate) use server::{Control, RejectedWritten, serve};
pub(crate) use tail::TailLine;

/// How the pipeline is doing, for `doctor`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) role: String,
    pub(crate) version: String,
    /// Why something is not processed, with what to do.
    pub(crate) trouble: Option<String>,
    pub(crate) log: Option<LogStatus>,
    /// How events get into Kafka.
    pub(crate) intake: Option<IntakeReport>,
    /// Events acknowledged that the views do not show yet.
    pub(crate) processor_lag: Option<u64>,
    /// Events acknowledged that the lake does not hold yet.
    pub(crate) archive_lag: Option<u64>,
    pub(crate) lake_version: Option<u64>,
    /// Rows that the processor has inserted since its start, over all tables.
    pub(crate) rows_written: Option<u64>,
}

/// The event log, for `doctor`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LogStatus {
    pub(crate) cluster_id: String,
    pub(crate) partitions: u32,
    /// Records of `chalkstream.events`, control records included.
    pub(crate) events: u64,
    /// Records of `chalkstream.rejected`: rejected events, and counts of outcomes.
    pub(crate) rejected: u64,
}

/// Ingest's way into Kafka, for `doctor`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct IntakeReport {
    /// `closed` while Kafka answers, `open` while it does not, `half_open` on trial.
    pub(crate) breaker: String,
    pub(crate) spool: Option<SpoolReport>,
}

/// What waits on this disk for Kafka, for `doctor`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SpoolReport {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) max_bytes: u64,
    pub(crate) oldest_age_seconds: Option<u64>,
    /// Records since the start.
    pub(crate) forwarded: u64,
    /// Why it takes or forwards nothing, with what to do.
    pub(crate) trouble: Option<String>,
}

impl IntakeReport {
    fn of(status: &IntakeStatus) -> Self {
        let spool = status.spool.as_ref().map(|spool| SpoolReport {
            records: spool.records,
            bytes: spool.bytes,
            max_bytes: spool.max_bytes,
            oldest_age_seconds: spool.oldest_age.map(|age| age.as_secs()),
            forwarded: spool.forwarded,
            trouble: match (&spool.shut, &spool.stuck) {
                (Some(why), _) => Some(format!(
                    "the spool cannot be written: {why}; hint: make room on its disk, or let Kafka take what is in it"
                )),
                (None, Some(why)) => Some(format!(
                    "the spool cannot be forwarded: {why}; hint: what is in it is safe; mend what Kafka refuses"
                )),
                (None, None) => None,
            },
        });
        let breaker = status.breaker.map_or(BreakerState::Closed, |breaker| breaker.state);
        Self { breaker: breaker.as_str().to_owned(), spool }
    }
}

/// Waits until the lake holds what was acknowledged before the request.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ArchiveRequest {
    pub(crate) deadline_seconds: u64,
}

/// A path that fits into a socket's address, which has 108 bytes, however deep the folder is.
fn reachable(path: &Path) -> io::Result<(PathBuf, Option<File>)> {
    const SHORT: usize = 100;
    if path.as_os_str().len() <= SHORT {
        return Ok((path.to_owned(), None));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = File::open(folder)?;
    Ok((Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name), Some(folder)))
}
