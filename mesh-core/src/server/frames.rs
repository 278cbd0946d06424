//! The frames that a client sends, counted by their heads. HTTP/2 lets it send as many as it likes of those that ask for
//! nothing, and each costs the server an answer, or a look at all its streams: floods of PING (CVE-2019-9512), PRIORITY
//! (CVE-2019-9513) and SETTINGS (CVE-2019-9515). h2 bounds those of all other frames.

use std::io;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

/// The head of a frame (RFC 9113, 4.1).
const HEAD: usize = 9;
/// What a client sends before its first frame (RFC 9113, 3.4).
const PREFACE: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

/// What a frame that asks for nothing costs: as much as so many bytes earn that are written to the client. A client acknowledges
/// what it gets, and may measure the way with a PING at each message, of which the smallest has 14 bytes and the answer to the
/// PING 17.
const COST: usize = 32;
/// What a new stream earns: Envoy, too, allows ten frames for one of data.
const STREAM: usize = 10 * COST;
/// What is saved at most.
const MOST: usize = 2_000 * COST;
/// What time earns, for a client that keeps its connection alive.
const EACH_SECOND: usize = 100 * COST;

/// What a client may go on to send.
#[derive(Debug)]
pub(super) struct Frames {
    head: [u8; HEAD],
    /// How much of the head came.
    known: usize,
    /// What comes before the next head.
    skip: usize,
    spare: usize,
    refilled: Instant,
}

/// The client sent too much that asks for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flood;

impl Frames {
    pub(super) fn new(now: Instant) -> Self {
        Self { head: [0; HEAD], known: 0, skip: PREFACE, spare: MOST, refilled: now }
    }

    /// These bytes came next.
    pub(super) fn came(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        let mut result = Ok(());
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
            let taken = (HEAD - self.known).min(bytes.len());
            self.head[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
            (self.known, bytes) = (self.known + taken, &bytes[taken..]);
            if self.known == HEAD {
                result = result.and(self.begin());
            }
        }
        result
    }

    /// What came of writing to the client.
    pub(super) fn wrote(&mut self, result: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = result {
            self.earn(*bytes);
        }
    }

    fn begin(&mut self) -> Result<(), Flood> {
        let [a, b, c, kind, ..] = self.head;
        (self.known, self.skip) = (0, usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
        match kind {
            HEADERS => self.earn(STREAM),
            DATA | CONTINUATION => {}
            _ => return self.spend(),
        }
        Ok(())
    }

    fn spend(&mut self) -> Result<(), Flood> {
        if self.spare < COST {
            let now = Instant::now();
            let waited = now.saturating_duration_since(self.refilled).min(Duration::from_secs(60));
            self.earn(EACH_SECOND * usize::try_from(waited.as_millis()).unwrap_or_default() / 1000);
            self.refilled = now;
        }
        self.spare = self.spare.checked_sub(COST).ok_or(Flood)?;
        Ok(())
    }

    fn earn(&mut self, amount: usize) {
        self.spare = MOST.min(self.spare.saturating_add(amount));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;

    fn frames() -> Frames {
        let mut frames = Frames::new(Instant::now());
        frames.came(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        frames
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 0], payload].concat()
    }

    /// How many of these a client may send at once.
    fn most(frames: &mut Frames, bytes: &[u8]) -> usize {
        (0..20_000).take_while(|_| frames.came(bytes).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_ask_for_nothing_are_as_many_as_were_earned() {
        for kind in [2, 3, 4, PING, 7, 8, 0xbe] {
            assert_eq!(most(&mut frames(), &frame(kind, &[0; 8])), 2_000, "{kind}");
        }
        for kind in [DATA, HEADERS, CONTINUATION] {
            assert_eq!(most(&mut frames(), &frame(kind, &[0; 8])), 20_000, "{kind}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn streams_responses_and_time_earn_more_and_no_more_than_the_most_is_saved() {
        let (mut frames, ping) = (frames(), frame(PING, &[0; 8]));
        let spent = |frames: &mut Frames| most(frames, &ping);
        assert_eq!(spent(&mut frames), 2_000);
        frames.came(&frame(HEADERS, b"h")).unwrap();
        assert_eq!(spent(&mut frames), 10);
        frames.wrote(&Poll::Ready(Ok(64)));
        assert_eq!(spent(&mut frames), 2);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(spent(&mut frames), 50);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(spent(&mut frames), 2_000);
        frames.wrote(&Poll::Ready(Ok(usize::MAX)));
        assert_eq!(spent(&mut frames), 2_000);
    }

    #[test]
    fn a_frame_is_known_however_its_bytes_come() {
        let one = [frame(HEADERS, &[PING; 30]), frame(PING, &[1; 8]), frame(DATA, &[]), frame(PING, &[1; 8])].concat();
        for size in 1..one.len() {
            let mut frames = frames();
            frames.spare = 0;
            one.chunks(size).for_each(|bytes| frames.came(bytes).unwrap());
            assert_eq!((frames.spare, frames.known, frames.skip), (STREAM - 2 * COST, 0, 0), "{size}");
        }
    }
}
