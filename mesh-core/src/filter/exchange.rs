//! One call on its way through a chain of filters, and its response on the way back.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Extensions, HeaderName, Response};
use tokio::time::Instant;

use super::check::{self, Begun, Check};
use super::fault::{self, ActiveFault};
use super::session::{self, Visit};
use crate::call::{AnswerProtocol, Call};
use crate::criticality::Criticality;
use crate::error::{Error, ErrorKind};
use crate::resource::answer::{Answer, AnswerStatus};
use crate::resource::ext_authz::{Denial, ExtAuthzConfig, Parties, Verdict};
use crate::resource::filter::composite::{Chosen, Composite};
use crate::resource::filter::concurrency::{ConcurrencyLimit, Permit};
use crate::resource::filter::header_mutation::Change;
use crate::resource::filter::rate_limit::{Limited, LocalRateLimit, Quota};
use crate::resource::filter::template::{Facts, Message};
use crate::resource::filter::{FilterConfig, HttpFilter};
use crate::resource::matcher::RequestHead;
use crate::resource::rewrite::rewrite_authority;
use crate::snapshot::{Chain, ChainFilter, ClusterEntry, RouteSteps};

/// What a refused call is told, as by Envoy.
const RATE_LIMITED: &str = "local_rate_limited";

const DEADLINE_EXCEEDED: AnswerStatus = AnswerStatus::Grpc(4);

/// What the filters count, for as long as their layer or their server lives.
#[derive(Debug)]
pub(crate) struct Running {
    pub(super) active_faults: AtomicU32,
    /// The header that says how important a call is.
    pub(super) criticality: HeaderName,
}

impl Running {
    /// For calls whose [`Criticality`] is in this header.
    pub(crate) fn new(criticality: HeaderName) -> Self {
        Self { active_faults: AtomicU32::new(0), criticality }
    }

    #[cfg(feature = "server")]
    pub(crate) fn criticality(&self) -> &HeaderName {
        &self.criticality
    }
}

impl Default for Running {
    fn default() -> Self {
        Self::new(Criticality::HEADER)
    }
}

/// A call and the filters that it passes.
#[derive(Debug)]
pub(crate) struct Exchange {
    chain: Arc<Chain>,
    running: Arc<Running>,
    protocol: Option<&'static dyn AnswerProtocol>,
    cluster: Option<Arc<ClusterEntry>>,
    route: Option<Arc<str>>,
    /// Where the call comes from, if a server serves it.
    caller: Option<IpAddr>,
    /// What the filters for sessions found.
    visits: Vec<Visit>,
    /// What authorization services change in the response, each with the filter that asked.
    told: Vec<(usize, Vec<Change>)>,
    /// What the callers are told of the limits that they passed.
    quotas: Vec<(usize, Quota)>,
    /// The caller is in this process, and may know why a filter denies its call.
    tells_why: bool,
    /// Its places among the calls that are served at a time.
    permits: Vec<Permit>,
}

/// What becomes of a call after some of its filters.
#[derive(Debug)]
pub(super) enum Next {
    Forward,
    Pause(Pause),
    /// Until another service has said what becomes of the call.
    Check(Check),
    Answer(Response<Bytes>),
}

/// A filter holds the call back.
#[derive(Debug)]
pub(super) struct Pause {
    pub(super) delay: Duration,
    /// How the call ends behind the pause; `None`: it goes on.
    then: Option<Answer>,
    /// The filter after the one that pauses.
    next: usize,
    _active: ActiveFault,
}

/// What one filter does with a call.
pub(crate) enum Step {
    Continue,
    Answer(Answer),
    Respond(Response<Bytes>),
    /// With this answer, and the reason for who runs the mesh.
    Refuse(Response<Bytes>, Error),
    Check(Check),
    Pause {
        delay: Duration,
        then: Option<Answer>,
        active: ActiveFault,
    },
    /// These filters take its place.
    Become(Arc<[HttpFilter]>),
}

impl Exchange {
    /// Of a call that a server serves. What only a server does it does itself.
    #[cfg(feature = "server")]
    pub(crate) fn inbound(
        chain: Arc<Chain>,
        running: Arc<Running>,
        protocol: Option<&'static dyn AnswerProtocol>,
        route: Arc<str>,
        caller: IpAddr,
    ) -> Self {
        Self {
            chain,
            running,
            protocol,
            cluster: None,
            route: Some(route),
            caller: Some(caller),
            visits: Vec::new(),
            told: Vec::new(),
            quotas: Vec::new(),
            tells_why: false,
            permits: Vec::new(),
        }
    }

    #[cfg(feature = "server")]
    pub(crate) fn chain(&self) -> &Arc<Chain> {
        &self.chain
    }

    /// The name of its route.
    #[cfg(feature = "server")]
    pub(crate) fn route(&self) -> &str {
        self.route.as_deref().unwrap_or_default()
    }

    /// `extensions` are the request's, with its call.
    pub(super) fn new(
        chain: Arc<Chain>,
        running: Arc<Running>,
        protocol: Option<&'static dyn AnswerProtocol>,
        extensions: &Extensions,
    ) -> Self {
        let call = extensions.get::<Call>();
        let cluster = call.and_then(|call| call.cluster.clone());
        let route = call.and_then(|call| call.snapshot.as_ref()?.route_name(call.route?));
        // A layer that stands alone may be a server's.
        let tells_why = call.is_some();
        Self {
            chain,
            running,
            protocol,
            cluster,
            route,
            caller: None,
            visits: Vec::new(),
            told: Vec::new(),
            quotas: Vec::new(),
            permits: Vec::new(),
            tells_why,
        }
    }

    /// Passes the request through the filters from the `from`th on, and at last through what its route does.
    pub(super) fn request(&mut self, head: &mut Parts, from: usize) -> Next {
        let (mut chain, mut index) = (self.chain.clone(), from);
        while let Some(filter) = chain.filters.get(index) {
            match self.pass(filter, index, head) {
                Step::Continue => index += 1,
                Step::Become(filters) => chain = self.replace(index, &filters),
                Step::Answer(answer) => return Next::Answer(self.respond(answer)),
                Step::Respond(response) => return Next::Answer(response),
                Step::Refuse(response, why) => return refused(response, &why),
                Step::Check(check) => return Next::Check(check),
                Step::Pause { delay, then, active } => {
                    return Next::Pause(Pause { delay, then, next: index + 1, _active: active });
                }
            }
        }
        self.leave(head).map_or(Next::Forward, Next::Answer)
    }

    /// Goes on behind a pause.
    pub(super) fn resume(&mut self, pause: Pause, head: &mut Parts) -> Next {
        match pause.then {
            Some(answer) => Next::Answer(self.respond(answer)),
            None => self.request(head, pause.next),
        }
    }

    /// Goes on behind a check.
    pub(super) fn resume_checked(&mut self, check: &Check, verdict: Verdict, head: &mut Parts) -> Next {
        match self.take(check.filter(), verdict, head) {
            Step::Refuse(response, why) => refused(response, &why),
            _ => self.request(head, check.filter() + 1),
        }
    }

    /// That the call's time is over before it was decided.
    pub(super) fn expired(&self) -> Response<Bytes> {
        self.respond(Answer::new(DEADLINE_EXCEEDED, "the call's time ended while it was checked"))
    }

    /// Begins to ask whether the call may be made.
    pub(crate) fn check(
        &mut self,
        config: &ExtAuthzConfig,
        index: usize,
        head: &mut Parts,
        parties: Option<Parties>,
    ) -> Step {
        match check::begin(config, index, head, parties) {
            Begun::Passes => Step::Continue,
            Begun::Decided(verdict) => self.take(index, verdict, head),
            Begun::Waits(check) => Step::Check(check),
        }
    }

    /// Takes up what the check of the `index`th filter came to.
    pub(crate) fn take(&mut self, index: usize, verdict: Verdict, head: &mut Parts) -> Step {
        match verdict {
            Verdict::Allow { request, response } => {
                self.change_request(&request, head);
                if !response.is_empty() {
                    self.told.push((index, response));
                }
                Step::Continue
            }
            Verdict::Deny(Denial { status, body, headers, why }) => {
                // What the service has to say goes first. A92 leaves open what a caller is told if that is nothing.
                let told = match self.chain.filters.get(index).filter(|_| self.tells_why && body.is_empty()) {
                    Some(filter) => format!("filter `{}`: {why}", filter.name),
                    None => body,
                };
                let mut response = self.respond(Answer::new(AnswerStatus::Http(status), told));
                self.change_response(&headers, &mut response);
                Step::Refuse(response, Error::new(ErrorKind::PermissionDenied, why))
            }
        }
    }

    /// The call passes these filters in the place of the `index`th.
    pub(crate) fn replace(&mut self, index: usize, filters: &[HttpFilter]) -> Arc<Chain> {
        self.chain = Arc::new(self.chain.with(index, filters));
        self.chain.clone()
    }

    /// Passes the request through one filter, the `index`th.
    pub(crate) fn pass(&mut self, filter: &ChainFilter, index: usize, head: &mut Parts) -> Step {
        match &filter.config {
            FilterConfig::Composite(composite) => choose(composite, &filter.name, head),
            FilterConfig::ConcurrencyLimit(limit) => self.admit(limit, head),
            FilterConfig::ExtAuthz(config) => {
                let parties = head.extensions.get::<Parties>().cloned();
                self.check(config, index, head, parties)
            }
            FilterConfig::Fault(fault) => fault::inject(fault, &self.running, self.cluster_name(), head),
            FilterConfig::HeaderMutation(config) => {
                self.change_request(&config.changes.request, head);
                Step::Continue
            }
            FilterConfig::LocalRateLimit(limit) => self.limit(limit, index, head),
            // A server's, which asks them itself. A client meets them in a route's composite alone (A103).
            FilterConfig::Rbac(_) => unavailable(format!("filter `{}` is not one of clients", filter.name)),
            #[cfg(feature = "jwt")]
            FilterConfig::Jwt(_) => unavailable(format!("filter `{}` is not one of clients", filter.name)),
            FilterConfig::StatefulSession(session) => {
                self.visits.extend(session::join(session, index, head));
                // It may be another one of the route's.
                self.cluster = head.extensions.get::<Call>().and_then(|call| call.cluster.clone());
                Step::Continue
            }
        }
    }

    fn limit(&mut self, limit: &LocalRateLimit, index: usize, head: &mut Parts) -> Step {
        let (limited, quota) =
            limit.decide(&RequestHead::of_parts(head), self.caller, Instant::now(), || fastrand::u32(..1_000_000));
        if limited != Limited::Refused {
            self.quotas.extend(quota.map(|quota| (index, quota)));
        }
        match limited {
            Limited::Passes => Step::Continue,
            Limited::PassesWithoutToken => {
                self.change_request(&limit.unenforced, head);
                Step::Continue
            }
            Limited::Refused => {
                let mut response = self.respond(Answer::new(limit.status, RATE_LIMITED));
                self.change_response(&limit.refused, &mut response);
                quota.into_iter().for_each(|quota| quota.tell(response.headers_mut()));
                Step::Respond(response)
            }
        }
    }

    fn admit(&mut self, limit: &ConcurrencyLimit, head: &Parts) -> Step {
        if self.protocol.is_some_and(|protocol| protocol.is_health_check(head.uri.path())) {
            return Step::Continue;
        }
        let criticality = Criticality::of(&head.headers, &self.running.criticality).unwrap_or_default();
        match limit.admit(criticality, Instant::now()) {
            Ok(permit) => {
                self.permits.push(permit);
                Step::Continue
            }
            Err(answer) => Step::Answer(*answer),
        }
    }

    /// What the route does to the request, or answers.
    pub(crate) fn leave(&self, head: &mut Parts) -> Option<Response<Bytes>> {
        let RouteSteps { headers, host, path, answer } = &self.chain.route;
        headers.iter().for_each(|changes| self.change_request(&changes.request, head));
        if let Some(answer) = answer {
            return Some(self.respond(answer.answer(&head.uri)));
        }
        if let Some(host) = host.as_ref().filter(|_| !has_own_authority(head)) {
            rewrite_authority(&mut head.uri, host);
        }
        if let Some(path) = path {
            path.apply(&mut head.uri);
        }
        None
    }

    /// The call has this place, too, among those that are served at a time.
    #[cfg(feature = "server")]
    pub(crate) fn keep(&mut self, permit: Option<Permit>) {
        self.permits.extend(permit);
    }

    /// The response of whoever serves the call, as [`changed`](Self::changed). Its places are free for others.
    pub(crate) fn served<R>(&mut self, response: Response<R>) -> Response<R> {
        if !self.permits.is_empty() {
            let now = Instant::now();
            self.permits.drain(..).for_each(|permit| permit.served(now));
        }
        self.changed(response)
    }

    /// The response as it is behind the route and the filters, which it passes the other way round.
    pub(crate) fn changed<R>(&self, mut response: Response<R>) -> Response<R> {
        for changes in &self.chain.route.headers {
            self.change_response(&changes.response, &mut response);
        }
        for (index, filter) in self.chain.filters.iter().enumerate().rev() {
            match &filter.config {
                FilterConfig::HeaderMutation(config) => self.change_response(&config.changes.response, &mut response),
                FilterConfig::ExtAuthz(_) => {
                    let told = self.told.iter().filter(|(filter, _)| *filter == index);
                    told.for_each(|(_, changes)| self.change_response(changes, &mut response));
                }
                FilterConfig::StatefulSession(config) => {
                    let visit = self.visits.iter().find(|visit| visit.filter == index);
                    if let Some((visit, cluster)) = visit.zip(self.cluster_name()) {
                        session::tell(config, visit, cluster, &mut response);
                    }
                }
                FilterConfig::LocalRateLimit(_) => {
                    let own = self.quotas.iter().filter(|(filter, _)| *filter == index);
                    own.for_each(|(_, quota)| quota.tell(response.headers_mut()));
                }
                FilterConfig::Composite(_)
                | FilterConfig::ConcurrencyLimit(_)
                | FilterConfig::Fault(_)
                | FilterConfig::Rbac(_) => {}
                #[cfg(feature = "jwt")]
                FilterConfig::Jwt(_) => {}
            }
        }
        response
    }

    fn change_request(&self, changes: &[Change], head: &mut Parts) {
        for change in changes {
            let value = change.value(&self.facts(Message::Request(RequestHead::of_parts(head))));
            change.apply(value, &mut head.headers);
        }
    }

    fn change_response<R>(&self, changes: &[Change], response: &mut Response<R>) {
        for change in changes {
            let value = change.value(&self.facts(Message::Response(response.status(), response.headers())));
            change.apply(value, response.headers_mut());
        }
    }

    fn facts<'a>(&'a self, message: Message<'a>) -> Facts<'a> {
        Facts { cluster: self.cluster_name(), route: self.route.as_deref(), message }
    }

    fn cluster_name(&self) -> Option<&str> {
        self.cluster.as_ref().map(|cluster| &*cluster.key.name)
    }

    pub(crate) fn respond(&self, answer: Answer) -> Response<Bytes> {
        match self.protocol {
            Some(protocol) => protocol.respond(answer),
            None => answer.into_http(),
        }
    }
}

/// The filters that take the place of one that chooses them (A103).
fn choose(composite: &Composite, name: &str, head: &Parts) -> Step {
    match composite.choose(&RequestHead::of_parts(head), || fastrand::u32(..1_000_000)) {
        Chosen::Run(filters) => Step::Become(filters.clone()),
        Chosen::Skip => Step::Continue,
        Chosen::Nothing => unavailable(format!("filter `{name}` has no action for the call")),
    }
}

/// A call that a filter does not allow.
fn refused(response: Response<Bytes>, why: &Error) -> Next {
    tracing::debug!(why = %why.report(), "a call is not authorized");
    Next::Answer(response)
}

fn unavailable(message: String) -> Step {
    Step::Answer(Answer::new(AnswerStatus::UNAVAILABLE, message))
}

/// The application's own authority goes before any that a control plane has for the call (A81).
fn has_own_authority(head: &Parts) -> bool {
    head.extensions.get::<Call>().is_some_and(|call| call.has_own_authority)
}
