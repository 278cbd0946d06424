//! A peer that speaks HTTP/2 byte by byte, for what a proper server would not do.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::http2::{Config, Connection, handshake};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
/// `:status: 200`, and a header list without it.
pub(super) const OK: &[u8] = &[0x88];
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;

/// A frame that does not come must fail its test and not hang it.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq)]
pub(super) struct Received {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

pub(super) struct Peer(pub(super) DuplexStream);

impl Peer {
    /// A connection to a peer that has sent `settings` so far.
    pub(super) async fn connect(settings: &[(u16, u32)], config: Config) -> (Connection, Self) {
        let (near, far) = duplex(1 << 20);
        let mut peer = Self(far);
        peer.settings(settings).await;
        let connection = handshake(near, &config, &Handle::current()).await.unwrap();
        let mut preface = [0; 24];
        peer.0.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        (connection, peer)
    }

    pub(super) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.try_send(kind, flags, stream, payload).await.unwrap();
    }

    pub(super) async fn try_send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.0.write_all(&[&head, payload].concat()).await
    }

    pub(super) async fn settings(&mut self, settings: &[(u16, u32)]) {
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend_from_slice(&id.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        self.send(SETTINGS, 0, 0, &payload).await;
    }

    pub(super) async fn goaway(&mut self, last: u32, code: u32, debug: &[u8]) {
        let payload = [&last.to_be_bytes()[..], &code.to_be_bytes()[..], debug].concat();
        self.send(GOAWAY, 0, 0, &payload).await;
    }

    pub(super) async fn reset(&mut self, stream: u32, code: u32) {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    /// The whole answer to a unary call.
    pub(super) async fn answer(&mut self, stream: u32) {
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, OK).await;
    }

    pub(super) async fn next(&mut self) -> Option<Received> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]).try_into().unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Received { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of one of these kinds; the others are passed over.
    pub(super) async fn expect(&mut self, kinds: &[u8]) -> Received {
        self.expect_within(PATIENCE, kinds).await
    }

    pub(super) async fn expect_within(&mut self, limit: Duration, kinds: &[u8]) -> Received {
        let frame = timeout(limit, self.seek(kinds)).await;
        frame.unwrap_or_else(|_| panic!("no frame of {kinds:?} within {limit:?}"))
    }

    /// As [`expect`](Self::expect), however long it takes.
    pub(super) async fn seek(&mut self, kinds: &[u8]) -> Received {
        loop {
            let frame = self.next().await.expect("the connection goes on");
            if kinds.contains(&frame.kind) {
                return frame;
            }
        }
    }
}
