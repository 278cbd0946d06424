//! A front that ends TLS and leads to a backend, as its test configures it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::pki::{Authority, Issued};

/// Ends TLS before a backend. Its connections end when it is dropped.
pub(crate) struct TlsFront {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    config: Mutex<Arc<ServerConfig>>,
    clients: Mutex<Vec<Client>>,
    accepted: AtomicUsize,
}

/// A client that came.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Client {
    /// The serial number of its certificate, if it showed one.
    pub(crate) serial: Option<String>,
    /// The name it asked for.
    pub(crate) server_name: Option<String>,
}

/// What a server shows, and whose clients it takes.
pub(crate) fn server(issued: &Issued, clients: Option<&Authority>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der()).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        }
    };
    let mut config = builder.with_single_cert(vec![issued.der.clone()], issued.key_der.clone_key()).expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

impl TlsFront {
    pub(crate) async fn start(to: SocketAddr, config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let state = Arc::new(State {
            config: Mutex::new(Arc::new(config)),
            clients: Mutex::default(),
            accepted: AtomicUsize::new(0),
        });
        let task = tokio::spawn(accept(listener, to, state.clone()));
        Self { address, state, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections meet this.
    pub(crate) fn configure(&self, config: ServerConfig) {
        *self.state.config.lock() = Arc::new(config);
    }

    /// The connections that were accepted so far, whatever came of them.
    pub(crate) fn accepted(&self) -> usize {
        self.state.accepted.load(Relaxed)
    }

    /// The clients that came so far.
    pub(crate) fn clients(&self) -> Vec<Client> {
        self.state.clients.lock().clone()
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        state.accepted.fetch_add(1, Relaxed);
        connections.spawn(serve(stream, to, state.clone()));
    }
}

async fn serve(stream: TcpStream, to: SocketAddr, state: Arc<State>) {
    let config = state.config.lock().clone();
    let Ok(mut stream) = TlsAcceptor::from(config).accept(stream).await else { return };
    let session = stream.get_ref().1;
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let client = Client {
        serial: leaf.map(|leaf| super::pki::serial_of(leaf)),
        server_name: session.server_name().map(str::to_owned),
    };
    state.clients.lock().push(client);
    if let Ok(mut backend) = TcpStream::connect(to).await {
        let _ = copy_bidirectional(&mut stream, &mut backend).await;
    }
}
