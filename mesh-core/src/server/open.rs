//! Calls that end when the policies in force would not let them in any more: an option of [`ServerOptions`].
//!
//! ```text
//! a call passed its filters ─▸ it is kept with its chain ─▸ the chain has other policies: each call is asked for anew
//!                                                             └ denied ─▸ its handler hears no more of its caller, and the caller
//!                                                                         that it is not allowed
//! ```
//!
//! [`ServerOptions`]: super::ServerOptions

use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};

use http::{HeaderMap, Request, header};
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::ConnectInfo;
use super::listener::ChainState;
use super::request::{Refusals, RequestBody};
use crate::error::Error;

/// A call that ends when it is denied.
#[derive(Debug)]
pub(super) struct OpenCall {
    chain: Arc<ChainState>,
    deny_by_default: bool,
    refusals: Refusals,
    /// The call as its filters let it pass.
    head: OnceLock<Request<()>>,
    denied: CancellationToken,
}

impl OpenCall {
    pub(super) fn new(chain: Arc<ChainState>, deny_by_default: bool, refusals: Refusals) -> Arc<Self> {
        Arc::new(Self { chain, deny_by_default, refusals, head: OnceLock::new(), denied: CancellationToken::new() })
    }

    /// The call has passed its filters, and is kept from now on. What changed meanwhile holds for it, too.
    ///
    /// # Errors
    ///
    /// It is denied by now.
    pub(super) fn enter(self: &Arc<Self>, request: &Request<RequestBody>) -> Result<(), Error> {
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.headers_mut() = request.headers().clone();
        *head.extensions_mut() = request.extensions().clone();
        let head = self.head.get_or_init(|| head);
        self.chain.open().keep(self);
        self.chain.allows(head, self.deny_by_default)
    }

    /// Ends the call if this chain denies it.
    fn judge(&self, chain: &ChainState) {
        let Some(head) = self.head.get() else { return };
        if let Err(error) = chain.allows(head, self.deny_by_default)
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

/// The calls that are open under a chain.
#[derive(Debug, Default)]
pub(super) struct OpenCalls(Mutex<Vec<Weak<OpenCall>>>);

impl OpenCalls {
    fn keep(&self, call: &Arc<OpenCall>) {
        let mut calls = self.0.lock();
        if calls.len() == calls.capacity() {
            calls.retain(|call| call.strong_count() > 0);
            let room = calls.len().max(16);
            calls.reserve(room);
        }
        calls.push(Arc::downgrade(call));
    }

    fn live(&self) -> Vec<Arc<OpenCall>> {
        self.0.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Ends those that their chain denies.
    pub(super) fn judge(&self, chain: &ChainState) {
        self.live().iter().for_each(|call| call.judge(chain));
    }

    /// Has them judged by other chains from now on, each by the one that connections such as its own get.
    pub(super) fn hand_on(&self, chain_of: impl Fn(&ConnectInfo) -> Option<Arc<ChainState>>) {
        for call in self.live() {
            let info = call.head.get().and_then(|head| head.extensions().get::<ConnectInfo>());
            if let Some(chain) = info.and_then(&chain_of) {
                chain.open().keep(&call);
                call.judge(&chain);
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
