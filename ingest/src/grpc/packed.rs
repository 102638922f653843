//! Messages of a call that come compressed, made plain before tonic sees them.
//!
//! tonic reads the first member of a gzip message and forgets the rest, so a part would pass for the
//! whole. Here a message is undone by the decoder of HTTP's bodies, which reads to the end.
//! Always true: messages leave in the order in which they came, each of them whole; what is no
//! message, or is larger than a body may be, is left to tonic, which refuses it.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::HeaderMap;

use crate::body::Encoding;

/// Before each message: a flag whether it is compressed, and its length.
const HEADER_BYTES: usize = 5;

/// The messages of one call.
#[derive(Debug)]
pub(super) struct Packed {
    encoding: Encoding,
    message_max_bytes: usize,
    /// What came of a message that is not whole yet.
    held: BytesMut,
    /// What comes from now on goes to tonic as it is.
    passing: bool,
}

impl Packed {
    /// `None` if the call's messages are not compressed by gzip or zstd.
    pub(super) fn of(headers: &HeaderMap, message_max_bytes: usize) -> Option<Self> {
        let encoding = match headers.get("grpc-encoding")?.as_bytes() {
            b"gzip" => Encoding::Gzip,
            b"zstd" => Encoding::Zstd,
            _ => return None,
        };
        Some(Self { encoding, message_max_bytes, held: BytesMut::new(), passing: false })
    }

    /// Takes what came and gives the messages that are whole now, as plain ones.
    pub(super) fn push<E>(
        &mut self,
        data: &Bytes,
        unpack: impl Fn(&[u8], Encoding) -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        self.held.extend_from_slice(data);
        let mut plain = BytesMut::new();
        while let Some([flag, a, b, c, d]) = self.held.first_chunk::<HEADER_BYTES>().copied() {
            let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            self.passing |= flag > 1 || length > self.message_max_bytes;
            if self.passing || self.held.len() - HEADER_BYTES < length {
                break;
            }
            let message = self.held.split_to(HEADER_BYTES + length).split_off(HEADER_BYTES);
            let message =
                if flag == 1 { unpack(&message, self.encoding)? } else { message.freeze() };
            plain.put_u8(0);
            plain.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
            plain.put(message);
        }
        if self.passing {
            plain.put(self.held.split());
        }
        Ok(plain.freeze())
    }

    /// What is left when the call's bytes end: of a message that is not whole.
    pub(super) fn rest(&mut self) -> Option<Bytes> {
        self.held.has_remaining().then(|| self.held.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed() -> Packed {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-encoding", http::HeaderValue::from_static("gzip"));
        Packed::of(&headers, 1000).unwrap()
    }

    /// Undoes what is no compression: doubles it.
    fn twice(message: &[u8], _encoding: Encoding) -> Result<Bytes, ()> {
        Ok([message, message].concat().into())
    }

    #[test]
    fn messages_are_made_plain_wherever_they_are_cut() {
        let sent = b"\x01\0\0\0\x02ab\0\0\0\0\x01c\x01\0\0\0\0\x01\0\0\0\x01d";
        for step in 1..=sent.len() {
            let mut packed = packed();
            let pieces = sent.chunks(step).map(Bytes::copy_from_slice);
            let plain: Vec<u8> =
                pieces.flat_map(|piece| packed.push(&piece, twice).unwrap()).collect();
            assert_eq!(plain, b"\0\0\0\0\x04abab\0\0\0\0\x01c\0\0\0\0\0\0\0\0\0\x02dd");
            assert_eq!(packed.rest(), None);
        }
    }

    #[test]
    fn what_is_no_message_is_left_to_tonic() {
        for odd in [&b"\x02\0\0\0\x01a"[..], b"\x01\x7f\0\0\0a"] {
            assert_eq!(packed().push(&Bytes::copy_from_slice(odd), twice).unwrap(), odd);
        }
        let mut packed = packed();
        assert_eq!(packed.push(&Bytes::from_static(b"\x01\0\0\0\x02a"), twice).unwrap(), b""[..]);
        assert_eq!(packed.rest().unwrap(), b"\x01\0\0\0\x02a"[..]);
    }
}
