//! The connection's task: reads, writes, and tells when the connection ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::Connection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::config::Config;
use super::error::{ConnectionError, ConnectionErrorKind};
use super::keepalive::{Due, Pinger};
use super::pings::Pings;
use super::shared::Shared;
use super::window::Window;
use super::wire::Wire;

pub(super) struct Driver<IO> {
    connection: Connection<Wire<IO>, Bytes>,
    wire: Wire<IO>,
    shared: Arc<Shared>,
    pinger: Option<Pinger>,
    window: Window,
    pings: Pings,
    /// What is told of the peer.
    in_doubt: bool,
    yielded: bool,
    /// Runs once the connection is closed here.
    closing: Option<Pin<Box<Sleep>>>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Driver<IO> {
    pub(super) fn new(
        connection: Connection<Wire<IO>, Bytes>,
        wire: Wire<IO>,
        shared: Arc<Shared>,
        config: &Config,
    ) -> Self {
        let pinger = config.keepalive.map(Pinger::new);
        let window = Window::new(config.stream_window, config.max_stream_window);
        let pings = Pings::default();
        Self { connection, wire, shared, pinger, window, pings, in_doubt: false, yielded: false, closing: None }
    }

    /// Lets the other tasks run once before anything is read or written, when several calls are in flight: what they
    /// queue goes into the same write. Worth a quarter of the CPU at 64 callers; a lone caller would only wait.
    fn yields(&mut self, cx: &Context<'_>) -> bool {
        self.yielded = !self.yielded && self.shared.slots.in_flight() > 1;
        if self.yielded {
            cx.waker().wake_by_ref();
        }
        self.yielded
    }

    /// Ready when the peer had its time to take the last bytes.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(latest) = self.shared.closes_by() else { return Poll::Pending };
        self.closing.get_or_insert_with(|| Box::pin(sleep_until(latest))).as_mut().poll(cx)
    }

    fn poll_pings(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionError> {
        if self.pings.under_way() && self.pings.poll_answer(cx) {
            self.answered(cx);
        }
        if let Some(pinger) = &mut self.pinger {
            match pinger.poll(cx, self.shared.traffic()) {
                Some(Due::Lost(why)) => return Poll::Ready(why),
                Some(Due::Ping) => self.pings.send(cx, || self.connection.ping_pong()),
                None => {}
            }
            if pinger.is_in_doubt() != self.in_doubt {
                self.in_doubt = !self.in_doubt;
                self.shared.doubt.send_replace(self.in_doubt);
            }
        }
        if self.window.wants_sample(self.shared.data()) && !self.pings.under_way() {
            self.pings.send(cx, || self.connection.ping_pong());
            self.window.begin(Instant::now(), self.shared.data());
        }
        Poll::Pending
    }

    fn answered(&mut self, cx: &mut Context<'_>) {
        if let Some(pinger) = &mut self.pinger {
            pinger.answered(cx, self.shared.traffic());
        }
        let Some(size) = self.window.end(Instant::now(), self.shared.data()) else { return };
        // Refused while the peer has not acknowledged the last size: there will be another round trip.
        if self.connection.set_initial_window_size(size).is_ok() {
            self.window.set(size);
            cx.waker().wake_by_ref();
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for Driver<IO> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let me = self.get_mut();
        if me.yields(cx) {
            return Poll::Pending;
        }
        if let Poll::Ready(end) = Pin::new(&mut me.connection).poll(cx) {
            me.shared.ended(end);
            return Poll::Ready(());
        }
        let sent = me.wire.poll_send(cx);
        me.shared.wake_uploads();
        if let Poll::Ready(Err(error)) = sent {
            me.shared.failed(&error);
            return Poll::Ready(());
        }
        me.shared.slots.set_limit(me.connection.max_concurrent_send_streams());
        if me.poll_closed(cx).is_ready() {
            return Poll::Ready(());
        }
        me.poll_pings(cx).map(|why| me.shared.lost(why))
    }
}

/// However the task ends, with its runtime too, the connection is seen to be gone.
impl<IO> Drop for Driver<IO> {
    fn drop(&mut self) {
        self.shared.lost(ConnectionError::new(ConnectionErrorKind::Closed, "connection closed"));
    }
}
