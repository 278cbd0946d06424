//! Streams: plain or secured, and one that remembers whether its peer ever sent anything.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
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

/// A stream whose first bytes are noticed.
#[pin_project]
pub(super) struct Noticed<I> {
    #[pin]
    inner: I,
    begun: Begun,
}

impl<I> Noticed<I> {
    pub(super) fn new(inner: I) -> (Self, Begun) {
        let begun = Begun::default();
        (Self { inner, begun: begun.clone() }, begun)
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
        self.project().inner.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write_vectored(cx, parts)
    }
}
