//! One attempt of a call, from the pick to the response's head.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Extensions, HeaderValue, Request, Response, header};
use http_body::Body;
use pin_project::pin_project;

use super::aggregate::Aggregate;
use super::balancer::Balancer;
use super::body::ResponseBody;
use super::clusters::Clusters;
use super::error;
use super::layer::ATTEMPT_COUNT;
use super::picker::{Blocked, Picked, Slot};
use super::policy::PickRequest;
use super::recorder::Recorder;
use super::source::Source;
use super::wait::{EAGER_TRIES, Terms, Wait};
use crate::call::{self, Call, CallInfo, Classify, Stage};
use crate::connect::{Connect, SendError, SendErrorKind, SendRequest, VerifiedPeer};
use crate::error::Error;

/// The future of [`Balance`](super::Balance).
///
/// A request that comes back unsent is sent elsewhere as often as it takes, one that an endpoint refused once, in
/// the call's first attempt.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<C, B>
where
    C: Connect,
    Slot<C>: SendRequest<B>,
{
    state: Boxed<C, B>,
    attempt: Attempt<C>,
}

/// What lasts while a request goes from endpoint to endpoint.
struct Attempt<C: Connect> {
    /// Where to pick again; that of the call's cluster entry, unless it belongs to other [`Clusters`].
    source: Option<Source<C>>,
    /// The request's, with its [`Call`]; they become the response's, which saves an allocation.
    extensions: Extensions,
    /// Requests that came back unsent.
    unsent: u32,
    refused: bool,
    /// Tells good responses from bad ones.
    classify: &'static dyn Classify,
}

#[pin_project(project = StateProjection)]
enum State<C, B>
where
    C: Connect,
    Slot<C>: SendRequest<B>,
{
    Failed(Option<Error>),
    Waiting {
        request: Option<Outgoing<C, B>>,
        wait: Wait<C>,
    },
    Sending {
        #[pin]
        send: <Slot<C> as SendRequest<B>>::Future,
        recorder: Option<Recorder>,
        peer: VerifiedPeer,
    },
}

/// Made where it stays: every layer above moves its inner future, and this is most of it.
type Boxed<C, B> = Pin<Box<State<C, B>>>;

impl<C, B> State<C, B>
where
    C: Connect,
    Slot<C>: SendRequest<B>,
{
    /// In memory that is there before the state is made, so that the compiler may write it where it stays.
    #[inline(always)]
    fn boxed(make: impl FnOnce() -> Self) -> Boxed<C, B> {
        let place = Box::new_uninit();
        Box::into_pin(Box::write(place, make()))
    }

    fn failed(error: Error) -> Boxed<C, B> {
        Self::boxed(|| Self::Failed(Some(error)))
    }
}

type Outgoing<C, B> = <Slot<C> as SendRequest<B>>::Outgoing;
type Answer<C, B> = Response<ResponseBody<<Slot<C> as SendRequest<B>>::Body>>;
type Sent<C, B> = Result<Response<<Slot<C> as SendRequest<B>>::Body>, SendError<Outgoing<C, B>>>;

impl<C, B> ResponseFuture<C, B>
where
    C: Connect,
    Slot<C>: SendRequest<B>,
{
    /// Picks and sends at once if an endpoint is ready.
    pub(crate) fn new(
        clusters: &Clusters<C>,
        request: Request<B>,
        extensions: Extensions,
        classify: &'static dyn Classify,
    ) -> Self {
        let mut attempt = Attempt { source: None, extensions, unsent: 0, refused: false, classify };
        let state = attempt.start(clusters, request);
        Self { state, attempt }
    }
}

impl<C: Connect> Attempt<C> {
    fn start<B>(&mut self, clusters: &Clusters<C>, mut request: Request<B>) -> Boxed<C, B>
    where
        Slot<C>: SendRequest<B>,
    {
        let call = self.extensions.get::<Call>();
        let Some((call, entry)) = call.and_then(|call| Some((call, call.cluster.as_ref()?))) else {
            return State::failed(error::no_cluster());
        };
        if call.attempt_count().in_request {
            request.headers_mut().insert(ATTEMPT_COUNT, HeaderValue::from(call.attempt.max(1)));
        }
        let request = request.into();
        if entry.leaves.is_some() {
            return match clusters.aggregate(entry) {
                Ok(aggregate) => self.start_at_leaf(aggregate, request),
                Err(error) => State::failed(error),
            };
        }
        if let Some(balancer) = clusters.attached(entry)
            && !balancer.queue.is_occupied()
        {
            match balancer.pick(&wanted(call)) {
                Ok(picked) => return send(call, picked, request, self.classify),
                Err(blocked) if self.fails(&blocked) => return State::failed(balancer.no_endpoint()),
                Err(_) => {}
            }
        }
        match clusters.balancer(entry) {
            Ok(balancer) => self.wait(Source::Cluster(balancer), request),
            Err(error) => State::failed(error),
        }
    }

    fn start_at_leaf<B>(&mut self, aggregate: Arc<Aggregate<C>>, request: Outgoing<C, B>) -> Boxed<C, B>
    where
        Slot<C>: SendRequest<B>,
    {
        aggregate.activate();
        self.source = Some(Source::Aggregate(aggregate));
        self.start_again(request)
    }

    /// Picks once more, if possible another endpoint than those that failed.
    fn start_again<B>(&mut self, request: Outgoing<C, B>) -> Boxed<C, B>
    where
        Slot<C>: SendRequest<B>,
    {
        let Some(source) = self.source.clone().or_else(|| self.attached()) else {
            return State::failed(Error::shut_down());
        };
        let balancer = source.balancer();
        if self.unsent <= EAGER_TRIES && !balancer.queue.is_occupied() {
            match balancer.pick(&wanted(call::of(&mut self.extensions))) {
                Ok(picked) => return self.picked(picked, request),
                Err(blocked) if self.fails(&blocked) => return State::failed(balancer.no_endpoint()),
                Err(_) => {}
            }
        }
        self.wait(source, request)
    }

    /// Whether the call fails by that pick. Another pick could do otherwise: a share of the calls may be meant to fail.
    fn fails(&self, blocked: &Blocked) -> bool {
        matches!(blocked, Blocked::Failing) && !call::waits_for_ready(&self.extensions)
    }

    /// Only right if the first pick was made there.
    fn attached(&self) -> Option<Source<C>> {
        let entry = self.extensions.get::<Call>()?.cluster.as_ref()?;
        entry.attachment.get::<Balancer<C>>()?.arc().map(Source::Cluster)
    }

    #[cold]
    fn wait<B>(&mut self, source: Source<C>, request: Outgoing<C, B>) -> Boxed<C, B>
    where
        Slot<C>: SendRequest<B>,
    {
        self.source = Some(source.clone());
        let call = call::of(&mut self.extensions);
        let since = call.starts_to_wait();
        let terms = Terms {
            since,
            deadline: call.deadline,
            unsent: self.unsent,
            avoid: call.avoid.clone(),
            hash: call.hash,
            session: call.session.clone(),
            wait_for_ready: call::waits_for_ready(&self.extensions),
        };
        State::boxed(|| State::Waiting { request: Some(request), wait: source.wait(terms) })
    }

    fn picked<B>(&self, picked: Picked<C>, request: Outgoing<C, B>) -> Boxed<C, B>
    where
        Slot<C>: SendRequest<B>,
    {
        match self.extensions.get::<Call>() {
            Some(call) => send(call, picked, request, self.classify),
            None => State::failed(error::no_cluster()),
        }
    }

    /// The request's extensions become the response's, unless they are wanted for another attempt.
    fn respond<D: Body>(
        &mut self,
        response: Response<D>,
        mut recorder: Recorder,
        peer: VerifiedPeer,
    ) -> Response<ResponseBody<D>> {
        recorder.handle_head(&response);
        let endpoint = recorder.endpoint();
        endpoint.answered();
        let (mut attempts, mut route, mut set_cookie, mut tells) = (1, None, None, false);
        let mut is_final = true;
        if let Some(call) = self.extensions.get_mut::<Call>() {
            set_cookie = call.set_cookie.take();
            attempts = call.attempt.max(1) + u32::from(self.refused);
            route = call.route_name();
            tells = call.attempt_count().in_response;
            if let Some(follower) = &call.follower {
                follower.progress().set(Stage::Responding(endpoint.address.clone()));
                if follower.may_repeat(response.status(), response.headers()) {
                    call.set_cookie.clone_from(&set_cookie);
                    is_final = false;
                }
            }
        }
        let info = CallInfo::new(endpoint.cluster.clone(), endpoint.address.clone(), attempts, peer);
        let mut extensions = if is_final { std::mem::take(&mut self.extensions) } else { Extensions::new() };
        extensions.clear();
        extensions.insert(info);
        let mut response = response.map(|body| ResponseBody::new(body, recorder, route));
        let inner = std::mem::replace(response.extensions_mut(), extensions);
        if !inner.is_empty() {
            response.extensions_mut().extend(inner);
        }
        if tells {
            response.headers_mut().insert(ATTEMPT_COUNT, HeaderValue::from(attempts));
        }
        if let Some(cookie) = set_cookie {
            response.headers_mut().append(header::SET_COOKIE, *cookie);
        }
        response
    }

    /// Sends the request elsewhere, if that is safe and it is still there.
    #[cold]
    fn failed<B>(&mut self, failure: SendError<Outgoing<C, B>>, mut recorder: Recorder) -> Boxed<C, B>
    where
        Slot<C>: SendRequest<B>,
    {
        recorder.handle_error(failure.error.kind());
        let again = match failure.error.kind() {
            SendErrorKind::Unsent => true,
            // Once in a call: the next time it is for the retry policy to say (A6).
            SendErrorKind::Refused => {
                call::of(&mut self.extensions).attempt <= 1 && !std::mem::replace(&mut self.refused, true)
            }
            _ => false,
        };
        match failure.replay {
            Some(request) if again => {
                self.unsent += u32::from(failure.error.kind() == SendErrorKind::Unsent);
                call::of(&mut self.extensions).failed_at(&recorder.endpoint().address);
                drop(recorder);
                self.start_again(*request)
            }
            _ => State::failed(error::stream(failure.error, Some(recorder.in_flight()))),
        }
    }
}

impl<C: Connect> Drop for Attempt<C> {
    fn drop(&mut self) {
        // Those of an attempt with a final response are the response's by now.
        if !self.extensions.is_empty() {
            give_back(std::mem::take(&mut self.extensions));
        }
    }
}

/// To whom follows the call, for another attempt.
#[cold]
fn give_back(mut extensions: Extensions) {
    // Who keeps them is not kept by them.
    let follower = extensions.get_mut::<Call>().and_then(|call| call.follower.take());
    if let Some(follower) = follower {
        follower.take_back(extensions);
    }
}

/// What answered does not speak the call's protocol: its stream is reset with the body.
#[cold]
fn no_answer<C, B, D: Body>(response: Response<D>, mut recorder: Recorder) -> Boxed<C, B>
where
    C: Connect,
    Slot<C>: SendRequest<B>,
{
    recorder.handle_head(&response);
    recorder.handle_end(None);
    recorder.endpoint().answered();
    let (head, body) = response.into_parts();
    drop(body);
    State::failed(error::no_answer(head.status, head.headers, recorder.in_flight()))
}

/// What the policy may know of the call.
fn wanted(call: &Call) -> PickRequest<'_> {
    PickRequest { avoid: &call.avoid, hash: call.hash, session: call.session.as_deref(), now: None }
}

fn send<C, B>(
    call: &Call,
    picked: Picked<C>,
    mut request: Outgoing<C, B>,
    classify: &'static dyn Classify,
) -> Boxed<C, B>
where
    C: Connect,
    Slot<C>: SendRequest<B>,
{
    if call.takes_host_of_endpoint() {
        Slot::<C>::set_authority(&mut request, picked.in_flight.endpoint().authority().as_deref());
    }
    let peer = picked.slot.peer();
    if let Err(error) = call.check_peer(&peer) {
        return State::failed(error::stranger(error, &picked.in_flight));
    }
    if let Some(progress) = call.progress() {
        progress.set(Stage::Sent(picked.in_flight.endpoint().address.clone()));
    }
    State::boxed(|| {
        let recorder = Recorder::new(picked.in_flight, picked.timed_from, classify, call.deadline);
        State::Sending { send: picked.slot.send(request), recorder: Some(recorder), peer }
    })
}

impl<C, B> Future for ResponseFuture<C, B>
where
    C: Connect,
    Slot<C>: SendRequest<B>,
{
    type Output = Result<Answer<C, B>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.get_mut();
        loop {
            let next = match me.state.as_mut().project() {
                StateProjection::Sending { send, recorder, peer } => {
                    let sent: Sent<C, B> = ready!(send.poll(cx));
                    let recorder = recorder.take().expect("taken once, when the send is ready");
                    match sent {
                        Ok(response) if me.attempt.classify.is_answer(response.status(), response.headers()) => {
                            return Poll::Ready(Ok(me.attempt.respond(response, recorder, std::mem::take(peer))));
                        }
                        Ok(response) => no_answer(response, recorder),
                        Err(failure) => me.attempt.failed(failure, recorder),
                    }
                }
                StateProjection::Waiting { request, wait } => {
                    let picked = ready!(wait.as_mut().poll(cx));
                    let request = request.take().expect("taken once, when the wait is over");
                    match picked {
                        Ok(picked) => me.attempt.picked(picked, request),
                        Err(error) => State::failed(error),
                    }
                }
                StateProjection::Failed(error) => {
                    let mut error = error.take().expect("not polled after it was ready");
                    if let Some(call) = me.attempt.extensions.get::<Call>() {
                        call.explain(&mut error);
                    }
                    return Poll::Ready(Err(error));
                }
            };
            me.state = next;
        }
    }
}

impl<C, B> fmt::Debug for ResponseFuture<C, B>
where
    C: Connect,
    Slot<C>: SendRequest<B>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("unsent", &self.attempt.unsent).finish_non_exhaustive()
    }
}
