//! Reading an event that was rejected before.
//!
//! Always true: an event's time is corrected as it would have been when it was first received; how
//! old it is does not matter, and how far ahead it may be counts from now.

use std::time::Duration;

use chalkstream_schemas::{EventReader, EventRef, ParseContext, Rejection, Timestamp};

/// Reads an event that was first received at `first`; it is received again now.
#[expect(clippy::result_large_err, reason = "rejections are few, and each is read once")]
pub(super) fn read_again<'a>(
    reader: &mut EventReader<'a>,
    raw: &'a [u8],
    now: &ParseContext<'a>,
    first: Timestamp,
) -> Result<EventRef<'a>, Rejection> {
    let since = u64::try_from(now.received_at.ms_since(first)).unwrap_or_default();
    let then = ParseContext {
        received_at: first,
        max_age: None,
        max_future: now.max_future + Duration::from_millis(since),
        ..*now
    };
    let mut event = reader.read(raw, &then)?;
    event.received_at = now.received_at;
    Ok(event)
}
