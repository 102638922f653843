//! Threads of their own for what nobody's answer waits for.
//!
//! In `standalone` events are taken in, folded, stored and archived by one process on the same cores.
//! Folding comes in bursts, a few each second, that take every core for tens of milliseconds; a
//! client would wait for its turn behind them. So these threads, and those that ClickHouse starts
//! from them, are nicer: they get what ingest leaves, and a fair part of what it wants all of.
//! Not here: what runs on them.

use std::future::poll_fn;
use std::pin::pin;

use anyhow::{Context as _, Result};
use tokio::runtime::{Builder, Runtime};

use super::Role;

/// How much nicer: beside a thread of ingest that wants all of a core, one here gets a quarter.
const NICENESS: i32 = 5;

/// The threads, if there are any. They end with it, without waiting for work that nobody waits for.
#[derive(Debug)]
pub(super) struct Background(Option<Runtime>);

impl Background {
    /// A role alone needs none: all that it does is its work.
    pub(super) fn start(role: Role) -> Result<Self> {
        if role != Role::Standalone {
            return Ok(Self(None));
        }
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .thread_name("background")
            .on_thread_start(|| {
                if let Err(error) = rustix::process::nice(NICENESS) {
                    tracing::debug!(%error, "a background thread is no nicer than others");
                }
            })
            .build()
            .context("could not start the background's threads")?;
        Ok(Self(Some(runtime)))
    }

    /// What the future spawns runs here; the future itself stays where it is.
    pub(super) async fn hosting<F: Future>(&self, starting: F) -> F::Output {
        let mut starting = pin!(starting);
        poll_fn(|cx| {
            let _inside = self.0.as_ref().map(Runtime::enter);
            starting.as_mut().poll(cx)
        })
        .await
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
