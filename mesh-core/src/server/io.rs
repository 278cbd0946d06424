//! Streams: plain or secured, and one that remembers what went over it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
#[cfg(feature = "tls")]
use tokio_rustls::server::TlsStream;

use super::frames::{Flood, Frames};

/// The preface of HTTP/2 and the head of the SETTINGS frame behind it (RFC 9113, 3.4): who sent less has not begun.
const BEGINNING: usize = 24 + 9;

/// GOAWAY with ENHANCE_YOUR_CALM (RFC 9113, 6.8 and 7). Which calls were begun h2 alone knows, so it vouches for none that was not.
const CALM: &[u8] = b"\0\0\x17\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\x0btoo_many_frames";

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

/// What went over a stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    read: AtomicUsize,
    has_begun: AtomicBool,
    is_writing: AtomicBool,
    is_flood: AtomicBool,
}

impl Traffic {
    /// Whether the peer began to speak HTTP/2.
    pub(super) fn has_begun(&self) -> bool {
        self.0.has_begun.load(Ordering::Relaxed)
    }

    /// How many bytes came from the peer; it wraps around.
    pub(super) fn read(&self) -> usize {
        self.0.read.load(Ordering::Relaxed)
    }

    /// Whether bytes wait to be written, as the peer does not read those before them.
    pub(super) fn is_writing(&self) -> bool {
        self.0.is_writing.load(Ordering::Relaxed)
    }

    /// Whether the peer sent so many frames that ask for nothing that no more is read.
    pub(super) fn is_flood(&self) -> bool {
        self.0.is_flood.load(Ordering::Relaxed)
    }

    fn flooded(&self, Flood: Flood) -> io::Error {
        self.0.is_flood.store(true, Ordering::Relaxed);
        io::Error::other("a flood of frames that ask for nothing")
    }

    fn came(&self, bytes: usize) {
        // One task alone reads, so nothing is lost between the two.
        let read = self.read().wrapping_add(bytes);
        self.0.read.store(read, Ordering::Relaxed);
        if read >= BEGINNING && !self.has_begun() {
            self.0.has_begun.store(true, Ordering::Relaxed);
        }
    }

    fn writing(&self, is_writing: bool) {
        self.0.is_writing.store(is_writing, Ordering::Relaxed);
    }
}

/// A stream whose traffic is noticed, and that ends when its peer floods it.
#[pin_project]
pub(super) struct Noticed<I> {
    #[pin]
    inner: I,
    traffic: Traffic,
    frames: Frames,
}

impl<I> Noticed<I> {
    pub(super) fn new(inner: I) -> (Self, Traffic) {
        let traffic = Traffic::default();
        (Self { inner, traffic: traffic.clone(), frames: Frames::new(Instant::now()) }, traffic)
    }
}

impl<I: AsyncRead + AsyncWrite> AsyncRead for Noticed<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        let before = buffer.filled().len();
        let result = this.inner.as_mut().poll_read(cx, buffer);
        let came = &buffer.filled()[before..];
        this.traffic.came(came.len());
        let Err(flood) = this.frames.came(came) else { return result };
        if this.frames.is_between() {
            go_away(this.inner, cx);
        }
        // What fails has read nothing.
        buffer.set_filled(before);
        Poll::Ready(Err(this.traffic.flooded(flood)))
    }
}

/// Tells the peer why its connection ends, if that can be written at once: nothing waits for one that floods.
fn go_away(mut stream: Pin<&mut impl AsyncWrite>, cx: &mut Context<'_>) {
    if let Poll::Ready(Ok(_)) = stream.as_mut().poll_write(cx, CALM) {
        let _ = stream.poll_flush(cx);
    }
}

impl<I: AsyncWrite> AsyncWrite for Noticed<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let result = this.inner.poll_flush(cx);
        // Whoever writes flushes once all is written, and not before.
        if result.is_ready() {
            this.traffic.writing(false);
        }
        result
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
        let this = self.project();
        this.traffic.writing(true);
        let result = this.inner.poll_write_vectored(cx, parts);
        if let Poll::Ready(Ok(written)) = result {
            this.frames.wrote(parts.iter().map(|part| &**part), written);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn what_came_is_counted_and_what_waits_to_be_written_is_seen() {
        let (mut peer, ours) = duplex(BEGINNING);
        let (mut ours, traffic) = Noticed::new(ours);
        assert_eq!((traffic.read(), traffic.has_begun(), traffic.is_writing()), (0, false, false));
        for (bytes, read, has_begun) in [(BEGINNING - 1, BEGINNING - 1, false), (1, BEGINNING, true), (1, 34, true)] {
            peer.write_all(&vec![0; bytes]).await.unwrap();
            ours.read_exact(&mut vec![0; bytes]).await.unwrap();
            assert_eq!((traffic.read(), traffic.has_begun()), (read, has_begun));
        }
        let writing = tokio::spawn(async move {
            ours.write_all(&[0; 2 * BEGINNING]).await.unwrap();
            ours.flush().await.unwrap();
            ours
        });
        tokio::task::yield_now().await;
        assert!(traffic.is_writing(), "the peer reads nothing");
        peer.read_exact(&mut [0; 2 * BEGINNING]).await.unwrap();
        let _ours = writing.await.unwrap();
        assert!(!traffic.is_writing());
    }

    /// Takes all that is written, and keeps it.
    struct Stuck;

    impl AsyncWrite for Stuck {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    /// As TLS does, which has a buffer of its own.
    #[tokio::test]
    async fn what_is_written_and_not_flushed_waits() {
        let (mut stuck, traffic) = Noticed::new(Stuck);
        stuck.write_all(b"a").await.unwrap();
        assert!(stuck.flush().now_or_never().is_none());
        assert!(traffic.is_writing());
    }

    /// With a flood of PINGs, when it wrote this before.
    async fn told(written: &[u8]) -> Vec<u8> {
        let (mut peer, ours) = duplex(1 << 20);
        let (mut ours, traffic) = Noticed::new(ours);
        ours.write_all(written).await.unwrap();
        let ping = *b"\0\0\x08\x06\0\0\0\0\0pingping";
        peer.write_all(&[&[0; 24][..], &ping.repeat(10_000)].concat()).await.unwrap();
        assert!(!traffic.is_flood());
        let error = ours.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!((traffic.is_flood(), error.kind()), (true, io::ErrorKind::Other));
        drop(ours);
        let mut came = Vec::new();
        peer.read_to_end(&mut came).await.unwrap();
        came.split_off(written.len())
    }

    #[tokio::test]
    async fn who_floods_is_told_so_between_two_frames() {
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        for written in [&b""[..], &settings] {
            let came = told(written).await;
            let [0, 0, length, kind, 0, 0, 0, 0, 0, payload @ ..] = &came[..] else { panic!("{came:?}") };
            assert_eq!((usize::from(*length), *kind), (payload.len(), 7));
            assert_eq!(payload[4..8], [0, 0, 0, 11], "ENHANCE_YOUR_CALM");
        }
        assert_eq!(told(&settings[..8]).await, b"", "it would be read as a part of the frame");
    }
}
