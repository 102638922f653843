//! From a batch to what became of it: what every protocol calls once it has a [`Batch`].
//!
//! Always true: the work runs in a task of its own to its end, whatever becomes of the connection;
//! the caller waits no longer than the request's deadline, and then says what is known until then.
//! Not here: reading bodies ([`crate::body`], [`crate::decode`]), and writing answers (`routes`).

use std::sync::Arc;
use std::time::Duration;

use chalkstream_access::{Credential, Permit, Problem, ProblemKind};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::app::App;
use crate::decode::Batch;
use crate::fate::{Outcome, Settled};
use crate::ledger::Progress;
use crate::options::IngestOptions;

/// How much longer than the pipeline the answer waits, so that a request which waited in vain for
/// another one can still say what became of each event.
const GRACE: Duration = Duration::from_millis(250);

/// What a request asks for beside its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    /// Ids of accepted events, too.
    pub(crate) name_all: bool,
    /// To know what would become of the events, without storing any.
    pub(crate) validate: bool,
}

/// Why a request has no outcome, or none yet.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) problem: Problem,
    /// The events that have their fate all the same, with their places.
    pub(crate) known: Vec<(usize, Settled)>,
}

impl From<Problem> for Unanswered {
    fn from(problem: Problem) -> Self {
        Self { problem, known: Vec::new() }
    }
}

/// Counts the batch against its credential's limits, and gives every event its fate. The permit covers the batch until then.
pub(crate) async fn take(
    app: &Arc<App>,
    batch: Batch,
    credential: Arc<Credential>,
    wants: Wants,
    permit: Permit,
) -> Result<Outcome, Unanswered> {
    let options = app.options.get();
    app.limits.admit_events(&options.limits, &credential, batch.events.len())?;
    // The deadline counts from here: a slow client has its own.
    let deadline = Instant::now() + options.request_timeout.get();
    let progress = Progress::default();
    let until = Until { deadline, progress: progress.clone() };
    let work = decide(Arc::clone(app), batch, credential, wants, until, permit);
    let unknown = |kind, what: &str| {
        Err(Unanswered { problem: unknown(kind, what, &options), known: progress.so_far() })
    };
    match tokio::time::timeout_at(deadline + GRACE, tokio::spawn(work.in_current_span())).await {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(failed)) => {
            app.metrics.panicked();
            tracing::error!(%failed, "a request failed");
            unknown(ProblemKind::Internal, "the request failed")
        }
        Err(_elapsed) => {
            unknown(ProblemKind::Unacknowledged, "the log did not acknowledge in time")
        }
    }
}

/// How long a request may take, and where it tells how far it got.
struct Until {
    deadline: Instant,
    progress: Progress,
}

async fn decide(
    app: Arc<App>,
    batch: Batch,
    credential: Arc<Credential>,
    wants: Wants,
    until: Until,
    permit: Permit,
) -> Outcome {
    let Until { deadline, progress } = until;
    let working = app.lifecycle.work();
    let outcome = if wants.validate {
        app.pipeline.validate(&batch, &credential, wants.name_all).await
    } else {
        app.pipeline.run(&batch, &credential, wants.name_all, deadline, progress).await
    };
    drop(permit);
    drop(working);
    outcome
}

fn unknown(kind: ProblemKind, what: &str, options: &IngestOptions) -> Problem {
    let detail = format!(
        "{what}, so it is not known of every event whether it is durable; send all of them again, what is durable is then a duplicate"
    );
    Problem::new(kind, detail).retry_after(options.retry_after.get())
}
