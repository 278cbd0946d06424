//! The connection against `h2`'s server, and against a peer that writes bytes by hand.

mod calls;
mod ends;
mod flow;
mod limits;
mod raw;

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Collected, Full};
use tokio::io::{DuplexStream, duplex};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::error::BoxError;
use super::{BodyError, Config, Connection, Outgoing, RecvBody, Send, handshake};
use crate::error::with_causes;

/// A connection to an `h2` server that runs `handler` for each request.
async fn connected<H, F>(handler: H) -> Connection
where
    H: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + std::marker::Send + 'static,
    F: Future<Output = ()> + std::marker::Send + 'static,
{
    connected_to(&server::Builder::new(), Config::default(), handler).await
}

async fn connected_to<H, F>(server: &server::Builder, config: Config, handler: H) -> Connection
where
    H: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + std::marker::Send + 'static,
    F: Future<Output = ()> + std::marker::Send + 'static,
{
    let (near, far) = duplex(64 << 10);
    tokio::spawn(serve(server.clone(), far, handler));
    handshake(near, &config, &Handle::current()).await.unwrap()
}

async fn serve<H, F>(server: server::Builder, io: DuplexStream, handler: H)
where
    H: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F,
    F: Future<Output = ()> + std::marker::Send + 'static,
{
    let mut connection = server.handshake(io).await.unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(handler(request, respond));
    }
}

/// Answers with what it got, frame by frame, trailers too.
async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut body = request.into_body();
    let mut out = respond.send_response(Response::new(()), false).unwrap();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        if out.send_data(data, false).is_err() {
            return;
        }
    }
    match body.trailers().await {
        Ok(Some(trailers)) => out.send_trailers(trailers),
        _ => out.send_data(Bytes::new(), true),
    }
    .ok();
}

fn request<B>(body: B) -> Outgoing<B> {
    let request = Request::post("http://greeter/hello").header("te", "trailers").body(body).unwrap();
    Outgoing::from(request)
}

fn full(body: impl Into<Bytes>) -> Outgoing<Full<Bytes>> {
    request(Full::new(body.into()))
}

/// Takes a slot and sends.
fn send<B>(connection: &Connection, request: Outgoing<B>) -> Send<B> {
    connection.try_acquire().unwrap().send(request)
}

async fn collect(response: Response<RecvBody>) -> Result<Collected<Bytes>, BodyError> {
    response.into_body().collect().await
}

/// A body that a test feeds.
struct Fed(mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>);

type Feed = mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>;

fn fed() -> (Feed, Fed) {
    let (feed, body) = mpsc::unbounded_channel();
    (feed, Fed(body))
}

impl Body for Fed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(cx)
    }
}

fn data(bytes: impl Into<Bytes>) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(bytes.into()))
}

fn trailers(name: &'static str, value: &'static str) -> Result<Frame<Bytes>, BoxError> {
    let mut map = HeaderMap::new();
    map.insert(name, value.parse().unwrap());
    Ok(Frame::trailers(map))
}

/// Polls once.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}

/// Lets all other tasks do what they can.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}
