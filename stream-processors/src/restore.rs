//! Bringing a partition back: checkpoint and states in one query, the log's identity, the index.
//!
//! Out: states that stand exactly at the checkpoint, or a reason to stop ([`crate::decide`]).
//! Always true: checkpoint and states come from one query, so from one snapshot; the answer is
//! streamed into the states, never held as a whole. What may pass by itself is tried again.

mod states;

use std::sync::Arc;

use chalkstream_core::PartitionState;
use chalkstream_event_log::{EventLog, Topic};
use chalkstream_schemas::{Epoch, LogOffset, PartitionId};

use crate::backoff::Backoff;
use crate::checkpoint::{Checkpoint, LogName};
use crate::crash;
use crate::decide::{Found, Restore, StopReason, decide};
use crate::fingerprint::Fingerprint;
use crate::first_seen::{self, FirstSeen, History};
use crate::fold::Folded;
use crate::tables::Tables;

/// What a restore needs around it.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) tables: Arc<dyn Tables>,
    pub(crate) history: Arc<dyn History>,
    pub(crate) index: Arc<FirstSeen>,
    pub(crate) epoch: Epoch,
}

/// How a restore ended.
#[derive(Debug)]
pub(crate) enum Restored {
    /// Fold on from `next`.
    Ready { folded: Box<Folded>, next: LogOffset },
    /// Do not fold.
    Stopped(StopReason),
}

/// Why one try failed.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error("could not read the states")]
    States(#[from] states::Error),
    #[error("could not read the log")]
    Log(#[source] Box<chalkstream_event_log::Error>),
    #[error("could not fill the first-seen index")]
    Index(#[from] first_seen::Error),
}

impl TryError {
    /// The reason to stop, where waiting does not help.
    fn stop(&self) -> Option<StopReason> {
        match self {
            Self::States(error) => {
                error.unreadable().map(|detail| StopReason::Unreadable { detail })
            }
            Self::Log(_) => None,
            Self::Index(error) => index_stop(error),
        }
    }
}

/// The reason to stop, where the index cannot help itself.
pub(crate) fn index_stop(error: &first_seen::Error) -> Option<StopReason> {
    match error {
        first_seen::Error::Store { .. }
        | first_seen::Error::Locked { .. }
        | first_seen::Error::HorizonTooShort { .. } => {
            let mut detail = error.to_string();
            if let Some(cause) = std::error::Error::source(error) {
                detail.push_str(": ");
                detail.push_str(&cause.to_string());
            }
            Some(StopReason::Index { detail })
        }
        first_seen::Error::Gap { .. }
        | first_seen::Error::Log { .. }
        | first_seen::Error::History { .. } => None,
    }
}

/// Restores until it succeeds or there is a reason to stop.
pub(crate) async fn restore(cx: Context, partition: PartitionId) -> Restored {
    let mut backoff = Backoff::default();
    loop {
        match attempt(&cx, partition).await {
            Ok(restored) => return restored,
            Err(error) => match error.stop() {
                Some(reason) => return Restored::Stopped(reason),
                None => backoff.wait(&error, "restoring a partition").await,
            },
        }
    }
}

async fn attempt(cx: &Context, partition: PartitionId) -> Result<Restored, TryError> {
    crash::point("before_restore");
    let read = states::read(&cx.tables, cx.epoch, partition).await?;
    let found = facts(cx, partition, read.checkpoint.as_ref()).await?;
    let next = match decide(read.checkpoint.as_ref(), &found) {
        Restore::StartFresh => LogOffset::ZERO,
        Restore::Resume { from } => from,
        Restore::Stop(reason) => return Ok(Restored::Stopped(reason)),
    };
    cx.index.catch_up(&*cx.log, &*cx.history, partition, next).await?;
    crash::point("after_index_fill");
    let last = read.checkpoint.and_then(|checkpoint| checkpoint.last);
    let state: PartitionState = read.state;
    tracing::info!(
        partition = partition.get(),
        next = next.get(),
        states = read.states,
        log_end = found.bounds.end.get(),
        "a partition is restored"
    );
    crash::point("after_restore");
    Ok(Restored::Ready { folded: Box::new(Folded::new(state, next, last)), next })
}

async fn facts(
    cx: &Context,
    partition: PartitionId,
    checkpoint: Option<&Checkpoint>,
) -> Result<Found, TryError> {
    let log_error = |error| TryError::Log(Box::new(error));
    let log = LogName::of_events(cx.log.identity());
    let bounds = cx.log.bounds(Topic::Events, partition).await.map_err(log_error)?;
    let last = match checkpoint.and_then(|checkpoint| checkpoint.last) {
        Some(last) if (bounds.first..bounds.end).contains(&last.offset) => {
            match cx.log.read(Topic::Events, partition, last.offset, 1).await {
                Ok(records) => records
                    .first()
                    .filter(|record| record.offset == last.offset)
                    .map(Fingerprint::of),
                // Trimmed between the two calls.
                Err(chalkstream_event_log::Error::OutOfRange { .. }) => None,
                Err(error) => return Err(log_error(error)),
            }
        }
        Some(_) | None => None,
    };
    Ok(Found { log, bounds, last })
}
