//! Streams: plain or secured, and one that remembers whether its peer ever sent anything, and how long it has taken nothing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
#[cfg(feature = "tls")]
use tokio_rustls::server::TlsStream;

/// The preface of HTTP/2 and the head of the SETTINGS frame behind it (RFC 9113, 3.4): who sent less has not begun.
const BEGINNING: usize = 24 + 9;

/// A connection to a client.
#[pin_project(project = Way)]
pub(super) enum Stream {
    Plain(#[pin] TcpStream),
    #[cfg(feature = "tls")]
    Tls(#[pin] Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.project() {
            Way::Plain(stream) => stream.poll_read(cx, buffer),
            #[cfg(feature = "tls")]
            Way::Tls(stream) => stream.poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.project() {
            Way::Plain(stream) => stream.poll_write(cx, bytes),
            #[cfg(feature = "tls")]
            Way::Tls(stream) => stream.poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.project() {
            Way::Plain(stream) => stream.poll_flush(cx),
            #[cfg(feature = "tls")]
            Way::Tls(stream) => stream.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.project() {
            Way::Plain(stream) => stream.poll_shutdown(cx),
            #[cfg(feature = "tls")]
            Way::Tls(stream) => stream.poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.project() {
            Way::Plain(stream) => stream.poll_write_vectored(cx, parts),
            #[cfg(feature = "tls")]
            Way::Tls(stream) => stream.poll_write_vectored(cx, parts),
        }
    }
}

/// Whether a peer began to speak HTTP/2.
#[derive(Clone, Debug, Default)]
pub(super) struct Begun(Arc<AtomicUsize>);

impl Begun {
    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= BEGINNING
    }

    fn add(&self, bytes: usize) {
        let known = self.0.load(Ordering::Relaxed);
        if known < BEGINNING {
            self.0.store(known + bytes.min(BEGINNING), Ordering::Relaxed);
        }
    }
}

/// A stream whose first bytes are noticed, and that fails when its peer takes nothing for too long.
#[pin_project]
pub(super) struct Noticed<I> {
    #[pin]
    inner: I,
    begun: Begun,
    stalled: Stalled,
}

impl<I> Noticed<I> {
    /// `patience`: how long the peer may leave untaken what is written; `None`: for ever.
    pub(super) fn new(inner: I, patience: Option<Duration>) -> (Self, Begun) {
        let begun = Begun::default();
        let stalled = Stalled { patience, timer: None, is_running: false };
        (Self { inner, begun: begun.clone(), stalled }, begun)
    }
}

/// How long a peer has taken nothing of what is written. The silence after a PING does not end such a connection: hyper says
/// farewell first, and waits for that to be taken.
struct Stalled {
    patience: Option<Duration>,
    /// Made when a write first has to wait.
    timer: Option<Pin<Box<Sleep>>>,
    is_running: bool,
}

impl Stalled {
    /// What becomes of a write with this result.
    fn look<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let Some(patience) = self.patience else { return written };
        if written.is_ready() {
            self.is_running = false;
            return written;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
        if !std::mem::replace(&mut self.is_running, true) {
            timer.as_mut().reset(Instant::now() + patience);
        }
        timer.as_mut().poll(cx).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")))
    }
}

impl<I: AsyncRead> AsyncRead for Noticed<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buffer.filled().len();
        let result = this.inner.poll_read(cx, buffer);
        this.begun.add(buffer.filled().len() - before);
        result
    }
}

impl<I: AsyncWrite> AsyncWrite for Noticed<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.project();
        let written = this.inner.poll_write(cx, bytes);
        this.stalled.look(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let flushed = this.inner.poll_flush(cx);
        this.stalled.look(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let closed = this.inner.poll_shutdown(cx);
        this.stalled.look(cx, closed)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let written = this.inner.poll_write_vectored(cx, parts);
        this.stalled.look(cx, written)
    }
}
