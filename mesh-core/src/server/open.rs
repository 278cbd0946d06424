//! Calls that end when the policies in force would not let them in any more: an option of [`ServerOptions`].
//!
//! ```text
//! a call passed its filters ─▸ its server keeps it ─▸ what it was judged by last is not in force: its policies are asked anew
//!                                                      └ denied ─▸ its handler hears no more of its caller, and the caller
//!                                                                  that it is not allowed
//! ```
//!
//! [`ServerOptions`]: super::ServerOptions

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Extensions, HeaderMap, Request, header};
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::ConnectInfo;
use super::listener::{ChainInForce, ChainState, Setup};
use super::passage::Terms;
use super::request::{Refusals, RequestBody};
use crate::error::Error;

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
    /// What filters that are not asked again made of its headers, by their names.
    notes: Mutex<Vec<(Arc<str>, HeaderMap)>>,
    /// As its filters left them, with the claims of its token.
    extensions: OnceLock<Extensions>,
    /// What it was judged by last.
    judged_by: Mutex<Weak<ChainInForce>>,
    denied: CancellationToken,
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
        Arc::new(Self {
            open: chain.open().clone(),
            terms: terms.clone(),
            refusals: refusals.clone(),
            info,
            head,
            seed: fastrand::u64(..),
            notes: Mutex::default(),
            extensions: OnceLock::new(),
            judged_by: Mutex::new(Arc::downgrade(&chain.in_force())),
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
        let mut hasher = DefaultHasher::new();
        (self.seed, filter).hash(&mut hasher);
        fastrand::Rng::with_seed(hasher.finish()).u32(..1_000_000)
    }

    /// A filter that is not asked again has made this of its headers.
    pub(super) fn note(&self, filter: &Arc<str>, headers: &HeaderMap) {
        self.notes.lock().push((filter.clone(), headers.clone()));
    }

    /// What the filter made of its headers, if it passed it.
    pub(super) fn noted(&self, filter: &str) -> Option<HeaderMap> {
        self.notes.lock().iter().find(|(name, _)| &**name == filter).map(|(_, headers)| headers.clone())
    }

    /// The call as it came, and as whose it was found out to be.
    pub(super) fn head(&self) -> Parts {
        let mut head = self.head.clone().into_parts().0;
        head.extensions = self.extensions.get().cloned().unwrap_or_default();
        head
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
    pub(super) fn enter(self: &Arc<Self>, request: &Request<RequestBody>) -> Result<(), Error> {
        self.extensions.get_or_init(|| request.extensions().clone());
        let setup = self.open.keep(self);
        setup.map_or(Ok(()), |setup| self.judge(&setup))
    }

    /// Whether what is in force for connections such as its own lets it go on, if that is not what it was judged by last.
    fn judge(&self, setup: &Setup) -> Result<(), Error> {
        let admission = setup.admit(self.info.local_address, self.info.peer_address);
        let Some(chain) = admission.and_then(|admission| admission.chain) else { return Ok(()) };
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
        }
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

/// The calls of a server that are open, under whichever setup they came.
#[derive(Debug, Default)]
pub(super) struct OpenCalls(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    calls: Vec<Weak<OpenCall>>,
    /// What is in force, or was last.
    setup: Weak<Setup>,
}

impl Kept {
    /// Has room for as many as are open, and not for as many as once were.
    fn forget_ended(&mut self) {
        self.calls.retain(|call| call.strong_count() > 0);
        let room = self.calls.len().max(16);
        self.calls.shrink_to(self.calls.len() + room);
        self.calls.reserve(room);
    }
}

impl OpenCalls {
    /// Keeps a call; says what it is to be judged by. What comes into force later judges it by itself.
    fn keep(&self, call: &Arc<OpenCall>) -> Option<Arc<Setup>> {
        let kept = &mut *self.0.lock();
        if kept.calls.len() == kept.calls.capacity() {
            kept.forget_ended();
        }
        kept.calls.push(Arc::downgrade(call));
        kept.setup.upgrade()
    }

    /// Ends the calls that what is in force now denies.
    pub(super) fn judge(&self, setup: &Arc<Setup>) {
        let calls: Vec<_> = {
            let mut kept = self.0.lock();
            kept.setup = Arc::downgrade(setup);
            kept.forget_ended();
            kept.calls.iter().filter_map(Weak::upgrade).collect()
        };
        calls.iter().for_each(|call| call.end_if_denied(setup));
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
