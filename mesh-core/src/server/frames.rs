//! What a client's frames cost, and what its calls earn, by the heads of the frames that go either way. HTTP/2 lets it send as
//! many as it likes of those that ask for nothing, and each costs the server an answer, or a look at all its streams: floods of
//! PING (CVE-2019-9512), PRIORITY (CVE-2019-9513) and SETTINGS (CVE-2019-9515). h2 bounds those of all other frames.

use std::time::Duration;

use tokio::time::Instant;

/// The head of a frame (RFC 9113, 4.1).
const HEAD: usize = 9;
/// What a client sends before its first frame (RFC 9113, 3.4).
const PREFACE: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;

/// How many frames that ask for nothing a HEADERS or DATA frame pays for that the server writes, and a stream that the client
/// opens. A client may send a WINDOW_UPDATE for the stream, another for the connection, and a PING that measures the way for each
/// message that it gets, however small. Envoy allows 20 WINDOW_UPDATE frames for each DATA frame that it sent, twice its
/// `max_inbound_window_update_frames_per_data_frame_sent`, and 100 PRIORITY frames for each stream
/// (`max_inbound_priority_frames_per_stream`), whatever else comes.
const ANSWER: u32 = 10;
/// As [`ANSWER`], for a DATA frame of the client, which may measure the way for what it sends, too. Those that are empty and end
/// nothing are a flood themselves (CVE-2019-9518).
const UPLOAD: u32 = 4;
/// What a client may send before it has a call.
const AT_ONCE: u32 = 2_000;
/// What time earns, for a client that keeps its connection alive; no more than [`AT_ONCE`].
const EACH_SECOND: u32 = 100;
/// What is saved at most: enough for a client that gets, at once, as many of gRPC's smallest messages as fit into the window that
/// it has unless it says otherwise (13,107 in 65,535 bytes), and then sends two WINDOW_UPDATEs for each.
const MOST: u32 = 30_000;

/// What a client may go on to send.
#[derive(Debug)]
pub(super) struct Frames {
    inbound: Heads,
    outbound: Heads,
    /// How many frames that ask for nothing.
    spare: u32,
    refilled: Instant,
}

/// The client sent too much that asks for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flood;

impl Frames {
    pub(super) fn new(now: Instant) -> Self {
        Self { inbound: Heads::behind(PREFACE), outbound: Heads::behind(0), spare: AT_ONCE, refilled: now }
    }

    /// These bytes came next.
    pub(super) fn came(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        let mut result = Ok(());
        while let Some(head) = self.inbound.next(&mut bytes) {
            result = result.and(self.take(&head));
        }
        result
    }

    /// So many of these bytes were written next.
    pub(super) fn wrote<'a>(&mut self, parts: impl IntoIterator<Item = &'a [u8]>, mut written: usize) {
        for part in parts {
            let mut bytes = &part[..written.min(part.len())];
            written -= bytes.len();
            while let Some(head) = self.outbound.next(&mut bytes) {
                self.give(&head);
            }
        }
    }

    /// Whether a frame can be written now: there is none of which only a part was.
    pub(super) fn is_between(&self) -> bool {
        self.outbound.is_between()
    }

    fn take(&mut self, head: &Head) -> Result<(), Flood> {
        match head.kind {
            HEADERS => self.earn(ANSWER),
            DATA if head.length > 0 || head.flags & END_STREAM != 0 => self.earn(UPLOAD),
            DATA | CONTINUATION => {}
            _ => return self.spend(),
        }
        Ok(())
    }

    fn give(&mut self, head: &Head) {
        match head.kind {
            HEADERS | DATA => self.earn(ANSWER),
            // The client has to acknowledge it. What acknowledges the client's own pays for nothing, or a PING would pay for the next.
            SETTINGS | PING if head.flags & ACK == 0 => self.earn(1),
            _ => {}
        }
    }

    fn spend(&mut self) -> Result<(), Flood> {
        if self.spare == 0 {
            let now = Instant::now();
            let waited = now.saturating_duration_since(self.refilled).min(Duration::from_secs(60));
            let earned = EACH_SECOND * u32::try_from(waited.as_millis()).unwrap_or_default() / 1000;
            self.earn(earned.min(AT_ONCE));
            self.refilled = now;
        }
        self.spare = self.spare.checked_sub(1).ok_or(Flood)?;
        Ok(())
    }

    fn earn(&mut self, frames: u32) {
        self.spare = MOST.min(self.spare + frames);
    }
}

/// The heads of the frames that go one way, however their bytes are cut.
#[derive(Debug)]
struct Heads {
    head: [u8; HEAD],
    /// How much of the head is there.
    known: usize,
    /// What comes before the next head.
    skip: usize,
}

#[derive(Debug)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
}

impl Heads {
    fn behind(skip: usize) -> Self {
        Self { head: [0; HEAD], known: 0, skip }
    }

    /// The next head that ends in these bytes, of which those behind it are left.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        let skipped = self.skip.min(bytes.len());
        (self.skip, *bytes) = (self.skip - skipped, &bytes[skipped..]);
        if self.known == 0
            && let Some((head, rest)) = bytes.split_first_chunk()
        {
            *bytes = rest;
            return Some(self.read(*head));
        }
        let taken = (HEAD - self.known).min(bytes.len());
        self.head[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
        (self.known, *bytes) = (self.known + taken, &bytes[taken..]);
        if self.known < HEAD {
            return None;
        }
        self.known = 0;
        Some(self.read(self.head))
    }

    fn read(&mut self, head: [u8; HEAD]) -> Head {
        let [a, b, c, kind, flags, ..] = head;
        self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        Head { length: self.skip, kind, flags }
    }

    fn is_between(&self) -> bool {
        (self.known, self.skip) == (0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_UPDATE: u8 = 8;

    fn frames() -> Frames {
        let mut frames = Frames::new(Instant::now());
        frames.came(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        frames
    }

    /// One that may send nothing more, as time stands still.
    fn spent() -> Frames {
        Frames { spare: 0, ..frames() }
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 0], payload].concat()
    }

    fn ping() -> Vec<u8> {
        frame(PING, 0, &[0; 8])
    }

    fn wrote(frames: &mut Frames, bytes: &[u8]) {
        frames.wrote([bytes], bytes.len());
    }

    /// How many of these a client may send at once.
    fn most(frames: &mut Frames, bytes: &[u8]) -> usize {
        (0..50_000).take_while(|_| frames.came(bytes).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_ask_for_nothing_are_as_many_as_were_earned() {
        for kind in [2, 3, SETTINGS, PING, 7, WINDOW_UPDATE, 0xbe] {
            assert_eq!(most(&mut frames(), &frame(kind, 0, &[0; 8])), 2_000, "{kind}");
        }
        for kind in [DATA, HEADERS, CONTINUATION] {
            assert_eq!(most(&mut frames(), &frame(kind, 0, &[0; 8])), 50_000, "{kind}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn streams_messages_and_answers_earn_more() {
        for (kind, flags, payload, earned) in [
            (HEADERS, 0, &b"h"[..], 10),
            (DATA, 0, b"d", 4),
            (DATA, END_STREAM, b"", 4),
            (DATA, 0, b"", 0),
            (CONTINUATION, 0, b"h", 0),
        ] {
            let mut frames = spent();
            frames.came(&frame(kind, flags, payload)).unwrap();
            assert_eq!(most(&mut frames, &ping()), earned, "{kind} {flags} {payload:?} of the client");
        }
        for (kind, flags, payload, earned) in [
            (HEADERS, 0, &b"h"[..], 10),
            (DATA, 0, b"", 10),
            (DATA, 0, &[0; 16_384], 10),
            (SETTINGS, 0, b"", 1),
            (SETTINGS, ACK, b"", 0),
            (PING, 0, &[0; 8], 1),
            (PING, ACK, &[0; 8], 0),
            (WINDOW_UPDATE, 0, &[0; 4], 0),
            (3, 0, &[0; 4], 0),
            (CONTINUATION, 0, b"h", 0),
        ] {
            let mut frames = spent();
            wrote(&mut frames, &frame(kind, flags, payload));
            assert_eq!(most(&mut frames, &ping()), earned, "{kind} {flags} of the server");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_earns_more_and_no_more_than_the_most_is_saved() {
        let mut frames = spent();
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(most(&mut frames, &ping()), 50);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(most(&mut frames, &ping()), 2_000);
        (0..5_000).for_each(|_| wrote(&mut frames, &frame(DATA, 0, b"")));
        assert_eq!(most(&mut frames, &ping()), 30_000);
    }

    /// As gRPC's clients do, which do not wait for much to come before they say that it did.
    #[tokio::test(start_paused = true)]
    async fn a_client_lives_that_acknowledges_each_message_and_measures_the_way() {
        let update = frame(WINDOW_UPDATE, 0, &[0, 0, 0, 5]);
        let round = [&update[..], &update, &ping()].concat();
        let (message, pong) = (frame(DATA, 0, &[0; 5]), frame(PING, ACK, &[0; 8]));
        let mut rounds = frames();
        for _ in 0..20_000 {
            wrote(&mut rounds, &message);
            rounds.came(&round).unwrap();
            wrote(&mut rounds, &pong);
        }
        let mut at_once = frames();
        (0..13_107).for_each(|_| wrote(&mut at_once, &message));
        (0..13_107).for_each(|_| at_once.came(&update.repeat(2)).unwrap());
        let mut uploads = frames();
        (0..20_000).for_each(|_| uploads.came(&[&message[..], &round].concat()).unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_a_ping_does_not_pay_for_the_next() {
        let (mut frames, ping, pong) = (frames(), ping(), frame(PING, ACK, &[0; 8]));
        let lived = (0..50_000).take_while(|_| {
            wrote(&mut frames, &pong);
            frames.came(&ping).is_ok()
        });
        assert_eq!(lived.count(), 2_000);
    }

    #[test]
    fn a_frame_is_known_however_its_bytes_come() {
        let inbound = [frame(HEADERS, 0, &[PING; 30]), ping(), frame(DATA, 0, &[]), ping()].concat();
        let outbound = [frame(HEADERS, 0, &[1; 30]), frame(PING, ACK, &[0; 8]), frame(DATA, 0, &[0; 5])].concat();
        for size in 1..=inbound.len() {
            let mut frames = spent();
            inbound.chunks(size).for_each(|bytes| frames.came(bytes).unwrap());
            assert_eq!((frames.spare, frames.inbound.is_between()), (8, true), "{size}");
        }
        for size in 1..=outbound.len() {
            let mut frames = spent();
            outbound.chunks(size).for_each(|bytes| wrote(&mut frames, bytes));
            assert_eq!((frames.spare, frames.is_between()), (20, true), "{size}");
        }
        // In two parts, of which so much is taken, and then the rest.
        for cut in 0..=outbound.len() {
            let (mut frames, middle) = (spent(), 20);
            let (first, second) = outbound.split_at(middle);
            frames.wrote([first, second], cut);
            assert_eq!(frames.is_between(), [0, 39, 56, outbound.len()].contains(&cut), "{cut}");
            frames.wrote([&first[cut.min(middle)..], &second[cut.saturating_sub(middle)..]], outbound.len() - cut);
            assert_eq!((frames.spare, frames.is_between()), (20, true), "{cut}");
        }
    }
}
