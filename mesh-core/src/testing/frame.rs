//! gRPC's framing of messages: a flag, four bytes of length, the message.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Flag and length.
const PREFIX: usize = 5;

/// No request is larger: 10,000 long names are 1 MiB.
const REQUEST_LIMIT: usize = 64 << 20;

/// A message in its frame.
pub(super) fn of_message(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = prefixed(length);
    message.encode(&mut frame).expect("the buffer grows");
    frame.freeze()
}

/// Bytes in the frame of a message.
pub(super) fn of_bytes(message: &[u8]) -> Bytes {
    let mut frame = prefixed(message.len());
    frame.extend_from_slice(message);
    frame.freeze()
}

/// A frame that announces the largest message there can be, and its beginning.
pub(super) fn huge() -> Bytes {
    Bytes::from_static(b"\0\xff\xff\xff\xff\x0a\x05hello")
}

fn prefixed(length: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("resources of less than 4 GiB"));
    frame
}

/// Puts the messages of a request stream together.
#[derive(Debug, Default)]
pub(super) struct Deframer {
    buffer: BytesMut,
}

impl Deframer {
    pub(super) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next whole message, if it is there.
    pub(super) fn next<M: Message + Default>(&mut self) -> io::Result<Option<M>> {
        let Some((prefix, rest)) = self.buffer.split_at_checked(PREFIX) else { return Ok(None) };
        let length = usize::try_from((&prefix[1..]).get_u32()).unwrap_or(usize::MAX);
        if prefix[0] != 0 {
            return Err(invalid("compressed requests are not supported"));
        }
        if length > REQUEST_LIMIT {
            return Err(invalid("request larger than 64 MiB"));
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let message = self.buffer.split_to(length).freeze();
        M::decode(message).map(Some).map_err(|error| invalid(&error.to_string()))
    }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_whatever_the_pieces() {
        let message = prost_types::Any { type_url: "t".into(), value: vec![7; 300] };
        let mut bytes = of_message(&message).to_vec();
        bytes.extend_from_slice(&of_bytes(&[]));
        for size in [1, 4, 5, 6, 100, 1000] {
            let mut deframer = Deframer::default();
            let mut seen = Vec::new();
            for piece in bytes.chunks(size) {
                deframer.push(piece);
                while let Some(any) = deframer.next::<prost_types::Any>().unwrap() {
                    seen.push(any);
                }
            }
            assert_eq!(seen, [message.clone(), prost_types::Any::default()], "pieces of {size}");
        }
    }

    #[test]
    fn broken_frames_are_refused() {
        for bytes in [&b"\x01\0\0\0\0"[..], b"\0\xff\xff\xff\xff", b"\0\0\0\0\x01\x0f"] {
            let mut deframer = Deframer::default();
            deframer.push(bytes);
            assert!(deframer.next::<prost_types::Any>().is_err(), "{bytes:?}");
        }
    }
}
