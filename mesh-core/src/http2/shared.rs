//! What the connection's task notes and its callers read.

use std::collections::HashMap;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::Waker;

use h2::StreamId;
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::config::Config;
use super::error::{Code, ConnectionError, ConnectionErrorKind};
use super::frames::Sight;
use super::keepalive::Traffic;
use super::slots::Slots;
use crate::replay::field_size;

/// What a connection is good for.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// It takes calls.
    Ready,
    /// It takes no new calls and ends with the last one: the peer sent this GOAWAY, or it is drained here.
    Draining(Option<ConnectionError>),
    /// It is gone.
    Lost(ConnectionError),
}

/// What the callers and the connection's task both see.
pub(super) struct Shared {
    pub(super) slots: Slots,
    pub(super) state: watch::Sender<State>,
    /// Whether the peer owes the answer to a PING for so long that it may hang.
    pub(super) doubt: watch::Sender<bool>,
    reads: AtomicU64,
    requests: AtomicU64,
    /// Those of them that were queued before the last write.
    requests_written: AtomicU64,
    /// Those of them that were written before the last read.
    requests_heard_after: AtomicU64,
    responses: AtomicU64,
    data: AtomicU64,
    writes: AtomicU64,
    /// Uploads that wait for a write, and how many there were when they began to. One stays until there was another,
    /// however often the connection's task runs meanwhile.
    uploads: Mutex<HashMap<StreamId, (u64, Waker)>>,
    eof: AtomicBool,
    /// When the connection is gone at the latest, once it is closed here.
    closing: OnceLock<Instant>,
    max_header_list_size: usize,
    /// What the peer says of the requests' heads.
    max_request_head: AtomicU32,
    /// What the peer speaks, if its first bytes are not HTTP/2.
    foreign: OnceLock<&'static str>,
}

impl Shared {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            slots: Slots::new(0),
            max_header_list_size: usize::try_from(config.max_header_list_size).unwrap_or(usize::MAX),
            max_request_head: AtomicU32::new(u32::MAX),
            state: watch::Sender::new(State::Ready),
            doubt: watch::Sender::new(false),
            reads: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            requests_written: AtomicU64::new(0),
            requests_heard_after: AtomicU64::new(0),
            responses: AtomicU64::new(0),
            data: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            uploads: Mutex::default(),
            eof: AtomicBool::new(false),
            closing: OnceLock::new(),
            foreign: OnceLock::new(),
        }
    }

    /// The connection's task, which is about to be woken, ends then if it did not before.
    pub(super) fn close_by(&self, latest: Instant) {
        // The first one holds.
        let _ = self.closing.set(latest);
    }

    pub(super) fn closes_by(&self) -> Option<Instant> {
        self.closing.get().copied()
    }

    /// Called by the connection's task alone, as is [`wrote`](Self::wrote): no read-modify-write is needed.
    pub(super) fn read(&self, bytes: &[u8], sight: Sight) {
        let reads = self.reads.load(Ordering::Relaxed);
        if reads == 0 {
            self.recognise(bytes);
        }
        self.reads.store(reads + 1, Ordering::Relaxed);
        self.requests_heard_after.store(self.requests_written.load(Ordering::Relaxed), Ordering::Relaxed);
        if sight.response {
            self.responses.store(self.responses.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            self.data.store(self.data() + sight.data, Ordering::Relaxed);
        }
        if let Some(size) = sight.max_header_list_size {
            self.max_request_head.store(size, Ordering::Relaxed);
        }
        if let Some(goaway) = sight.goaway {
            self.drain(Some(goaway));
        }
    }

    /// A request was queued. Called with the sender locked.
    pub(super) fn queued(&self) {
        self.requests.store(self.requests.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub(super) fn eof(&self) {
        self.eof.store(true, Ordering::Relaxed);
    }

    pub(super) fn wrote(&self) {
        self.writes.store(self.writes.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.requests_written.store(self.requests.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Bytes of DATA frames that were read so far.
    pub(super) fn data(&self) -> u64 {
        self.data.load(Ordering::Relaxed)
    }

    /// Writes so far. A request that was queued when there were as many has not left.
    pub(super) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Wakes the stream's upload once there are not `writes` any more. The caller looks at the count again after this.
    pub(super) fn wake_when_written(&self, stream: StreamId, writes: u64, waker: &Waker) {
        // Dropped after the lock is free, as are all wakers here: they may run what they belong to.
        let _before = self.uploads.lock().insert(stream, (writes, waker.clone()));
    }

    /// The stream's upload waits no more.
    pub(super) fn forget_upload(&self, stream: StreamId) {
        let _before = self.uploads.lock().remove(&stream);
    }

    #[cfg(test)]
    pub(super) fn waiting_uploads(&self) -> usize {
        self.uploads.lock().len()
    }

    /// Called after writes: who waits for them was either seen by the lock, or sees the writes after it.
    pub(super) fn wake_uploads(&self) {
        let writes = self.writes();
        let mut uploads = self.uploads.lock();
        if uploads.is_empty() {
            return;
        }
        let written: Vec<_> = uploads.extract_if(|_, (before, _)| *before != writes).collect();
        drop(uploads);
        written.into_iter().for_each(|(_, (_, waker))| waker.wake());
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            reads: self.reads.load(Ordering::Relaxed),
            responses: self.responses.load(Ordering::Relaxed),
            open: self.slots.in_flight() > 0,
            unanswered: self.requests.load(Ordering::Relaxed) != self.requests_heard_after.load(Ordering::Relaxed),
        }
    }

    fn recognise(&self, first: &[u8]) {
        if first.starts_with(b"HTTP/") {
            let _ = self.foreign.set("peer speaks HTTP/1, not HTTP/2");
        } else if first.starts_with(&[0x15, 0x03]) {
            let _ = self.foreign.set("peer expects TLS");
        }
    }

    /// Why the connection ended; what the peer said at its start or in a GOAWAY explains more than what was seen last.
    fn explained(&self) -> Option<ConnectionError> {
        if let Some(foreign) = self.foreign.get() {
            return Some(ConnectionError::new(ConnectionErrorKind::Protocol(Code::PROTOCOL_ERROR), *foreign));
        }
        self.goaway()
    }

    pub(super) fn explain(&self, error: &h2::Error) -> ConnectionError {
        self.explained().unwrap_or_else(|| ConnectionError::from_h2(error))
    }

    pub(super) fn explain_io(&self, error: &io::Error) -> ConnectionError {
        self.explained().unwrap_or_else(|| ConnectionError::from_io(error))
    }

    /// Whether a header list is within the limit, counted as RFC 9113 does (section 6.5.2).
    pub(super) fn check_headers(&self, headers: &HeaderMap) -> Result<(), String> {
        let size: usize = headers.iter().map(|(name, value)| field_size(name, value)).sum();
        if size <= self.max_header_list_size {
            return Ok(());
        }
        Err(format!("headers of {size} bytes exceed the limit of {}", self.max_header_list_size))
    }

    /// Whether the peer takes a request's head of this size, if it says what it takes: some close the connection, and so
    /// end the calls of others, for one that is larger.
    pub(super) fn check_request(&self, size: usize) -> Result<(), String> {
        let limit = self.max_request_head.load(Ordering::Relaxed);
        if limit == u32::MAX || u32::try_from(size).is_ok_and(|size| size <= limit) {
            return Ok(());
        }
        Err(format!("a head of {size} bytes exceeds the endpoint's limit of {limit}"))
    }

    /// Of a response that `h2` refused: it says the same of headers that are far too large as of malformed ones.
    pub(super) fn bad_response(&self, error: &h2::Error) -> String {
        format!("malformed, or its headers exceed {} bytes ({error})", self.max_header_list_size.saturating_mul(4))
    }

    /// Why the connection takes no calls.
    pub(super) fn why_no_calls(&self) -> ConnectionError {
        let why = self.goaway();
        why.unwrap_or_else(|| ConnectionError::new(ConnectionErrorKind::Closed, "connection is draining"))
    }

    /// The GOAWAY that the peer sent, or why the connection is gone.
    pub(super) fn goaway(&self) -> Option<ConnectionError> {
        match &*self.state.borrow() {
            State::Draining(goaway) => goaway.clone(),
            State::Lost(why) => Some(why.clone()),
            State::Ready => None,
        }
    }

    pub(super) fn drain(&self, goaway: Option<ConnectionError>) {
        self.slots.drain();
        self.state.send_if_modified(|state| {
            let news = matches!(state, State::Ready) || matches!(state, State::Draining(_)) && goaway.is_some();
            if news {
                *state = State::Draining(goaway);
            }
            news
        });
    }

    pub(super) fn ended(&self, end: Result<(), h2::Error>) {
        self.lost(self.why_ended(end));
    }

    pub(super) fn failed(&self, error: &io::Error) {
        self.lost(self.explain_io(error));
    }

    pub(super) fn why_ended(&self, end: Result<(), h2::Error>) -> ConnectionError {
        match end {
            Ok(()) => self.explained().unwrap_or_else(|| self.closed()),
            Err(error) => self.explain(&error),
        }
    }

    fn closed(&self) -> ConnectionError {
        if self.eof.load(Ordering::Relaxed) {
            return ConnectionError::from_io(&io::ErrorKind::UnexpectedEof.into());
        }
        ConnectionError::new(ConnectionErrorKind::Closed, "connection closed")
    }

    /// The first reason holds.
    pub(super) fn lost(&self, why: ConnectionError) {
        self.slots.close();
        self.state.send_if_modified(|state| {
            let news = !matches!(state, State::Lost(_));
            if news {
                *state = State::Lost(why);
            }
            news
        });
    }
}
