//! A SPIFFE agent: a Workload API on a Unix socket, which answers as its test tells it.

use std::collections::HashMap;
use std::path::PathBuf;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use prost::Message;
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::pki::{Authority, Issued};
use super::{Counted, Counter};

/// It listens from [`start`](Self::start) on, and not while it is stopped.
pub(crate) struct Agent {
    folder: TempDir,
    answer: watch::Sender<Answer>,
    asked: Counter,
    connections: Counter,
    task: Option<JoinHandle<()>>,
}

/// What it says to everyone who asks, and who has asked.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// A message.
    Message(Bytes),
    /// A message, and the end.
    Once(Bytes),
    /// Bytes that are in no frame of gRPC.
    Raw(Bytes),
    /// A status, and the end.
    Status(u8, &'static str),
    Silence,
}

/// `X509SVIDResponse`, as far as a test fills it in.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Svids {
    #[prost(message, repeated, tag = "1")]
    pub(crate) svids: Vec<Svid>,
    #[prost(map = "string, bytes", tag = "3")]
    pub(crate) federated_bundles: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Svid {
    #[prost(string, tag = "1")]
    pub(crate) spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(crate) hint: String,
}

/// `X509BundlesResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Bundles {
    #[prost(map = "string, bytes", tag = "2")]
    pub(crate) bundles: HashMap<String, Vec<u8>>,
}

impl Svid {
    pub(crate) fn new(id: &str, issued: &Issued, authority: &Authority) -> Self {
        Self {
            spiffe_id: id.into(),
            x509_svid: issued.der.to_vec(),
            x509_svid_key: issued.key_der.secret_der().to_vec(),
            bundle: authority.der().to_vec(),
            hint: String::new(),
        }
    }
}

impl From<Svid> for Answer {
    fn from(svid: Svid) -> Self {
        Svids { svids: vec![svid], federated_bundles: HashMap::new() }.into()
    }
}

impl From<Svids> for Answer {
    fn from(svids: Svids) -> Self {
        Self::Message(svids.encode_to_vec().into())
    }
}

impl From<Bundles> for Answer {
    fn from(bundles: Bundles) -> Self {
        Self::Message(bundles.encode_to_vec().into())
    }
}

impl Agent {
    /// Does not listen yet.
    pub(crate) fn new(answer: impl Into<Answer>) -> Self {
        let folder = TempDir::new().expect("a folder");
        let (asked, connections) = (Counter::new(), Counter::new());
        Self { folder, answer: watch::Sender::new(answer.into()), asked, connections, task: None }
    }

    pub(crate) fn started(answer: impl Into<Answer>) -> Self {
        let mut agent = Self::new(answer);
        agent.start();
        agent
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.path().display())
    }

    pub(crate) fn start(&mut self) {
        let listener = UnixListener::bind(self.path()).expect("a socket");
        let counts = (self.asked.clone(), self.connections.clone());
        self.task = Some(tokio::spawn(accept(listener, self.answer.subscribe(), counts)));
    }

    /// Its socket is gone, and so are its connections.
    pub(crate) fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            std::fs::remove_file(self.path()).expect("the socket is there");
        }
    }

    pub(crate) fn say(&self, answer: impl Into<Answer>) {
        self.answer.send_replace(answer.into());
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> &Counter {
        &self.asked
    }

    /// How many connections are open.
    pub(crate) fn connections(&self) -> &Counter {
        &self.connections
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn accept(listener: UnixListener, answer: watch::Receiver<Answer>, (asked, open): (Counter, Counter)) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (served, open) = (serve(stream, answer.clone(), asked.clone()), Counted::by(&open));
        connections.spawn(async move {
            served.await;
            drop(open);
        });
    }
}

async fn serve(stream: UnixStream, answer: watch::Receiver<Answer>, asked: Counter) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut calls = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        asked.add(1);
        calls.spawn(handle(request, respond, answer.clone()));
    }
}

/// A call that ends before its test does ended by itself.
async fn handle(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, mut answer: watch::Receiver<Answer>) {
    let known = ["/SpiffeWorkloadAPI/FetchX509SVID", "/SpiffeWorkloadAPI/FetchX509Bundles"];
    assert!(known.contains(&request.uri().path()), "{}", request.uri());
    let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    if request.headers().get("workload.spiffe.io").is_none_or(|value| value != "true") {
        return end(&mut stream, 3, "security header missing from request");
    }
    loop {
        let now = answer.borrow_and_update().clone();
        match now {
            Answer::Message(message) => drop(stream.send_data(framed(&message), false)),
            Answer::Once(message) => {
                let _ = stream.send_data(framed(&message), false);
                return end(&mut stream, 0, "");
            }
            Answer::Raw(bytes) => drop(stream.send_data(bytes, false)),
            Answer::Status(code, message) => return end(&mut stream, code, message),
            Answer::Silence => {}
        }
        tokio::select! {
            changed = answer.changed() => if changed.is_err() { return },
            _ = std::future::poll_fn(|cx| stream.poll_reset(cx)) => return,
        }
    }
}

fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("a short message");
    [&[0][..], &length.to_be_bytes(), message].concat().into()
}

fn end(stream: &mut SendStream<Bytes>, code: u8, message: &'static str) {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", u16::from(code).into());
    trailers.insert("grpc-message", message.parse().expect("ASCII"));
    if stream.send_trailers(trailers).is_err() {
        stream.send_reset(Reason::CANCEL);
    }
}
