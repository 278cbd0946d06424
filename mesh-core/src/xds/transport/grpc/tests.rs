//! Streams against servers of `h2`, in process and over sockets.

use std::future::poll_fn;
use std::io;

use h2::RecvStream;
use h2::server::SendResponse;
use tokio::io::{DuplexStream, duplex};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use super::super::ADS;
use super::super::connector::Io;
use super::*;

/// Serves HTTP/2 on a connection, with `handler` for each request.
async fn serve<H, F>(io: impl Io + 'static, handler: H)
where
    H: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let Ok(mut connection) = h2::server::handshake(io).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(handler(request, respond));
    }
}

fn bootstrap() -> Bootstrap {
    Bootstrap::builder("inprocess:test").insecure().build().unwrap()
}

fn transport_over(connect: impl Fn() -> io::Result<DuplexStream> + Send + Sync + 'static) -> GrpcTransport {
    let connect: InProcess = Arc::new(move || Ok(Box::new(connect()?)));
    GrpcTransport::in_process(connect, &bootstrap(), GrpcOptions::default(), &Handle::current()).unwrap()
}

/// A transport to a server in this process.
fn in_process<H, F>(handler: H) -> GrpcTransport
where
    H: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    transport_over(move || {
        let (near, far) = duplex(64 << 10);
        tokio::spawn(serve(far, handler.clone()));
        Ok(near)
    })
}

fn to(server_uri: impl Into<String>) -> GrpcTransport {
    let bootstrap = Bootstrap::builder(server_uri).insecure().build().unwrap();
    GrpcTransport::new(&bootstrap, GrpcOptions::default(), &Handle::current()).unwrap()
}

async fn recv(stream: &mut dyn Stream) -> Result<Bytes, StreamError> {
    poll_fn(|cx| stream.poll_recv(cx)).await
}

async fn send(stream: &mut dyn Stream, message: impl Into<Bytes>) {
    poll_fn(|cx| {
        // The stream makes progress by being polled for responses.
        assert!(stream.poll_recv(cx).is_pending());
        stream.poll_ready(cx)
    })
    .await;
    stream.send(message.into());
    poll_fn(|cx| {
        let _ = stream.poll_recv(cx);
        Poll::Ready(())
    })
    .await;
}

/// Why a stream brings nothing.
async fn failure(transport: &GrpcTransport) -> String {
    match transport.open(ADS).await {
        Ok(mut stream) => recv(&mut *stream).await.expect_err("no message").to_string(),
        Err(error) => error.to_string(),
    }
}

fn head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

fn grpc(messages: &[&[u8]]) -> Bytes {
    messages.iter().flat_map(|message| frame(&Bytes::copy_from_slice(message)).unwrap()).collect()
}

fn trailers(status: &str, message: &str) -> HeaderMap {
    HeaderMap::from_iter([(GRPC_STATUS, status.parse().unwrap()), (GRPC_MESSAGE, message.parse().unwrap())])
}

/// Reads messages of the request and hands each to `each`.
async fn read(body: &mut RecvStream, deframer: &mut Deframer) -> Option<Bytes> {
    loop {
        if let Some(message) = deframer.next().unwrap() {
            return Some(message);
        }
        let data = body.data().await?.ok()?;
        body.flow_control().release_capacity(data.len()).unwrap();
        deframer.push(&data);
    }
}

#[tokio::test]
async fn requests_go_out_before_the_response_head_comes() {
    let transport = in_process(|request, mut respond| async move {
        let (mut body, mut deframer) = (request.into_body(), Deframer::new(1 << 20));
        let mut received = Vec::new();
        for _ in 0..3 {
            received.push(read(&mut body, &mut deframer).await.unwrap());
        }
        let mut out = respond.send_response(head(), false).unwrap();
        let received: Vec<&[u8]> = received.iter().map(|message| &message[..]).collect();
        out.send_data(grpc(&received), false).unwrap();
        std::future::pending::<()>().await;
    });
    let mut stream = transport.open(ADS).await.unwrap();
    for message in ["one", "two", "three"] {
        send(&mut *stream, message).await;
    }
    for message in ["one", "two", "three"] {
        assert_eq!(recv(&mut *stream).await.unwrap(), message);
    }
}

#[tokio::test]
async fn messages_go_both_ways_at_once() {
    let transport = in_process(|request, mut respond| async move {
        let (mut body, mut deframer) = (request.into_body(), Deframer::new(1 << 20));
        let mut out = respond.send_response(head(), false).unwrap();
        while let Some(message) = read(&mut body, &mut deframer).await {
            out.send_data(grpc(&[&message]), false).unwrap();
        }
    });
    let mut stream = transport.open(ADS).await.unwrap();
    for message in ["", "one", "two"] {
        send(&mut *stream, message).await;
        assert_eq!(recv(&mut *stream).await.unwrap(), message);
    }
}

#[tokio::test]
async fn the_request_head_is_that_of_grpc() {
    let transport = in_process(|request, mut respond| async move {
        let uri = request.uri();
        assert_eq!(uri.path(), "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources");
        assert_eq!((request.method(), uri.scheme_str()), (&Method::POST, Some("http")));
        assert_eq!(uri.authority().unwrap(), "localhost");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        assert_eq!(request.headers()["te"], "trailers");
        let mut out = respond.send_response(head(), false).unwrap();
        out.send_trailers(trailers("0", "")).unwrap();
    });
    assert_eq!(failure(&transport).await, "OK: the server ended the stream");
}

#[tokio::test]
async fn the_end_of_a_stream_reads_as_its_status() {
    /// How the server ends the stream.
    #[derive(Clone, Copy)]
    enum End {
        Trailers(&'static str, &'static str),
        TrailersOnly(&'static str, &'static str),
        Http(u16),
        ContentType(&'static str),
        NoStatus,
        Reset,
        Garbage(&'static [u8]),
    }
    let table = [
        (End::Trailers("14", "going%20away %E2%9C%93"), "UNAVAILABLE: going away ✓"),
        (End::Trailers("3", "missing node"), "INVALID_ARGUMENT: missing node"),
        (End::Trailers("77", ""), "status 77: the server ended the stream"),
        (End::Trailers("x", "y"), "UNKNOWN: y"),
        (End::TrailersOnly("12", "unknown service"), "UNIMPLEMENTED: unknown service"),
        (End::Http(503), "UNAVAILABLE: HTTP status 503 Service Unavailable"),
        (End::Http(404), "UNIMPLEMENTED: HTTP status 404 Not Found"),
        (End::ContentType("text/html"), "UNKNOWN: not a gRPC response: content-type Some(\"text/html\")"),
        (End::NoStatus, "UNKNOWN: the stream ended without a status"),
        (End::Reset, "UNAVAILABLE: stream reset by peer: INTERNAL_ERROR"),
        (End::Garbage(&[1, 0, 0, 0, 0]), "INTERNAL: compressed response, though no compression was offered"),
        (
            End::Garbage(&[0, 0xff, 0xff, 0xff, 0xff]),
            "RESOURCE_EXHAUSTED: response of 4294967295 bytes, over the limit of 64 MiB",
        ),
    ];
    for (end, wanted) in table {
        let transport = in_process(move |_, mut respond| async move {
            match end {
                End::Trailers(code, message) => {
                    let mut out = respond.send_response(head(), false).unwrap();
                    out.send_trailers(trailers(code, message)).unwrap();
                }
                End::TrailersOnly(code, message) => {
                    let mut head = head();
                    head.headers_mut().extend(trailers(code, message));
                    respond.send_response(head, true).unwrap();
                }
                End::Http(status) => {
                    let head = Response::builder().status(status).body(()).unwrap();
                    respond.send_response(head, true).unwrap();
                }
                End::ContentType(kind) => {
                    let head = Response::builder().header("content-type", kind).body(()).unwrap();
                    respond.send_response(head, true).unwrap();
                }
                End::NoStatus => drop(respond.send_response(head(), true).unwrap()),
                End::Reset => {
                    respond.send_response(head(), false).unwrap().send_reset(h2::Reason::INTERNAL_ERROR);
                }
                End::Garbage(bytes) => {
                    let mut out = respond.send_response(head(), false).unwrap();
                    out.send_data(Bytes::from_static(bytes), false).unwrap();
                    std::future::pending::<()>().await;
                }
            }
        });
        let mut stream = transport.open(ADS).await.unwrap();
        assert_eq!(recv(&mut *stream).await.unwrap_err().to_string(), wanted);
        assert_eq!(recv(&mut *stream).await.unwrap_err().to_string(), wanted, "and stays so");
    }
}

#[tokio::test]
async fn a_response_larger_than_grpcs_four_megabytes_comes_through() {
    let transport = in_process(|_, mut respond| async move {
        let mut out = respond.send_response(head(), false).unwrap();
        out.send_data(grpc(&[&vec![7; 20 << 20]]), false).unwrap();
        std::future::pending::<()>().await;
    });
    let mut stream = transport.open(ADS).await.unwrap();
    assert_eq!(recv(&mut *stream).await.unwrap().len(), 20 << 20);
}

#[tokio::test]
async fn a_request_larger_than_the_servers_window_comes_through() {
    let transport = in_process(|request, mut respond| async move {
        let (mut body, mut deframer) = (request.into_body(), Deframer::new(1 << 30));
        let message = read(&mut body, &mut deframer).await.unwrap();
        let mut out = respond.send_response(head(), false).unwrap();
        out.send_data(grpc(&[message.len().to_string().as_bytes()]), false).unwrap();
        std::future::pending::<()>().await;
    });
    let mut stream = transport.open(ADS).await.unwrap();
    send(&mut *stream, vec![7; 4 << 20]).await;
    assert_eq!(recv(&mut *stream).await.unwrap(), (4 << 20).to_string());
}

#[tokio::test]
async fn streams_share_a_connection_until_it_ends() {
    let (counter, mut connections) = mpsc::unbounded_channel();
    let transport = transport_over(move || {
        let (near, far) = duplex(64 << 10);
        let server = tokio::spawn(serve(far, |_, respond| async move {
            let _respond = respond;
            std::future::pending::<()>().await;
        }));
        counter.send(server).unwrap();
        Ok(near)
    });
    let (mut first, mut second) = (transport.open(ADS).await.unwrap(), transport.open(ADS).await.unwrap());
    let server = connections.try_recv().unwrap();
    assert!(connections.try_recv().is_err());
    for stream in [&mut first, &mut second] {
        send(&mut **stream, "hello").await;
    }
    tokio::task::yield_now().await;
    server.abort();
    for stream in [&mut first, &mut second] {
        let error = recv(&mut **stream).await.unwrap_err().to_string();
        assert_eq!(error, "UNAVAILABLE: connection lost: connection closed by peer");
    }
    transport.open(ADS).await.unwrap();
    assert!(connections.try_recv().is_ok());
}

#[tokio::test]
async fn a_dropped_stream_is_cancelled() {
    let (ended, mut end) = mpsc::unbounded_channel();
    let transport = in_process(move |mut request: Request<RecvStream>, mut respond| {
        let ended = ended.clone();
        async move {
            let mut out = respond.send_response(head(), false).unwrap();
            out.send_data(grpc(&[b"hello"]), false).unwrap();
            let reason = poll_fn(|cx| out.poll_reset(cx)).await;
            let _ = request.body_mut().data().await;
            ended.send(reason.unwrap()).unwrap();
        }
    });
    let mut stream = transport.open(ADS).await.unwrap();
    recv(&mut *stream).await.unwrap();
    drop(stream);
    assert_eq!(end.recv().await, Some(h2::Reason::CANCEL));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let text = failure(&to(address.to_string())).await;
    assert!(text.starts_with(&format!("UNAVAILABLE: {address}: Connection refused")), "{text}");
    let text = failure(&to("no-such-host.invalid:1")).await;
    assert!(text.starts_with("UNAVAILABLE: name `no-such-host.invalid`: "), "{text}");
    let text = failure(&to("unix:/nowhere/xds")).await;
    assert!(text.starts_with("UNAVAILABLE: /nowhere/xds: No such file"), "{text}");
    let text = failure(&to("inprocess:x")).await;
    assert_eq!(text, "UNAVAILABLE: no control plane `x` was given by code");
}

#[tokio::test]
async fn servers_are_reached_by_every_form_of_address() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("xds");
    let unix = tokio::net::UnixListener::bind(&path).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = tcp.local_addr().unwrap().port();
    let end = |_, mut respond: SendResponse<Bytes>| async move {
        respond.send_response(head(), false).unwrap().send_trailers(trailers("0", "here")).unwrap();
    };
    let server = tokio::spawn(async move {
        loop {
            tokio::select! {
                Ok((io, _)) = tcp.accept() => tokio::spawn(serve(io, end)),
                Ok((io, _)) = unix.accept() => tokio::spawn(serve(io, end)),
            };
        }
    });
    let uris = [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("dns:///localhost:{port}"),
        format!("ipv4:127.0.0.1:{port}"),
        // The first address refuses, the second answers.
        format!("ipv4:127.0.0.1:1,127.0.0.1:{port}"),
        format!("http://127.0.0.1:{port}"),
        format!("unix:{}", path.display()),
        format!("unix://{}", path.display()),
    ];
    for uri in uris {
        assert_eq!(failure(&to(uri.as_str())).await, "OK: here", "{uri}");
    }
    server.abort();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_says_nothing_is_given_up_in_time() {
    let kept = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let transport = transport_over(move || {
        let (near, far) = duplex(1 << 10);
        kept.lock().push(far);
        Ok(near)
    });
    let start = Instant::now();
    let text = failure(&transport).await;
    assert!(text.starts_with("UNAVAILABLE: "), "{text}");
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn a_server_of_another_protocol_is_recognised() {
    let transport = transport_over(|| {
        let (near, mut far) = duplex(1 << 10);
        tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            let _ = far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        });
        Ok(near)
    });
    assert_eq!(failure(&transport).await, "UNAVAILABLE: peer speaks HTTP/1, not HTTP/2");
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_pinged_every_five_minutes() {
    let (pinged, mut pings) = mpsc::unbounded_channel();
    let transport = transport_over(move || {
        let (near, far) = duplex(64 << 10);
        tokio::spawn(count_pings(far, pinged.clone()));
        Ok(near)
    });
    let mut stream = transport.open(ADS).await.unwrap();
    let start = Instant::now();
    tokio::select! {
        error = recv(&mut *stream) => panic!("{error:?}"),
        _ = pings.recv() => {}
        () = sleep(Duration::from_secs(1000)) => panic!("no PING"),
    }
    let first = start.elapsed();
    assert!(first >= Duration::from_secs(300) && first <= Duration::from_secs(460), "{first:?}");
    // Nobody answers the PING.
    let error = recv(&mut *stream).await.unwrap_err().to_string();
    assert!(error.starts_with("UNAVAILABLE: connection lost: "), "{error}");
}

/// A peer that sends its SETTINGS and then only listens for PINGs.
async fn count_pings(mut io: DuplexStream, pinged: mpsc::UnboundedSender<()>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut preface = [0; 24];
    io.read_exact(&mut preface).await.unwrap();
    io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut header = [0; 9];
    while io.read_exact(&mut header).await.is_ok() {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        io.read_exact(&mut payload).await.unwrap();
        if header[3] == 6 {
            pinged.send(()).unwrap();
        }
    }
}

#[cfg(feature = "tls")]
mod tls {
    use std::fs;
    use std::path::{Path, PathBuf};

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{RootCertStore, ServerConfig};
    use rustls_pki_types::PrivateKeyDer;
    use tempfile::TempDir;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A certificate authority that writes what it issues to files.
    struct Authority {
        directory: TempDir,
        issuer: CertifiedIssuer<'static, KeyPair>,
    }

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
            Self { directory, issuer }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        /// Writes `NAME.pem` and `NAME.key`.
        fn issue(&self, name: &str, host: &str) -> (PathBuf, PathBuf) {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![host.into()]).unwrap();
            let certificate = params.signed_by(&key, &self.issuer).unwrap();
            let (chain, key_file) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
            fs::write(&chain, certificate.pem()).unwrap();
            fs::write(&key_file, key.serialize_pem()).unwrap();
            (chain, key_file)
        }

        fn roots(&self) -> RootCertStore {
            let mut roots = RootCertStore::empty();
            roots.add(self.issuer.der().clone()).unwrap();
            roots
        }

        /// Serves `localhost` over TLS, with client certificates if they are wanted.
        async fn serve(&self, host: &str, alpn: &[u8], is_mutual: bool) -> u16 {
            let key = KeyPair::generate().unwrap();
            let certificate = CertificateParams::new(vec![host.into()]).unwrap().signed_by(&key, &self.issuer).unwrap();
            let provider = Arc::new(provider());
            let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
            let builder = match is_mutual {
                false => builder.unwrap().with_no_client_auth(),
                true => {
                    let verifier =
                        WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider).build();
                    builder.unwrap().with_client_cert_verifier(verifier.unwrap())
                }
            };
            let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
            let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
            config.alpn_protocols = vec![alpn.to_vec()];
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            tokio::spawn(async move {
                while let Ok((io, _)) = listener.accept().await {
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        let Ok(io) = acceptor.accept(io).await else { return };
                        let peer = io.get_ref().1.peer_certificates().is_some();
                        serve(io, move |request, mut respond| async move {
                            let scheme = request.uri().scheme_str().unwrap_or_default().to_owned();
                            let mut out = respond.send_response(head(), false).unwrap();
                            let text = format!("{scheme} mutual={peer}");
                            out.send_trailers(trailers("0", &text)).unwrap();
                        })
                        .await;
                    });
                }
            });
            port
        }
    }

    #[cfg(feature = "aws-lc")]
    fn provider() -> rustls::crypto::CryptoProvider {
        rustls::crypto::aws_lc_rs::default_provider()
    }

    #[cfg(not(feature = "aws-lc"))]
    fn provider() -> rustls::crypto::CryptoProvider {
        rustls::crypto::ring::default_provider()
    }

    fn transport(bootstrap: &Bootstrap) -> Result<GrpcTransport, Error> {
        GrpcTransport::new(bootstrap, GrpcOptions::default(), &Handle::current())
    }

    fn with_roots(uri: &str, roots: &Path) -> GrpcTransport {
        transport(&Bootstrap::builder(uri).tls_with_roots(roots).build().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn the_servers_name_and_issuer_are_checked() {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let port = authority.serve("localhost", b"h2", false).await;
        let ca = authority.path("ca.pem");
        assert_eq!(failure(&with_roots(&format!("localhost:{port}"), &ca)).await, "OK: https mutual=false");
        let text = failure(&with_roots(&format!("127.0.0.1:{port}"), &ca)).await;
        assert!(
            text.starts_with("UNAVAILABLE: TLS: invalid peer certificate: certificate not valid for name"),
            "{text}"
        );
        let text = failure(&with_roots(&format!("localhost:{port}"), &stranger.path("ca.pem"))).await;
        assert!(text.starts_with("UNAVAILABLE: TLS: invalid peer certificate: "), "{text}");
    }

    #[tokio::test]
    async fn an_ip_address_is_a_name_too() {
        let authority = Authority::new();
        let port = authority.serve("127.0.0.1", b"h2", false).await;
        let transport = with_roots(&format!("ipv4:127.0.0.1:{port}"), &authority.path("ca.pem"));
        assert_eq!(failure(&transport).await, "OK: https mutual=false");
    }

    #[tokio::test]
    async fn a_client_certificate_is_shown_and_read_anew() {
        let authority = Authority::new();
        let port = authority.serve("localhost", b"h2", true).await;
        let (chain, key) = authority.issue("client", "client");
        let json = serde_json::json!({
            "xds_servers": [{
                "server_uri": format!("localhost:{port}"),
                "channel_creds": [{"type": "tls", "config": {
                    "ca_certificate_file": authority.path("ca.pem"),
                    "certificate_file": chain,
                    "private_key_file": key,
                    "refresh_interval": "0s",
                }}],
            }],
        });
        let bootstrap = Bootstrap::from_json(&json.to_string()).unwrap();
        assert_eq!(failure(&transport(&bootstrap).unwrap()).await, "OK: https mutual=true");

        // A pair that does not fit is not used; the last good one stays.
        let connections = transport(&bootstrap).unwrap();
        fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert_eq!(failure(&connections).await, "OK: https mutual=true");
        let report = transport(&bootstrap).unwrap_err().report();
        assert!(
            report.starts_with(
                "the `tls` credentials of the control plane (`channel_creds` in the bootstrap) cannot be used: "
            ),
            "{report}"
        );

        // A pipe that nobody writes to is not waited for.
        fs::remove_file(&key).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&key).status().unwrap().success());
        assert_eq!(failure(&connections).await, "OK: https mutual=true");
        fs::remove_file(&key).unwrap();

        // One that the server does not trust is used, as it fits.
        let connections = transport(&{
            authority.issue("client", "client");
            bootstrap.clone()
        })
        .unwrap();
        let stranger = Authority::new();
        let (other_chain, other_key) = stranger.issue("client", "client");
        fs::copy(other_chain, &chain).unwrap();
        fs::copy(other_key, &key).unwrap();
        let text = failure(&connections).await;
        assert!(text.starts_with("UNAVAILABLE: "), "{text}");
    }

    #[tokio::test]
    async fn a_server_without_http2_or_without_tls_is_refused() {
        let authority = Authority::new();
        let ca = authority.path("ca.pem");
        let port = authority.serve("localhost", b"http/1.1", false).await;
        let text = failure(&with_roots(&format!("localhost:{port}"), &ca)).await;
        assert!(text.starts_with("UNAVAILABLE: TLS: "), "{text}");

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                tokio::spawn(serve(io, |_, _| async {}));
            }
        });
        let text = failure(&with_roots(&format!("localhost:{port}"), &ca)).await;
        assert!(text.starts_with("UNAVAILABLE: TLS: "), "{text}");
    }

    #[tokio::test]
    async fn files_that_cannot_be_used_are_an_error_at_the_start() {
        let authority = Authority::new();
        let empty = authority.path("empty.pem");
        fs::write(&empty, "").unwrap();
        let table = [(authority.path("none.pem"), "none.pem"), (empty, "empty.pem: no certificate in PEM")];
        for (path, wanted) in table {
            let bootstrap = Bootstrap::builder("localhost:1").tls_with_roots(&path).build().unwrap();
            let error = transport(&bootstrap).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Setup);
            assert!(error.report().contains(wanted), "{}", error.report());
        }
    }
}
