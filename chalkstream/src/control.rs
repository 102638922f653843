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
