//! From a protobuf `EventBatch` to the JSON of its events.
//!
//! In: the bytes of a message `chalkstream.events.v1.EventBatch`. Out: a [`Batch`] as if the same
//! events had come as JSON; `events` first, then `attempts`, `sessions`, `placements`.
//! Always true: events are found without decoding them, and decoded one after another, so a short
//! message cannot make a large structure; an event above `max_event` is not decoded at all; the JSON
//! of all events is held to `max_body`, as a JSON body is, and is covered by the request's permit; a
//! message that cannot be decoded is its own event's fault alone, and its bytes are what is kept of it.
//! Not here: what an event becomes (`transcode` of the schemas).

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Buf as _, Bytes};
use chalkstream_access::{Permit, Problem, ProblemKind};
use chalkstream_schemas::transcode::{EventList, time_text};
use chalkstream_schemas::{RejectReason, Rejection, Timestamp};
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::batch::{Batch, too_many};
use crate::body::Stop;
use crate::options::IngestOptions;

/// `sent_at` of `EventBatch`.
const SENT_AT: u32 = 1;

/// Where the parts of a message lie.
#[derive(Default)]
struct Outline {
    sent_at: prost_types::Timestamp,
    has_sent_at: bool,
    lists: [Vec<Range<usize>>; EventList::ALL.len()],
}

/// Reads a batch. The permit grows by the JSON that its events become.
pub(crate) fn batch(
    body: &Bytes,
    options: &IngestOptions,
    permit: &mut Permit,
) -> Result<Batch, Problem> {
    let outline = outline(body, options.max_events.get())?;
    let sent_at = outline.has_sent_at.then(|| time_text(&outline.sent_at));
    let sent_at = sent_at.map(|text| Timestamp::parse_rfc3339(&text)).transpose();
    let sent_at = sent_at.map_err(|error| broken(0, &format!("`sent_at` of the batch {error}")))?;
    let mut json = Vec::new();
    let mut events = Vec::with_capacity(outline.lists.iter().map(Vec::len).sum());
    let mut faults = BTreeMap::new();
    for (list, messages) in EventList::ALL.into_iter().zip(outline.lists) {
        for range in messages {
            let message = body.get(range.clone()).unwrap_or_default();
            let start = json.len();
            if message.len() > options.max_event.get() {
                // Rejected for its size, which is all that is looked at.
                json.extend_from_slice(message);
            } else if let Err(error) = list.write_json(message, &mut json) {
                json.extend_from_slice(message);
                faults.insert(events.len(), undecodable(list, range.start, &error));
            }
            events.push(start..json.len());
            if json.len() > options.max_body.get() {
                let detail = format!(
                    "the events are larger than {} as JSON, which is what is counted and kept; send fewer events at a time",
                    options.max_body
                );
                return Err(Problem::new(ProblemKind::BodyTooLarge, detail));
            }
            let held = body.len().saturating_add(json.len());
            permit.cover(held).map_err(|full| Stop::Full(full).problem(options))?;
        }
    }
    Ok(Batch { body: Bytes::from(json), events, sent_at, faults, ..Batch::default() })
}

/// Finds the events; what is not known is skipped, as protobuf wants it.
fn outline(body: &Bytes, max_events: usize) -> Result<Outline, Problem> {
    let mut outline = Outline::default();
    let mut count = 0_usize;
    let mut rest = body.clone();
    while rest.has_remaining() {
        let at = body.len() - rest.remaining();
        let wrong = |error: prost::DecodeError| broken(at, &error.to_string());
        let (number, wire_type) = decode_key(&mut rest).map_err(wrong)?;
        let list = EventList::ALL.iter().position(|list| list.number() == number);
        if list.is_none() && number != SENT_AT {
            skip_field(wire_type, number, &mut rest, DecodeContext::default()).map_err(wrong)?;
            continue;
        }
        if wire_type != WireType::LengthDelimited {
            return Err(broken(at, &format!("field {number} is no message but {wire_type:?}")));
        }
        let length = decode_varint(&mut rest).map_err(wrong)?;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= rest.remaining())
            .ok_or_else(|| broken(at, "it ends before its last message does"))?;
        let start = body.len() - rest.remaining();
        let range = start..start + length;
        rest.advance(length);
        match list.and_then(|list| outline.lists.get_mut(list)) {
            Some(list) => {
                if count == max_events {
                    return Err(too_many(max_events));
                }
                count += 1;
                list.push(range);
            }
            None => {
                let message = body.get(range).unwrap_or_default();
                outline.has_sent_at = true;
                outline.sent_at.merge(message).map_err(wrong)?;
            }
        }
    }
    Ok(outline)
}

fn undecodable(list: EventList, at: usize, error: &prost::DecodeError) -> Rejection {
    let message = format!(
        "the message at byte {at} of the batch is no `chalkstream.events.v1.{}`: {error}; encode it with the published `events.proto`",
        list.message_name()
    );
    Rejection::new(RejectReason::MalformedJson, None, message)
}

fn broken(at: usize, what: &str) -> Problem {
    let detail = format!(
        "the body is no protobuf message `chalkstream.events.v1.EventBatch` (at byte {at}): {what}; encode it with the published `events.proto` and send it again"
    );
    Problem::new(ProblemKind::BrokenBody, detail)
}

#[cfg(test)]
mod tests;
