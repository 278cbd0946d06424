//! How much a peer may send before a reader takes it: as much as a round trip carries.
//!
//! A window that is smaller than bandwidth times delay keeps the peer waiting; a larger one is memory for readers that
//! stall. So it begins small, and grows while a round trip (a PING and its answer) brings most of a window, faster than
//! before: then the window was what held the peer back. grpc-go and hyper do the same.

use std::time::Duration;

use tokio::time::Instant;

/// Decides by the bytes that were read; knows no clock.
#[derive(Debug)]
pub(super) struct Window {
    size: u32,
    max: u32,
    /// Bytes read when the last round trip ended.
    mark: u64,
    /// When the round trip that is under way began, and the bytes read until then.
    begun: Option<(Instant, u64)>,
    /// Bytes per second of the fastest round trip so far.
    rate: u128,
}

impl Window {
    pub(super) fn new(size: u32, max: u32) -> Self {
        Self { size, max, mark: 0, begun: None, rate: 0 }
    }

    /// Whether a round trip is worth a look: a window's worth was read since the last one. Small calls rarely get there.
    pub(super) fn wants_sample(&self, read: u64) -> bool {
        self.size < self.max && self.begun.is_none() && read.saturating_sub(self.mark) >= u64::from(self.size)
    }

    /// A PING was sent.
    pub(super) fn begin(&mut self, now: Instant, read: u64) {
        self.begun = Some((now, read));
    }

    /// A PING was answered, this one's or the keepalive's, after which another at once would be one too many for servers
    /// that count them: the window there should be, if it is another.
    pub(super) fn end(&mut self, now: Instant, read: u64) -> Option<u32> {
        self.mark = read;
        let (begun, before) = self.begun.take()?;
        let bytes = read.saturating_sub(before);
        let rate = per_second(bytes, now.saturating_duration_since(begun));
        if bytes.saturating_mul(3) < u64::from(self.size) * 2 || rate <= self.rate {
            return None;
        }
        self.rate = rate;
        Some(u32::try_from(bytes.saturating_mul(2)).unwrap_or(self.max).clamp(self.size, self.max))
    }

    /// The peer is told of this size.
    pub(super) fn set(&mut self, size: u32) {
        self.size = size;
    }
}

fn per_second(bytes: u64, time: Duration) -> u128 {
    u128::from(bytes) * 1_000_000_000 / time.as_nanos().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: Duration = Duration::from_millis(10);
    const KIB: u64 = 1 << 10;

    /// Grows through one round trip that brings so many bytes.
    fn trip(window: &mut Window, read: &mut u64, bytes: u64, time: Duration) -> Option<u32> {
        let now = Instant::now();
        window.begin(now, *read);
        *read += bytes;
        let size = window.end(now + time, *read);
        size.inspect(|size| window.set(*size))
    }

    #[tokio::test]
    async fn it_grows_while_round_trips_fill_it() {
        let (mut window, mut read) = (Window::new(256 << 10, 4 << 20), 0);
        assert!(!window.wants_sample(255 * KIB));
        assert!(window.wants_sample(256 * KIB));
        let sizes: Vec<_> = [256, 512, 1024, 2048]
            .map(|kib| trip(&mut window, &mut read, kib * KIB, TRIP).map(|size| size >> 10))
            .into_iter()
            .collect();
        assert_eq!(sizes, [Some(512), Some(1024), Some(2048), Some(4096)]);
        assert!(!window.wants_sample(u64::MAX), "at its limit");
    }

    #[tokio::test]
    async fn it_stays_when_the_peer_or_the_network_is_the_limit() {
        let (mut window, mut read) = (Window::new(256 << 10, 4 << 20), 0);
        assert_eq!(trip(&mut window, &mut read, 100 * KIB, TRIP), None);
        assert_eq!(trip(&mut window, &mut read, 256 * KIB, TRIP), Some(512 << 10));
        // Twice as much in twice the time: a queue grew, nothing else.
        assert_eq!(trip(&mut window, &mut read, 512 * KIB, TRIP * 2), None);
        assert!(!window.wants_sample(read + 500 * KIB));
        assert!(window.wants_sample(read + 512 * KIB));
    }

    #[tokio::test]
    async fn an_answer_to_another_ping_says_nothing() {
        assert_eq!(Window::new(1, 2).end(Instant::now(), 100), None);
    }
}
