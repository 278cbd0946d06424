//! The byte stream under `h2`: an account of what passes, and fewer, larger writes.
//!
//! `h2` flushes after each DATA frame of 256 bytes or more, a system call per call. Here its writes are held until the
//! connection has been polled, and then sent together: half the CPU at 64 callers of 1 KiB each.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;
use super::shared::Shared;

/// What may be held before the socket is asked to take it.
const MAX_HELD: usize = 32 << 10;
/// A write from this size on goes to the socket directly, uncopied, behind what is held.
const DIRECT: usize = 8 << 10;

/// `h2` has one handle and the connection's task the other; both are used by that task alone, so the lock is never
/// waited for.
pub(super) struct Wire<IO>(Arc<Mutex<Line<IO>>>);

struct Line<IO> {
    io: IO,
    frames: Frames,
    shared: Arc<Shared>,
    held: Vec<u8>,
    /// Bytes of `held` that are sent.
    sent: usize,
    /// Whether `io` has bytes that it was not told to flush.
    dirty: bool,
}

impl<IO> Wire<IO> {
    pub(super) fn new(io: IO, shared: Arc<Shared>) -> Self {
        let frames = Frames::default();
        Self(Arc::new(Mutex::new(Line { io, frames, shared, held: Vec::new(), sent: 0, dirty: false })))
    }
}

impl<IO> Clone for Wire<IO> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<IO: AsyncWrite + Unpin> Wire<IO> {
    /// Sends what is held. To be called whenever `h2` was polled.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_send(cx)
    }
}

impl<IO: AsyncWrite + Unpin> Line<IO> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx))?;
        if self.dirty {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.held.len() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &self.held[self.sent..]));
            match self.wrote(sent)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        self.held.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// A write that failed counts too: under TLS a part of it may have left.
    fn wrote(&mut self, written: io::Result<usize>) -> io::Result<usize> {
        self.dirty = true;
        self.shared.wrote();
        written
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if length >= DIRECT {
            return self.poll_direct(cx, bufs);
        }
        if self.held.len() + length > MAX_HELD {
            ready!(self.poll_empty(cx))?;
        }
        bufs.iter().for_each(|buf| self.held.extend_from_slice(buf));
        Poll::Ready(Ok(length))
    }

    fn poll_direct(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let ahead = self.held.len() - self.sent;
            let written = ready!(self.poll_behind_held(cx, bufs));
            let written = self.wrote(written)?;
            if written > 0 && written < ahead {
                self.sent += written;
                continue;
            }
            self.held.clear();
            self.sent = 0;
            // Nothing at all is an error to `h2`; nothing of `bufs` is none.
            if written != ahead || written == 0 {
                return Poll::Ready(Ok(written.saturating_sub(ahead)));
            }
        }
    }

    fn poll_behind_held(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let held = &self.held[self.sent..];
        let mut all: SmallVec<[IoSlice<'_>; 4]> = SmallVec::new();
        all.extend((!held.is_empty()).then(|| IoSlice::new(held)));
        all.extend(bufs.iter().take(3).copied());
        Pin::new(&mut self.io).poll_write_vectored(cx, &all)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Wire<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let line = &mut *self.0.lock();
        let before = buf.filled().len();
        ready!(Pin::new(&mut line.io).poll_read(cx, buf))?;
        let new = &buf.filled()[before..];
        if new.is_empty() {
            line.shared.eof();
        } else {
            let sight = line.frames.walk(new);
            line.shared.read(new, sight);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Wire<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// `h2` flushes after each frame: the connection's task does it once for all.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let line = &mut *self.0.lock();
        ready!(line.poll_send(cx))?;
        Pin::new(&mut line.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::http2::Config;

    /// A socket that takes a few bytes at a time, and none every other time.
    #[derive(Default)]
    struct Trickle {
        taken: Vec<u8>,
        tries: usize,
        flushes: usize,
        broken: bool,
    }

    impl AsyncWrite for Trickle {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.tries += 1;
            if self.broken {
                return Poll::Ready(Ok(0));
            }
            if self.tries.is_multiple_of(2) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let few = buf.len().min(1 + self.tries * 7 % 5000);
            self.taken.extend_from_slice(&buf[..few]);
            Poll::Ready(Ok(few))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn wire(io: Trickle) -> Wire<Trickle> {
        Wire::new(io, Arc::new(Shared::new(&Config::default())))
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[tokio::test]
    async fn what_is_written_arrives_in_order_whatever_the_sizes() {
        let all = bytes(400_000);
        let mut wire = wire(Trickle::default());
        let mut rest = &all[..];
        for size in (0..).map(|round: usize| [1, 100, 5_000, 9_000, 20_000, 7_999, 8_000][round % 7]) {
            let (now, later) = rest.split_at(size.min(rest.len()));
            wire.write_all(now).await.unwrap();
            if size == 5_000 {
                poll_fn(|cx| wire.poll_send(cx)).await.unwrap();
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        wire.shutdown().await.unwrap();
        assert!(wire.0.lock().io.taken == all);
    }

    #[tokio::test]
    async fn small_writes_are_held_and_sent_together() {
        let mut wire = wire(Trickle { tries: 1_000, ..Trickle::default() });
        for _ in 0..10 {
            wire.write_all(b"frame").await.unwrap();
            wire.flush().await.unwrap();
        }
        assert_eq!(wire.0.lock().io.tries, 1_000);
        let writes = wire.0.lock().shared.writes();
        poll_fn(|cx| wire.poll_send(cx)).await.unwrap();
        poll_fn(|cx| wire.poll_send(cx)).await.unwrap();
        let line = wire.0.lock();
        assert_eq!((line.io.taken.len(), line.io.flushes, line.shared.writes() - writes), (50, 1, 1));
    }

    #[tokio::test]
    async fn what_is_held_is_bounded() {
        let mut wire = wire(Trickle::default());
        for _ in 0..10_000 {
            wire.write_all(&[0; 100]).await.unwrap();
            assert!(wire.0.lock().held.len() <= MAX_HELD);
        }
    }

    #[tokio::test]
    async fn a_socket_that_takes_nothing_is_an_error() {
        let mut wire = wire(Trickle { broken: true, ..Trickle::default() });
        wire.write_all(b"frame").await.unwrap();
        let error = poll_fn(|cx| wire.poll_send(cx)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
        assert!(wire.write_all(&[0; 10_000]).await.is_err());
    }
}
