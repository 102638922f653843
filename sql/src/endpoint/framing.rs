//! ClickHouse's own framing of compressed data: `decompress=1` and `compress=1`.
//!
//! A block is 16 bytes of checksum (CityHash128 1.0.2 of all that follows), one of method, four of
//! its compressed size (header included), four of its size, and the data.

use std::io::{self, Read};

use cityhash_rs::cityhash_102_128;

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

/// Frames data as LZ4 blocks.
pub(super) fn frame(data: &[u8], out: &mut Vec<u8>) {
    for chunk in data.chunks(BLOCK) {
        let compressed = lz4_flex::block::compress(chunk);
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
        let mut block = Vec::with_capacity(HEADER + compressed.len());
        block.push(LZ4);
        block.extend_from_slice(&size(HEADER + compressed.len()));
        block.extend_from_slice(&size(chunk.len()));
        block.extend_from_slice(&compressed);
        out.extend_from_slice(&checksum(&block));
        out.extend_from_slice(&block);
    }
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
            let mut framed = Vec::new();
            frame(&data, &mut framed);
            assert_eq!(read(&framed).unwrap(), data);
        }
    }

    #[test]
    fn damage_is_noticed() {
        let mut framed = Vec::new();
        frame(b"some data, some data, some data", &mut framed);
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
