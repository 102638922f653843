//! The answer's bytes, compressed as the client asked, piece by piece.

use std::io::{self, Write as _};

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use super::framing::{self, Method};

/// Compresses an answer. Every piece can be read by the client as soon as it is sent.
pub(super) enum Encoder {
    Identity,
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(ZlibEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Lz4(Box<lz4_flex::frame::FrameEncoder<Vec<u8>>>),
    /// ClickHouse's own, which is no Content-Encoding.
    Framed(Method),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Encoder").field(&self.content_encoding()).finish()
    }
}

impl Encoder {
    /// ClickHouse's framing if asked for, else the first that ClickHouse prefers and the client
    /// accepts. `level` is that of gzip and deflate.
    pub(super) fn choose(
        framed: Option<Method>,
        accept: Option<&str>,
        level: u32,
    ) -> io::Result<Self> {
        if let Some(method) = framed {
            return Ok(Self::Framed(method));
        }
        let accepted = |name: &str| {
            accept.unwrap_or_default().split(',').any(|offer| {
                let (offer, weight) = offer.split_once(';').unwrap_or((offer, ""));
                let refused = matches!(weight.trim(), "q=0" | "q=0.0");
                offer.trim().eq_ignore_ascii_case(name) && !refused
            })
        };
        Ok(if accepted("lz4") {
            Self::Lz4(Box::new(lz4_flex::frame::FrameEncoder::new(Vec::new())))
        } else if accepted("zstd") {
            Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), 1)?)
        } else if accepted("gzip") {
            Self::Gzip(GzEncoder::new(Vec::new(), Compression::new(level)))
        } else if accepted("deflate") {
            Self::Deflate(ZlibEncoder::new(Vec::new(), Compression::new(level)))
        } else {
            Self::Identity
        })
    }

    /// The value of the header, if there is to be one.
    pub(super) fn content_encoding(&self) -> Option<&'static str> {
        match self {
            Self::Identity | Self::Framed(_) => None,
            Self::Gzip(_) => Some("gzip"),
            Self::Deflate(_) => Some("deflate"),
            Self::Zstd(_) => Some("zstd"),
            Self::Lz4(_) => Some("lz4"),
        }
    }

    /// What to send for a piece.
    pub(super) fn push(&mut self, piece: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Self::Identity => Ok(piece),
            Self::Gzip(encoder) => {
                encoder.write_all(&piece)?;
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Self::Deflate(encoder) => {
                encoder.write_all(&piece)?;
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Self::Zstd(encoder) => {
                encoder.write_all(&piece)?;
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Self::Lz4(encoder) => {
                encoder.write_all(&piece)?;
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Self::Framed(method) => {
                let mut out = Vec::new();
                framing::frame(&piece, *method, &mut out)?;
                Ok(out)
            }
        }
    }

    /// What to send at the end.
    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Identity | Self::Framed(_) => Ok(Vec::new()),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Deflate(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
            Self::Lz4(encoder) => encoder.finish().map_err(io::Error::other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn pieces_make_one_answer_in_every_encoding() {
        for (accept, name) in [
            ("gzip, deflate", "gzip"),
            ("deflate", "deflate"),
            ("zstd", "zstd"),
            ("gzip, lz4", "lz4"),
        ] {
            let mut encoder = Encoder::choose(None, Some(accept), 3).unwrap();
            assert_eq!(encoder.content_encoding(), Some(name));
            let mut sent = encoder.push(b"one ".repeat(1000)).unwrap();
            sent.extend(encoder.push(b"two".to_vec()).unwrap());
            sent.extend(encoder.finish().unwrap());
            let mut plain = Vec::new();
            let mut reader: Box<dyn Read> = match name {
                "gzip" => Box::new(flate2::read::GzDecoder::new(&sent[..])),
                "deflate" => Box::new(flate2::read::ZlibDecoder::new(&sent[..])),
                "zstd" => Box::new(zstd::stream::read::Decoder::new(&sent[..]).unwrap()),
                _ => Box::new(lz4_flex::frame::FrameDecoder::new(&sent[..])),
            };
            reader.read_to_end(&mut plain).unwrap();
            assert_eq!(plain, [b"one ".repeat(1000), b"two".to_vec()].concat(), "{name}");
        }
        let none = Encoder::choose(None, Some("gzip;q=0, br"), 3).unwrap();
        assert!(none.content_encoding().is_none());
    }
}
