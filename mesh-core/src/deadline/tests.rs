//! Deadlines over several hops, in paused time: each hop is a server's layer around a handler that calls the next one
//! through a client's.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use super::{DeadlineLayer, InboundProtocol};
use crate::call::{AnswerProtocol, Call};
use crate::context::Context;
use crate::error::Error;
use crate::resource::answer;
use crate::timeout::{RequestBody, TimeoutLayer};

const TIMEOUT: HeaderName = HeaderName::from_static("timeout-ms");
const STEP: Duration = Duration::from_millis(30);

/// A protocol whose failed answers have the header `failed`.
#[derive(Debug)]
struct Plain;

impl AnswerProtocol for Plain {
    fn respond(&self, answer: answer::Answer) -> Response<Bytes> {
        answer.into_http()
    }
}

impl InboundProtocol for Plain {
    fn timeout(&self, headers: &HeaderMap) -> Option<Duration> {
        headers.get(TIMEOUT)?.to_str().ok()?.parse().ok().map(Duration::from_millis)
    }

    fn expired(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.headers_mut() = self.expired_trailers();
        response
    }

    fn expired_trailers(&self) -> HeaderMap {
        [(HeaderName::from_static("failed"), HeaderValue::from_static("late"))].into_iter().collect()
    }

    fn refused(&self, _: &crate::error::Error) -> Response<()> {
        Response::new(())
    }

    fn forbid_retry(&self, headers: &mut HeaderMap) {
        if headers.contains_key("failed") {
            headers.insert("no-retry", HeaderValue::from_static(""));
        }
    }
}

fn tell(remaining: Duration) -> (HeaderName, HeaderValue) {
    let millis = u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX);
    (TIMEOUT, HeaderValue::from(millis))
}

type Answer = Response<Empty<Bytes>>;
type Hop = BoxCloneSyncService<Request<()>, Answer, Error>;

/// When each handler last did anything, by the number of its hop.
type Worked = Arc<Mutex<Vec<(u32, Duration)>>>;

/// Says that it works, every millisecond for 30 of them, and calls the next hop then.
fn hop(number: u32, next: Option<Hop>, worked: Worked, begin: Instant) -> Hop {
    let handler = service_fn(move |_: Request<()>| {
        let (next, worked) = (next.clone(), worked.clone());
        async move {
            for _ in 0..STEP.as_millis() {
                sleep(Duration::from_millis(1)).await;
                worked.lock().push((number, begin.elapsed()));
            }
            match next {
                Some(next) => next.oneshot(Request::new(())).await,
                None => Ok(Response::new(Empty::new())),
            }
        }
    });
    let server = DeadlineLayer::new().protocol(&Plain).layer(handler);
    // A client that hands the head on; the body of a hop is empty.
    let server =
        server.map_response(|response: Response<super::ResponseBody<_>>| response.map(|_| Empty::<Bytes>::new()));
    let client = ServiceBuilder::new()
        .layer(TimeoutLayer::new().tell_peer(tell))
        .map_request(|request: Request<RequestBody<()>>| request.map(drop))
        .service(server);
    BoxCloneSyncService::new(client.map_response(|response| response.map(|_| Empty::new())))
}

fn chain(hops: u32, worked: &Worked) -> Hop {
    let begin = Instant::now();
    let chained = (0..hops).rev().fold(None, |next, number| Some(hop(number, next, worked.clone(), begin)));
    chained.expect("a hop at least")
}

fn within(timeout: Duration) -> Request<()> {
    let mut request = Request::new(());
    request.extensions_mut().insert(Call::new(Some(timeout)));
    request
}

#[tokio::test(start_paused = true)]
async fn a_deadline_of_100_ms_over_four_hops_lets_none_work_past_it() {
    let worked = Worked::default();
    let limit = Duration::from_millis(100);
    let ended = chain(4, &worked).oneshot(within(limit)).await;
    assert!(ended.map_or_else(|error| error.is_timeout(), |response| response.headers().contains_key("failed")));
    sleep(Duration::from_secs(1)).await;
    let worked = worked.lock();
    let last = worked.iter().map(|(_, at)| *at).max().expect("they worked");
    assert!(last <= limit, "one worked at {last:?}");
    assert_eq!(worked.iter().map(|(hop, _)| *hop).max(), Some(3), "the fourth began");
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_has_the_time_is_answered() {
    let response = chain(4, &Worked::default()).oneshot(within(Duration::from_millis(200))).await;
    assert!(!response.expect("an answer").headers().contains_key("failed"));
}

#[tokio::test(start_paused = true)]
async fn a_nested_call_has_the_least_of_its_own_time_and_what_is_left() {
    let left = |own: Option<u64>| async move {
        let handler = service_fn(move |_: Request<()>| async move {
            sleep(Duration::from_millis(40)).await;
            let call = Call::new(own.map(Duration::from_millis));
            Ok::<_, Infallible>(Response::new(
                call.remaining().map(|left| left.as_millis()).unwrap_or_default().to_string(),
            ))
        });
        let mut request = Request::new(());
        request.headers_mut().insert(TIMEOUT, HeaderValue::from(100));
        let response = DeadlineLayer::new().protocol(&Plain).layer(handler).oneshot(request).await;
        let body = response.expect("infallible").into_body().collect().await.expect("a text");
        String::from_utf8(body.to_bytes().to_vec()).expect("a number")
    };
    assert_eq!(left(None).await, "60");
    assert_eq!(left(Some(30)).await, "30");
    assert_eq!(left(Some(500)).await, "60");
    assert_eq!(Call::new(None).remaining(), None, "nothing is served here");
}

#[tokio::test(start_paused = true)]
async fn a_spawned_task_has_the_context_if_it_is_given_it() {
    let handler = service_fn(|_: Request<()>| async {
        let without = tokio::spawn(async { Context::current().remaining() }).await;
        let with = tokio::spawn(Context::current().scope(async { Context::current().remaining() })).await;
        let both = (without.expect("no panic"), with.expect("no panic"));
        assert_eq!(both, (None, Some(STEP)));
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    DeadlineLayer::new().limit(STEP).layer(handler).oneshot(Request::new(())).await.expect("infallible");
}

#[tokio::test(start_paused = true)]
async fn the_handler_is_dropped_at_the_deadline_and_the_answer_is_the_protocols() {
    let dropped = Arc::new(());
    let handler = |held: Arc<()>| {
        service_fn(move |_: Request<()>| {
            let held = held.clone();
            async move {
                std::future::pending::<()>().await;
                drop(held);
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        })
    };
    let layers =
        [(DeadlineLayer::new(), StatusCode::GATEWAY_TIMEOUT), (DeadlineLayer::new().protocol(&Plain), StatusCode::OK)];
    for (layer, status) in layers {
        let service = layer.limit(STEP).layer(handler(dropped.clone()));
        let begin = Instant::now();
        let mut call = std::pin::pin!(service.oneshot(Request::new(())));
        let response = call.as_mut().await.expect("infallible");
        assert_eq!(response.status(), status);
        assert!(begin.elapsed() >= STEP && begin.elapsed() <= STEP + Duration::from_millis(1));
        assert_eq!(response.headers().contains_key("failed"), status == StatusCode::OK);
        assert!(response.into_body().frame().await.is_none());
    }
    assert_eq!(Arc::strong_count(&dropped), 1);
}

type Frames = Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

/// An answer that streams one frame each 10 ms, for ever.
async fn streaming(_: Request<()>) -> Result<Response<StreamBody<Frames>>, Infallible> {
    let frames = futures_util::stream::repeat(()).then(|()| async {
        sleep(STEP / 3).await;
        assert!(Context::current().remaining().is_some(), "calls made here have the deadline");
        Ok(Frame::data(Bytes::from_static(b"x")))
    });
    Ok(Response::new(StreamBody::new(Box::pin(frames))))
}

#[tokio::test(start_paused = true)]
async fn an_answer_ends_at_the_deadline_with_the_protocols_trailers() {
    let begin = Instant::now();
    let service = DeadlineLayer::new().protocol(&Plain).limit(2 * STEP).layer(service_fn(streaming));
    let response = service.oneshot(Request::new(())).await.expect("infallible");
    let body = response.into_body().collect().await.expect("infallible");
    assert!(begin.elapsed() <= 2 * STEP + Duration::from_millis(1), "{:?}", begin.elapsed());
    assert!(body.trailers().expect("trailers").contains_key("failed"));
    assert!(body.to_bytes().len() >= 5);
}

#[tokio::test(start_paused = true)]
async fn only_a_failed_answer_forbids_its_retry_and_only_if_a_nested_call_does() {
    for (nested, failed, forbidden) in [(true, true, true), (true, false, false), (false, true, false)] {
        for in_trailers in [false, true] {
            let handler = service_fn(move |_: Request<()>| async move {
                if nested {
                    Context::current().forbid_retry();
                }
                let last = if failed { Plain.expired_trailers() } else { HeaderMap::new() };
                let (head, trailers) = if in_trailers { (HeaderMap::new(), last) } else { (last, HeaderMap::new()) };
                let frames = futures_util::stream::iter([Ok::<_, Infallible>(Frame::<Bytes>::trailers(trailers))]);
                let mut response = Response::new(StreamBody::new(frames));
                *response.headers_mut() = head;
                Ok::<_, Infallible>(response)
            });
            let response = DeadlineLayer::new().protocol(&Plain).layer(handler).oneshot(Request::new(())).await;
            let (head, body) = response.expect("infallible").into_parts();
            let trailers = body.collect().await.expect("infallible").trailers().cloned().unwrap_or_default();
            let told = if in_trailers { trailers } else { head.headers };
            assert_eq!(told.contains_key("no-retry"), forbidden, "nested {nested}, failed {failed}, {in_trailers}");
        }
    }
}
