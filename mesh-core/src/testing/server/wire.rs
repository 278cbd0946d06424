//! The bytes of a connection, which can be stopped, cut and reset from outside.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;

use crate::testing::fault::FaultId;
use crate::testing::shared::Connection;

/// What the rest of the world does to a connection's bytes.
#[derive(Debug, Default)]
pub(in crate::testing) struct Wire {
    state: Mutex<WireState>,
}

#[derive(Debug, Default)]
struct WireState {
    frozen_by: Option<FaultId>,
    /// Bytes that may still be written, and the fault that says so.
    budget: Option<(FaultId, u64)>,
    reset: bool,
    /// Those who wait for the end of a freeze.
    wakers: Vec<Waker>,
}

impl Wire {
    pub(in crate::testing) fn freeze(&self, fault: FaultId) {
        self.state.lock().frozen_by = Some(fault);
    }

    pub(in crate::testing) fn cut_after(&self, fault: FaultId, bytes: u64) {
        self.state.lock().budget = Some((fault, bytes));
    }

    /// Undoes what this fault did.
    pub(in crate::testing) fn lift(&self, fault: FaultId) {
        let mut state = self.state.lock();
        state.budget = state.budget.filter(|(by, _)| *by != fault);
        if state.frozen_by == Some(fault) {
            state.thaw();
        }
    }

    /// Undoes what all faults did.
    pub(in crate::testing) fn heal(&self) {
        let mut state = self.state.lock();
        state.budget = None;
        state.thaw();
    }

    /// Makes the connection end by a reset instead of an orderly close.
    pub(in crate::testing) fn reset_on_close(&self) {
        self.state.lock().reset = true;
    }

    fn poll_thawed(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.frozen_by.is_none() {
            return Poll::Ready(());
        }
        state.wakers.retain(|waker| !waker.will_wake(cx.waker()));
        state.wakers.push(cx.waker().clone());
        Poll::Pending
    }

    /// How many of so many bytes may be written; none at the cut.
    fn allowed(&self, length: usize) -> Option<usize> {
        match self.state.lock().budget {
            None => Some(length),
            Some((_, 0)) => None,
            Some((_, left)) => Some(length.min(usize::try_from(left).unwrap_or(usize::MAX))),
        }
    }

    fn wrote(&self, length: usize) {
        if let Some((_, left)) = &mut self.state.lock().budget {
            *left = left.saturating_sub(length as u64);
        }
    }
}

impl WireState {
    fn thaw(&mut self) {
        self.frozen_by = None;
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

/// What a connection runs over.
#[derive(Debug)]
pub(in crate::testing) enum Socket {
    Tcp(TcpStream),
    InProcess(DuplexStream),
}

impl Socket {
    /// Makes the close of a TCP connection a reset.
    pub(super) fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self {
            // A socket that cannot do this is closed in order, which the peer survives as well.
            let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
        }
    }

    fn io(&mut self) -> Pin<&mut dyn Io> {
        match self {
            Self::Tcp(stream) => Pin::new(stream),
            Self::InProcess(stream) => Pin::new(stream),
        }
    }
}

trait Io: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// A socket behind its wire.
#[derive(Debug)]
pub(super) struct Wired {
    pub(super) socket: Socket,
    pub(super) connection: Arc<Connection>,
}

impl AsyncRead for Wired {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.connection.wire.poll_thawed(cx));
        self.socket.io().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wired {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.connection.wire.poll_thawed(cx));
        let Some(allowed) = self.connection.wire.allowed(bytes.len()) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        };
        let written = std::task::ready!(self.socket.io().poll_write(cx, &bytes[..allowed]))?;
        self.connection.wire.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.connection.wire.poll_thawed(cx));
        self.socket.io().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.connection.wire.poll_thawed(cx));
        self.socket.io().poll_shutdown(cx)
    }
}

impl Drop for Wired {
    fn drop(&mut self) {
        if self.connection.wire.state.lock().reset {
            self.socket.reset_on_close();
        }
    }
}
