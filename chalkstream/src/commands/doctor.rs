//! `doctor`: how the pipeline is doing, and what is wrong with it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::Context;
use crate::config::LogKind;
use crate::control::{Access, IntakeReport, LogStatus, Status, access};
use crate::failure::Report;
use crate::folder::{Layout, Runtime};
use crate::output::grouped;
use crate::roles::LOW_DISK_BYTES;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// What was found. Lags are in events, and null where nothing runs here that could tell.
#[derive(Debug, Default, Serialize)]
struct Findings {
    version: String,
    data_dir: PathBuf,
    log_kind: &'static str,
    running: Option<Runtime>,
    libchdb: Option<PathBuf>,
    libchdb_version: &'static str,
    processor_lag: Option<u64>,
    archive_lag: Option<u64>,
    lake_version: Option<u64>,
    /// Rows that the processor has inserted since its start, over all tables.
    rows_written: Option<u64>,
    log: Option<LogStatus>,
    intake: Option<IntakeReport>,
    free_disk_bytes: Option<u64>,
    /// Each with what to do.
    problems: Vec<String>,
}

pub(crate) async fn run(cx: Context) -> Result<ExitCode> {
    let layout = Layout::new(&cx.config.data_dir);
    let mut found = Findings {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        data_dir: cx.config.data_dir.clone(),
        libchdb_version: chalkstream_sql::LIBCHDB_VERSION,
        log_kind: match cx.config.log.kind {
            LogKind::Embedded => "embedded",
            LogKind::Kafka => "kafka",
        },
        ..Findings::default()
    };
    match chalkstream_sql::locate_libchdb() {
        Ok(path) => found.libchdb = Some(path),
        Err(error) if cx.config.clickhouse.url.is_none() => {
            found.problems.push(problem(error.into()));
        }
        Err(_) => {}
    }
    if layout.root().is_dir() {
        match look_at(&cx, &layout, &mut found).await {
            Ok(()) => {}
            Err(error) => found.problems.push(problem(error)),
        }
    }
    let fine = found.problems.is_empty();
    cx.output.show(&found, || shown(&found))?;
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn look_at(cx: &Context, layout: &Layout, found: &mut Findings) -> Result<()> {
    let disk = rustix::fs::statvfs(layout.root())?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    found.free_disk_bytes = Some(free);
    if free < LOW_DISK_BYTES {
        found.problems.push(format!(
            "only {} MiB are free on the disk of {}; hint: free some space before it is full",
            free >> 20,
            layout.root().display()
        ));
    }
    if let Access::Running(client) = access(&cx.config).await? {
        let status: Status = client.get("/status").await?;
        found.running = Runtime::read(layout);
        found.processor_lag = status.processor_lag;
        found.archive_lag = status.archive_lag;
        found.lake_version = status.lake_version;
        found.rows_written = status.rows_written;
        found.log = status.log;
        found.problems.extend(
            status.intake.iter().filter_map(|intake| intake.spool.as_ref()?.trouble.clone()),
        );
        found.intake = status.intake;
        found.problems.extend(status.trouble);
        if status.version != found.version {
            found.problems.push(format!(
                "the running process has version {}, this command {}; hint: use the same binary",
                status.version, found.version
            ));
        }
    }
    Ok(())
}

fn problem(error: anyhow::Error) -> String {
    let Report { error, causes, hint } = Report::of(&error);
    let mut text = error;
    for cause in causes {
        text.push_str(": ");
        text.push_str(&cause);
    }
    if let Some(hint) = hint {
        text.push_str("; hint: ");
        text.push_str(&hint);
    }
    text
}

fn shown(found: &Findings) -> String {
    let number = |number: Option<u64>| number.map_or_else(|| "unknown".to_owned(), grouped);
    let mut lines = vec![
        format!("chalkstream     {}", found.version),
        format!("data folder     {}", found.data_dir.display()),
        format!(
            "libchdb         {}",
            found
                .libchdb
                .as_ref()
                .map_or_else(|| "not found".to_owned(), |path| path.display().to_string())
        ),
        format!("event log       {}", found.log_kind),
    ];
    match &found.running {
        Some(runtime) => {
            lines.push(format!("running         {} (process {})", runtime.role, runtime.pid));
            let url = |url: &Option<String>| url.clone().unwrap_or_else(|| "none here".to_owned());
            lines.push(format!("events at       {}", url(&runtime.http_url)));
            lines.push(format!("ClickHouse at   {}", url(&runtime.clickhouse_url)));
        }
        None => lines.push("running         nothing on this folder".to_owned()),
    }
    if let Some(log) = &found.log {
        let LogStatus { events, rejected, partitions, cluster_id: _ } = log;
        lines.push(format!(
            "log holds       {} records in {partitions} partitions, {} in chalkstream.rejected",
            grouped(*events),
            grouped(*rejected)
        ));
    }
    if let Some(intake) = &found.intake {
        lines.push(format!("Kafka breaker   {}", intake.breaker));
        if let Some(spool) = &intake.spool {
            lines.push(format!(
                "spool           {} records wait ({} of {} bytes), {} forwarded",
                grouped(spool.records),
                grouped(spool.bytes),
                grouped(spool.max_bytes),
                grouped(spool.forwarded)
            ));
        }
    }
    lines.push(format!("processor lag   {}", number(found.processor_lag)));
    lines.push(format!("archive lag     {}", number(found.archive_lag)));
    lines.push(format!("rows written    {}", number(found.rows_written)));
    for problem in &found.problems {
        lines.push(format!("problem: {problem}"));
    }
    if found.problems.is_empty() {
        lines.push("no problem found".to_owned());
    }
    lines.join("\n")
}
