//! Decompressing a body while it arrives.
//!
//! In: pieces of the body as they are sent. Out: its bytes, in a [`Sink`] that stops at its limits.
//! Always true: what is decompressed goes to the sink in steps of at most 64 KiB, so nothing grows
//! before the sink has agreed; windows are at most 8 MiB (zstd), 16 MiB (brotli) and 32 KiB, and
//! only what was decompressed is ever written to one; a body that ends early, or goes on after its
//! end, is an error.
//! Not here: sizes and times of requests ([`crate::body`]).

use std::io::{self, Write as _};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::write::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation as _, OutBuffer};

use super::encoding::Encoding;
use super::sink::{Sink, Stop};

/// Largest window of a zstd frame: 2^23 bytes, what RFC 9659 allows for HTTP.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
const STEP_BYTES: usize = 64 << 10;

/// A body's decoder, by its encoding.
pub(super) enum Decoder {
    Identity(Sink),
    Gzip(Box<MultiGzDecoder<Sink>>),
    Stepped(Box<Stepped>),
}

impl Decoder {
    pub(super) fn new(encoding: Encoding, sink: Sink) -> io::Result<Self> {
        Ok(match encoding {
            Encoding::Identity => Self::Identity(sink),
            Encoding::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(sink))),
            Encoding::Zstd => {
                let mut decoder = ZstdDecoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
                Self::stepped(Codec::Zstd(decoder), sink)
            }
            Encoding::Brotli => {
                // Strict: windows above 16 MiB are no brotli of RFC 7932.
                let alloc = StandardAlloc::default;
                let state = BrotliState::new_strict(alloc(), alloc(), alloc());
                Self::stepped(Codec::Brotli(Box::new(state)), sink)
            }
            Encoding::Deflate => Self::stepped(Codec::Deflate(Deflate::default()), sink),
        })
    }

    fn stepped(codec: Codec, sink: Sink) -> Self {
        Self::Stepped(Box::new(Stepped { codec, out: vec![0; STEP_BYTES], sink, ended: false }))
    }

    pub(super) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Identity(sink) => sink.write_all(data),
            Self::Gzip(decoder) => decoder.write_all(data),
            Self::Stepped(stepped) => stepped.write(data),
        }
    }

    /// Why the sink stopped, if it did.
    pub(super) fn stop(&self) -> Option<Stop> {
        match self {
            Self::Identity(sink) => sink.stop,
            Self::Gzip(decoder) => decoder.get_ref().stop,
            Self::Stepped(stepped) => stepped.sink.stop,
        }
    }

    pub(super) fn finish(self) -> Result<Sink, (Option<Stop>, io::Error)> {
        match self {
            Self::Identity(sink) => Ok(sink),
            Self::Gzip(mut decoder) => match decoder.try_finish() {
                Ok(()) => decoder.finish().map_err(|error| (None, error)),
                Err(error) => Err((decoder.get_ref().stop, error)),
            },
            Self::Stepped(stepped) if stepped.ended => Ok(stepped.sink),
            Self::Stepped(_) => {
                Err((None, io::Error::new(io::ErrorKind::UnexpectedEof, "its end is missing")))
            }
        }
    }
}

enum Codec {
    Zstd(ZstdDecoder<'static>),
    Deflate(Deflate),
    Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>),
}

/// What one step did.
struct Step {
    read: usize,
    written: usize,
    /// At the end of a stream or frame: the only place where a body may end.
    ended: bool,
}

impl Codec {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<Step> {
        match self {
            Self::Zstd(decoder) => {
                let (mut input, mut output) = (InBuffer::around(input), OutBuffer::around(output));
                let hint = decoder.run(&mut input, &mut output)?;
                Ok(Step { read: input.pos(), written: output.pos(), ended: hint == 0 })
            }
            Self::Deflate(deflate) => deflate.step(input, output),
            Self::Brotli(state) => {
                let (mut read, mut written) = (0, 0);
                let result = BrotliDecompressStream(
                    &mut input.len(),
                    &mut read,
                    input,
                    &mut output.len(),
                    &mut written,
                    output,
                    &mut 0,
                    state,
                );
                match result {
                    BrotliResult::ResultFailure => Err(io::Error::other("it is no brotli stream")),
                    BrotliResult::ResultSuccess => Ok(Step { read, written, ended: true }),
                    BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {
                        Ok(Step { read, written, ended: false })
                    }
                }
            }
        }
    }

    /// Goes on after an end: zstd has frames one after another, the others have one stream.
    fn restart(&mut self) -> io::Result<()> {
        match self {
            Self::Zstd(decoder) => decoder.reinit(),
            Self::Deflate(_) | Self::Brotli(_) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "there is more after its end"))
            }
        }
    }
}

/// Deflate in zlib's form, as RFC 9110 has it, or raw, as some clients send it under the same name.
#[derive(Default)]
struct Deflate {
    /// The first two bytes, which tell the forms apart.
    head: Vec<u8>,
    inflate: Option<Decompress>,
}

impl Deflate {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<Step> {
        if let Some(inflate) = &mut self.inflate {
            return step_inflate(inflate, input, output);
        }
        let missing = 2 - self.head.len().min(2);
        let taken = input.get(..missing).unwrap_or(input);
        self.head.extend_from_slice(taken);
        let [first, second] = *self.head else {
            return Ok(Step { read: taken.len(), written: 0, ended: false });
        };
        let inflate = self.inflate.insert(Decompress::new(is_zlib(first, second)));
        let step = step_inflate(inflate, &self.head, output)?;
        Ok(Step { read: taken.len(), ..step })
    }
}

/// Whether deflate begins with zlib's header. Raw deflate never does: bit 3 would be padding before
/// a stored block, which encoders leave at 0.
fn is_zlib(first: u8, second: u8) -> bool {
    first & 0x0f == 8 && (u16::from(first) << 8 | u16::from(second)).is_multiple_of(31)
}

fn step_inflate(inflate: &mut Decompress, input: &[u8], output: &mut [u8]) -> io::Result<Step> {
    let (read, written) = (inflate.total_in(), inflate.total_out());
    let status = inflate.decompress(input, output, FlushDecompress::None)?;
    let since = |now: u64, then: u64| usize::try_from(now - then).unwrap_or(usize::MAX);
    Ok(Step {
        read: since(inflate.total_in(), read),
        written: since(inflate.total_out(), written),
        ended: status == Status::StreamEnd,
    })
}

pub(super) struct Stepped {
    codec: Codec,
    out: Vec<u8>,
    sink: Sink,
    ended: bool,
}

impl Stepped {
    fn write(&mut self, mut data: &[u8]) -> io::Result<()> {
        loop {
            if self.ended {
                if data.is_empty() {
                    return Ok(());
                }
                self.codec.restart()?;
                self.ended = false;
            }
            let step = self.codec.step(data, &mut self.out)?;
            data = data.get(step.read..).unwrap_or_default();
            self.sink.write_all(self.out.get(..step.written).unwrap_or_default())?;
            self.ended = step.ended;
            // A full output may hide more of what was read already.
            let filled = step.written == self.out.len();
            if data.is_empty() && (!filled || self.ended) {
                return Ok(());
            }
            if step.read == 0 && step.written == 0 && !self.ended {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it makes no progress"));
            }
        }
    }
}
