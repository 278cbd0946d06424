//! Calls that end when the policies in force would not let them in any more: an option of [`ServerOptions`].
//!
//! ```text
//! a call passed its filters ─▸ its server keeps it ─▸ what it was judged by last is not in force: its policies are asked anew
//!                                                      └ denied ─▸ its handler hears no more of its caller, and the caller
//!                                                                  that it is not allowed
//! ```
//!
//! What comes into force holds for calls that begin from then on at once; those that are open are judged bit by bit behind it, so
//! that however many there are, they hold nobody up.
//!
//! [`ServerOptions`]: super::ServerOptions

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
#[cfg(feature = "jwt")]
use std::time::SystemTime;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::ConnectInfo;
use super::listener::{ChainInForce, ChainState, Setup};
use super::passage::Terms;
use super::request::Refusals;
use crate::error::{Error, ErrorKind};

/// How many calls are judged at a time, before anything else has its turn.
const AT_A_TIME: usize = 16;

/// A call that ends when it is denied.
#[derive(Debug)]
pub(super) struct OpenCall {
    open: Arc<OpenCalls>,
    pub(super) terms: Terms,
    refusals: Refusals,
    info: ConnectInfo,
    /// As it came: what filters and routes make of it later, policies before them do not see.
    head: Request<()>,
    /// Chance decides once what becomes of it.
    seed: u64,
    /// When it came: what was good then stays so.
    #[cfg(feature = "jwt")]
    came: SystemTime,
    /// What filters that are not asked again changed of its headers, by their names.
    notes: Mutex<Vec<(Arc<str>, Changed)>>,
    /// What it was judged by last.
    judged_by: Mutex<Weak<ChainInForce>>,
    /// What it has of its caller's.
    upload: Mutex<Option<Incoming>>,
    unwritten: Mutex<Unwritten>,
    denied: CancellationToken,
}

/// What HTTP/2 has yet to write of an answer.
#[derive(Debug, Default)]
struct Unwritten {
    pieces: usize,
    /// Who waits until there is none.
    waiting: Option<Waker>,
}

/// What has become of some headers: the values that each has now.
#[derive(Clone, Debug)]
struct Changed(Vec<(HeaderName, Vec<HeaderValue>)>);

impl Changed {
    fn between(before: &HeaderMap, after: &HeaderMap) -> Self {
        let gone = before.keys().filter(|name| !after.contains_key(*name));
        let names = after.keys().chain(gone);
        let changed = names.filter(|name| before.get_all(*name) != after.get_all(*name));
        Self(changed.map(|name| (name.clone(), after.get_all(name).iter().cloned().collect())).collect())
    }

    fn apply(&self, headers: &mut HeaderMap) {
        for (name, values) in &self.0 {
            headers.remove(name);
            headers.extend(values.iter().map(|value| (name.clone(), value.clone())));
        }
    }
}

impl OpenCall {
    /// A call that has passed no filter of the chain yet.
    pub(super) fn new<B>(
        request: &Request<B>,
        info: ConnectInfo,
        chain: &ChainState,
        terms: &Terms,
        refusals: &Refusals,
    ) -> Arc<Self> {
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.headers_mut() = request.headers().clone();
        *head.extensions_mut() = request.extensions().clone();
        Arc::new(Self {
            open: chain.open().clone(),
            terms: terms.clone(),
            refusals: refusals.clone(),
            info,
            head,
            seed: fastrand::u64(..),
            #[cfg(feature = "jwt")]
            came: SystemTime::now(),
            notes: Mutex::default(),
            judged_by: Mutex::new(Arc::downgrade(&chain.in_force())),
            upload: Mutex::default(),
            unwritten: Mutex::default(),
            denied: CancellationToken::new(),
        })
    }

    /// Numbers below a million for the routes that only a share of calls takes, the same ones each time.
    pub(super) fn draws(&self) -> impl FnMut() -> u32 {
        let mut random = fastrand::Rng::with_seed(self.seed);
        move || random.u32(..1_000_000)
    }

    /// A number below a million for a filter that only a share of calls passes, the same one each time.
    pub(super) fn draw(&self, filter: &str) -> u32 {
        self.draws_of(filter)()
    }

    /// Numbers below a million for a filter whose rules are each for a share of calls, the same ones each time.
    pub(super) fn draws_of(&self, filter: &str) -> impl FnMut() -> u32 + use<> {
        let mut hasher = DefaultHasher::new();
        (self.seed, filter).hash(&mut hasher);
        let mut random = fastrand::Rng::with_seed(hasher.finish());
        move || random.u32(..1_000_000)
    }

    /// A filter that is not asked again has made this of its headers.
    pub(super) fn note(&self, filter: &Arc<str>, before: &HeaderMap, after: &HeaderMap) {
        let changed = Changed::between(before, after);
        if !changed.0.is_empty() {
            self.notes.lock().push((filter.clone(), changed));
        }
    }

    /// Does to these headers what the filter did to its own.
    pub(super) fn repeat(&self, filter: &str, headers: &mut HeaderMap) {
        let notes = self.notes.lock();
        notes.iter().filter(|(name, _)| &**name == filter).for_each(|(_, changed)| changed.apply(headers));
    }

    /// The call as it came: what filters found out of it is theirs to find out again.
    pub(super) fn head(&self) -> Parts {
        self.head.clone().into_parts().0
    }

    /// When it came.
    #[cfg(feature = "jwt")]
    pub(super) fn came(&self) -> SystemTime {
        self.came
    }

    /// The address that it comes from.
    pub(super) fn caller(&self) -> IpAddr {
        self.info.peer_address.ip()
    }

    /// The call has passed its filters, and is kept from now on. What came into force meanwhile holds for it, too.
    ///
    /// # Errors
    ///
    /// It is denied by now.
    pub(super) fn enter(self: &Arc<Self>) -> Result<(), Error> {
        let setup = self.open.keep(self);
        setup.map_or(Ok(()), |setup| self.judge(&setup))
    }

    /// Whether what is in force for connections such as its own lets it go on, if that is not what it was judged by last.
    fn judge(&self, setup: &Setup) -> Result<(), Error> {
        let admission = setup.admit(self.info.local_address, self.info.peer_address).ok_or_else(|| {
            let message =
                format!("the listener has no filter chain for the connection from {}", self.info.peer_address);
            Error::new(ErrorKind::PermissionDenied, message)
        })?;
        let Some(chain) = admission.chain else { return Ok(()) };
        let now = chain.in_force();
        let before = std::mem::replace(&mut *self.judged_by.lock(), Arc::downgrade(&now));
        if std::ptr::eq(before.as_ptr(), Arc::as_ptr(&now)) { Ok(()) } else { now.allows(self) }
    }

    /// Ends the call if it is denied by now.
    fn end_if_denied(&self, setup: &Setup) {
        if let Err(error) = self.judge(setup)
            && !self.denied.is_cancelled()
        {
            self.refusals.server.refuse_call(&error);
            self.denied.cancel();
            // However long its handler keeps it, HTTP/2 has no more of it.
            drop(self.upload.lock().take());
        }
    }

    /// Waits until it is denied.
    pub(super) async fn denied(&self) {
        self.denied.cancelled().await;
    }

    /// Waits until HTTP/2 has written all that it was given of the answer.
    pub(super) fn poll_written(&self, cx: &Context<'_>) -> Poll<()> {
        let mut unwritten = self.unwritten.lock();
        unwritten.waiting = (unwritten.pieces > 0).then(|| cx.waker().clone());
        if unwritten.waiting.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The head of an answer that has not begun.
    pub(super) fn answer(&self) -> http::Response<()> {
        self.refusals.denied()
    }

    /// The end of an answer that has; `None`: there is no way to say it but to break off.
    pub(super) fn trailers(&self) -> Option<HeaderMap> {
        self.refusals.protocol?;
        let mut trailers = self.answer().into_parts().0.headers;
        trailers.remove(header::CONTENT_TYPE);
        Some(trailers)
    }
}

/// What the caller of an open call sends; gone when the call is denied.
#[derive(Debug)]
pub(super) struct Upload(Arc<OpenCall>);

impl Upload {
    pub(super) fn new(incoming: Incoming, call: &Arc<OpenCall>) -> Self {
        *call.upload.lock() = Some(incoming);
        Self(call.clone())
    }

    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Incoming) -> T) -> Option<T> {
        self.0.upload.lock().as_mut().map(look)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        drop(self.0.upload.lock().take());
    }
}

/// A piece of an answer that is not written yet.
pub(super) struct UnwrittenPiece(Arc<OpenCall>);

impl UnwrittenPiece {
    pub(super) fn of(call: &Arc<OpenCall>) -> Self {
        call.unwritten.lock().pieces += 1;
        Self(call.clone())
    }
}

impl Drop for UnwrittenPiece {
    fn drop(&mut self) {
        let waiting = {
            let mut unwritten = self.0.unwritten.lock();
            unwritten.pieces -= 1;
            if unwritten.pieces == 0 { unwritten.waiting.take() } else { None }
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// The calls of a server that are open, under whichever setup they came.
#[derive(Debug, Default)]
pub(super) struct OpenCalls {
    kept: Mutex<Kept>,
    /// There are some to be judged.
    due: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    calls: Vec<Weak<OpenCall>>,
    /// Where those that ended are looked for next.
    swept: usize,
    /// Those that are to be judged yet, by what is in force when their turn comes.
    due: Vec<Weak<OpenCall>>,
    /// What came into force while some were judged concerns those, too.
    again: bool,
    /// What is in force, or was last.
    setup: Weak<Setup>,
}

impl Kept {
    /// For each that comes, two are looked at, so that no more that ended are left than are open, and nobody waits while all
    /// are looked at.
    fn keep(&mut self, call: Weak<OpenCall>) {
        for _ in 0..2 {
            self.swept = if self.swept < self.calls.len() { self.swept } else { 0 };
            match self.calls.get(self.swept) {
                Some(known) if known.strong_count() == 0 => drop(self.calls.swap_remove(self.swept)),
                Some(_) => self.swept += 1,
                None => {}
            }
        }
        if self.calls.len() < self.calls.capacity() / 4 {
            self.calls.shrink_to(self.calls.len() * 2);
        }
        self.calls.push(call);
    }

    /// Some of those that are to be judged; `None`: there is none.
    fn next(&mut self) -> Option<Vec<Arc<OpenCall>>> {
        if self.due.is_empty() && std::mem::take(&mut self.again) {
            self.due = std::mem::take(&mut self.calls);
        }
        let first = self.due.len().saturating_sub(AT_A_TIME);
        let some: Vec<_> = self.due.drain(first..).filter_map(|call| call.upgrade()).collect();
        let is_last = some.is_empty() && self.due.is_empty() && !self.again;
        some.iter().for_each(|call| self.keep(Arc::downgrade(call)));
        (!is_last).then_some(some)
    }
}

impl OpenCalls {
    /// Keeps a call; says what it is to be judged by. What comes into force later judges it by itself.
    fn keep(&self, call: &Arc<OpenCall>) -> Option<Arc<Setup>> {
        let kept = &mut *self.kept.lock();
        kept.keep(Arc::downgrade(call));
        kept.setup.upgrade()
    }

    /// This is in force from now on: whoever enters is judged by it, and who did before, by [`Self::judge_all`].
    pub(super) fn are_due(&self, setup: &Arc<Setup>) {
        let kept = &mut *self.kept.lock();
        kept.setup = Arc::downgrade(setup);
        kept.again = true;
        self.due.notify_one();
    }

    /// Ends the calls that what is in force denies, a few at a time, for as long as it is polled. If it is dropped meanwhile,
    /// another goes on with the rest.
    pub(super) async fn judge_all(&self) {
        loop {
            let next = {
                let kept = &mut *self.kept.lock();
                kept.next().map(|calls| (calls, kept.setup.upgrade()))
            };
            match next {
                Some((calls, setup)) => {
                    let setup = setup.as_ref();
                    setup.into_iter().for_each(|setup| calls.iter().for_each(|call| call.end_if_denied(setup)));
                    tokio::task::yield_now().await;
                }
                None => self.due.notified().await,
            }
        }
    }
}

/// Waits for the end of a call.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) call: Arc<OpenCall>,
    denied: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Watched {
    pub(super) fn new(call: &Arc<OpenCall>) -> Self {
        Self { call: call.clone(), denied: Box::pin(call.denied.clone().cancelled_owned()) }
    }

    pub(super) fn poll_denied(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.denied.as_mut().poll(cx)
    }
}
