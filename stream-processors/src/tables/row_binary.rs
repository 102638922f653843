//! Reading and writing ClickHouse's RowBinary, for the few rows that the runtime owns itself.

/// Takes values from the front of bytes that may end in the middle of a row.
#[derive(Debug)]
pub(crate) struct RowReader<'a> {
    rest: &'a [u8],
}

/// The bytes end before the value does: more must come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Incomplete;

impl<'a> RowReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Incomplete> {
        Ok(u64::from_le_bytes(self.fixed()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Incomplete> {
        Ok(i64::from_le_bytes(self.fixed()?))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Incomplete> {
        let length = usize::try_from(self.varint()?).map_err(|_too_long| Incomplete)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Incomplete)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Incomplete> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Incomplete)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn varint(&mut self) -> Result<u64, Incomplete> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.fixed::<1>()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Incomplete)
    }
}

/// Appends a String.
pub(crate) fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    let mut length = bytes.len();
    loop {
        let [low, ..] = (length & 0x7f).to_le_bytes();
        length >>= 7;
        if length == 0 {
            to.push(low);
            break;
        }
        to.push(low | 0x80);
    }
    to.extend_from_slice(bytes);
}

/// Appends a UInt32.
pub(crate) fn put_u32(to: &mut Vec<u8>, value: u32) {
    to.extend_from_slice(&value.to_le_bytes());
}

/// Appends a UInt64.
pub(crate) fn put_u64(to: &mut Vec<u8>, value: u64) {
    to.extend_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_read_and_a_cut_is_incomplete() {
        for length in [0, 1, 127, 128, 300, 20_000] {
            let mut bytes = Vec::new();
            put_bytes(&mut bytes, &vec![9; length]);
            put_u64(&mut bytes, 5);
            let mut reader = RowReader::new(&bytes);
            assert_eq!(reader.bytes().unwrap().len(), length);
            assert_eq!(reader.u64(), Ok(5));
            assert_eq!(reader.remaining(), 0);
            for cut in 0..bytes.len().min(200) {
                let mut reader = RowReader::new(&bytes[..cut]);
                assert!(reader.bytes().and_then(|_| reader.u64()).is_err());
            }
        }
    }
}
