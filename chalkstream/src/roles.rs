//! Processes that run until they are stopped: the whole pipeline, or one role of it.
//!
//! Always true: a role announces itself (`runtime.json`) only once it is ready, and takes that back
//! at a clean stop; whatever ends it, what was started is stopped in order: no more requests, then
//! fold, checkpoint and archive what was acknowledged, then close the log.
//! Every part that runs is watched. One that ends by itself ends the process with exit code 1: its
//! name, reason and hint are logged at once, `/readyz` and `/v1/events` refuse from then on, the rest
//! is stopped in order, and the next start goes on. A single partition that cannot be folded does
//! not: events are still taken, and `doctor` says what to do.
//! SIGHUP reads the configuration again (`reload`).
//! Not here: how a part works.

mod background;
mod pipeline;
mod reload;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::commands::Context;
use crate::config::{Config, LogKind, redacted};
use crate::failure::{Advice, Report};
use crate::folder::{DataFolder, Runtime};
use crate::output::note;
use crate::tasks::{Hangups, Signals, Tasks};
use pipeline::Pipeline;
pub(crate) use watch::LOW_DISK_BYTES;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Standalone,
    Ingest,
    Process,
    Archive,
}

impl Role {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Ingest => "ingest",
            Self::Process => "process",
            Self::Archive => "archive",
        }
    }

    const fn ingests(self) -> bool {
        matches!(self, Self::Standalone | Self::Ingest)
    }

    const fn processes(self) -> bool {
        matches!(self, Self::Standalone | Self::Process)
    }

    const fn archives(self) -> bool {
        matches!(self, Self::Standalone | Self::Archive)
    }

    /// Whether the configuration allows it.
    fn check(self, config: &Config) -> Result<()> {
        let alone = self != Self::Standalone;
        if alone && config.log.kind == LogKind::Embedded {
            return Err(Advice::usage(
                format!(
                    "the role `{}` alone needs Kafka: the embedded log serves one process",
                    self.name()
                ),
                "set log.kind = \"kafka\" and log.brokers, or run `chalkstream standalone`",
            )
            .into());
        }
        if self == Self::Process && config.clickhouse.url.is_none() {
            return Err(Advice::usage(
                "the role `process` alone needs a ClickHouse server",
                "set clickhouse.url, or run `chalkstream standalone`",
            )
            .into());
        }
        Ok(())
    }
}

/// Runs the role until a signal, or until a part of it fails.
pub(crate) async fn run(role: Role, mut cx: Context) -> Result<ExitCode> {
    role.check(&cx.config)?;
    if let Ok(config) = redacted(&cx.config) {
        tracing::debug!(role = role.name(), %config, "starting");
    }
    let folder = DataFolder::open(&cx.config.data_dir).await?;
    folder.retract()?;
    let mut signals = Signals::new()?;
    let mut hangups = Hangups::new()?;
    let mut tasks = Tasks::default();
    let deadline = cx.config.shutdown.deadline.get();
    let mut pipeline = Pipeline::new(role, folder)?;

    let started = tokio::select! {
        started = Box::pin(pipeline.start(&cx.config, &mut tasks)) => started,
        () = signals.next() => {
            signals.now_end_at_once();
            return stop(pipeline, deadline).await;
        }
    };
    let ready = match started {
        Ok(ready) => ready,
        Err(error) => {
            signals.now_end_at_once();
            return failed(pipeline, deadline, error).await;
        }
    };
    if let Err(error) = greet(&cx, &ready) {
        // Nobody reads the greeting; the work goes on.
        tracing::debug!(error = format!("{error:#}"), "greeting not printed");
    }

    let failure = loop {
        tokio::select! {
            () = signals.next() => break None,
            failure = tasks.fatal_end() => break Some(failure),
            () = hangups.next() => reload::reload(&pipeline, &mut cx),
        }
    };
    signals.now_end_at_once();
    match failure {
        None => {
            if !cx.output.is_json() {
                note(
                    "stopping: requests finish, then everything is written (Ctrl-C again ends at once)",
                );
            }
            stop(pipeline, deadline).await
        }
        Some(error) => {
            let error = pipeline.reason(error);
            // At once: stopping may take until the deadline.
            let Report { error: what, causes, hint } = Report::of(&error);
            let causes = causes.join(": ");
            tracing::error!(causes, hint, "{what}; stopping");
            failed(pipeline, deadline, error).await
        }
    }
}

async fn stop(pipeline: Pipeline, deadline: Duration) -> Result<ExitCode> {
    match tokio::time::timeout(deadline, Box::pin(pipeline.stop(deadline))).await {
        Ok(stopped) => stopped.map(|()| ExitCode::SUCCESS),
        Err(_elapsed) => Err(Advice::new(
            format!("did not stop cleanly within {} s", deadline.as_secs()),
            "everything acknowledged is safe in the log; the next start goes on from there. `shutdown.deadline` allows more time",
        )
        .into()),
    }
}

/// Stops what was started and returns the failure that ended it. From here on `/readyz` says 503.
async fn failed(pipeline: Pipeline, deadline: Duration, error: anyhow::Error) -> Result<ExitCode> {
    if let Err(second) = stop(pipeline, deadline).await {
        tracing::warn!(error = format!("{second:#}"), "the stop was not clean either");
    }
    Err(error)
}

/// What a role that is ready tells.
#[derive(Debug, Serialize)]
pub(crate) struct Ready {
    #[serde(flatten)]
    pub(crate) runtime: Runtime,
    /// The key of the school `default`, at the first start alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
}

fn greet(cx: &Context, ready: &Ready) -> Result<()> {
    cx.output.show(ready, || greeting(ready, &cx.config))
}

fn greeting(ready: &Ready, config: &Config) -> String {
    let Runtime { role, version, http_url, clickhouse_url, pid: _ } = &ready.runtime;
    let folder = config.data_dir.display();
    let mut text = format!("Chalkstream {version} is ready ({role})\n");
    if let Some(url) = http_url {
        text.push_str(&format!("\n  events      {url}/v1/events"));
    }
    if let Some(url) = clickhouse_url {
        text.push_str(&format!("\n  ClickHouse  {url}"));
    }
    text.push_str(&format!("\n  data        {folder}\n"));
    if let (Some(key), Some(url)) = (&ready.key, http_url) {
        let data_dir = format!("--data-dir {folder}");
        text.push_str(&format!(
            "\nkey: {key}\n\nIt is the write key of the school `default`, shown this once. Try:\n\n  \
             curl {url}/v1/events -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \
             -d '{{\"id\":\"{id}\",\"type\":\"answer_submitted\",\"user_id\":\"amina\",\"occurred_at\":\"{now}\",\
             \"data\":{{\"item_id\":\"fractions-7\",\"skill_ids\":[\"fractions\"],\"correct\":true}}}}'\n  \
             chalkstream sql \"SELECT user_id, skill_id, attempts, p_known FROM skill_mastery\" {data_dir}\n  \
             chalkstream report run student-performance --school default --from 2026-01-01 --to 2026-12-31 --out out {data_dir}\n",
            id = uuid::Uuid::new_v4(),
            now = crate::registrar::now(),
        ));
    }
    text.push_str("\nCtrl-C stops it.");
    text
}
