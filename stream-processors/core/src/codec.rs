//! The bytes of stored state: small, and the same for the same state.
//!
//! Integers are varints, floats their 8 bytes, texts follow their length.
//! Always true: decoding what was encoded gives it back; anything else is an error, never a panic
//! and never a default.
//! Not here: what the states are.

use chalkstream_schemas::{LogOffset, RowVersion, Timestamp};

/// Why stored bytes are no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Another format, from an older or newer program.
    #[error("stored state of {what} has format {found}, but this program reads format {expected}")]
    Format {
        /// What was to be read.
        what: &'static str,
        /// Its format.
        found: u8,
        /// The only format that can be read.
        expected: u8,
    },
    /// A kind of state that this program has not.
    #[error("stored state is of the unknown kind {kind:?}")]
    UnknownKind {
        /// The kind.
        kind: String,
    },
    /// The bytes end too early.
    #[error("stored state is cut short")]
    Truncated,
    /// More bytes than the state has.
    #[error("stored state is followed by {bytes} more bytes")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A value that the state cannot have.
    #[error("stored state holds an impossible {what}")]
    Invalid {
        /// What it was to be.
        what: &'static str,
    },
}

impl DecodeError {
    /// What the person can do.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Format { .. } | Self::UnknownKind { .. } => {
                "use the program that wrote it, or fold the log again into a new epoch"
            }
            Self::Truncated | Self::Trailing { .. } | Self::Invalid { .. } => {
                "the table fold_state was altered; fold the log again into a new epoch"
            }
        }
    }
}

/// Appends a varint: 7 bits a byte, lowest first.
#[expect(clippy::cast_possible_truncation, reason = "masked to 7 bits")]
pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Writes states.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// Begins a state of this format.
    pub fn new(format: u8) -> Self {
        let mut encoder = Self::default();
        encoder.byte(format);
        encoder
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// One byte.
    pub fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// An unsigned integer.
    pub fn u64(&mut self, value: u64) {
        put_varint(&mut self.bytes, value);
    }

    /// An unsigned integer.
    pub fn u32(&mut self, value: u32) {
        self.u64(u64::from(value));
    }

    /// A length.
    pub fn count(&mut self, value: usize) {
        self.u64(value as u64);
    }

    /// A float, bit for bit.
    pub fn f64(&mut self, value: f64) {
        self.bits(value.to_bits());
    }

    /// 64 bits as they are.
    pub fn bits(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// A text.
    pub fn str(&mut self, value: &str) {
        self.slice(value.as_bytes());
    }

    /// Bytes after their length.
    pub fn slice(&mut self, value: &[u8]) {
        self.count(value.len());
        self.bytes.extend_from_slice(value);
    }

    /// A point in time.
    pub fn time(&mut self, value: Timestamp) {
        self.u64(value.as_ms().unsigned_abs());
    }

    /// An offset.
    pub fn offset(&mut self, value: LogOffset) {
        self.u64(value.get());
    }

    /// A version.
    pub fn version(&mut self, value: RowVersion) {
        self.u64(value.get());
    }
}

/// Reads states.
#[derive(Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Begins to read a state of this format.
    pub fn new(bytes: &'a [u8], what: &'static str, expected: u8) -> Result<Self, DecodeError> {
        let mut decoder = Self { rest: bytes };
        let found = decoder.byte()?;
        if found != expected {
            return Err(DecodeError::Format { what, found, expected });
        }
        Ok(decoder)
    }

    /// Reads without a format byte, as keys have it.
    pub const fn bare(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Ends reading; nothing may be left.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { bytes }),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Fixed bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_length| DecodeError::Truncated)
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        self.array().map(|[byte]: [u8; 1]| byte)
    }

    /// An unsigned integer.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Invalid { what: "integer" })
    }

    /// An unsigned integer.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.u64()?).map_err(|_range| DecodeError::Invalid { what: "integer" })
    }

    /// A length of things that have at least one byte each.
    pub fn count(&mut self) -> Result<usize, DecodeError> {
        let length = usize::try_from(self.u64()?).map_err(|_range| DecodeError::Truncated)?;
        if length > self.rest.len() { Err(DecodeError::Truncated) } else { Ok(length) }
    }

    /// A float, bit for bit.
    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        self.bits().map(f64::from_bits)
    }

    /// 64 bits as they are.
    pub fn bits(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text.
    pub fn str(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.slice()?;
        std::str::from_utf8(bytes).map_err(|_utf8| DecodeError::Invalid { what: "text" })
    }

    /// Bytes after their length.
    pub fn slice(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.count()?;
        self.take(length)
    }

    /// A point in time.
    pub fn time(&mut self) -> Result<Timestamp, DecodeError> {
        let ms = i64::try_from(self.u64()?).ok().and_then(Timestamp::try_from_ms);
        ms.ok_or(DecodeError::Invalid { what: "time" })
    }

    /// An offset.
    pub fn offset(&mut self) -> Result<LogOffset, DecodeError> {
        self.u64().map(LogOffset::new)
    }

    /// A version.
    pub fn version(&mut self) -> Result<RowVersion, DecodeError> {
        self.u64().map(RowVersion::new)
    }

    /// A truth value.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid { what: "truth value" }),
        }
    }
}
