//! What a call that is being served hands on to the calls that are made to serve it.
//!
//! A server's [`DeadlineLayer`](crate::deadline::DeadlineLayer) puts a [`Context`] around the handler; every call made
//! inside has no more time than what is left of the inbound one, and is as important ([`Criticality`]), without any code in
//! the handler. A handler that is dropped, because its caller has gone or its time is over, drops the calls it waits for.
//!
//! The context belongs to the task. What a handler spawns runs without it, and outlives the handler: it needs no deadline
//! if nobody waits for it, and is handed the context if somebody does.
//!
//! ```
//! use mesh_core::context::Context;
//!
//! # async fn handler() {
//! let context = Context::current();
//! let other = tokio::spawn(context.scope(async { /* calls made here have the inbound call's deadline */ }));
//! # let _ = other;
//! # }
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
#[cfg(any(feature = "deadline", feature = "retry"))]
use std::sync::atomic::Ordering;
use std::task::{self, Poll};
use std::time::Duration;

use http::HeaderName;
use pin_project::pin_project;
use tokio::task::futures::TaskLocalFuture;
use tokio::time::Instant;

use crate::criticality::Criticality;

tokio::task_local! {
    static CURRENT: Context;
}

/// The call that is being served, seen from the calls made to serve it; empty where none is.
#[derive(Clone, Debug, Default)]
pub struct Context(Option<Arc<Inbound>>);

#[derive(Debug)]
struct Inbound {
    deadline: Option<Instant>,
    /// How important it is, and the header that said so.
    criticality: Option<(HeaderName, Criticality)>,
    /// A call made to serve this one must not be tried again, so neither must this one.
    no_retry: AtomicBool,
}

impl Context {
    /// The context of the running task; outside a server's it is empty.
    pub fn current() -> Self {
        CURRENT.try_with(Self::clone).unwrap_or_default()
    }

    /// Runs `future` in this context, whatever task polls it.
    pub fn scope<F: Future>(self, future: F) -> Scope<F> {
        Scope { inner: CURRENT.scope(self, future) }
    }

    /// How long there is until the deadline of the inbound call; `None` if it has none, or there is no such call.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// How important the inbound call is; `None` if it does not say it, or there is no such call. Calls that are made to
    /// serve it have the same in the same header, unless they have another one of their own.
    pub fn criticality(&self) -> Option<Criticality> {
        self.0.as_ref()?.criticality.as_ref().map(|(_, criticality)| *criticality)
    }

    /// How important the inbound call is, with the header that said so.
    #[cfg(feature = "discover")]
    pub(crate) fn said_criticality(&self) -> Option<(HeaderName, Criticality)> {
        self.0.as_ref()?.criticality.clone()
    }

    /// A call that is served now, of no known criticality.
    #[cfg(feature = "deadline")]
    pub(crate) fn serving(deadline: Option<Instant>) -> Self {
        Self::serving_as(deadline, None)
    }

    /// A call that is served now.
    #[cfg(feature = "deadline")]
    pub(crate) fn serving_as(deadline: Option<Instant>, criticality: Option<(HeaderName, Criticality)>) -> Self {
        Self(Some(Arc::new(Inbound { deadline, criticality, no_retry: AtomicBool::new(false) })))
    }

    /// Runs `then` in this context.
    #[cfg(feature = "deadline")]
    pub(crate) fn enter<T>(&self, then: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), then)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.0.as_ref()?.deadline
    }

    /// Whether no call is being served.
    #[cfg(feature = "retry")]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whoever made the inbound call must not try it again: that would only repeat a call that must not be.
    #[cfg(feature = "retry")]
    pub(crate) fn forbid_retry(&self) {
        if let Some(inbound) = &self.0 {
            inbound.no_retry.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the inbound call must not be tried again if it fails.
    #[cfg(feature = "deadline")]
    pub(crate) fn forbids_retry(&self) -> bool {
        self.0.as_ref().is_some_and(|inbound| inbound.no_retry.load(Ordering::Relaxed))
    }
}

/// The future of [`Context::scope`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Scope<F: Future> {
    #[pin]
    inner: TaskLocalFuture<Context, F>,
}

impl<F: Future> Future for Scope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        self.project().inner.poll(cx)
    }
}
