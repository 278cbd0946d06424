//! gRPC's framing of messages: a flag, four bytes of length, the message.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::StreamError;

const PREFIX: usize = 5;
/// What is reserved on the word of a length that nothing backs yet.
const MAX_RESERVE: usize = 4 << 20;

/// Puts a message in its frame.
pub(super) fn frame(message: &Bytes) -> Option<Bytes> {
    let length = u32::try_from(message.len()).ok()?;
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    frame.put_u32(length);
    frame.put_slice(message);
    Some(frame.freeze())
}

/// Takes messages out of what is received.
#[derive(Debug)]
pub(super) struct Deframer {
    buffer: BytesMut,
    limit: usize,
}

impl Deframer {
    /// Messages longer than `limit` are an error.
    pub(super) fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit }
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next message, once all of it is there.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        let Some((prefix, rest)) = self.buffer.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [flag, length @ ..] = *prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > self.limit {
            let limit = self.limit >> 20;
            let text = format!("RESOURCE_EXHAUSTED: response of {length} bytes, over the limit of {limit} MiB");
            return Err(StreamError::new(text));
        }
        if flag != 0 {
            return Err(StreamError::new("INTERNAL: compressed response, though no compression was offered"));
        }
        if rest.len() < length {
            let missing = length - rest.len();
            self.buffer.reserve(missing.min(MAX_RESERVE));
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let message = self.buffer.split_to(length).freeze();
        if self.buffer.is_empty() {
            // Else what is left of it would keep the memory of a large response until the next one comes.
            self.buffer = BytesMut::new();
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(deframer: &mut Deframer) -> Vec<Bytes> {
        std::iter::from_fn(|| deframer.next().unwrap()).collect()
    }

    #[test]
    fn messages_come_out_however_the_reads_cut_them() {
        let sent: Vec<Bytes> = ["one".into(), Bytes::new(), vec![7; 1000].into()].into();
        let stream: Vec<u8> = sent.iter().flat_map(|message| frame(message).unwrap()).collect();
        for cut in 1..stream.len() {
            let mut deframer = Deframer::new(1 << 20);
            let mut received = Vec::new();
            for read in stream.chunks(cut) {
                deframer.push(read);
                received.extend(messages(&mut deframer));
            }
            assert_eq!(received, sent, "reads of {cut}");
        }
    }

    #[test]
    fn the_memory_of_a_message_goes_with_it() {
        let mut deframer = Deframer::new(1 << 20);
        deframer.push(&frame(&vec![7; 1 << 16].into()).unwrap());
        assert_eq!(messages(&mut deframer).len(), 1);
        assert_eq!(deframer.buffer.capacity(), 0);
    }

    #[test]
    fn a_message_over_the_limit_is_refused_by_its_length_alone() {
        let mut deframer = Deframer::new(64 << 20);
        deframer.push(&[0, 0xff, 0xff, 0xff, 0xff]);
        let error = deframer.next().unwrap_err();
        let wanted = "RESOURCE_EXHAUSTED: response of 4294967295 bytes, over the limit of 64 MiB";
        assert_eq!(error.to_string(), wanted);
    }

    #[test]
    fn an_announced_length_reserves_only_a_little() {
        let mut deframer = Deframer::new(64 << 20);
        deframer.push(&[0, 3, 0xff, 0xff, 0xff]);
        assert_eq!(deframer.next().unwrap(), None);
        assert!(deframer.buffer.capacity() <= 2 * MAX_RESERVE);
    }

    #[test]
    fn a_compressed_message_is_refused() {
        let mut deframer = Deframer::new(1 << 20);
        deframer.push(&[1, 0, 0, 0, 0]);
        assert!(deframer.next().is_err());
    }
}
