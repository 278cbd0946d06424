//! What was taken from a request's body and has not gone out yet.
//!
//! Small messages are gathered into one frame while they wait. That is cheaper here, and some peers take many small
//! frames that they have not read yet for an attack: `h2`'s server closes the connection after a few hundred to a few
//! thousand.

use std::mem;

use bytes::{Bytes, BytesMut};

/// Below this, data is copied to what waits before it.
const SMALL: usize = 1 << 10;
/// What is gathered at most, so that a frame of the protocol's least size limit holds it.
const GATHERED: usize = 16 << 10;

/// Data that waits: the body's last frame as it came, or small ones gathered.
#[derive(Debug, Default)]
pub(super) enum Ahead {
    #[default]
    Nothing,
    Frame(Bytes),
    Gathered(BytesMut),
}

impl Ahead {
    /// Whether more small data could join what waits.
    pub(super) fn is_small(&self) -> bool {
        match self {
            Self::Nothing => false,
            Self::Frame(data) => data.len() < SMALL,
            Self::Gathered(data) => data.len() <= GATHERED - SMALL,
        }
    }

    /// The length of what waits, if it waits for no more.
    pub(super) fn large(&self) -> Option<usize> {
        match self {
            Self::Nothing => None,
            Self::Frame(data) => Some(data.len()),
            Self::Gathered(data) => Some(data.len()),
        }
        .filter(|_| !self.is_small())
    }

    /// Takes no more than the first so many bytes.
    pub(super) fn take_some(&mut self, length: usize) -> Option<Bytes> {
        match self {
            Self::Frame(data) if data.len() > length => Some(data.split_to(length)),
            Self::Gathered(data) if data.len() > length => Some(data.split_to(length).freeze()),
            _ => self.take(),
        }
    }

    /// Lets `data` wait. Returns what it does not join, which so has to go out before it.
    pub(super) fn push(&mut self, data: Bytes) -> Option<Bytes> {
        if data.len() >= SMALL || !self.is_small() {
            return mem::replace(self, Self::Frame(data)).take();
        }
        let mut gathered = match mem::take(self) {
            Self::Gathered(gathered) => gathered,
            Self::Frame(first) => BytesMut::from(first),
            Self::Nothing => BytesMut::new(),
        };
        gathered.extend_from_slice(&data);
        *self = Self::Gathered(gathered);
        None
    }

    pub(super) fn take(&mut self) -> Option<Bytes> {
        match mem::take(self) {
            Self::Nothing => None,
            Self::Frame(data) => Some(data),
            Self::Gathered(data) => Some(data.freeze()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_keeps_its_order_and_frames_their_bounds() {
        let mut ahead = Ahead::default();
        let (mut given, mut sent, mut frames) = (Vec::new(), Vec::new(), 0);
        for round in 0..10_000_usize {
            let length = [1, 20, 1_023, 300, 1_024, 20_000, 5][round % 7];
            let data = Bytes::from(vec![u8::try_from(round % 251).unwrap(); length]);
            given.extend_from_slice(&data);
            if let Some(before) = ahead.push(data) {
                assert!(before.len() <= GATHERED || before.len() == 20_000);
                sent.extend_from_slice(&before);
                frames += 1;
            }
        }
        sent.extend_from_slice(&ahead.take().unwrap());
        assert!(given == sent);
        assert!(frames < 6_000, "{frames}");
        assert!(ahead.take().is_none());
    }
}
