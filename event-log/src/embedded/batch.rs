//! The stored form of a run of records of one partition.
//!
//! In: records in order. Out: one value of the store, and the records again.
//! Always true: offsets within a batch have no gaps; a batch whose bytes changed fails to decode;
//! a format that is not known fails to decode, it never defaults.
//! Not here: where a batch lies and which batches are durable.
//!
//! Layout, integers in little endian: version `u8`, codec `u8`, count `u32`, base offset `u64`,
//! newest timestamp `i64`, length of the plain body `u32`, checksum `[u8; 8]`, body. The body holds
//! for each record: timestamp less that of the record before (zigzag varint), length of key and of
//! payload (varints), key, payload.

use bytes::Bytes;
use chalkstream_schemas::{LogOffset, Timestamp};

use crate::StoredRecord;

const VERSION: u8 = 1;
const PLAIN: u8 = 0;
const LZ4: u8 = 1;
const HEADER_BYTES: usize = 34;
const CHECKSUM_AT: usize = 26;

/// A body above this is closed and a new batch begun, so that no read decodes much too much.
pub(super) const BODY_TARGET_BYTES: usize = 1 << 20;

/// Bodies below this are not worth compressing.
const COMPRESS_FROM_BYTES: usize = 128;

/// Why stored bytes are not a batch.
#[derive(Debug, thiserror::Error)]
pub(super) enum BatchError {
    #[error("a batch of {0} bytes is cut short")]
    Short(usize),
    #[error("a batch has format {0}, but this version reads {VERSION}")]
    Version(u8),
    #[error("a batch fails its checksum")]
    Checksum,
    #[error("a batch does not decompress: {0}")]
    Compression(lz4_flex::block::DecompressError),
    #[error("a batch has the codec {0}, which is not known")]
    Codec(u8),
    #[error("a batch's records do not fill it")]
    Body,
}

/// What a batch says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) base: LogOffset,
    pub(super) count: u32,
    pub(super) newest: Timestamp,
}

impl Header {
    /// The offset after the batch's last.
    pub(super) const fn end(self) -> LogOffset {
        LogOffset::new(self.base.get().saturating_add(self.count as u64))
    }
}

/// Collects records that follow each other in one partition.
#[derive(Debug)]
pub(super) struct BatchBuilder {
    base: LogOffset,
    count: u32,
    newest_ms: i64,
    previous_ms: i64,
    body: Vec<u8>,
}

impl BatchBuilder {
    pub(super) const fn new(base: LogOffset) -> Self {
        Self { base, count: 0, newest_ms: 0, previous_ms: 0, body: Vec::new() }
    }

    pub(super) const fn base(&self) -> LogOffset {
        self.base
    }

    pub(super) const fn is_full(&self) -> bool {
        self.body.len() >= BODY_TARGET_BYTES
    }

    pub(super) fn push(&mut self, timestamp: Timestamp, key: &[u8], payload: &[u8]) {
        let ms = timestamp.as_ms();
        put_varint(&mut self.body, zigzag(ms.wrapping_sub(self.previous_ms)));
        put_varint(&mut self.body, key.len() as u64);
        put_varint(&mut self.body, payload.len() as u64);
        self.body.extend_from_slice(key);
        self.body.extend_from_slice(payload);
        self.previous_ms = ms;
        self.newest_ms = if self.count == 0 { ms } else { self.newest_ms.max(ms) };
        self.count += 1;
    }

    /// The value to store.
    pub(super) fn finish(self) -> Vec<u8> {
        let plain_bytes = self.body.len();
        let mut value = vec![0; HEADER_BYTES];
        let mut codec = PLAIN;
        if plain_bytes >= COMPRESS_FROM_BYTES {
            let room = lz4_flex::block::get_maximum_output_size(plain_bytes);
            value.resize(HEADER_BYTES + room, 0);
            let packed = value
                .get_mut(HEADER_BYTES..)
                .and_then(|out| lz4_flex::block::compress_into(&self.body, out).ok())
                .filter(|packed| *packed < plain_bytes);
            value.truncate(HEADER_BYTES + packed.unwrap_or(0));
            if packed.is_some() {
                codec = LZ4;
            }
        }
        if codec == PLAIN {
            value.extend_from_slice(&self.body);
        }
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(&[VERSION, codec]);
        header.extend_from_slice(&self.count.to_le_bytes());
        header.extend_from_slice(&self.base.get().to_le_bytes());
        header.extend_from_slice(&self.newest_ms.to_le_bytes());
        // One body holds at most the target and one record more, far below 4 GiB.
        header.extend_from_slice(&u32::try_from(plain_bytes).unwrap_or(u32::MAX).to_le_bytes());
        let body = value.get(HEADER_BYTES..).unwrap_or_default();
        header.extend_from_slice(&checksum(&header, body));
        if let Some(space) = value.get_mut(..HEADER_BYTES) {
            space.copy_from_slice(&header);
        }
        value
    }
}

/// Reads what a batch says about itself, without looking at its records.
pub(super) fn header(value: &[u8]) -> Result<Header, BatchError> {
    parts(value).map(|parts| parts.header)
}

/// Reads a batch's records; keys and payloads share one buffer.
pub(super) fn decode(value: &[u8]) -> Result<Vec<StoredRecord>, BatchError> {
    let Parts { header, codec, plain_bytes, sealed, checksum: stored, body } = parts(value)?;
    if checksum(sealed, body) != stored {
        return Err(BatchError::Checksum);
    }
    let plain = match codec {
        PLAIN => Bytes::copy_from_slice(body),
        LZ4 => {
            lz4_flex::block::decompress(body, plain_bytes).map_err(BatchError::Compression)?.into()
        }
        other => return Err(BatchError::Codec(other)),
    };
    let mut rest = Cursor { bytes: &plain, at: 0 };
    let mut ms = 0_i64;
    let mut offset = header.base;
    let mut records = Vec::with_capacity(header.count as usize);
    for _ in 0..header.count {
        ms = ms.wrapping_add(unzigzag(rest.varint()?));
        let key_bytes = rest.length()?;
        let payload_bytes = rest.length()?;
        let key = rest.take(key_bytes)?;
        let payload = rest.take(payload_bytes)?;
        records.push(StoredRecord { offset, timestamp: Timestamp::from_ms(ms), key, payload });
        offset = offset.next();
    }
    if rest.at == plain.len() { Ok(records) } else { Err(BatchError::Body) }
}

struct Parts<'a> {
    header: Header,
    codec: u8,
    plain_bytes: usize,
    sealed: &'a [u8],
    checksum: [u8; 8],
    body: &'a [u8],
}

fn parts(value: &[u8]) -> Result<Parts<'_>, BatchError> {
    let short = || BatchError::Short(value.len());
    match value.first() {
        Some(&VERSION) => {}
        Some(&other) => return Err(BatchError::Version(other)),
        None => return Err(short()),
    }
    let (head, body) = value.split_first_chunk::<HEADER_BYTES>().ok_or_else(short)?;
    let field = |at: usize| head.get(at..).unwrap_or_default();
    let count = field(2).first_chunk().ok_or_else(short)?;
    let base = field(6).first_chunk().ok_or_else(short)?;
    let newest = field(14).first_chunk().ok_or_else(short)?;
    let plain_bytes = field(22).first_chunk().ok_or_else(short)?;
    let checksum = field(CHECKSUM_AT).first_chunk().ok_or_else(short)?;
    let [_, codec, ..] = *head;
    Ok(Parts {
        header: Header {
            base: LogOffset::new(u64::from_le_bytes(*base)),
            count: u32::from_le_bytes(*count),
            newest: Timestamp::from_ms(i64::from_le_bytes(*newest)),
        },
        codec,
        plain_bytes: u32::from_le_bytes(*plain_bytes) as usize,
        sealed: head.get(..CHECKSUM_AT).unwrap_or_default(),
        checksum: *checksum,
        body,
    })
}

fn checksum(head: &[u8], body: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head).update(body);
    let [a @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
        *hasher.finalize().as_bytes();
    a
}

const fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

const fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

struct Cursor<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Cursor<'_> {
    fn varint(&mut self) -> Result<u64, BatchError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(BatchError::Body)?;
            self.at += 1;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(BatchError::Body)
    }

    fn length(&mut self) -> Result<usize, BatchError> {
        usize::try_from(self.varint()?).map_err(|_too_long| BatchError::Body)
    }

    fn take(&mut self, length: usize) -> Result<Bytes, BatchError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(BatchError::Body)?;
        let taken = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn build(base: u64, records: &[(i64, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut builder = BatchBuilder::new(LogOffset::new(base));
        for (ms, key, payload) in records {
            builder.push(Timestamp::from_ms(*ms), key, payload);
        }
        builder.finish()
    }

    proptest! {
        #[test]
        fn a_batch_gives_its_records_back(
            base in 0_u64..1 << 60,
            records in prop::collection::vec(
                (0_i64..4_000_000_000_000, prop::collection::vec(any::<u8>(), 0..20),
                 prop::collection::vec(0_u8..8, 0..400)), 1..40),
        ) {
            let value = build(base, &records);
            let head = header(&value).unwrap();
            prop_assert_eq!(head.base.get(), base);
            prop_assert_eq!(head.end().get(), base + records.len() as u64);
            prop_assert_eq!(head.newest.as_ms(), records.iter().map(|record| record.0).max().unwrap());
            let found = decode(&value).unwrap();
            prop_assert_eq!(found.len(), records.len());
            for (at, (record, (ms, key, payload))) in found.iter().zip(&records).enumerate() {
                prop_assert_eq!(record.offset.get(), base + at as u64);
                prop_assert_eq!(record.timestamp.as_ms(), *ms);
                prop_assert_eq!(&record.key[..], &key[..]);
                prop_assert_eq!(&record.payload[..], &payload[..]);
            }
        }

        #[test]
        fn no_damage_goes_unnoticed(flip in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<prop::sample::Index>()) {
            let records: Vec<_> = (0..20).map(|n| (n, vec![7; 9], format!("payload {n}").into_bytes())).collect();
            let mut value = build(40, &records);
            prop_assert!(decode(&value[..cut.index(value.len())]).is_err());
            let at = flip.index(value.len());
            value[at] ^= 1 << bit;
            prop_assert!(decode(&value).is_err());
        }
    }

    #[test]
    fn repeated_text_is_stored_small() {
        let records = vec![(1, b"key".to_vec(), vec![b'x'; 300]); 100];
        assert!(build(0, &records).len() < 3_000);
    }
}
