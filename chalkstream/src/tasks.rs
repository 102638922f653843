//! Long-lived tasks by name, what the end of each means, and the signals that stop them all.
//!
//! Always true: a task that must not end stops the process when it does, with its name and reason;
//! a second signal ends the process at once.

use std::fmt;
use std::future::Future;

use anyhow::{Context, Result, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinError, JoinSet};

use crate::output::note;

/// What it means that a task has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnEnd {
    /// The process cannot do its work without it.
    StopProcess,
    /// The work goes on; the end is logged.
    Log,
}

/// The tasks of this process.
#[derive(Default)]
pub(crate) struct Tasks {
    set: JoinSet<(&'static str, OnEnd, Result<()>)>,
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("running", &self.set.len()).finish()
    }
}

impl Tasks {
    pub(crate) fn spawn(
        &mut self,
        name: &'static str,
        on_end: OnEnd,
        task: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        self.set.spawn(async move { (name, on_end, task.await) });
    }

    /// Waits for the end of a task that the process cannot do without.
    pub(crate) async fn fatal_end(&mut self) -> anyhow::Error {
        loop {
            match self.set.join_next().await {
                None => std::future::pending::<()>().await,
                Some(ended) => {
                    if let Some(error) = meaning(ended) {
                        return error;
                    }
                }
            }
        }
    }
}

fn meaning(ended: Result<(&'static str, OnEnd, Result<()>), JoinError>) -> Option<anyhow::Error> {
    match ended {
        Ok((name, OnEnd::StopProcess, Ok(()))) => Some(anyhow!("{name} ended by itself")),
        Ok((name, OnEnd::StopProcess, Err(error))) => {
            Some(error.context(format!("{name} stopped")))
        }
        Ok((name, OnEnd::Log, Ok(()))) => {
            tracing::debug!(task = name, "task ended");
            None
        }
        Ok((name, OnEnd::Log, Err(error))) => {
            tracing::warn!(task = name, error = format!("{error:#}"), "task ended");
            None
        }
        Err(error) if error.is_cancelled() => None,
        Err(error) => Some(anyhow::Error::new(error).context("a task had a bug")),
    }
}

/// SIGHUP, which asks to read the configuration again.
#[derive(Debug)]
pub(crate) struct Hangups(Signal);

impl Hangups {
    /// From now on SIGHUP does not end the process.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(signal(SignalKind::hangup()).context("could not listen for signals")?))
    }

    /// Waits for the next; cancel-safe.
    pub(crate) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// SIGINT and SIGTERM.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("could not listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Waits for the next of them; cancel-safe.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// From now on a signal ends the process at once: everything acknowledged is durable anyway.
    pub(crate) fn now_end_at_once(mut self) {
        tokio::spawn(async move {
            self.next().await;
            note("stopped at once; everything acknowledged is safe in the log");
            std::process::exit(130);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_end_of_a_vital_task_is_fatal() {
        let mut tasks = Tasks::default();
        tasks.spawn("helper", OnEnd::Log, async { Err(anyhow!("gone")) });
        tasks.spawn("archiver", OnEnd::StopProcess, async { Err(anyhow!("disk full")) });
        let error = format!("{:#}", tasks.fatal_end().await);
        assert_eq!(error, "archiver stopped: disk full");
    }
}
