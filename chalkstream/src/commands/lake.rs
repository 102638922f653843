//! The lake for reports and datasets: everything that was acknowledged before the command began.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use chalkstream_batch_jobs::archiver::{Archiver, ArchiverOptions};
use chalkstream_batch_jobs::lake::Lake;

use super::Context;
use crate::control::{Access, ArchiveRequest, Status, access};
use crate::folder::{DataFolder, Layout};
use crate::parts;

/// Which lake a command reads.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A version of the lake's table events [default: the newest]
    #[arg(long, value_name = "N")]
    pub(crate) lake_version: Option<u64>,
    /// Take the lake as it is, without what was acknowledged a moment ago
    #[arg(long)]
    no_wait: bool,
    /// How many seconds to wait at most for the archiver
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    wait: u64,
}

/// The lake, and the folder's lock where no process has it, to be held while the lake is read.
#[derive(Debug)]
pub(crate) struct OpenLake {
    pub(crate) lake: Lake,
    _folder: Option<DataFolder>,
}

impl Args {
    /// Opens the lake once it holds what it must.
    pub(crate) async fn open(&self, cx: &Context) -> Result<OpenLake> {
        let layout = Layout::new(&cx.config.data_dir);
        // An old version does not change by waiting.
        if self.no_wait || self.lake_version.is_some() {
            return Ok(OpenLake { lake: parts::open_lake(&cx.config, &layout)?, _folder: None });
        }
        match access(&cx.config).await? {
            Access::Running(client) => {
                let request = ArchiveRequest { deadline_seconds: self.wait };
                let _archived: Status = client.post("/archive", &request).await?;
                Ok(OpenLake { lake: parts::open_lake(&cx.config, &layout)?, _folder: None })
            }
            Access::Ours(folder) => {
                let deadline = Duration::from_secs(self.wait);
                let lake = catch_up(cx, &folder, deadline).await?;
                Ok(OpenLake { lake, _folder: Some(folder) })
            }
        }
    }
}

/// Archives what the log holds, in a folder that no process runs on.
async fn catch_up(cx: &Context, folder: &DataFolder, deadline: Duration) -> Result<Lake> {
    let layout = folder.layout();
    let lake = parts::open_lake(&cx.config, layout)?;
    let opened = parts::open_log(&cx.config, layout).await?;
    let log = Arc::clone(&opened.log);
    let archived = async {
        let index = parts::open_index(layout, log.as_ref()).await?;
        let blobs = parts::open_blobs(&cx.config, layout)?;
        let mut options = ArchiverOptions::new(Arc::clone(&log), lake.clone(), index, blobs);
        options.group.clone_from(&cx.config.archive.group);
        let archiver = Archiver::start(options).await?;
        let ends = archiver.log_ends().await?;
        let reached = archiver.wait_for(&ends, deadline).await;
        archiver.shutdown(deadline).await?;
        anyhow::Ok(reached?)
    };
    let archived = archived.await;
    drop(opened);
    let closed = log.close().await;
    archived?;
    closed?;
    Ok(lake)
}
