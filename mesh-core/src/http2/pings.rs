//! The one PING that `h2` lets be under way, for the keepalive and for the window.

use std::task::Context;

use h2::{Ping, PingPong};

#[derive(Default)]
pub(super) struct Pings {
    /// Taken from the connection at the first PING: `h2` pays for it on each frame from then on.
    handle: Option<PingPong>,
    under_way: bool,
}

impl Pings {
    pub(super) fn under_way(&self) -> bool {
        self.under_way
    }

    /// Sends one, if none is under way. `take` gets the handle from the connection, once.
    pub(super) fn send(&mut self, cx: &Context<'_>, take: impl FnOnce() -> Option<PingPong>) {
        if self.handle.is_none() {
            self.handle = take();
        }
        if let Some(handle) = &mut self.handle {
            // Fails while one is under way, and when the connection has ended, of which its own future tells.
            self.under_way |= handle.send_ping(Ping::opaque()).is_ok();
        }
        // The connection was polled before this: once more, so that it writes the PING.
        cx.waker().wake_by_ref();
    }

    /// Whether the answer came.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> bool {
        let answered = self.under_way && self.handle.as_mut().is_some_and(|handle| handle.poll_pong(cx).is_ready());
        self.under_way &= !answered;
        answered
    }
}
