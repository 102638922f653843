//! From a body to the events in it, each as a range of the body's bytes.
//!
//! In: decompressed bytes and a content type. Out: [`Batch`], or a problem with the request.
//! Always true: a JSON body is scanned once and nothing is copied; what is inside an event is
//! nobody's business here, so one event's fault cannot sink its batch; at most `max_events` are
//! collected; what is not JSON becomes JSON here, so that all that follows is one path.
//! Not here: what an event means (`parse_event` of the schemas).

use std::ops::Range;

use bytes::Bytes;
use chalkstream_access::{Permit, Problem, ProblemKind};
use chalkstream_schemas::batch::{Batch as Found, BatchError};

use crate::options::IngestOptions;

mod batch;
mod format;
pub(crate) mod protobuf;
pub(crate) mod segment;

pub(crate) use batch::Batch;
use batch::too_many;
pub(crate) use format::Format;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Finds the events of a body. The permit grows where reading them takes memory beyond the body.
pub(crate) fn split(
    body: Bytes,
    format: Format,
    options: &IngestOptions,
    permit: &mut Permit,
) -> Result<Batch, Problem> {
    let max_events = options.max_events.get();
    let body = match body.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) if format != Format::Protobuf => body.slice_ref(rest),
        _ => body,
    };
    let Found { events, sent_at } = match format {
        Format::Json => split_json(&body, max_events)?,
        Format::Ndjson => Found { events: split_lines(&body, max_events)?, sent_at: None },
        Format::Protobuf => return protobuf::batch(&body, options, permit),
    };
    Ok(Batch { body, events, sent_at, ..Batch::default() })
}

fn split_lines(body: &[u8], max_events: usize) -> Result<Vec<Range<usize>>, Problem> {
    let mut events = Vec::new();
    let mut start = 0;
    for line in body.split(|byte| *byte == b'\n') {
        let next = start + line.len() + 1;
        let text = line.trim_ascii_start();
        let from = start + (line.len() - text.len());
        let text = text.trim_ascii_end();
        if !text.is_empty() {
            if events.len() == max_events {
                return Err(too_many(max_events));
            }
            events.push(from..from + text.len());
        }
        start = next;
    }
    Ok(events)
}

fn split_json(body: &[u8], max_events: usize) -> Result<Found, Problem> {
    if body.trim_ascii().is_empty() {
        let detail = "the body is empty; an empty batch is `[]`";
        return Err(Problem::new(ProblemKind::BrokenBody, detail).at(1, 0));
    }
    Found::find(body, max_events).map_err(|error| match error {
        BatchError::TooManyEvents { max_events } => too_many(max_events),
        BatchError::Invalid { line, column, .. } => {
            let detail = format!("the body is not valid: {error}");
            Problem::new(ProblemKind::BrokenBody, detail).at(line, column)
        }
    })
}

#[cfg(test)]
mod tests;
