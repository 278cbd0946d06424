//! Copies of calls around a service of HTTP, without a mesh.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{CopyBody, Mirror, MirrorCounts, MirrorLayer, RequestBody};

const ALL: u32 = 1_000_000;

/// A service that reads its requests and answers with their length.
fn reading<B>() -> impl Service<Request<RequestBody<B>>, Response = Response<usize>, Error = (), Future: Send> + Clone
where
    B: http_body::Body<Data = Bytes, Error: Send> + Send + 'static,
{
    service_fn(|request: Request<RequestBody<B>>| async {
        let body = request.into_body().collect().await.map_err(|_| ())?;
        Ok(Response::new(body.to_bytes().len()))
    })
}

/// A copy's body with its trailers; `None`: it is not whole.
type Copied = Option<(Bytes, Option<HeaderMap>)>;

/// A mirror that hands on what it gets.
fn telling() -> (
    impl Service<Request<CopyBody>, Response = Response<Empty<Bytes>>, Error = Infallible, Future: Send> + Clone,
    mpsc::UnboundedReceiver<Copied>,
) {
    let (tell, told) = mpsc::unbounded_channel();
    let mirror = service_fn(move |copy: Request<CopyBody>| {
        let tell = tell.clone();
        async move {
            let body = copy.into_body().collect().await.ok();
            let whole = body.map(|body| (body.trailers().cloned(), body.to_bytes()));
            // Nobody may listen any more.
            let _ = tell.send(whole.map(|(trailers, bytes)| (bytes, trailers)));
            Ok(Response::new(Empty::new()))
        }
    });
    (mirror, told)
}

/// A mirror that never answers.
fn silent()
-> impl Service<Request<CopyBody>, Response = Response<Empty<Bytes>>, Error = Infallible, Future: Send> + Clone {
    service_fn(|copy: Request<CopyBody>| async move {
        let _unread = copy;
        std::future::pending().await
    })
}

async fn call<S, M, B>(service: &Mirror<S, M>, body: B) -> Result<usize, ()>
where
    Mirror<S, M>: Service<Request<B>, Response = Response<usize>, Error = ()> + Clone,
{
    Ok(service.clone().oneshot(Request::new(body)).await?.into_body())
}

#[tokio::test]
async fn a_copy_has_the_data_and_the_trailers_of_its_call() {
    let (mirror, mut told) = telling();
    let service = MirrorLayer::new(mirror).share(ALL).layer(reading());
    let trailers: HeaderMap = [(http::header::ETAG, HeaderValue::from_static("1"))].into_iter().collect();
    let frames = ["a", "", "bc"].map(|data| Frame::data(Bytes::from(data))).into_iter();
    let frames = frames.chain([Frame::trailers(trailers.clone())]).map(Ok::<_, Infallible>);
    assert_eq!(call(&service, StreamBody::new(stream::iter(frames))).await, Ok(3));
    assert_eq!(told.recv().await, Some(Some((Bytes::from("abc"), Some(trailers)))));
}

#[tokio::test]
async fn a_request_without_a_body_is_complete_at_once() {
    let (mirror, mut told) = telling();
    let service = MirrorLayer::new(mirror).share(ALL).layer(reading());
    assert_eq!(call(&service, Empty::new()).await, Ok(0));
    assert_eq!(told.recv().await, Some(Some((Bytes::new(), None))));
}

#[tokio::test]
async fn a_request_that_fails_is_no_whole_copy() {
    let (mirror, mut told) = telling();
    let layer = MirrorLayer::new(mirror).share(ALL);
    let service = layer.layer(reading());
    let frames = [Ok(Frame::data(Bytes::from("half"))), Err("broken")];
    assert_eq!(call(&service, StreamBody::new(stream::iter(frames))).await, Err(()));
    drop((service, layer));
    // The copy is given up, or sees that it is not whole, whatever comes first.
    assert_eq!(told.recv().await.flatten(), None);
}

#[tokio::test(start_paused = true)]
async fn bounds_hold_and_what_is_over_is_given_back() {
    let layer = MirrorLayer::new(silent()).share(ALL).max_in_flight(3).buffer_size(1_000, 1_500);
    let layer = layer.max_duration(Duration::from_secs(2));
    let service = layer.layer(reading());
    let start = Instant::now();
    for (bytes, expected) in [
        (700, MirrorCounts { sent: 1, in_flight: 1, held: 732, ..MirrorCounts::default() }),
        // Too much for one.
        (1_000, MirrorCounts { sent: 2, cut: 1, in_flight: 1, held: 732, ..MirrorCounts::default() }),
        // Too much together.
        (800, MirrorCounts { sent: 3, cut: 2, in_flight: 1, held: 732, ..MirrorCounts::default() }),
        (100, MirrorCounts { sent: 4, cut: 2, in_flight: 2, held: 864, ..MirrorCounts::default() }),
        (100, MirrorCounts { sent: 5, cut: 2, in_flight: 3, held: 996, ..MirrorCounts::default() }),
        // Too many.
        (100, MirrorCounts { sent: 5, cut: 2, skipped: 1, in_flight: 3, held: 996 }),
    ] {
        assert_eq!(call(&service, Full::from(vec![0; bytes])).await, Ok(bytes));
        // What is given up ends as soon as its task runs.
        tokio::task::yield_now().await;
        assert_eq!(layer.counts(), expected, "{bytes} bytes");
    }
    assert_eq!(start.elapsed(), Duration::ZERO, "no call waits");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let MirrorCounts { in_flight, held, .. } = layer.counts();
    assert_eq!((in_flight, held), (0, 0), "each has ended after its longest time");
}

#[tokio::test]
async fn a_stream_of_empty_frames_is_bounded_too() {
    let layer = MirrorLayer::new(silent()).share(ALL).buffer_size(1_000, 1_000_000);
    let service = layer.layer(reading());
    let frames = stream::repeat(()).take(100_000).map(|()| Ok::<_, Infallible>(Frame::data(Bytes::new())));
    assert_eq!(call(&service, StreamBody::new(frames)).await, Ok(0));
    assert_eq!((layer.counts().cut, layer.counts().held), (1, 0));
}

#[test]
fn outside_a_runtime_nothing_is_mirrored_and_no_call_fails() {
    let layer = MirrorLayer::new(silent()).share(ALL);
    let service = layer.layer(reading());
    assert_eq!(futures_util::FutureExt::now_or_never(call(&service, Full::from("x"))), Some(Ok(1)));
    assert_eq!(layer.counts(), MirrorCounts::default());
}
