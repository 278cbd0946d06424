//! A call on its way through the HTTP filters of its listener (A39), and its response on the way back.
//!
//! The filters that a client has, too, do here what they do there; access control is the server's own.

use std::sync::Arc;
use std::time::Duration;
#[cfg(feature = "jwt")]
use std::time::SystemTime;

use bytes::Bytes;
#[cfg(feature = "jwt")]
use futures_util::future::join_all;
use http::request::Parts;
use http::{HeaderMap, Response};
#[cfg(feature = "jwt")]
use tokio::time::{Instant, timeout_at};

use super::access::{denied, inbound_head};
use super::open::OpenCall;
use super::parties::parties;
use super::state::ConnectionState;
use crate::call::AnswerProtocol;
use crate::deadline::InboundProtocol;
use crate::error::{Error, ErrorKind};
use crate::filter::{ActiveFault, Check, Exchange, Running, Step};
use crate::resource::answer::Answer;
use crate::resource::ext_authz::Verdict;
use crate::resource::filter::FilterConfig;
use crate::resource::filter::composite::Chosen;
use crate::resource::filter::concurrency::Permit;
#[cfg(feature = "jwt")]
use crate::resource::jwt::remote::UnderWay;
use crate::resource::matcher::RequestHead;
use crate::resource::rbac::access::Access;
use crate::resource::rbac::audit::AuditLog;
use crate::snapshot::{Chain, ChainFilter};

/// What holds for all calls of a server.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) protocol: Option<&'static dyn InboundProtocol>,
    pub(super) deny_by_default: bool,
    /// Calls that are open end when they are denied.
    pub(super) ends_denied_streams: bool,
    pub(super) running: Arc<Running>,
    pub(super) audit: Arc<AuditLog>,
}

/// One call and the filters that it passes.
#[derive(Debug)]
pub(super) struct Passage {
    exchange: Exchange,
    access: Access,
    connection: Arc<ConnectionState>,
    audit: Arc<AuditLog>,
    /// If policies may end the call.
    open: Option<Arc<OpenCall>>,
    /// The last filter that the call has waited at for keys, and what chance said there: both once.
    #[cfg(feature = "jwt")]
    waited_at: Option<(usize, Vec<u32>)>,
}

/// What becomes of a call behind some of its filters.
#[derive(Debug)]
pub(super) enum Next {
    Serve,
    /// For the server's own log; its caller is told less.
    Refuse(Error),
    Answer(Response<Bytes>),
    /// As an answer that says why, which the server's own log does, too.
    Deny(Response<Bytes>, Error),
    Hold(Hold),
}

/// A filter holds the call back.
#[derive(Debug)]
pub(super) enum Hold {
    Pause(Pause),
    /// Until another service has said what becomes of it.
    Check(Check),
    /// Until the keys are fetched that its token may be signed by.
    #[cfg(feature = "jwt")]
    Keys(KeysAwaited),
}

/// Keys that are being fetched.
#[cfg(feature = "jwt")]
#[derive(Debug)]
pub(super) struct KeysAwaited {
    under_way: Vec<UnderWay>,
    /// The filter that needs them.
    filter: usize,
    /// What chance said at it.
    drawn: Vec<u32>,
}

#[cfg(feature = "jwt")]
impl KeysAwaited {
    /// Waits until they came or cannot be had: `None` if the call's time is over before.
    pub(super) async fn ended(&mut self, deadline: Option<Instant>) -> Option<()> {
        let ended = join_all(self.under_way.iter_mut().map(UnderWay::ended));
        match deadline {
            Some(deadline) => timeout_at(deadline, ended).await.ok().map(drop),
            None => {
                ended.await;
                Some(())
            }
        }
    }
}

/// For some time.
#[derive(Debug)]
pub(super) struct Pause {
    pub(super) delay: Duration,
    /// How the call ends behind the pause; `None`: it goes on.
    then: Option<Answer>,
    /// The filter after the one that holds it.
    next: usize,
    _active: ActiveFault,
}

/// Names of filters are for the server's own log.
fn misconfigured(message: String) -> Error {
    Error::new(ErrorKind::Configuration, message)
}

impl Passage {
    pub(super) fn new(chain: Arc<Chain>, route: Arc<str>, terms: &Terms, connection: &Arc<ConnectionState>) -> Self {
        let protocol = terms.protocol.map(|protocol| protocol as &'static dyn AnswerProtocol);
        let caller = connection.peer_address.ip();
        let exchange = Exchange::inbound(chain, terms.running.clone(), protocol, route, caller);
        let (access, audit) = (Access::new(terms.deny_by_default), terms.audit.clone());
        Self {
            exchange,
            access,
            connection: connection.clone(),
            audit,
            open: None,
            #[cfg(feature = "jwt")]
            waited_at: None,
        }
    }

    /// Passes the request through the filters from the `from`th on, and at last through what its route does.
    pub(super) fn request(&mut self, head: &mut Parts, from: usize) -> Next {
        let (mut chain, mut index) = (self.exchange.chain().clone(), from);
        while let Some(filter) = chain.filters.get(index) {
            #[cfg(feature = "jwt")]
            if let FilterConfig::Jwt(jwt) = &filter.config {
                let mut draws = self.open.as_ref().map(|open| open.draws_of(&filter.name));
                let before = self.waited_at.take().filter(|(filter, _)| *filter == index);
                let waits = before.is_none();
                let (mut before, mut drawn) = (before.unwrap_or_default().1.into_iter(), Vec::new());
                let draw = || {
                    let fresh = || draws.as_mut().map_or_else(|| fastrand::u32(..1_000_000), |draw| draw());
                    let chance = before.next().unwrap_or_else(fresh);
                    drawn.push(chance);
                    chance
                };
                let mut under_way = Vec::new();
                let passed = jwt.authenticate_by_chance(head, SystemTime::now(), draw, waits.then_some(&mut under_way));
                if !under_way.is_empty() {
                    return Next::Hold(Hold::Keys(KeysAwaited { under_way, filter: index, drawn }));
                }
                match passed {
                    Ok(()) => {
                        index += 1;
                        continue;
                    }
                    Err(failure) => return self.deny(jwt.answer(failure), failure.text(), head),
                }
            }
            let before = self.to_note(&filter.config, head);
            match self.pass(filter, index, head) {
                Ok(Step::Continue) => {
                    self.note(&filter.name, before, head);
                    index += 1;
                }
                Ok(Step::Become(filters)) => chain = self.exchange.replace(index, &filters),
                Ok(Step::Answer(answer)) => return Next::Answer(self.exchange.respond(answer)),
                Ok(Step::Respond(response)) => return Next::Answer(response),
                Ok(Step::Refuse(answer, why)) => return self.refuse(answer, why, head),
                Ok(Step::Check(check)) => return Next::Hold(Hold::Check(check)),
                Ok(Step::Pause { delay, then, active }) => {
                    return Next::Hold(Hold::Pause(Pause { delay, then, next: index + 1, _active: active }));
                }
                Err(error) => return Next::Refuse(error),
            }
        }
        if let Err(refusal) = self.access.end() {
            return Next::Refuse(denied(refusal, &inbound_head(head), self.exchange.route()));
        }
        self.exchange.leave(head).map_or(Next::Serve, Next::Answer)
    }

    #[cfg(feature = "jwt")]
    fn deny(&self, answer: Answer, why: &str, head: &Parts) -> Next {
        self.refuse(self.exchange.respond(answer), Error::new(ErrorKind::PermissionDenied, why), head)
    }

    fn refuse(&self, answer: Response<Bytes>, why: Error, head: &Parts) -> Next {
        let call = inbound_head(head);
        let (path, route) = (call.head.bare_path(), self.exchange.route());
        tracing::debug!(why = %why, route, path, "a call was refused");
        Next::Deny(answer, why)
    }

    /// Goes on behind a pause.
    pub(super) fn resume(&mut self, pause: Pause, head: &mut Parts) -> Next {
        match pause.then {
            Some(answer) => Next::Answer(self.exchange.respond(answer)),
            None => self.request(head, pause.next),
        }
    }

    /// Goes on at a filter whose keys were waited for.
    #[cfg(feature = "jwt")]
    pub(super) fn with_keys(&mut self, keys: KeysAwaited, head: &mut Parts) -> Next {
        let KeysAwaited { filter, drawn, .. } = keys;
        self.waited_at = Some((filter, drawn));
        self.request(head, filter)
    }

    /// Goes on behind a check.
    pub(super) fn checked(&mut self, check: &Check, verdict: Verdict, head: &mut Parts) -> Next {
        let filter = self.exchange.chain().filters.get(check.filter()).cloned();
        let before = filter.as_ref().and_then(|filter| self.to_note(&filter.config, head));
        match self.exchange.take(check.filter(), verdict, head) {
            Step::Refuse(answer, why) => self.refuse(answer, why, head),
            _ => {
                filter.into_iter().for_each(|filter| self.note(&filter.name, before.clone(), head));
                self.request(head, check.filter() + 1)
            }
        }
    }

    /// Judges an open call by the policies and the demands on tokens that its head would pass as it came, each behind what the
    /// filters before it do to the head. Filters that are not asked again do what they did when it came.
    pub(super) fn judge(
        passed: Option<&Arc<Chain>>,
        route: &Arc<str>,
        call: &OpenCall,
        head: &mut Parts,
    ) -> Result<(), Error> {
        let Terms { running, deny_by_default, .. } = &call.terms;
        let mut chain = passed.cloned().unwrap_or_else(|| Arc::new(Chain::of(Vec::new())));
        let mut exchange = Exchange::inbound(chain.clone(), running.clone(), None, route.clone(), call.caller());
        let mut access = Access::new(*deny_by_default);
        let (mut index, mut has_actions) = (0, true);
        while let Some(filter) = chain.filters.get(index) {
            match &filter.config {
                FilterConfig::Rbac(rbac) => {
                    let seen = inbound_head(head);
                    let passed = access.pass(&seen, &filter.name, rbac, None);
                    passed.map_err(|refusal| denied(refusal, &seen, route))?;
                }
                FilterConfig::HeaderMutation(_) => drop(exchange.pass(filter, index, head)),
                FilterConfig::Composite(composite) => {
                    match composite.choose(&RequestHead::of_parts(head), || call.draw(&filter.name)) {
                        Chosen::Run(filters) => {
                            chain = exchange.replace(index, filters);
                            continue;
                        }
                        Chosen::Skip => {}
                        // That is no verdict of a policy.
                        Chosen::Nothing => has_actions = false,
                    }
                }
                // By the keys of now, and the time of then: that one expires is not for a policy to notice.
                #[cfg(feature = "jwt")]
                FilterConfig::Jwt(jwt) => {
                    let passed = jwt.authenticate_by_chance(head, call.came(), call.draws_of(&filter.name), None);
                    passed.map_err(|failure| {
                        let message = format!("filter `{}`: {}", filter.name, failure.text());
                        Error::new(ErrorKind::PermissionDenied, message)
                    })?;
                }
                _ => call.repeat(&filter.name, &mut head.headers),
            }
            index += 1;
        }
        match access.end() {
            Err(refusal) if has_actions => Err(denied(refusal, &inbound_head(head), route)),
            _ => Ok(()),
        }
    }

    /// Whether the call is of a share of all: a number below a million.
    fn draw(&self, filter: &str) -> u32 {
        self.open.as_ref().map_or_else(|| fastrand::u32(..1_000_000), |open| open.draw(filter))
    }

    /// The headers of an open call before a filter that is not asked again.
    fn to_note(&self, config: &FilterConfig, head: &Parts) -> Option<HeaderMap> {
        let is_asked_again =
            matches!(config, FilterConfig::Rbac(_) | FilterConfig::HeaderMutation(_) | FilterConfig::Composite(_));
        (self.open.is_some() && !is_asked_again).then(|| head.headers.clone())
    }

    /// Notes what became of them there.
    fn note(&self, filter: &Arc<str>, before: Option<HeaderMap>, head: &Parts) {
        if let Some((open, before)) = self.open.as_ref().zip(before) {
            open.note(filter, &before, &head.headers);
        }
    }

    fn pass(&mut self, filter: &ChainFilter, index: usize, head: &mut Parts) -> Result<Step, Error> {
        match &filter.config {
            FilterConfig::Rbac(rbac) => {
                let call = inbound_head(head);
                let passed = self.access.pass(&call, &filter.name, rbac, Some(&self.audit));
                passed.map(|()| Step::Continue).map_err(|refusal| denied(refusal, &call, self.exchange.route()))
            }
            FilterConfig::ExtAuthz(config) => {
                let parties = parties(&self.connection);
                Ok(self.exchange.check(config, index, head, Some(parties)))
            }
            FilterConfig::Composite(composite) => {
                match composite.choose(&RequestHead::of_parts(head), || self.draw(&filter.name)) {
                    Chosen::Run(filters) => Ok(Step::Become(filters.clone())),
                    Chosen::Skip => Ok(Step::Continue),
                    Chosen::Nothing => {
                        Err(misconfigured(format!("filter `{}` has no action for the call", filter.name)))
                    }
                }
            }
            // It can be in a route's composite (A103).
            FilterConfig::StatefulSession(_) => {
                Err(misconfigured(format!("filter `{}` is not one of servers", filter.name)))
            }
            _ => Ok(self.exchange.pass(filter, index, head)),
        }
    }

    /// The call's place among those that the server serves at a time: how long the handler takes is told to its limit, however
    /// long filters held the call back.
    pub(super) fn keep(&mut self, permit: Option<Permit>) {
        self.exchange.keep(permit);
    }

    /// Policies may end the call.
    pub(super) fn watch(&mut self, call: Option<Arc<OpenCall>>) {
        self.open = call;
    }

    /// The handler's response, as [`changed`](Self::changed).
    pub(super) fn served<R>(&mut self, response: Response<R>) -> Response<R> {
        self.exchange.served(response)
    }

    /// The response as it is behind the route and the filters, which it passes the other way round.
    pub(super) fn changed<R>(&self, response: Response<R>) -> Response<R> {
        self.exchange.changed(response)
    }
}
