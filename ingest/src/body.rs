//! Reading a body: bounded in bytes and time while it streams, decompressed on the way.
//!
//! In: a request's headers and body stream. Out: the decompressed bytes with their [`Permit`].
//! Always true: never more than `max_body` decompressed bytes are held (and as many again in a
//! decoder's window), whatever a compressed body expands to; a body whose end is missing is an error.
//! Not here: decompression itself ([`decoder`]), and what the bytes mean ([`crate::decode`]).

use std::io::{self, Write};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;

use crate::admission::{Door, Full, Permit};
use crate::limits::Limit;
use crate::options::IngestOptions;
use crate::problem::{Problem, ProblemKind};

mod decoder;

use decoder::Decoder;

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

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Zstd,
    Brotli,
    Deflate,
}

/// The encodings that a request may use.
pub(crate) const ACCEPTED_ENCODINGS: &str = "gzip, zstd, br, deflate, identity";

impl Encoding {
    /// From `Content-Encoding`.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let unsupported = |what: &str| {
            let detail = format!(
                "the content encoding {what} is not supported; send gzip, zstd, br, deflate, or the body as it is"
            );
            Problem::new(ProblemKind::UnsupportedEncoding, detail)
        };
        let mut found = Self::Identity;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            let text = value.to_str().map_err(|_binary| unsupported("(not plain text)"))?;
            for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                let encoding = match name.to_ascii_lowercase().as_str() {
                    "identity" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "zstd" => Self::Zstd,
                    "br" => Self::Brotli,
                    "deflate" => Self::Deflate,
                    _ => return Err(unsupported(&format!("`{}`", printable(name)))),
                };
                if found != Self::Identity {
                    return Err(unsupported("of several layers"));
                }
                found = encoding;
            }
        }
        Ok(found)
    }
}

/// A client's text for a message: short, and without what is not printable.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(60).collect()
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

/// Why reading stopped although the input was fine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// More than `max_body`.
    TooLarge,
    /// More than there is room for now.
    Full(Full),
}

impl Stop {
    pub(crate) fn problem(self, options: &IngestOptions) -> Problem {
        match self {
            Self::TooLarge => Problem::new(
                ProblemKind::BodyTooLarge,
                format!(
                    "the body is larger than {} (counted after decompression); send fewer events at a time",
                    options.max_body
                ),
            ),
            Self::Full(Full::Process) => Problem::new(
                ProblemKind::Busy,
                "too many bytes are on their way to the log; send the request again after Retry-After",
            )
            .retry_after(options.retry_after.get())
            .over(Limit::ProcessBytes),
            Self::Full(Full::Credential) => Problem::new(
                ProblemKind::RateLimited,
                "the key has too many bytes on their way to the log; send the request again after Retry-After, and fewer at once",
            )
            .retry_after(options.retry_after.get())
            .over(Limit::CredentialBytes),
        }
    }
}

/// Takes decompressed bytes up to the limit, and asks for room before it grows.
#[derive(Debug)]
struct Sink {
    bytes: Vec<u8>,
    max_bytes: usize,
    permit: Permit,
    stop: Option<Stop>,
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let length = self.bytes.len().saturating_add(data.len());
        let stop = if length > self.max_bytes {
            Stop::TooLarge
        } else if let Err(full) = self.permit.cover(length) {
            Stop::Full(full)
        } else {
            self.bytes.extend_from_slice(data);
            return Ok(data.len());
        };
        self.stop = Some(stop);
        Err(io::Error::other("stopped at a limit"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
