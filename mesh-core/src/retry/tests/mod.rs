//! The layer over a service that is told what to answer, in paused time.

mod hedging;
mod requests;
#[cfg(all(feature = "deadline", feature = "timeout"))]
mod storm;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};

use super::budget::Account;
use super::{Budgets, Pushback, RequestBody, RetryCode, RetryLayer, RetryProtocol};
use crate::call::{Call, CallOptions, Stage};
use crate::error::{Error, ErrorKind};
use crate::resource::listener::CallLimits;
use crate::resource::matcher::RouteMatch;
use crate::resource::matcher::header::{Condition, HeaderMatch};
use crate::resource::retry_policy::{Conditions, RetryPolicy};
use crate::resource::route::{Forward, Route, RouteAction};
use crate::resource::route_config::VirtualHost;
use crate::snapshot::{ClusterEntry, ClusterKey, Problem, RouteTable, Snapshot};

const STEP: Duration = Duration::from_millis(100);

/// A protocol whose codes and pushback are headers of their own.
#[derive(Debug)]
struct Plain;

impl RetryProtocol for Plain {
    fn is_repeatable(&self, _: &Method) -> bool {
        true
    }

    fn code_of_response(&self, _: StatusCode, headers: &HeaderMap) -> Option<RetryCode> {
        headers.contains_key("unavailable").then_some(RetryCode::Unavailable)
    }

    fn code_of_error(&self, error: &Error) -> Option<RetryCode> {
        match error.kind() {
            ErrorKind::Deadline => Some(RetryCode::DeadlineExceeded),
            ErrorKind::Reset(8) => Some(RetryCode::Cancelled),
            ErrorKind::Reset(_) | ErrorKind::Protocol => Some(RetryCode::Internal),
            _ => Some(RetryCode::Unavailable),
        }
    }

    fn pushback(&self, headers: &HeaderMap) -> Option<Pushback> {
        let millis = headers.get("pushback")?.to_str().ok()?.parse().ok();
        Some(millis.map_or(Pushback::Stop, |millis| Pushback::After(Duration::from_millis(millis))))
    }

    fn tell_attempts(&self, previous: u32) -> (HeaderName, HeaderValue) {
        (HeaderName::from_static("previous"), previous.into())
    }
}

/// At most `attempts` attempts, on these conditions, with delays of 100 ms to 300 ms.
fn policy(retry_on: &str, attempts: u32) -> RetryPolicy {
    let named = retry_on.split(',').filter_map(Conditions::named);
    let conditions = named.fold(Conditions::default(), |all, condition| all | condition);
    RetryPolicy::of(conditions, attempts).backoff(STEP, 3 * STEP)
}

/// What the service does with one attempt.
enum Answer {
    /// Success.
    Well,
    /// A failed response with this header beside its code.
    Fails(&'static str, &'static str),
    Status(u16),
    Errs(Error),
    Never,
    /// Reads so many frames of the request before it fails.
    ReadsAndFails(usize),
    After(Duration, Box<Answer>),
}

fn fails() -> Answer {
    Answer::Fails("x", "y")
}

fn errs(kind: ErrorKind, sent: bool) -> Answer {
    let error = Error::new(kind, "as told");
    Answer::Errs(if sent { error.sent() } else { error })
}

/// One attempt as the service saw it.
struct Seen {
    at: Duration,
    headers: HeaderMap,
    avoid: usize,
    attempt: u32,
    body: Vec<Bytes>,
}

struct Bench {
    layer: RetryLayer,
    entry: Arc<ClusterEntry>,
    snapshot: Arc<Snapshot>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    begin: Instant,
}

impl Bench {
    fn new(policy: RetryPolicy) -> Self {
        let forward = Forward::to("c").with_retry(Some(Arc::new(policy)));
        let route = Route::new("r", RouteAction::Forward(forward));
        let host = Arc::new(VirtualHost::new("h", vec![(RouteMatch::prefix(""), route)]));
        let key = ClusterKey { source: "s".into(), name: "c".into() };
        let unused = Problem { message: "unused".into(), resource: "c".into(), next_step: "" };
        let entry = Arc::new(ClusterEntry::new(key, Err(unused)));
        let routing = Ok(Arc::new(RouteTable::of_virtual_host("r", host, CallLimits::default())));
        Self {
            layer: RetryLayer::new().protocol(&Plain),
            snapshot: Arc::new(Snapshot { routing, clusters: Arc::new([entry.clone()]) }),
            entry,
            answers: Arc::default(),
            seen: Arc::default(),
            begin: Instant::now(),
        }
    }

    /// In this order, and [`Answer::Well`] when there are no more.
    fn answers(self, answers: impl IntoIterator<Item = Answer>) -> Self {
        self.answers.lock().extend(answers);
        self
    }

    fn call(&self, timeout: Option<Duration>) -> Call {
        let (snapshot, cluster) = (Some(self.snapshot.clone()), Some(self.entry.clone()));
        Call { snapshot, cluster, route: Some(0), ..Call::new(timeout) }
    }

    fn layer(mut self, layer: RetryLayer) -> Self {
        self.layer = layer;
        self
    }

    async fn run(&self) -> Result<Response<Empty<Bytes>>, Error> {
        let mut request = Request::new(Full::new(Bytes::from_static(b"hello")));
        request.extensions_mut().insert(self.call(None));
        self.send(request).await
    }

    async fn send<B>(&self, request: Request<B>) -> Result<Response<Empty<Bytes>>, Error>
    where
        B: http_body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
    {
        let service = service_fn(|request: Request<RequestBody<B>>| {
            let answer = self.answers.lock().pop_front().unwrap_or(Answer::Well);
            self.answer(request, answer)
        });
        self.layer.layer(service).oneshot(request).await
    }

    async fn answer<B>(
        &self,
        request: Request<RequestBody<B>>,
        mut answer: Answer,
    ) -> Result<Response<Empty<Bytes>>, Error>
    where
        B: http_body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
    {
        let (head, mut body) = request.into_parts();
        let call = head.extensions.get::<Call>().expect("the call");
        if let Some(progress) = call.progress() {
            let endpoint = format!("10.0.0.{}:80", call.attempt).parse().expect("an address");
            progress.set(Stage::Sent(endpoint));
        }
        let mut seen = Seen {
            at: self.begin.elapsed(),
            headers: head.headers,
            avoid: call.avoid.len(),
            attempt: call.attempt,
            body: Vec::new(),
        };
        let frames = if let Answer::ReadsAndFails(frames) = answer { frames } else { usize::MAX };
        while seen.body.len() < frames
            && let Some(frame) = body.frame().await
        {
            seen.body.extend(frame.expect("infallible").into_data());
        }
        self.seen.lock().push(seen);
        while let Answer::After(delay, then) = answer {
            tokio::time::sleep(delay).await;
            answer = *then;
        }
        let mut response = Response::new(Empty::new());
        match answer {
            Answer::Well => {}
            Answer::Fails(name, value) => {
                response.headers_mut().insert("unavailable", HeaderValue::from_static(""));
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            Answer::ReadsAndFails(_) => {
                drop(response.headers_mut().insert("unavailable", HeaderValue::from_static("")))
            }
            Answer::Status(status) => *response.status_mut() = StatusCode::from_u16(status).expect("a status"),
            Answer::Errs(error) => return Err(error),
            Answer::Never | Answer::After(..) => std::future::pending().await,
        }
        Ok(response)
    }

    fn attempts(&self) -> usize {
        self.seen.lock().len()
    }

    /// The time between the attempts.
    fn gaps(&self) -> Vec<Duration> {
        let seen = self.seen.lock();
        seen.windows(2).map(|pair| pair[1].at - pair[0].at).collect()
    }
}

#[track_caller]
fn assert_about(gap: Duration, wanted: Duration) {
    // A timer fires up to 1 ms late.
    let latest = wanted * 12 / 10 + Duration::from_millis(1);
    assert!(gap >= wanted * 8 / 10 && gap <= latest, "{gap:?}, not about {wanted:?}");
}

#[tokio::test(start_paused = true)]
async fn delays_double_to_the_longest_one() {
    let bench = Bench::new(policy("unavailable", 5)).answers((0..5).map(|_| fails()));
    let response = bench.run().await.expect("the last response");
    assert!(response.headers().contains_key("unavailable"));
    let gaps = bench.gaps();
    assert_eq!(gaps.len(), 4);
    for (gap, wanted) in gaps.into_iter().zip([STEP, 2 * STEP, 3 * STEP, 3 * STEP]) {
        assert_about(gap, wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_say_their_number_and_avoid_where_others_failed() {
    let bench = Bench::new(policy("unavailable", 3)).answers([fails(), fails()]);
    bench.run().await.expect("the third attempt is answered");
    let seen = bench.seen.lock();
    let told: Vec<_> = seen.iter().map(|seen| (seen.attempt, seen.avoid, seen.headers.get("previous"))).collect();
    let number = HeaderValue::from;
    assert_eq!(told, [(1, 0, None), (2, 1, Some(&number(1))), (3, 2, Some(&number(2)))]);
}

#[tokio::test(start_paused = true)]
async fn pushback_takes_the_place_of_the_backoff_and_resets_it() {
    let pushed = Answer::Fails("pushback", "1000");
    let bench = Bench::new(policy("unavailable", 5)).answers([fails(), fails(), pushed, fails()]);
    bench.run().await.expect("the fifth attempt is answered");
    let gaps = bench.gaps();
    assert_about(gaps[1], 2 * STEP);
    assert!((1000..=1001).contains(&gaps[2].as_millis()), "{gaps:?}");
    assert_about(gaps[3], STEP);
}

#[tokio::test(start_paused = true)]
async fn pushback_can_say_stop() {
    let bench = Bench::new(policy("unavailable", 5)).answers([Answer::Fails("pushback", "-1")]);
    bench.run().await.expect("the failed response");
    assert_eq!(bench.attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_attempt_starts_after_the_deadline_and_none_is_waited_for() {
    let bench = Bench::new(policy("unavailable", 5)).answers((0..5).map(|_| fails()));
    let mut request = Request::new(Full::new(Bytes::new()));
    request.extensions_mut().insert(bench.call(Some(2 * STEP)));
    bench.send(request).await.expect("the last response");
    // The second delay is at least 160 ms.
    assert_eq!(bench.attempts(), 2);
    assert!(bench.begin.elapsed() <= STEP * 12 / 10 + Duration::from_millis(1));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_too_long_is_repeated_if_the_policy_says_so() {
    for (retry_on, attempts) in [
        ("5xx", 3),
        ("gateway-error", 3),
        ("reset", 3),
        ("deadline-exceeded", 3),
        ("unavailable", 1),
        ("connect-failure,refused-stream,reset-before-request", 1),
        ("", 1),
    ] {
        let limited = RetryPolicy { per_try_timeout: Some(STEP), ..policy(retry_on, 3) };
        let bench = Bench::new(limited).answers((0..3).map(|_| Answer::Never));
        let error = bench.run().await.expect_err("no attempt is answered");
        assert_eq!((bench.attempts(), error.kind()), (attempts, ErrorKind::Deadline), "{retry_on}");
        assert!(error.report().contains("100ms per try"), "{error:?}");
        assert!(error.endpoint().is_some() && error.request_sent());
    }
}

#[tokio::test(start_paused = true)]
async fn budget_ends_retries_at_once_and_says_so() {
    let mut bench = Bench::new(policy("unavailable", 2));
    bench.layer = RetryLayer::new().budget(50, 1).protocol(&Plain);
    let mut retried = 0;
    for _ in 0..100 {
        bench.answers.lock().extend([errs(ErrorKind::Connection, true), errs(ErrorKind::Connection, true)]);
        let before = (bench.attempts(), bench.begin.elapsed());
        let error = bench.run().await.expect_err("every attempt fails");
        if bench.attempts() == before.0 + 2 {
            retried += 1;
            assert!(error.report().contains("attempts 2"), "{error:?}");
        } else {
            assert_eq!(bench.begin.elapsed(), before.1, "no delay");
            assert!(error.report().contains("attempts 1, then the cluster's retry budget was used up"), "{error:?}");
            bench.answers.lock().clear();
        }
        if bench.begin.elapsed() > Duration::from_secs(5) {
            break;
        }
    }
    // Half of the calls, and one a second of the last ten.
    let calls = u32::try_from(bench.attempts()).expect("few") - retried;
    assert!((calls / 2 + 9..=calls / 2 + 10).contains(&retried), "{retried} of {calls}");
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_what_it_says_for_each_share() {
    for (percent, of_a_hundred) in
        [(0, 0), (1, 1), (3, 2), (10, 10), (20, 20), (30, 25), (50, 50), (99, 50), (100, 100)]
    {
        let mut bench = Bench::new(policy("unavailable", 2));
        bench.layer = RetryLayer::new().budget(percent, 0).protocol(&Plain);
        for _ in 1..100 {
            drop(bench.account());
        }
        let mut last = bench.account();
        let allowed = (0..1000).filter(|_| last.withdraw(|_| u32::MAX)).count();
        assert_eq!(allowed, of_a_hundred, "{percent} %");
    }
}

#[tokio::test(start_paused = true)]
async fn errors_are_repeated_by_what_they_say_about_the_request() {
    let lost = || errs(ErrorKind::Connection, true);
    let unsent = || errs(ErrorKind::Connection, false);
    let reset = |code| errs(ErrorKind::Reset(code), true);
    let cases: Vec<(Answer, &str, bool)> = vec![
        (lost(), "unavailable", true),
        (lost(), "reset", true),
        (lost(), "5xx", true),
        (lost(), "gateway-error", true),
        (lost(), "connect-failure,refused-stream,reset-before-request", false),
        (unsent(), "connect-failure", true),
        (unsent(), "refused-stream", true),
        (unsent(), "reset-before-request", true),
        (unsent(), "reset", true),
        (unsent(), "internal,cancelled", false),
        (reset(8), "cancelled", true),
        (reset(8), "internal", false),
        (reset(2), "internal", true),
        (reset(2), "reset", true),
        (errs(ErrorKind::Protocol, true), "internal", true),
        (errs(ErrorKind::NoEndpoint, false), "unavailable", true),
        (errs(ErrorKind::NoEndpoint, false), "5xx,connect-failure,reset", false),
        (errs(ErrorKind::Overloaded, false), "unavailable,5xx", false),
        (errs(ErrorKind::Configuration, false), "unavailable,5xx", false),
        (errs(ErrorKind::ControlPlane, false), "unavailable,5xx", false),
        (errs(ErrorKind::Setup, false), "unavailable,5xx", false),
        (errs(ErrorKind::RequestBody, true), "unavailable,5xx,internal", false),
        (errs(ErrorKind::Shutdown, false), "unavailable,5xx", false),
    ];
    for (number, (answer, retry_on, repeated)) in cases.into_iter().enumerate() {
        let bench = Bench::new(policy(retry_on, 2)).answers([answer]);
        assert_eq!(bench.run().await.is_ok(), repeated, "case {number}: {retry_on}");
    }
}

#[tokio::test(start_paused = true)]
async fn responses_are_repeated_by_code_status_and_headers() {
    let with_lists = |retry_on| {
        let header = HeaderMatch::new("x", Condition::Present(true)).expect("a header's name");
        RetryPolicy { status_codes: [418].into(), headers: [header].into(), ..policy(retry_on, 2) }
    };
    for (answer, retry_on, repeated) in [
        (fails(), "unavailable", true),
        (fails(), "internal,5xx", false),
        (fails(), "retriable-headers", true),
        (Answer::Fails("other", ""), "retriable-headers", false),
        (Answer::Status(500), "5xx", true),
        (Answer::Status(500), "gateway-error", false),
        (Answer::Status(503), "gateway-error", true),
        (Answer::Status(409), "retriable-4xx", true),
        (Answer::Status(404), "retriable-4xx", false),
        (Answer::Status(418), "retriable-status-codes", true),
        (Answer::Status(418), "5xx,retriable-4xx", false),
        (Answer::Well, "5xx,unavailable,retriable-status-codes,retriable-headers", false),
    ] {
        let bench = Bench::new(with_lists(retry_on)).answers([answer]);
        bench.run().await.expect("a response");
        assert_eq!(bench.attempts() == 2, repeated, "{retry_on}");
    }
}

fn frames(sizes: &[usize]) -> impl http_body::Body<Data = Bytes, Error = Infallible> + Unpin + use<> {
    let frames: Vec<_> = sizes.iter().map(|size| Ok(Frame::data(Bytes::from(vec![7; *size])))).collect();
    StreamBody::new(futures_util::stream::iter(frames))
}

#[tokio::test(start_paused = true)]
async fn each_attempt_sends_the_request_from_its_start() {
    let bench = Bench::new(policy("unavailable", 4));
    let answers = [Answer::ReadsAndFails(1), Answer::ReadsAndFails(0), Answer::ReadsAndFails(2)];
    let bench = bench.answers(answers);
    let mut request = Request::new(frames(&[1, 2, 3]));
    request.extensions_mut().insert(bench.call(None));
    bench.send(request).await.expect("the fourth attempt is answered");
    let sizes: Vec<Vec<usize>> =
        bench.seen.lock().iter().map(|seen| seen.body.iter().map(Bytes::len).collect()).collect();
    assert_eq!(sizes, [vec![1], vec![], vec![1, 2], vec![1, 2, 3]]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_held_any_more_is_not_repeated() {
    for (size, attempts) in [(64 << 10, 2), ((64 << 10) + 1, 1)] {
        let bench = Bench::new(policy("unavailable", 2)).answers([Answer::ReadsAndFails(2)]);
        let mut request = Request::new(frames(&[size / 2, size - size / 2]));
        request.extensions_mut().insert(bench.call(None));
        bench.send(request).await.expect("a response");
        assert_eq!(bench.attempts(), attempts, "{size} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn the_application_can_have_a_call_made_once() {
    let bench = Bench::new(policy("unavailable", 5)).answers([fails()]);
    let mut request = Request::new(Full::new(Bytes::new()));
    request.extensions_mut().insert(bench.call(None));
    request.extensions_mut().insert(CallOptions::new().retry(false));
    bench.send(request).await.expect("the failed response");
    assert_eq!(bench.attempts(), 1);
}

impl Bench {
    fn account(&self) -> Account {
        Account::open(self.budgets().of(Some(&self.entry)))
    }

    fn budgets(&self) -> Budgets {
        self.layer.layer(()).terms.budgets
    }
}
