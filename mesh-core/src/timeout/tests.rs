//! Who ended a call: the deadline, the peer that knows it too, or that nothing moved.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, StreamBody};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};

use super::idle::{Idle, never};
use super::timer::{CANCEL, Terms, Timer};
use super::{RequestBody, ResponseBody, Timeout, TimeoutLayer};
use crate::call::{self, Call, Classify};
use crate::connect::Outcome;
use crate::error::{Error, ErrorKind};

const LIMIT: Duration = Duration::from_millis(100);
/// Ahead of the timers here by what a peer's clock may be.
const ALMOST: Duration = Duration::from_millis(99);
const INTERNAL_ERROR: u32 = 0x2;

/// When a peer resets the stream, with which code, and what the call is to fail of.
const RESETS: [(Duration, u32, ErrorKind); 3] = [
    (ALMOST, CANCEL, ErrorKind::Deadline),
    (ALMOST, INTERNAL_ERROR, ErrorKind::Reset(INTERNAL_ERROR)),
    (Duration::from_millis(50), CANCEL, ErrorKind::Reset(CANCEL)),
];

fn limited() -> Request<()> {
    let mut request = Request::new(());
    request.extensions_mut().insert(Call::new(Some(LIMIT)));
    request
}

fn in_nanos(remaining: Duration) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static("left"), HeaderValue::from(u64::try_from(remaining.as_nanos()).unwrap()))
}

async fn reset(after: Duration, code: u32) -> Error {
    sleep(after).await;
    Error::new(ErrorKind::Reset(code), "stream reset by the endpoint")
}

#[tokio::test(start_paused = true)]
async fn peer_that_cancels_at_the_deadline_did_so_for_the_deadline() {
    for (after, code, wanted) in RESETS {
        let inner = service_fn(move |_: Request<RequestBody<()>>| async move {
            let error = reset(after, code).await;
            Err::<Response<Empty<Bytes>>, _>(error)
        });
        let error = Timeout::new(inner).oneshot(limited()).await.expect_err("the peer reset it");
        assert_eq!(error.kind(), wanted, "{code} after {after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn peer_that_cancels_a_response_at_the_deadline_did_so_for_the_deadline() {
    for (after, code, wanted) in RESETS {
        let inner = service_fn(move |_: Request<RequestBody<()>>| async move {
            let failing = stream::once(async move { Err(reset(after, code).await) });
            Ok::<_, Error>(Response::new(StreamBody::new(Box::pin(failing))))
        });
        let response = Timeout::new(inner).oneshot(limited()).await.expect("a response head");
        let mut body: ResponseBody<_> = response.into_body();
        let frame = body.frame().await.expect("an error");
        assert_eq!(frame.expect_err("the peer reset it").kind(), wanted, "{code} after {after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_peer_is_told_a_deadline_of_the_applications_in_whole_milliseconds_and_an_inherited_one_as_it_is() {
    let told = |inherited| async move {
        let mut request = limited();
        call::of(request.extensions_mut()).inherited = inherited;
        tokio::time::advance(Duration::from_micros(10_300)).await;
        let inner = service_fn(|request: Request<RequestBody<()>>| async move {
            let mut response = Response::new(Empty::<Bytes>::new());
            response.headers_mut().insert("left", request.headers()["left"].clone());
            Ok::<_, Error>(response)
        });
        let response = TimeoutLayer::new().tell_peer(in_nanos).layer(inner).oneshot(request).await.expect("an answer");
        let left = &response.headers()["left"];
        // What is sensitive enters no header table.
        (left.to_str().expect("digits").to_owned(), left.is_sensitive())
    };
    assert_eq!(told(false).await, ("90000000".to_owned(), false));
    assert_eq!(told(true).await, ("89700000".to_owned(), true));
}

/// Of a protocol whose responses say so in a header.
#[derive(Debug)]
struct Says;

impl Classify for Says {
    fn outcome(&self, _: StatusCode, _: Option<&HeaderMap>) -> Outcome {
        Outcome::Failure
    }

    fn is_cancelled(&self, trailers: &HeaderMap) -> bool {
        trailers.contains_key("cancelled")
    }
}

/// The end of a response that came after so long and says so.
async fn ends(after: Duration, limit: Duration, says: &'static str, in_head: bool) -> Result<HeaderMap, ErrorKind> {
    let inner = service_fn(move |_: Request<RequestBody<()>>| async move {
        let trailers: HeaderMap = [(HeaderName::from_static(says), HeaderValue::from_static(""))].into_iter().collect();
        if in_head {
            sleep(after).await;
            let mut response = Response::new(Empty::new().map_err(Error::from).boxed_unsync());
            *response.headers_mut() = trailers;
            return Ok::<_, Error>(response);
        }
        let end = stream::once(async move {
            sleep(after).await;
            Ok::<_, Error>(Frame::trailers(trailers))
        });
        Ok(Response::new(StreamBody::new(end).boxed_unsync()))
    });
    let mut request = Request::new(());
    request.extensions_mut().insert(Call::new(Some(limit)));
    let response = TimeoutLayer::new().protocol(&Says).layer(inner).oneshot(request).await;
    let response = response.map_err(|error| error.kind())?;
    let headers = response.headers().clone();
    let end = response.into_body().collect().await.map_err(|error| error.kind())?;
    Ok(end.trailers().cloned().unwrap_or(headers))
}

#[tokio::test(start_paused = true)]
async fn peer_that_says_cancelled_at_the_deadline_did_so_for_the_deadline() {
    let millis = Duration::from_millis;
    let long = millis(20_000);
    for in_head in [true, false] {
        for (after, limit) in [(millis(99), LIMIT), (millis(19_980), long)] {
            assert_eq!(
                ends(after, limit, "cancelled", in_head).await,
                Err(ErrorKind::Deadline),
                "{after:?} of {limit:?}"
            );
            let failed = ends(after, limit, "failed", in_head).await.expect("an answer of the peer's own");
            assert!(failed.contains_key("failed"));
        }
        for (after, limit) in [(millis(98), LIMIT), (millis(19_975), long)] {
            let end = ends(after, limit, "cancelled", in_head).await.expect("an answer of the peer's own");
            assert!(end.contains_key("cancelled"), "{after:?} of {limit:?}");
        }
    }
}

/// That of a call of which nothing may move for [`LIMIT`].
fn idle() -> Timer {
    let idle = Idle::new(Some(LIMIT), None);
    let (deadline, limit) = (never(Instant::now()), Duration::ZERO);
    let (progress, cluster, route, protocol) = (Arc::default(), None, None, None);
    Timer::new(Terms { deadline, limit, inherited: false, idle, progress, cluster, route, protocol })
}

async fn body<R>(inner: R, timer: Timer) -> ResponseBody<R>
where
    R: Body<Data = Bytes, Error: Into<Error>> + Send + Unpin + 'static,
{
    let (mut inner, mut timer) = (Some(inner), Some(timer));
    poll_fn(|cx| {
        Poll::Ready(ResponseBody::limited(inner.take().expect("one poll"), timer.take().expect("one poll"), cx))
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn what_comes_keeps_a_call_alive_as_its_head_does() {
    let mut timer = idle();
    sleep(ALMOST).await;
    timer.begin_response();
    let slowly = stream::unfold(0, |count| async move {
        if count == 3 {
            std::future::pending::<()>().await;
        }
        sleep(ALMOST).await;
        Some((Ok::<_, Error>(Frame::data(Bytes::from_static(b"a"))), count + 1))
    });
    let mut body = body(StreamBody::new(Box::pin(slowly)), timer).await;
    for count in 0..3 {
        body.frame().await.expect("a frame").unwrap_or_else(|error| panic!("frame {count}: {error}"));
    }
    let begun = Instant::now();
    let error = body.frame().await.expect("an end").expect_err("nothing comes any more");
    assert_eq!((error.kind(), begun.elapsed()), (ErrorKind::Deadline, LIMIT));
}

/// Its reader leaves the runtime no time to look at timers.
#[tokio::test]
async fn a_response_that_always_has_more_ends_at_its_deadline() {
    let inner = service_fn(|_: Request<RequestBody<()>>| async {
        let endless = stream::repeat_with(|| Ok::<_, Error>(Frame::data(Bytes::from_static(b"a"))));
        Ok::<_, Error>(Response::new(StreamBody::new(endless)))
    });
    let mut body = Timeout::new(inner).oneshot(limited()).await.expect("a response head").into_body();
    let begun = Instant::now();
    let error = loop {
        let frame = body.frame().now_or_never().expect("there is always one").expect("no end");
        assert!(begun.elapsed() < 50 * LIMIT, "it goes on");
        if let Err(error) = frame {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Deadline);
}
