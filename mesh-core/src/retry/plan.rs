//! What the attempts of a call are made of, and whether there is another one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::request::Parts;
use http::{Extensions, HeaderMap, Request, Response, StatusCode, Version};
use tokio::time::Instant;

use super::body::{RequestBody, Shared};
use super::budget::{Account, Budgets};
use super::observer::pass_on;
use super::outcome::is_retriable;
use crate::backoff::Backoff;
use crate::call::{self, Call, Progress, Pushback, RetryProtocol, Stage};
use crate::error::{Error, ErrorKind};
use crate::replay::{Head, HeadCopy};
use crate::resource::retry_policy::RetryPolicy;

/// What does not change from call to call.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) budgets: Budgets,
    pub(super) protocol: Option<&'static dyn RetryProtocol>,
}

/// One call that has a policy.
pub(super) struct Plan<B> {
    /// The request's head, until the first attempt has it.
    first: Option<Parts>,
    /// What later attempts are made of.
    head: HeadCopy,
    version: Version,
    /// The request's, with the call as it was before the first attempt.
    extensions: Extensions,
    body: Shared<B>,
    pub(super) policy: Arc<RetryPolicy>,
    backoff: Backoff,
    protocol: Option<&'static dyn RetryProtocol>,
    account: Account,
    /// Where the call stands: for the message of its deadline, and so that a next attempt can go elsewhere.
    progress: Arc<Progress>,
    /// Attempts so far.
    made: u32,
    /// What the call had waited before its first attempt.
    waited_before: Duration,
    is_hedged: bool,
    /// Whether a server may act on the request twice.
    is_repeatable: bool,
}

/// When to try again after an attempt that failed.
pub(super) enum Next {
    /// The server asks not to.
    Never,
    /// The server asks for this delay.
    AsTold(Duration),
    Backoff(Duration),
}

/// Why an attempt is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Final {
    /// It is what the policy wants.
    ByPolicy,
    /// The cluster has used up its budget.
    OutOfBudget,
}

impl<B> Plan<B> {
    /// `is_hedged`: whether attempts run beside each other; `is_repeatable`: whether a server may act on the request twice.
    pub(super) fn new(
        request: Request<B>,
        policy: Arc<RetryPolicy>,
        terms: Terms,
        is_hedged: bool,
        is_repeatable: bool,
    ) -> Self {
        let (mut first, body) = request.into_parts();
        let (head, version) = (HeadCopy::new(&first.method, &first.uri, &first.headers), first.version);
        let mut extensions = std::mem::take(&mut first.extensions);
        let call = call::of(&mut extensions);
        let progress = call.progress.get_or_insert_default().clone();
        let waited_before = call.waiting_since.map(|since| since.elapsed()).unwrap_or_default();
        let account = Account::open(terms.budgets.of(call.cluster.as_deref()));
        let (body, backoff) = (Shared::new(body, is_hedged, terms.budgets), Backoff::new(policy.backoff));
        let protocol = terms.protocol;
        Self {
            first: Some(first),
            head,
            version,
            extensions,
            body,
            policy,
            backoff,
            protocol,
            account,
            progress,
            made: 0,
            waited_before,
            is_hedged,
            is_repeatable,
        }
    }

    pub(super) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// The number of the last attempt.
    pub(super) fn made(&self) -> u32 {
        self.made
    }

    fn call(&mut self) -> &mut Call {
        call::of(&mut self.extensions)
    }

    /// The next attempt, which keeps `progress`.
    pub(super) fn request(&mut self, progress: &Arc<Progress>) -> Request<RequestBody<B>> {
        let previous = self.made;
        self.made += 1;
        let (mut head, mut extensions) = (self.head(), self.extensions.clone());
        let call = call::of(&mut extensions);
        call.attempt = self.made;
        call.progress = Some(progress.clone());
        if previous > 0 {
            // All waits of a call together are bounded.
            let waited = self.waited_before + self.progress.waited();
            call.waiting_since =
                Some(waited).filter(|waited| !waited.is_zero()).and_then(|waited| Instant::now().checked_sub(waited));
            let told = self.protocol.map(|protocol| protocol.tell_attempts(previous));
            let deadline = call.tell_deadline.zip(call.remaining()).map(|(encode, remaining)| encode(remaining));
            for (name, mut value) in told.into_iter().chain(deadline) {
                value.set_sensitive(true);
                head.headers.insert(name, value);
            }
        }
        head.extensions = extensions;
        let body = self.body.again();
        if !self.is_hedged && !self.has_attempts() {
            self.body.commit(self.made);
        }
        Request::from_parts(head, body)
    }

    fn head(&mut self) -> Parts {
        self.first.take().unwrap_or_else(|| {
            let (mut parts, ()) = Request::new(()).into_parts();
            let Head { method, uri, headers } = self.head.to_head();
            (parts.method, parts.uri, parts.version, parts.headers) = (method, uri, self.version, headers);
            parts
        })
    }

    fn is_retriable<R>(&self, outcome: &Result<Response<R>, Error>) -> bool {
        let unprocessed = outcome.as_ref().is_err_and(|error| !error.request_sent());
        (self.is_repeatable || unprocessed) && is_retriable(&self.policy, self.protocol, outcome)
    }

    /// Whether the policy has the call tried again after this, which counts for those after it.
    pub(super) fn failed<R>(&self, outcome: &Result<Response<R>, Error>) -> bool {
        let failed = self.is_retriable(outcome);
        if let Some(throttle) = self.account.throttle() {
            let head = match outcome {
                Ok(response) => Some((response.status(), response.headers())),
                Err(error) => error.response(),
            };
            if failed || head.is_some_and(|(_, headers)| self.forbids_another(headers)) {
                throttle.failed();
            } else if head.is_some_and(|(status, headers)| self.is_success(status, headers)) {
                throttle.succeeded();
            }
        }
        failed
    }

    fn forbids_another(&self, headers: &HeaderMap) -> bool {
        self.protocol.and_then(|protocol| protocol.pushback(headers)) == Some(Pushback::Stop)
    }

    fn is_success(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        self.protocol.map_or(status.is_success(), |protocol| protocol.is_success(status, headers))
    }

    pub(super) fn has_attempts(&self) -> bool {
        self.made < self.policy.max_attempts
    }

    /// When the next attempt comes after one that ended so.
    pub(super) fn next<R>(&mut self, outcome: &Result<Response<R>, Error>) -> Next {
        let headers = match outcome {
            Ok(response) => Some(response.headers()),
            Err(error) => error.response().map(|(_, headers)| headers),
        };
        let told = headers.and_then(|headers| self.told(headers));
        told.unwrap_or_else(|| Next::Backoff(self.backoff.next_delay(fastrand::f64())))
    }

    fn told(&mut self, headers: &HeaderMap) -> Option<Next> {
        match self.protocol.and_then(|protocol| protocol.pushback(headers)) {
            Some(Pushback::Stop) => return Some(Next::Never),
            Some(Pushback::After(delay)) => {
                self.backoff.reset();
                return Some(Next::AsTold(delay));
            }
            None => {}
        }
        let limited = self.policy.rate_limited.as_deref()?.delay(headers, SystemTime::now())?;
        // Half as long again at most, so that those who were refused together do not return together.
        Some(Next::AsTold(limited.mul_f64(1.0 + fastrand::f64() / 2.0)))
    }

    /// Whether an attempt after `delay` makes sense, budget aside.
    pub(super) fn is_possible(&mut self, delay: Duration) -> bool {
        // Whatever would come after the deadline tells the caller less than what there is.
        let in_time = self.call().deadline.is_none_or(|deadline| Instant::now() + delay < deadline);
        in_time && self.has_attempts() && self.body.is_held()
    }

    /// Allows an attempt after `delay`, and pays for it.
    pub(super) fn allow(&mut self, delay: Duration) -> Result<(), Final> {
        if !self.is_possible(delay) {
            return Err(Final::ByPolicy);
        }
        if !self.is_hedged {
            self.account.end_retries();
        }
        let cluster = call::of(&mut self.extensions).cluster.as_deref();
        let config = cluster.and_then(|cluster| cluster.config.as_ref().ok());
        let most = |calls| config.map_or(u32::MAX, |config| config.cluster.circuit_breakers.most_retries(calls));
        if self.account.withdraw(most) { Ok(()) } else { Err(Final::OutOfBudget) }
    }

    /// Whatever the attempts so far send ends: the next one takes their place.
    pub(super) fn end_attempts(&mut self) {
        self.body.end_readers();
        let progress = self.progress.clone();
        self.avoid(&progress);
        progress.set(Stage::Waiting);
    }

    /// Later attempts go elsewhere than one did, if they can.
    pub(super) fn avoid(&mut self, progress: &Progress) {
        if let Stage::Sent(endpoint) | Stage::Responding(endpoint) = progress.stage() {
            self.call().failed_at(&endpoint);
        }
    }

    /// The attempt took longer than one may.
    pub(super) fn timed_out(&self) -> Error {
        let limit = self.policy.until_head().unwrap_or_default();
        let mut error =
            Error::new(ErrorKind::Deadline, format!("attempt took longer than the route's {limit:?} per try"));
        if let Stage::Sent(endpoint) | Stage::Responding(endpoint) = self.progress.stage() {
            error.context_mut().endpoint = Some(endpoint.to_string());
            error = error.sent();
        }
        error
    }

    /// The outcome of the call is that of this attempt.
    pub(super) fn finish<R>(
        &mut self,
        mut outcome: Result<Response<R>, Error>,
        attempt: u32,
        why: Final,
    ) -> Result<Response<R>, Error> {
        self.body.commit(attempt);
        let (made, protocol) = (self.made, self.protocol);
        let call = self.call();
        if let Ok(response) = &outcome {
            pass_on(&call.context, protocol, response);
        }
        if why == Final::OutOfBudget {
            call.context.forbid_retry();
            let cluster = call.cluster.as_ref().map(|cluster| &*cluster.key.name);
            tracing::debug!(cluster, attempts = made, "retry budget used up");
        }
        if let Err(error) = &mut outcome {
            call.explain(error);
            error.context_mut().attempts = match why {
                Final::OutOfBudget => Some(format!("{made}, then the cluster's retry budget was used up")),
                Final::ByPolicy if made > 1 => Some(made.to_string()),
                Final::ByPolicy => None,
            };
        }
        outcome
    }
}
