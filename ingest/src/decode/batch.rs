//! The events of a request, as they stand in its body.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use chalkstream_access::{Problem, ProblemKind};
use chalkstream_schemas::{Rejection, Timestamp, Undated};

/// The events of a request, as they stand in its body.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) body: Bytes,
    pub(crate) events: Vec<Range<usize>>,
    /// When the batch was sent, by the device's clock.
    pub(crate) sent_at: Option<Timestamp>,
    /// When an event happened that names no time.
    pub(crate) undated: Undated,
    /// What is at fault before it is read, by its place in `events`.
    pub(crate) faults: BTreeMap<usize, Rejection>,
}

impl Batch {
    /// The bytes of one event.
    pub(crate) fn raw(&self, index: usize) -> &[u8] {
        self.events.get(index).and_then(|range| self.body.get(range.clone())).unwrap_or_default()
    }
}

pub(super) fn too_many(max_events: usize) -> Problem {
    let detail =
        format!("a request holds at most {max_events} events; send them in several requests");
    Problem::new(ProblemKind::TooManyEvents, detail)
}
