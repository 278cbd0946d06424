//! What the attempts of a call are made of, and whether there is another one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::request::Parts;
use http::{Extensions, HeaderMap, Request, Response, StatusCode, Version};
use tokio::time::Instant;

use super::body::{RequestBody, Shared};
use super::budget::{Account, Budgets};
use super::following::{Following, Verdict};
use super::observer::pass_on;
use super::outcome::Protocol;
use crate::backoff::Backoff;
use crate::call::{self, Call, Follow, Progress, Pushback, Stage};
use crate::context::Context;
use crate::error::{Error, ErrorKind};
use crate::replay::{Head, HeadCopy};
use crate::resource::retry_policy::RetryPolicy;

/// What does not change from call to call.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) budgets: Budgets,
    pub(super) protocol: Protocol,
    /// Whether the service gives the extensions of a request that failed back to who follows its call.
    pub(super) lends: bool,
}

/// One call that has a policy.
pub(super) struct Plan<B> {
    /// What later attempts are made of.
    head: HeadCopy,
    version: Version,
    /// The request's, with its call; empty while an attempt has them.
    extensions: Extensions,
    /// Whom the call helps to serve.
    context: Context,
    shared: Arc<Shared<B>>,
    backoff: Backoff,
    account: Account,
    /// Attempts so far.
    made: u32,
    /// What the call had waited before its first attempt.
    waited_before: Duration,
    is_hedged: bool,
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
    /// The plan, and the head of the first attempt. `is_hedged`: whether attempts run beside each other.
    pub(super) fn new(request: Request<B>, verdict: Verdict, terms: &Terms, is_hedged: bool) -> (Self, Parts) {
        let (mut first, body) = request.into_parts();
        let mut extensions = std::mem::take(&mut first.extensions);
        let call = call::of(&mut extensions);
        let (context, outer) = (call.context.clone(), call.follower.take());
        let waited_before = call.waiting_since.map(|since| since.elapsed()).unwrap_or_default();
        let account = Account::open(terms.budgets.of(call.cluster.as_deref()));
        let backoff = Backoff::new(verdict.policy.backoff);
        let following = Following::new(verdict, outer, terms.lends && !is_hedged);
        let plan = Self {
            head: HeadCopy::default(),
            version: first.version,
            extensions,
            context,
            shared: Shared::new(body, is_hedged, terms.budgets.clone(), following),
            backoff,
            account,
            made: 0,
            waited_before,
            is_hedged,
        };
        (plan, first)
    }

    pub(super) fn policy(&self) -> &RetryPolicy {
        &self.shared.following.verdict.policy
    }

    fn protocol(&self) -> Protocol {
        self.shared.following.verdict.protocol
    }

    /// Where the call stands.
    pub(super) fn progress(&self) -> &Progress {
        self.shared.following.progress()
    }

    /// The number of the last attempt.
    pub(super) fn made(&self) -> u32 {
        self.made
    }

    fn call(&mut self) -> &mut Call {
        call::of(&mut self.extensions)
    }

    /// The first attempt, of the head that the plan was made with.
    pub(super) fn first(&mut self, head: Parts) -> Request<RequestBody<B>>
    where
        B: Send + 'static,
    {
        self.head.fill(&head.method, &head.uri, &head.headers);
        self.request(head, self.follower())
    }

    /// Who follows attempts that do not run beside others.
    pub(super) fn follower(&self) -> Arc<dyn Follow>
    where
        B: Send + 'static,
    {
        self.shared.clone()
    }

    /// Another attempt after the last.
    pub(super) fn next(&mut self) -> Request<RequestBody<B>>
    where
        B: Send + 'static,
    {
        self.beside(self.follower())
    }

    /// Another attempt, which `follower` follows.
    pub(super) fn beside(&mut self, follower: Arc<dyn Follow>) -> Request<RequestBody<B>> {
        let (mut head, ()) = Request::new(()).into_parts();
        let Head { method, uri, headers } = self.head.to_head();
        (head.method, head.uri, head.version, head.headers) = (method, uri, self.version, headers);
        // All waits of a call together are bounded.
        let waited = self.waited_before + self.progress().waited();
        let told = self.protocol().map(|protocol| protocol.tell_attempts(self.made));
        let call = self.call();
        call.waiting_since =
            Some(waited).filter(|waited| !waited.is_zero()).and_then(|waited| Instant::now().checked_sub(waited));
        let deadline = call.tell_deadline.zip(call.remaining()).map(|(encode, remaining)| encode(remaining));
        for (name, mut value) in told.into_iter().chain(deadline) {
            value.set_sensitive(true);
            head.headers.insert(name, value);
        }
        self.request(head, follower)
    }

    fn request(&mut self, mut head: Parts, follower: Arc<dyn Follow>) -> Request<RequestBody<B>> {
        self.made += 1;
        let lends = self.shared.following.lends;
        head.extensions = if lends { std::mem::take(&mut self.extensions) } else { self.extensions.clone() };
        let call = call::of(&mut head.extensions);
        call.attempt = self.made;
        call.follower = Some(follower);
        self.shared.following.start(self.has_attempts());
        let body = self.shared.again();
        if !self.is_hedged && !self.has_attempts() {
            self.shared.commit(self.made);
        }
        Request::from_parts(head, body)
    }

    /// An attempt that had the call's extensions is over.
    pub(super) fn regain(&mut self) {
        if let Some(extensions) = self.shared.following.returned() {
            self.extensions = extensions;
        }
    }

    /// Whether the policy has the call tried again after this, which counts for those after it.
    pub(super) fn failed<R>(&self, outcome: &Result<Response<R>, Error>) -> bool {
        let failed = self.shared.following.verdict.is_retriable(outcome);
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
        self.protocol().and_then(|protocol| protocol.pushback(headers)) == Some(Pushback::Stop)
    }

    fn is_success(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        self.protocol().map_or(status.is_success(), |protocol| protocol.is_success(status, headers))
    }

    pub(super) fn has_attempts(&self) -> bool {
        self.made < self.policy().max_attempts
    }

    /// When the next attempt comes after one that ended so.
    pub(super) fn delay<R>(&mut self, outcome: &Result<Response<R>, Error>) -> Next {
        let headers = match outcome {
            Ok(response) => Some(response.headers()),
            Err(error) => error.response().map(|(_, headers)| headers),
        };
        let told = headers.and_then(|headers| self.told(headers));
        told.unwrap_or_else(|| Next::Backoff(self.backoff.next_delay(fastrand::f64())))
    }

    fn told(&mut self, headers: &HeaderMap) -> Option<Next> {
        match self.protocol().and_then(|protocol| protocol.pushback(headers)) {
            Some(Pushback::Stop) => return Some(Next::Never),
            Some(Pushback::After(delay)) => {
                self.backoff.reset();
                return Some(Next::AsTold(delay));
            }
            None => {}
        }
        let limited = self.policy().rate_limited.as_deref()?.delay(headers, SystemTime::now())?;
        // Half as long again at most, so that those who were refused together do not return together.
        Some(Next::AsTold(limited.mul_f64(1.0 + fastrand::f64() / 2.0)))
    }

    /// Whether an attempt after `delay` makes sense, budget aside.
    pub(super) fn is_possible(&self, delay: Duration) -> bool {
        // Without its call there is nothing to make an attempt of: one that was not even handed to an endpoint had it.
        let Some(call) = self.extensions.get::<Call>() else { return false };
        // Whatever would come after the deadline tells the caller less than what there is.
        let in_time = call.deadline.is_none_or(|deadline| Instant::now() + delay < deadline);
        in_time && self.has_attempts() && self.shared.is_held()
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
        self.shared.end_readers();
        self.avoid(self.progress().stage());
        self.progress().set(Stage::Waiting);
    }

    /// Later attempts go elsewhere than one that stands there, if they can.
    pub(super) fn avoid(&mut self, stage: Stage) {
        if let Stage::Sent(endpoint) | Stage::Responding(endpoint) = stage {
            self.call().failed_at(&endpoint);
        }
    }

    /// The attempt took longer than one may.
    pub(super) fn timed_out(&self) -> Error {
        let limit = self.policy().until_head().unwrap_or_default();
        let mut error =
            Error::new(ErrorKind::Deadline, format!("attempt took longer than the route's {limit:?} per try"));
        if let Stage::Sent(endpoint) | Stage::Responding(endpoint) = self.progress().stage() {
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
        self.shared.commit(attempt);
        let made = self.made;
        if let Ok(response) = &outcome {
            pass_on(&self.context, self.protocol(), response);
        }
        let call = self.extensions.get::<Call>();
        if why == Final::OutOfBudget {
            self.context.forbid_retry();
            let cluster = call.and_then(|call| call.cluster.as_ref()).map(|cluster| &*cluster.key.name);
            tracing::debug!(cluster, attempts = made, "retry budget used up");
        }
        if let Err(error) = &mut outcome {
            call.into_iter().for_each(|call| call.explain(error));
            error.context_mut().attempts = match why {
                Final::OutOfBudget => Some(format!("{made}, then the cluster's retry budget was used up")),
                Final::ByPolicy if made > 1 => Some(made.to_string()),
                Final::ByPolicy => None,
            };
        }
        outcome
    }
}
