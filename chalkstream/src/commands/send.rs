//! `send FILE`: a file of events to a server, with a progress bar; goes on where it was stopped.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::config::{Config, Span};
use crate::control::{Access, access};
use crate::failure::Advice;
use crate::folder::Layout;
use crate::output::{grouped, note};
use crate::send::{self, Journal, Problem, Progress, SendOptions, Summary, Target};
use crate::tasks::Signals;

const JOURNAL_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// NDJSON or JSON, plain or gzip; - is standard input
    file: PathBuf,
    /// Address of the server [default: the one that runs on the data folder]
    #[arg(long, env = "CHALKSTREAM_URL")]
    url: Option<String>,
    /// Write key of the school
    #[arg(long, env = "CHALKSTREAM_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Certificates to trust beside the system's, in PEM: for a server with a private issuer
    #[arg(long, value_name = "FILE", env = "CHALKSTREAM_CA")]
    ca: Option<PathBuf>,
    /// Events of one request
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=5_000))]
    batch: u16,
    /// Requests under way at once; a learner's events always keep their order
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    connections: u8,
    /// Give up when the server takes nothing for so long
    #[arg(long, default_value = "5m")]
    retry_for: Span,
    /// Give events without an id one made from the file's name and their place
    #[arg(long)]
    assign_ids: bool,
    /// End with 0 though events were rejected
    #[arg(long)]
    allow_rejected: bool,
    /// Begin at the file's start, whatever an earlier run had sent
    #[arg(long)]
    restart: bool,
}

pub(crate) async fn run(args: Args, cx: Context) -> Result<ExitCode> {
    let Some(key) = args.key.clone().filter(|key| !key.is_empty()) else {
        return Err(Advice::usage(
            "send needs the write key of a school",
            "give it with --key or CHALKSTREAM_KEY; make one with `chalkstream keys create --school SCHOOL`",
        )
        .into());
    };
    let url = match &args.url {
        Some(url) => url.clone(),
        None => running_url(&cx.config).await?,
    };
    let target = Target::new(&url, key, args.ca.as_deref())?;
    let stdin = args.file.as_os_str() == "-";
    let journal = if stdin { None } else { Some(Arc::new(Journal::of(&args.file, target.url())?)) };
    let skip = match &journal {
        Some(journal) if !args.restart => journal.answered(),
        _ => 0,
    };
    if skip > 0 {
        note(&format!(
            "going on after {} events that an earlier run had answers for (--restart begins anew)",
            grouped(skip)
        ));
    }
    let bytes =
        if stdin { None } else { std::fs::metadata(&args.file).ok().map(|file| file.len()) };
    let connections = usize::from(args.connections);
    let progress = Arc::new(Progress::new(connections, skip, bytes, true));
    let options = SendOptions {
        file: args.file.clone(),
        target,
        batch_events: usize::from(args.batch),
        connections,
        patience: args.retry_for.get(),
        assign_ids: args.assign_ids,
        skip,
    };
    let stopped = send_and_note(options, &progress, journal.as_ref()).await?;
    finish(&args, &cx, &progress, stopped)
}

/// Sends and keeps the journal; true if a signal stopped it.
async fn send_and_note(
    options: SendOptions,
    progress: &Arc<Progress>,
    journal: Option<&Arc<Journal>>,
) -> Result<bool> {
    let stop = CancellationToken::new();
    let mut signals = Some(Signals::new()?);
    let mut sending = tokio::spawn(send::run(options, Arc::clone(progress), stop.clone()));
    let mut tick = tokio::time::interval(JOURNAL_EVERY);
    let mut writable = true;
    let result = loop {
        tokio::select! {
            ended = &mut sending => break ended.context("sending had a bug").flatten(),
            () = next_of(&mut signals) => {
                stop.cancel();
                // A second signal does not wait for the answers of what is under way.
                if let Some(signals) = signals.take() {
                    signals.now_end_at_once();
                }
            }
            _ = tick.tick() => {
                if let Some(journal) = journal && writable
                    && let Err(error) = journal.write(progress.answered_through())
                {
                    writable = false;
                    note(&format!("warning: {error:#}; a later run would begin at the file's start"));
                }
            }
        }
    };
    progress.finish();
    if let Some(journal) = journal {
        if progress.complete() && result.is_ok() {
            journal.remove();
        } else if writable {
            journal.write(progress.answered_through())?;
        }
    }
    result.map(|()| stop.is_cancelled() && !progress.complete())
}

/// The next signal; never, once nobody listens any more.
async fn next_of(signals: &mut Option<Signals>) {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

fn finish(args: &Args, cx: &Context, progress: &Progress, stopped: bool) -> Result<ExitCode> {
    let summary = progress.summary();
    for problem in progress.problems() {
        note(&shown(&problem));
    }
    let more = summary.rejected.saturating_sub(progress.problems().len() as u64);
    if more > 0 {
        note(&format!("… and {} more; the view rejected_events has all of them", grouped(more)));
    }
    cx.output.show(&summary, || shown_summary(&summary))?;
    if stopped {
        return Err(Advice::new(
            "stopped before the file's end",
            "run the same command again to go on from here",
        )
        .into());
    }
    let lost = summary.rejected + summary.refused;
    let fine = lost == 0 || (args.allow_rejected && summary.refused == 0);
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn shown(problem: &Problem) -> String {
    let Problem { place, reason, field, message } = problem;
    let field = field.as_ref().map_or_else(String::new, |field| format!(" {field}"));
    format!("rejected: line {place}: {reason}{field}: {message}")
}

fn shown_summary(summary: &Summary) -> String {
    let Summary { sent, accepted, duplicate, rejected, refused } = summary;
    format!(
        "sent {}: accepted {}, duplicate {}, rejected {}, refused {}",
        grouped(*sent),
        grouped(*accepted),
        grouped(*duplicate),
        grouped(*rejected),
        grouped(*refused)
    )
}

/// Where the process on the data folder listens, else where one would.
async fn running_url(config: &Config) -> Result<String> {
    let scheme = if config.ingest.tls.is_on() { "https" } else { "http" };
    let configured = format!("{scheme}://{}", config.ingest.listen);
    // Sending leaves no folder behind where there was none.
    if !Layout::new(&config.data_dir).lock().is_file() {
        return Ok(configured);
    }
    match access(config).await? {
        Access::Running(client) => Ok(client.ready().await?.http_url.unwrap_or(configured)),
        // A killed process may have left its addresses behind.
        Access::Ours(_folder) => Ok(configured),
    }
}
