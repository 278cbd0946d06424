//! What can be set about a connection, with the reason for each default.

use std::time::Duration;

use tokio_util::task::TaskTracker;

/// A reader gives back what it took in steps of 16 KiB: a window must have room for several.
pub(crate) const MIN_STREAM_WINDOW: u32 = 64 << 10;
/// RFC 9113, section 6.9.1.
pub(crate) const MAX_STREAM_WINDOW: u32 = (1 << 31) - 1;

/// Settings of one HTTP/2 connection.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Bytes that a peer may send on one stream before the reader takes them, at first; at least
    /// [`MIN_STREAM_WINDOW`]. Default
    /// 256 KiB: 10 Gbit/s over 0.2 ms.
    pub(crate) stream_window: u32,
    /// What that grows to while the network carries more. Default 1 MiB: 1 Gbit/s over 8 ms.
    /// It counts for each stream that nobody reads, so that a hundred of them hold 100 MiB at most.
    pub(crate) max_stream_window: u32,
    /// Bytes that a peer may send on all streams together. Default 1 GiB, as Go's client announces: `h2` gives back a
    /// byte of this window only when its stream's reader took it, so it must cover the windows of all stalled readers,
    /// or one of them delays the calls beside it. Memory is bounded by the streams' windows times the slots in use.
    pub(crate) connection_window: u32,
    /// Largest frame that a peer may send. Default 16 KiB, the protocol's own.
    pub(crate) max_frame_size: u32,
    /// Largest header list, as HTTP/2 counts it, that a peer may send. Default 16 KiB, as in gRPC; a longer one fails
    /// its stream. The peer is told four times as much: beyond what it is told, `h2` drops trailers without a word, and
    /// the connection if it is exceeded four times over.
    pub(crate) max_header_list_size: u32,
    /// Request bytes that one stream may have queued for the socket. Default 256 KiB.
    pub(crate) max_send_buffer: usize,
    /// Streams that were reset here and are remembered for [`reset_memory`](Self::reset_memory), so that the frames
    /// still under way to them are dropped quietly. Default 4,096: a wave of deadlines must not look like a broken peer.
    pub(crate) max_remembered_resets: usize,
    /// How long a stream that was reset here is remembered. Default 1 s.
    pub(crate) reset_memory: Duration,
    /// Streams over the connection's life that a peer may break before the connection is closed. Default 65,536; each
    /// costs a RST_STREAM that waits for the socket, so there must be a bound.
    pub(crate) max_broken_streams: usize,
    /// Memory that small DATA frames may waste (256 bytes each, less their length) while nobody reads them. Default
    /// 64 MiB: 22 stalled readers of 20-byte messages. A peer that exceeds it loses the connection.
    pub(crate) small_frame_budget: usize,
    /// From the first byte to the peer's SETTINGS. Default 10 s.
    pub(crate) handshake_timeout: Duration,
    /// PING; `None` for never.
    pub(crate) keepalive: Option<Keepalive>,
    /// Counts the connections' tasks, each until its socket is closed.
    pub(crate) tasks: TaskTracker,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stream_window: 256 << 10,
            max_stream_window: 1 << 20,
            connection_window: 1 << 30,
            max_frame_size: 16 << 10,
            max_header_list_size: 16 << 10,
            max_send_buffer: 256 << 10,
            max_remembered_resets: 4096,
            reset_memory: Duration::from_secs(1),
            max_broken_streams: 1 << 16,
            small_frame_budget: 64 << 20,
            handshake_timeout: Duration::from_secs(10),
            keepalive: Some(Keepalive::default()),
            tasks: TaskTracker::new(),
        }
    }
}

/// When to ask a silent peer whether it is still there (gRFC A8).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keepalive {
    /// Silence before a PING; it is sent between this and half as much again. Default 10 s.
    pub(crate) interval: Duration,
    /// Silence after a PING before the connection is given up. Default 20 s.
    pub(crate) timeout: Duration,
    /// Silence after a PING before it is doubted that the peer is there. Default 1 s.
    pub(crate) doubt: Duration,
    /// PING, once until the peer sends HEADERS or DATA, when nothing was read within half to all of
    /// [`doubt`](Self::doubt) after a request. Default `true`.
    pub(crate) after_requests: bool,
    /// PING although no stream is open. Default `false`: servers count such PINGs as an offence.
    pub(crate) without_calls: bool,
    /// PINGs until the peer sends HEADERS or DATA, but for one in more than five minutes. Default 2: servers of grpc-go and
    /// C-core forgive two in five minutes and close the connection at the fourth.
    pub(crate) max_without_data: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(20),
            doubt: Duration::from_secs(1),
            after_requests: true,
            without_calls: false,
            max_without_data: 2,
        }
    }
}

impl Keepalive {
    /// One PING each `interval` of silence, streams or not: what gRPC does on an ADS stream with five minutes.
    pub(crate) fn always(interval: Duration) -> Self {
        let max_without_data = u32::MAX;
        Self { interval, without_calls: true, after_requests: false, max_without_data, ..Self::default() }
    }

    /// Twice as rare, and not before its time: for the next connection to a peer that complained of too many PINGs.
    pub(crate) fn slower(self) -> Self {
        Self { interval: self.interval.saturating_mul(2), after_requests: false, ..self }
    }
}
