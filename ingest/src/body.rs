//! Reading a body: bounded in bytes and time while it streams, decompressed on the way.
//!
//! In: a request's headers and body stream. Out: the decompressed bytes with their [`Permit`].
//! Always true: never more than `max_body` decompressed bytes (and a decoder's window of at most
//! 8 MiB) are held, whatever a compressed body expands to; a body whose end is missing is an error.
//! Not here: what the bytes mean ([`crate::decode`]).

use std::io::{self, Write};

use axum::body::Body;
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation as _, OutBuffer};

use crate::admission::{Door, Full, Permit};
use crate::limits::Limit;
use crate::options::IngestOptions;
use crate::problem::{Problem, ProblemKind};

/// Largest window of a zstd frame: 2^23 bytes, what RFC 9659 allows for HTTP.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
const ZSTD_STEP_BYTES: usize = 64 << 10;
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
}

impl Encoding {
    /// From `Content-Encoding`.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let unsupported = |what: &str| {
            let detail = format!(
                "the content encoding {what} is not supported; send gzip, zstd, or the body as it is"
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
pub(crate) async fn discard(body: &mut Body) {
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
    let raw_max = match encoding {
        Encoding::Identity => options.max_body.get(),
        Encoding::Gzip | Encoding::Zstd => options.max_compressed_body.get(),
    };
    let raw_too_large = || match encoding {
        Encoding::Identity => Stop::TooLarge.problem(options),
        Encoding::Gzip | Encoding::Zstd => Problem::new(
            ProblemKind::BodyTooLarge,
            format!(
                "the compressed body is larger than {}; send fewer events at a time",
                options.max_compressed_body
            ),
        ),
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
            return Err(match decoder.sink().stop {
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
    };
    let detail =
        format!("{name} is damaged or incomplete: {error}; compress it again and send it again");
    Problem::new(ProblemKind::BrokenCompression, detail)
}

/// Why decompressing stopped although the input was fine.
#[derive(Clone, Copy, Debug)]
enum Stop {
    TooLarge,
    /// More than there is room for now.
    Full(Full),
}

impl Stop {
    fn problem(self, options: &IngestOptions) -> Problem {
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

enum Decoder {
    Identity(Sink),
    Gzip(Box<MultiGzDecoder<Sink>>),
    Zstd(Box<Zstd>),
}

struct Zstd {
    decoder: ZstdDecoder<'static>,
    out: Vec<u8>,
    sink: Sink,
    /// At the start of a frame: the only place where a body may end.
    between_frames: bool,
}

impl Decoder {
    fn new(encoding: Encoding, sink: Sink) -> io::Result<Self> {
        Ok(match encoding {
            Encoding::Identity => Self::Identity(sink),
            Encoding::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(sink))),
            Encoding::Zstd => {
                let mut decoder = ZstdDecoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
                let out = vec![0; ZSTD_STEP_BYTES];
                Self::Zstd(Box::new(Zstd { decoder, out, sink, between_frames: false }))
            }
        })
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Identity(sink) => sink.write_all(data),
            Self::Gzip(decoder) => decoder.write_all(data),
            Self::Zstd(zstd) => zstd.write(data),
        }
    }

    fn sink(&self) -> &Sink {
        match self {
            Self::Identity(sink) => sink,
            Self::Gzip(decoder) => decoder.get_ref(),
            Self::Zstd(zstd) => &zstd.sink,
        }
    }

    fn finish(self) -> Result<Sink, (Option<Stop>, io::Error)> {
        match self {
            Self::Identity(sink) => Ok(sink),
            Self::Gzip(mut decoder) => match decoder.try_finish() {
                Ok(()) => decoder.finish().map_err(|error| (None, error)),
                Err(error) => Err((decoder.get_ref().stop, error)),
            },
            Self::Zstd(zstd) if zstd.between_frames => Ok(zstd.sink),
            Self::Zstd(_) => {
                Err((None, io::Error::new(io::ErrorKind::UnexpectedEof, "its end is missing")))
            }
        }
    }
}

impl Zstd {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let mut input = InBuffer::around(data);
        loop {
            let rest = input.pos() < data.len();
            if self.between_frames {
                if !rest {
                    return Ok(());
                }
                self.decoder.reinit()?;
                self.between_frames = false;
            }
            let mut output = OutBuffer::around(&mut self.out[..]);
            let hint = self.decoder.run(&mut input, &mut output)?;
            let filled = output.pos() == output.capacity();
            self.sink.write_all(output.as_slice())?;
            self.between_frames = hint == 0;
            // A full output may hide more of what was read already.
            if input.pos() == data.len() && (!filled || self.between_frames) {
                return Ok(());
            }
        }
    }
}
