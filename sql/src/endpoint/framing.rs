//! ClickHouse's own framing of compressed data: `decompress=1` and `compress=1`.
//!
//! A block is 16 bytes of checksum (CityHash128 1.0.2 of all that follows), one of method, four of
//! its compressed size (header included), four of its size, and the data.

use std::io::{self, Read};

use cityhash_rs::cityhash_102_128;

use crate::Exception;

const HEADER: usize = 9;
const LZ4: u8 = 0x82;
const ZSTD: u8 = 0x90;
const NONE: u8 = 0x02;
/// Larger blocks are refused: nobody makes them, and memory is allotted before they are checked.
const BLOCK_MAX: usize = 64 << 20;
/// Size of the blocks that we make.
const BLOCK: usize = 1 << 20;

fn broken(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("compressed block: {reason}"))
}

/// The checksum as ClickHouse writes it: the high half first.
fn checksum(bytes: &[u8]) -> [u8; 16] {
    cityhash_102_128(bytes).rotate_left(64).to_le_bytes()
}

/// Reads framed data as the data itself.
#[derive(Debug)]
pub(super) struct BlockReader<R> {
    inner: R,
    block: Vec<u8>,
    at: usize,
}

impl<R: Read> BlockReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, block: Vec::new(), at: 0 }
    }

    /// False at the end.
    fn next_block(&mut self) -> io::Result<bool> {
        let mut expected = [0; 16];
        let mut filled = 0;
        while let Some(space) = expected.get_mut(filled..).filter(|space| !space.is_empty()) {
            match self.inner.read(space)? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(broken("it ends within a checksum")),
                read => filled += read,
            }
        }
        let mut header = [0; HEADER];
        self.inner.read_exact(&mut header)?;
        let [method, a, b, c, d, e, f, g, h] = header;
        let size = |bytes| usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX);
        let (compressed, plain) = (size([a, b, c, d]), size([e, f, g, h]));
        if !(HEADER..=BLOCK_MAX).contains(&compressed) || plain > BLOCK_MAX {
            return Err(broken("a size is out of range"));
        }
        let mut whole = vec![0; compressed];
        let (head, data) = whole.split_at_mut(HEADER);
        head.copy_from_slice(&header);
        self.inner.read_exact(data)?;
        let data = whole.get(HEADER..).unwrap_or_default();
        if checksum(&whole) != expected {
            return Err(broken("the checksum does not match: the data is damaged"));
        }
        self.block = match method {
            LZ4 => lz4_flex::block::decompress(data, plain)
                .map_err(|error| broken(&error.to_string()))?,
            ZSTD => zstd::bulk::decompress(data, plain)?,
            NONE => data.to_vec(),
            _ => return Err(broken("its method is neither LZ4, ZSTD nor none")),
        };
        if self.block.len() != plain {
            return Err(broken("its size is not what its header says"));
        }
        self.at = 0;
        Ok(true)
    }
}

impl<R: Read> Read for BlockReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let rest = self.block.get(self.at..).unwrap_or_default();
        let count = rest.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.at += count;
        Ok(count)
    }
}

/// How the blocks that we make are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Lz4,
    Zstd { level: i32 },
    None,
}

const ZSTD_LEVEL_DEFAULT: i32 = 1;

impl Method {
    /// From `network_compression_method` and `network_zstd_compression_level`.
    pub(super) fn parse(method: Option<&str>, zstd_level: Option<&str>) -> Result<Self, Exception> {
        let name = method.unwrap_or("LZ4");
        match name.to_ascii_uppercase().as_str() {
            // LZ4HC is another way to the same format: what reads one reads the other.
            "LZ4" | "LZ4HC" => Ok(Self::Lz4),
            "NONE" => Ok(Self::None),
            "ZSTD" => {
                let level = zstd_level.map_or(Ok(ZSTD_LEVEL_DEFAULT), str::parse);
                let level =
                    level.ok().filter(|level| (1..=22).contains(level)).ok_or_else(|| {
                        let message = "network_zstd_compression_level is a number from 1 to 22";
                        Exception::new(433, "ILLEGAL_CODEC_PARAMETER", message)
                    })?;
                Ok(Self::Zstd { level })
            }
            _ => Err(Exception::new(
                432,
                "UNKNOWN_CODEC",
                format_args!("network_compression_method `{name}`: use LZ4, LZ4HC, ZSTD or NONE"),
            )),
        }
    }
}

/// Frames data as blocks.
pub(super) fn frame(data: &[u8], method: Method, out: &mut Vec<u8>) -> io::Result<()> {
    for chunk in data.chunks(BLOCK) {
        let (byte, compressed) = match method {
            Method::Lz4 => (LZ4, lz4_flex::block::compress(chunk)),
            Method::Zstd { level } => (ZSTD, zstd::bulk::compress(chunk, level)?),
            Method::None => (NONE, chunk.to_vec()),
        };
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
        let mut block = Vec::with_capacity(HEADER + compressed.len());
        block.push(byte);
        block.extend_from_slice(&size(HEADER + compressed.len()));
        block.extend_from_slice(&size(chunk.len()));
        block.extend_from_slice(&compressed);
        out.extend_from_slice(&checksum(&block));
        out.extend_from_slice(&block);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(framed: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        BlockReader::new(framed).read_to_end(&mut plain)?;
        Ok(plain)
    }

    #[test]
    fn data_survives_framing() {
        for size in [0, 1, 100, BLOCK, BLOCK + 1, 3 * BLOCK] {
            let data: Vec<u8> = (0..size).map(|at| u8::try_from(at * at % 251).unwrap()).collect();
            for method in [Method::Lz4, Method::Zstd { level: 3 }, Method::None] {
                let mut framed = Vec::new();
                frame(&data, method, &mut framed).unwrap();
                assert!(read(&framed).unwrap() == data, "{size} bytes by {method:?}");
            }
        }
    }

    #[test]
    fn the_method_is_the_clients() {
        let check = |method, level, expected: Result<Method, u32>| {
            assert_eq!(Method::parse(method, level).map_err(|error| error.code), expected);
        };
        check(None, None, Ok(Method::Lz4));
        check(Some("lz4hc"), Some("9"), Ok(Method::Lz4));
        check(Some("none"), None, Ok(Method::None));
        check(Some("zstd"), None, Ok(Method::Zstd { level: 1 }));
        check(Some("ZSTD"), Some("3"), Ok(Method::Zstd { level: 3 }));
        check(Some("ZSTD"), Some("0"), Err(433));
        check(Some("T64"), None, Err(432));
    }

    #[test]
    fn damage_is_noticed() {
        let mut framed = Vec::new();
        frame(b"some data, some data, some data", Method::Lz4, &mut framed).unwrap();
        for at in 0..framed.len() {
            let mut damaged = framed.clone();
            damaged[at] ^= 0x41;
            assert!(read(&damaged).is_err(), "a flip at {at} went unnoticed");
            if at > 0 {
                assert!(read(&framed[..at]).is_err(), "a cut at {at} went unnoticed");
            }
        }
    }
}
