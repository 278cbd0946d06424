//! An authorization service (`envoy.service.auth.v3.Authorization`), which answers as its test tells it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request};
use mesh_xds_proto::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use super::{Counter, unary};

/// It listens until it is dropped.
pub(crate) struct Authorization {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    answer: Mutex<Answer>,
    asked: Mutex<Vec<Asked>>,
    checks: Counter,
    connections: Counter,
}

/// What it says to a check.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Response(Box<CheckResponse>),
    /// When its test says so.
    Held(Arc<Notify>, Box<CheckResponse>),
    /// Bytes that are in no frame of gRPC, or no message.
    Raw(&'static [u8]),
    Status(u16, &'static str),
    Reset,
    Silence,
}

/// One check.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) attributes: AttributeContext,
    pub(crate) headers: HeaderMap,
}

impl From<CheckResponse> for Answer {
    fn from(response: CheckResponse) -> Self {
        Self::Response(Box::new(response))
    }
}

impl Authorization {
    pub(crate) async fn start(answer: impl Into<Answer>) -> Self {
        Self::start_with(answer, None).await
    }

    /// With a limit of streams on each connection.
    pub(crate) async fn start_with(answer: impl Into<Answer>, streams: Option<u32>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::start_on(listener, answer, streams)
    }

    pub(crate) fn start_on(listener: TcpListener, answer: impl Into<Answer>, streams: Option<u32>) -> Self {
        let address = listener.local_addr().expect("a bound listener");
        let answer = Mutex::new(answer.into());
        let (checks, connections) = (Counter::new(), Counter::new());
        let state = Arc::new(State { answer, asked: Mutex::default(), checks, connections });
        let task = tokio::spawn(accept(listener, state.clone(), streams));
        Self { address, state, task }
    }

    pub(crate) fn target(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn say(&self, answer: impl Into<Answer>) {
        *self.state.answer.lock() = answer.into();
    }

    /// The checks so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().clone()
    }

    pub(crate) fn checks(&self) -> &Counter {
        &self.state.checks
    }

    pub(crate) fn connections(&self) -> &Counter {
        &self.state.connections
    }
}

impl Drop for Authorization {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, streams: Option<u32>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        state.connections.add(1);
        connections.spawn(async move {
            let mut builder = h2::server::Builder::new();
            streams.map(|streams| builder.max_concurrent_streams(streams));
            let Ok(mut connection) = builder.handshake(stream).await else { return };
            let mut calls = JoinSet::new();
            while let Some(Ok((request, respond))) = connection.accept().await {
                calls.spawn(handle(request, respond, state.clone()));
            }
        });
    }
}

async fn handle(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, state: Arc<State>) {
    let (head, message) = unary::received(request).await;
    assert_eq!(head.uri.path(), "/envoy.service.auth.v3.Authorization/Check");
    let attributes = CheckRequest::decode(message).expect("a request").attributes.expect("attributes");
    state.asked.lock().push(Asked { attributes, headers: head.headers });
    state.checks.add(1);
    let answer = state.answer.lock().clone();
    let mut respond_with = |response: &CheckResponse| {
        unary::answer(&mut respond, Some(unary::frame(&response.encode_to_vec())), 0, "");
    };
    match answer {
        Answer::Response(response) => respond_with(&response),
        Answer::Held(until, response) => {
            until.notified().await;
            respond_with(&response);
        }
        Answer::Raw(bytes) => unary::answer(&mut respond, Some(Bytes::from_static(bytes)), 0, ""),
        Answer::Status(code, text) => unary::answer(&mut respond, None, code, text),
        Answer::Reset => respond.send_reset(Reason::INTERNAL_ERROR),
        Answer::Silence => std::future::pending().await,
    }
}
