//! `/tail` of `control.sock`: events and their fates as they come, one JSON value a line.
//!
//! Always true: a reader who is slow loses events and is told how many, and hinders nobody; the
//! stream says that the node stops before it ends.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use chalkstream_ingest::{TailFilter, TailedEvent};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::sync::CancellationToken;

use super::server::{Control, Failed};

/// Lines that are ready go together, up to about so many bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// A line of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TailLine {
    Event(Box<TailedEvent>),
    /// So many events, wanted or not, came faster than they were read.
    Missed(u64),
    /// The node stops; nothing follows.
    Stopping,
}

pub(super) async fn tail(
    State(control): State<Arc<Control>>,
    Query(filter): Query<TailFilter>,
) -> Result<Response, Failed> {
    let events = control.ingest()?.tail();
    let stop = control.stop.clone();
    let lines = Some(Lines { events, filter, stop, greeted: false });
    let chunks = futures::stream::unfold(lines, |lines| async move {
        let mut lines = lines?;
        let (chunk, more) = lines.next().await;
        Some((Ok::<_, Infallible>(chunk), more.then_some(lines)))
    });
    Ok(Body::from_stream(chunks).into_response())
}

struct Lines {
    events: Receiver<Arc<TailedEvent>>,
    filter: TailFilter,
    stop: CancellationToken,
    greeted: bool,
}

impl Lines {
    /// The lines that are ready, at least one; and whether more can follow.
    async fn next(&mut self) -> (Bytes, bool) {
        let mut chunk = Vec::new();
        if !std::mem::replace(&mut self.greeted, true) {
            // An empty line at once: whoever asked knows that nothing is missed from here on.
            return (Bytes::from_static(b"\n"), true);
        }
        while chunk.is_empty() {
            let first = tokio::select! {
                // What came before the stop is told before it.
                biased;
                event = self.events.recv() => event,
                () = self.stop.cancelled() => Err(RecvError::Closed),
            };
            let mut event = match first {
                Ok(event) => Ok(event),
                Err(RecvError::Lagged(missed)) => Err(TryRecvError::Lagged(missed)),
                Err(RecvError::Closed) => Err(TryRecvError::Closed),
            };
            loop {
                match event {
                    Ok(event) if self.filter.wants(&event) => {
                        put(&mut chunk, &TailLine::Event(Box::new((*event).clone())));
                    }
                    Ok(_unwanted) => {}
                    Err(TryRecvError::Lagged(missed)) => put(&mut chunk, &TailLine::Missed(missed)),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Closed) => {
                        put(&mut chunk, &TailLine::Stopping);
                        return (chunk.into(), false);
                    }
                }
                if chunk.len() > CHUNK_BYTES {
                    break;
                }
                event = self.events.try_recv();
            }
        }
        (chunk.into(), true)
    }
}

fn put(chunk: &mut Vec<u8>, line: &TailLine) {
    // Strings and numbers alone: writing them cannot fail.
    if serde_json::to_writer(&mut *chunk, line).is_ok() {
        chunk.push(b'\n');
    }
}

impl TailLine {
    /// Reads a line; an empty one says nothing.
    pub(crate) fn read(line: &[u8]) -> Result<Option<Self>> {
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(line)
            .map(Some)
            .context("the running process sent a line that this version does not know")
    }
}
