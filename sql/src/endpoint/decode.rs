//! A body's Content-Encoding, undone to the last byte.
//!
//! Always true: every member or frame is read, one after another, to the end of the body; a body
//! that ends early, or holds what is no further member, is an error. A prefix never passes for the
//! whole: clients cut a large insert into many frames.
//! Not here: sizes (the upload), ClickHouse's own framing ([`super::framing`]).

use std::io::{self, BufRead, Cursor, Read};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::bufread::GzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use lz4_flex::frame::FrameDecoder;
use zstd::stream::raw::{Decoder as ZstdDecoder, InBuffer, Operation as _, OutBuffer};

use crate::Exception;

/// `Content-Encoding` of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Deflate,
    Zstd,
    Lz4,
    Brotli,
}

impl Encoding {
    pub(super) fn parse(name: &str) -> Result<Self, Exception> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Identity),
            "gzip" | "x-gzip" => Ok(Self::Gzip),
            "deflate" => Ok(Self::Deflate),
            "zstd" => Ok(Self::Zstd),
            "lz4" => Ok(Self::Lz4),
            "br" => Ok(Self::Brotli),
            other => Err(Exception::new(
                89,
                "UNKNOWN_COMPRESSION_METHOD",
                format_args!("Content-Encoding `{other}`: use gzip, deflate, zstd, lz4 or br"),
            )),
        }
    }
}

/// The body as it was before it was compressed.
pub(super) fn decoder<R: BufRead + 'static>(
    encoding: Encoding,
    raw: R,
) -> io::Result<Box<dyn Read>> {
    let decoder: Box<dyn Read> = match encoding {
        Encoding::Identity => Box::new(raw),
        Encoding::Gzip => Box::new(Members::<R, GzDecoder<R>>::new(raw)),
        Encoding::Lz4 => Box::new(Members::<R, Lz4Frame<R>>::new(raw)),
        Encoding::Zstd => Box::new(Stepped::new(raw, Codec::Zstd(ZstdDecoder::new()?))),
        Encoding::Deflate => {
            Box::new(Stepped::new(raw, Codec::Deflate(Box::new(Decompress::new(true)))))
        }
        Encoding::Brotli => Box::new(Stepped::new(raw, Codec::brotli())),
    };
    Ok(decoder)
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "its end is missing")
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// One member of a body: a decoder that gives back what it read from once it is at its end.
trait Member<R>: Read + Sized {
    fn begin(inner: R) -> io::Result<Self>;
    /// Fails if the member is not whole.
    fn end(self) -> io::Result<R>;
}

/// Members one after another.
enum Members<R, M> {
    Between(R),
    Inside(M),
    /// Nothing is left, or nothing can be read on.
    Over,
}

impl<R: BufRead, M: Member<R>> Members<R, M> {
    /// The first member must be there.
    fn new(raw: R) -> Self {
        Self::Between(raw)
    }
}

impl<R: BufRead, M: Member<R>> Read for Members<R, M> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(self, Self::Over) {
                Self::Over => return Ok(0),
                Self::Between(mut inner) => {
                    if inner.fill_buf()?.is_empty() {
                        return Ok(0);
                    }
                    *self = Self::Inside(M::begin(inner)?);
                }
                Self::Inside(mut member) => match member.read(into)? {
                    0 => *self = Self::Between(member.end()?),
                    read => {
                        *self = Self::Inside(member);
                        return Ok(read);
                    }
                },
            }
        }
    }
}

impl<R: BufRead> Member<R> for GzDecoder<R> {
    fn begin(inner: R) -> io::Result<Self> {
        Ok(Self::new(inner))
    }

    /// It has compared length and checksum before it said that it is at its end.
    fn end(self) -> io::Result<R> {
        Ok(self.into_inner())
    }
}

const LZ4_MAGIC: u32 = 0x184D_2204;
/// Frames for other purposes, which decoders skip: 16 numbers from here.
const LZ4_SKIPPABLE: u32 = 0x184D_2A50;

/// A frame of LZ4.
enum Lz4Frame<R: Read> {
    Data(Box<FrameDecoder<Watched<R>>>),
    Skipped(R),
}

impl<R: BufRead> Member<R> for Lz4Frame<R> {
    fn begin(mut inner: R) -> io::Result<Self> {
        let mut magic = [0; 4];
        inner.read_exact(&mut magic)?;
        match u32::from_le_bytes(magic) {
            LZ4_MAGIC => {
                let watched = Watched { magic: Cursor::new(magic), inner, at_end: false };
                Ok(Self::Data(Box::new(FrameDecoder::new(watched))))
            }
            number if number & !0xf == LZ4_SKIPPABLE => {
                let mut length = [0; 4];
                inner.read_exact(&mut length)?;
                let length = u64::from(u32::from_le_bytes(length));
                if io::copy(&mut inner.by_ref().take(length), &mut io::sink())? < length {
                    return Err(cut());
                }
                Ok(Self::Skipped(inner))
            }
            _ => Err(invalid("what follows is no frame of LZ4")),
        }
    }

    /// The decoder takes an end of its input for the end of the frame. A whole frame ends with a
    /// mark, so that nobody asks for more.
    fn end(self) -> io::Result<R> {
        match self {
            Self::Skipped(inner) => Ok(inner),
            Self::Data(decoder) => {
                let watched = decoder.into_inner();
                if watched.at_end { Err(cut()) } else { Ok(watched.inner) }
            }
        }
    }
}

impl<R: BufRead> Read for Lz4Frame<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Data(decoder) => decoder.read(into),
            Self::Skipped(_) => Ok(0),
        }
    }
}

/// A frame's bytes, with a note whether more was asked for than there is.
struct Watched<R> {
    /// The frame's first bytes, which were read already.
    magic: Cursor<[u8; 4]>,
    inner: R,
    at_end: bool,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = match self.magic.read(into)? {
            0 => self.inner.read(into)?,
            read => read,
        };
        self.at_end |= read == 0 && !into.is_empty();
        Ok(read)
    }
}

enum Codec {
    Zstd(ZstdDecoder<'static>),
    Deflate(Box<Decompress>),
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
            Self::Deflate(inflate) => {
                let (read, written) = (inflate.total_in(), inflate.total_out());
                let status = inflate.decompress(input, output, FlushDecompress::None)?;
                let since = |now: u64, then: u64| usize::try_from(now - then).unwrap_or(usize::MAX);
                Ok(Step {
                    read: since(inflate.total_in(), read),
                    written: since(inflate.total_out(), written),
                    ended: status == Status::StreamEnd,
                })
            }
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
                    BrotliResult::ResultFailure => Err(invalid("it is no stream of brotli")),
                    BrotliResult::ResultSuccess => Ok(Step { read, written, ended: true }),
                    BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {
                        Ok(Step { read, written, ended: false })
                    }
                }
            }
        }
    }

    fn brotli() -> Self {
        let alloc = StandardAlloc::default;
        Self::Brotli(Box::new(BrotliState::new(alloc(), alloc(), alloc())))
    }

    /// Goes on after an end. Streams of deflate and brotli stand alone by their standards, but
    /// clickhouse-connect sends a stream of brotli a block.
    fn restart(&mut self) -> io::Result<()> {
        match self {
            Self::Zstd(decoder) => decoder.reinit()?,
            Self::Deflate(inflate) => inflate.reset(true),
            Self::Brotli(_) => *self = Self::brotli(),
        }
        Ok(())
    }
}

/// A decoder that is fed step by step, so that it is known where its input ended.
struct Stepped<R> {
    inner: R,
    codec: Codec,
    ended: bool,
}

impl<R: BufRead> Stepped<R> {
    fn new(inner: R, codec: Codec) -> Self {
        Self { inner, codec, ended: false }
    }
}

impl<R: BufRead> Read for Stepped<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            let input = self.inner.fill_buf()?;
            let nothing_left = input.is_empty();
            if self.ended {
                if nothing_left {
                    return Ok(0);
                }
                self.codec.restart()?;
                self.ended = false;
            }
            let step = self.codec.step(input, into)?;
            self.inner.consume(step.read);
            self.ended = step.ended;
            if step.written > 0 {
                return Ok(step.written);
            }
            if !self.ended && nothing_left {
                return Err(cut());
            }
            if !self.ended && step.read == 0 {
                return Err(invalid("it makes no progress"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// One member or frame.
    fn compress(encoding: Encoding, data: &[u8]) -> Vec<u8> {
        let level = flate2::Compression::fast();
        match encoding {
            Encoding::Identity => data.to_vec(),
            Encoding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Deflate => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Zstd => zstd::bulk::compress(data, 1).unwrap(),
            Encoding::Brotli => {
                let mut out = Vec::new();
                let mut encoder = brotli::CompressorWriter::new(&mut out, 4096, 5, 20);
                encoder.write_all(data).unwrap();
                drop(encoder);
                out
            }
        }
    }

    /// Read in pieces as small as `step`, so that ends fall everywhere.
    fn decode(encoding: Encoding, body: &[u8], step: usize) -> io::Result<Vec<u8>> {
        let raw = io::BufReader::with_capacity(step, Cursor::new(body.to_vec()));
        let mut plain = Vec::new();
        decoder(encoding, raw)?.read_to_end(&mut plain)?;
        Ok(plain)
    }

    const ALL: [Encoding; 5] =
        [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd, Encoding::Lz4, Encoding::Brotli];

    #[test]
    fn all_members_of_a_body_are_read() {
        let parts = [b"first, ".repeat(30_000), b"second, ".repeat(3), Vec::new(), b"x".to_vec()];
        for encoding in ALL {
            let members: Vec<u8> = parts.iter().flat_map(|p| compress(encoding, p)).collect();
            for step in [1, 7, 65_536] {
                let plain = decode(encoding, &members, step).unwrap();
                assert!(plain == parts.concat(), "{encoding:?}: {} bytes came", plain.len());
            }
        }
        let skippable = [&0x184D_2A53_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
        let frame = compress(Encoding::Lz4, b"data");
        let body = [&skippable[..], &frame, &skippable, &frame].concat();
        assert_eq!(decode(Encoding::Lz4, &body, 5).unwrap(), b"datadata");
    }

    #[test]
    fn a_body_that_ends_early_is_an_error_wherever_it_ends() {
        let data: Vec<u8> = (0..5000_u32).flat_map(|n| (n * n).to_le_bytes()).collect();
        for encoding in ALL {
            let whole = compress(encoding, &data);
            assert_eq!(decode(encoding, &whole, 100).unwrap(), data, "{encoding:?}");
            for end in (1..100).chain(whole.len() - 100..whole.len()) {
                let cut = decode(encoding, &whole[..end], 100);
                assert!(cut.is_err(), "{encoding:?} cut at {end} of {}", whole.len());
            }
        }
        for encoding in ALL {
            let member = compress(encoding, b"some text");
            for end in 1..member.len() {
                let body = [&member[..], &member[..end]].concat();
                let cut = decode(encoding, &body, 100);
                assert!(cut.is_err(), "{encoding:?} cut at {end} of its second member");
            }
        }
    }

    #[test]
    fn what_is_no_member_is_an_error_behind_the_last_one() {
        for encoding in ALL {
            for rest in [&b"\0"[..], b"x", b"rest", b"no member at all, by any means", &[0; 64]] {
                let body = [&compress(encoding, b"some text")[..], rest].concat();
                for step in [1, 100] {
                    let read = decode(encoding, &body, step);
                    assert!(read.is_err(), "{encoding:?} took {rest:?} behind its end");
                }
            }
        }
    }
}
