//! Reading a body: bounded in bytes and time while it streams, decompressed on the way.
//!
//! In: a request's headers and body stream. Out: the decompressed bytes with their [`Permit`].
//! Always true: never more than `max_body` decompressed bytes are held (and as many again in a
//! decoder's window), whatever a compressed body expands to; a body whose end is missing is an error.
//! Not here: decompression itself ([`decoder`]), and what the bytes mean ([`crate::decode`]).

use std::io;

use axum::body::Body;
use bytes::Bytes;
use chalkstream_access::{Door, Permit, Problem, ProblemKind};
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;

use crate::options::IngestOptions;

mod decoder;
mod encoding;
mod sink;

use decoder::Decoder;
pub(crate) use encoding::Encoding;
use sink::Sink;
pub(crate) use sink::Stop;

/// How much of a refused body is read and thrown away, so that its sender sees the answer instead
/// of a broken connection.
const DISCARD_MAX_BYTES: usize = 32 << 20;
const DISCARD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// A body that has been read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) bytes: Bytes,
    pub(crate) permit: Permit,
}

/// Reads the whole body within its limits.
pub(crate) async fn read(
    body: &mut Body,
    encoding: Encoding,
    headers: &HeaderMap,
    door: &Door,
    options: &IngestOptions,
) -> Result<Read, Problem> {
    let limit = options.body_timeout;
    match tokio::time::timeout(limit.get(), stream(body, encoding, headers, door, options)).await {
        Ok(read) => read,
        Err(_elapsed) => {
            let detail =
                format!("the body did not arrive within {limit}; send it again, all of it");
            Err(Problem::new(ProblemKind::BodyTimeout, detail)
                .retry_after(options.retry_after.get()))
        }
    }
}

/// Reads and forgets what is left of a body that was refused, within limits.
pub(crate) async fn discard_refused(headers: &HeaderMap, body: &mut Body) {
    // Who asked first has sent nothing yet, and need not once it has the answer.
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let read = async {
        let mut left = DISCARD_MAX_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            left = match left.checked_sub(bytes) {
                Some(left) => left,
                None => return,
            };
        }
    };
    if tokio::time::timeout(DISCARD_TIMEOUT, read).await.is_err() {
        tracing::debug!("a refused body was not read to its end");
    }
}

async fn stream(
    body: &mut Body,
    encoding: Encoding,
    headers: &HeaderMap,
    door: &Door,
    options: &IngestOptions,
) -> Result<Read, Problem> {
    let plain = encoding == Encoding::Identity;
    let raw_max = if plain { options.max_body } else { options.max_compressed_body }.get();
    let raw_too_large = || {
        if plain {
            return Stop::TooLarge.problem(options);
        }
        let detail = format!(
            "the compressed body is larger than {}; send fewer events at a time",
            options.max_compressed_body
        );
        Problem::new(ProblemKind::BodyTooLarge, detail)
    };
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<usize>().ok())
        .unwrap_or(0);
    if announced > raw_max {
        return Err(raw_too_large());
    }
    let permit = door.admit(announced).map_err(|full| Stop::Full(full).problem(options))?;
    let sink = Sink {
        bytes: Vec::with_capacity(announced),
        max_bytes: options.max_body.get(),
        permit,
        stop: None,
    };
    let mut decoder = Decoder::new(encoding, sink).map_err(|error| broken(encoding, &error))?;
    let mut raw_bytes = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let detail = format!("the body ended before it was complete: {error}");
            Problem::new(ProblemKind::BrokenBody, detail)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        raw_bytes = raw_bytes.saturating_add(data.len());
        if raw_bytes > raw_max {
            return Err(raw_too_large());
        }
        if let Err(error) = decoder.write(&data) {
            return Err(match decoder.stop() {
                Some(stop) => stop.problem(options),
                None => broken(encoding, &error),
            });
        }
    }
    finish(decoder, encoding, options)
}

/// Undoes the compression of what is there as a whole, within the limits of a body.
pub(crate) fn unpack(
    packed: &[u8],
    encoding: Encoding,
    permit: Permit,
    options: &IngestOptions,
) -> Result<Read, Problem> {
    let max_bytes = options.max_body.get();
    let sink = Sink { bytes: Vec::new(), max_bytes, permit, stop: None };
    let mut decoder = Decoder::new(encoding, sink).map_err(|error| broken(encoding, &error))?;
    if let Err(error) = decoder.write(packed) {
        return Err(match decoder.stop() {
            Some(stop) => stop.problem(options),
            None => broken(encoding, &error),
        });
    }
    finish(decoder, encoding, options)
}

/// The end of a body.
fn finish(decoder: Decoder, encoding: Encoding, options: &IngestOptions) -> Result<Read, Problem> {
    match decoder.finish() {
        Ok(sink) => Ok(Read { bytes: Bytes::from(sink.bytes), permit: sink.permit }),
        Err((Some(stop), _)) => Err(stop.problem(options)),
        Err((None, error)) => Err(broken(encoding, &error)),
    }
}

fn broken(encoding: Encoding, error: &io::Error) -> Problem {
    let name = match encoding {
        Encoding::Identity => "the body",
        Encoding::Gzip => "the gzip body",
        Encoding::Zstd => "the zstd body",
        Encoding::Brotli => "the br body",
        Encoding::Deflate => "the deflate body",
    };
    let detail =
        format!("{name} is damaged or incomplete: {error}; compress it again and send it again");
    Problem::new(ProblemKind::BrokenCompression, detail)
}
