//! Collects events into requests, one open request per worker.

use serde_json::value::RawValue;

use super::input::Item;

/// A request stays well below the server's 10 MiB.
const BODY_MAX_BYTES: usize = 4 << 20;

/// An event on its way, with its place in the file for messages.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) place: u64,
    pub(super) raw: Vec<u8>,
}

/// The events of one request, in the file's order.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    pub(super) lines: Vec<Line>,
    pub(super) sent_at: Option<Box<RawValue>>,
}

impl Batch {
    pub(super) const NDJSON: &'static str = "application/x-ndjson";
    pub(super) const JSON: &'static str = "application/json";

    /// Media type and bytes of the request.
    pub(super) fn body(&self) -> (&'static str, Vec<u8>) {
        let bytes = self.lines.iter().map(|line| line.raw.len() + 1).sum::<usize>() + 64;
        let mut body = Vec::with_capacity(bytes);
        let Some(sent_at) = &self.sent_at else {
            for line in &self.lines {
                body.extend_from_slice(&line.raw);
                body.push(b'\n');
            }
            return (Self::NDJSON, body);
        };
        body.extend_from_slice(format!("{{\"sent_at\":{},\"events\":[", sent_at.get()).as_bytes());
        for (index, line) in self.lines.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&line.raw);
        }
        body.extend_from_slice(b"]}");
        (Self::JSON, body)
    }

    /// Two halves in order, or nothing where there is but one event.
    pub(super) fn halves(&self) -> Option<[Self; 2]> {
        let middle = self.lines.len() / 2;
        let (first, second) = self.lines.split_at_checked(middle).filter(|_| middle > 0)?;
        let half = |lines: &[Line]| Self { lines: lines.to_vec(), sent_at: self.sent_at.clone() };
        Some([half(first), half(second)])
    }
}

/// The requests that are being filled.
#[derive(Debug)]
pub(super) struct Batcher {
    open: Vec<(Batch, usize)>,
    max_events: usize,
    sent_at: Option<Box<RawValue>>,
}

impl Batcher {
    pub(super) fn new(workers: usize, max_events: usize, sent_at: Option<Box<RawValue>>) -> Self {
        let mut batcher = Self { open: Vec::new(), max_events: max_events.max(1), sent_at };
        for _ in 0..workers {
            batcher.open.push(batcher.empty());
        }
        batcher
    }

    fn empty(&self) -> (Batch, usize) {
        (Batch { lines: Vec::new(), sent_at: self.sent_at.clone() }, 0)
    }

    /// Adds the event to its worker's request; hands the request out once it is full.
    pub(super) fn push(&mut self, item: Item) -> Option<(usize, Batch)> {
        let worker = item.worker(self.open.len());
        let empty = self.empty();
        let max_events = self.max_events;
        let (batch, bytes) = self.open.get_mut(worker)?;
        *bytes += item.raw.len() + 1;
        batch.lines.push(Line { place: item.place, raw: item.raw });
        let full = batch.lines.len() >= max_events || *bytes >= BODY_MAX_BYTES;
        full.then(|| {
            *bytes = 0;
            (worker, std::mem::replace(batch, empty.0))
        })
    }

    /// What is left at the end of the file.
    pub(super) fn finish(self) -> impl Iterator<Item = (usize, Batch)> {
        let batches = self.open.into_iter().map(|(batch, _)| batch).enumerate();
        batches.filter(|(_, batch)| !batch.lines.is_empty())
    }
}
