//! Istio's CA: `IstioCertificateService` over TLS, which answers as its test tells it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use parking_lot::Mutex;
use prost::Message;
use rcgen::SanType;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::Counter;
use super::pki::{Authority, dns, uri};
use super::tls::server;
use super::unary;

/// Its certificates are those of an [`Authority`]; its own is for `istiod.istio-system.svc`.
pub(crate) struct Istio {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    authority: Authority,
    answer: Mutex<Answer>,
    requests: Mutex<Vec<Asked>>,
    asked: Counter,
}

/// What it says to a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// A certificate of this ID that is valid for so long.
    Issue(&'static str, Duration),
    /// A certificate of another key.
    OtherKey,
    /// These as the chain.
    Chain(Vec<&'static str>),
    Status(u8, &'static str),
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) at: Instant,
    pub(crate) authorization: String,
    pub(crate) cluster_id: String,
    pub(crate) validity: i64,
    pub(crate) names: Vec<SanType>,
}

#[derive(Clone, PartialEq, Message)]
struct SigningRequest {
    #[prost(string, tag = "1")]
    csr: String,
    #[prost(int64, tag = "3")]
    validity_duration: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Issued {
    #[prost(string, repeated, tag = "1")]
    cert_chain: Vec<String>,
}

impl Istio {
    pub(crate) async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let (authority, answer) = (Authority::new(), Mutex::new(answer));
        let own = server(&authority.issue(&[dns("istiod.istio-system.svc")], |_| {}), None);
        let state = Arc::new(State { authority, answer, requests: Mutex::default(), asked: Counter::new() });
        let task = tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(own)), state.clone()));
        Self { address, state, task }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.state.authority
    }

    pub(crate) fn say(&self, answer: Answer) {
        *self.state.answer.lock() = answer;
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> &Counter {
        &self.state.asked
    }

    pub(crate) fn requests(&self) -> Vec<Asked> {
        self.state.requests.lock().clone()
    }
}

impl Drop for Istio {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, state) = (tls.clone(), state.clone());
        connections.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(handle(request, respond, state.clone()));
            }
        });
    }
}

async fn handle(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, state: Arc<State>) {
    let (head, message) = unary::received(request).await;
    assert_eq!(head.uri.path(), "/istio.v1.auth.IstioCertificateService/CreateCertificate");
    let Ok(request) = SigningRequest::decode(message) else { return };
    let header =
        |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    state.requests.lock().push(Asked {
        at: Instant::now(),
        authorization: header("authorization"),
        cluster_id: header("clusterid"),
        validity: request.validity_duration,
        names: super::pki::names_of_request(&request.csr),
    });
    state.asked.add(1);
    let answer = state.answer.lock().clone();
    let (message, (code, text)) = state.answer(&request.csr, answer);
    unary::answer(&mut respond, message.map(|message| unary::frame(&message)), code, text);
}

impl State {
    fn answer(&self, csr: &str, answer: Answer) -> (Option<Vec<u8>>, (u16, &'static str)) {
        let root = self.authority.pem();
        let chain = match answer {
            Answer::Issue(id, life) => vec![self.authority.sign(csr, id, SystemTime::now() + life), root.clone(), root],
            Answer::OtherKey => vec![self.authority.issue(&[uri("spiffe://a/b")], |_| {}).chain, root],
            Answer::Chain(chain) => chain.into_iter().map(str::to_owned).collect(),
            Answer::Status(code, text) => return (None, (code.into(), text)),
        };
        (Some(Issued { cert_chain: chain }.encode_to_vec()), (0, ""))
    }
}
