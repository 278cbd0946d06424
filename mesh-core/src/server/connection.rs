//! One connection, from its first byte to its end: what it does at each of its [stages](super::stages).

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use http_body::Body;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::ServerOptions;
use super::caller::{Caller, Forwarders};
use super::io::{Noticed, Stream, Traffic};
use super::listener::ChainState;
use super::passage::Terms;
use super::request::{Calls, ConnectInfo, Refusals, RequestBody};
use super::secure::{Certificates, Ready, Securing, Unsecured};
use super::stages::{Awaited, End, Seen, Sign, Stages, Step};
use super::state::{Connected, ConnectionState};
use super::streams::Streams;
use crate::deadline::InboundProtocol;
use crate::error::{BoxError, Error, ErrorKind};
use crate::resource::rbac::audit::AuditLog;
use crate::resource::security::DownstreamTls;

/// What a call's answer may be ahead of its connection, in bytes; hyper's own bound is 400 kB. It need not cover the way to the client,
/// as the system's buffers do that: only the time until the call is asked for more.
const MAX_SEND_BUFFER: usize = 64 << 10;
/// Streams that a peer opened and reset before they were looked at (rapid reset, CVE-2023-44487): with one more, the
/// connection ends.
const MAX_PENDING_RESETS: usize = 20;
/// Streams that were reset here because the peer broke the protocol (RUSTSEC-2024-0003).
const MAX_ERROR_RESETS: usize = 256;

/// When a connection is over.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    /// It takes no new call, and ends with those it has, at most after `drain_grace`.
    pub(super) drain: CancellationToken,
    /// It takes no new call, and has until it is cut for those it has.
    pub(super) shutdown: CancellationToken,
    /// It ends at once.
    pub(super) cut: CancellationToken,
}

/// What the connections of a server have in common.
#[derive(Clone, Debug)]
pub(super) struct Serving<S> {
    pub(super) service: S,
    pub(super) protocol: Option<&'static dyn InboundProtocol>,
    pub(super) limit: Option<Duration>,
    pub(super) options: Arc<ServerOptions>,
    pub(super) securing: Arc<Securing>,
    pub(super) forwarders: Arc<Forwarders>,
    pub(super) audit: Arc<AuditLog>,
}

/// Secures one connection, and serves its calls until it is over.
pub(super) async fn serve<S, R>(
    stream: TcpStream,
    serving: Serving<S>,
    chain: Option<Arc<ChainState>>,
    connected: Connected,
    ends: Ends,
) where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let start = Instant::now();
    let context = serving.securing.context(chain.as_ref().and_then(|chain| chain.security()).as_ref());
    let deadline = start + serving.options.handshake_timeout;
    // What it takes to begin is given back: connections are idle for most of their time.
    let handshake =
        Box::pin(secured(timeout_at(deadline, serving.securing.secure(context.as_ref(), stream)), &connected, &ends));
    let Some(ready) = handshake.await else { return };
    let options = serving.options.clone();
    let Begun { io, calls, traffic, signs } = begin(ready, serving, chain, context, &connected, ends);
    let http2 = pin!(http2(&options).serve_connection(io, calls));
    let drain = |connection: Pin<&mut http2::Connection<_, _, _>>| connection.graceful_shutdown();
    let why = drive(http2, drain, signs, traffic, Stages::new(&options, start), &connected).await;
    tracing::debug!(peer = %connected.state.peer_address, why, "a connection ended");
}

/// A connection that is ready for HTTP/2, and what it goes by.
struct Begun<S> {
    io: TokioIo<Noticed<Stream>>,
    calls: Calls<S>,
    traffic: Traffic,
    signs: Box<Signs>,
}

fn begin<S>(
    ready: Ready,
    serving: Serving<S>,
    chain: Option<Arc<ChainState>>,
    context: Option<Arc<DownstreamTls>>,
    connected: &Connected,
    ends: Ends,
) -> Begun<S> {
    let Serving { service, protocol, limit, options, securing, forwarders, audit } = serving;
    let Ready { stream: io, security, certificates } = ready;
    let caller = Caller::new(security.as_deref(), &forwarders);
    let ConnectionState { local_address, peer_address, .. } = *connected.state;
    let info = ConnectInfo { local_address, peer_address, is_secured: security.is_some() };
    connected.begins(security, context.is_some());
    let certificates = certificates.follow(&securing, connected, context);
    let (server, connection) = (connected.server.clone(), connected.state.clone());
    let running = server.running.clone();
    let ServerOptions { deny_by_default, ends_denied_streams, .. } = *options;
    let terms = Terms { protocol, deny_by_default, ends_denied_streams, running, audit };
    let refusals = Refusals { server, protocol, limit };
    let calls = Calls { service, connection, info, caller, chain, terms, refusals };
    let (io, traffic) = Noticed::new(io);
    Begun { io: TokioIo::new(io), calls, traffic, signs: Box::new(Signs { ends, certificates, peer: peer_address }) }
}

/// The connection when it is ready for HTTP/2; `None`: it is closed, and that is told.
async fn secured(
    securing: impl Future<Output = Result<Result<Ready, Unsecured>, Elapsed>>,
    connected: &Connected,
    ends: &Ends,
) -> Option<Ready> {
    let result = tokio::select! {
        biased;
        result = securing => result,
        () = ends.cut.cancelled() => return None,
        () = ends.drain.cancelled() => return None,
        () = ends.shutdown.cancelled() => return None,
    };
    let peer = connected.state.peer_address;
    match result {
        Ok(Ok(ready)) => return Some(ready),
        Ok(Err(Unsecured::Failed(error))) => connected.server.handshake_failed(peer, &error),
        Ok(Err(Unsecured::Unable(error))) => {
            connected.server.refuse();
            tracing::debug!(%peer, error = %error.report(), "a connection was closed: it cannot be secured");
        }
        Err(_) => {
            let error = Error::new(ErrorKind::Connection, "TLS: the handshake took longer than `handshake_timeout`");
            connected.server.handshake_failed(peer, &error);
        }
    }
    None
}

/// Polls `http2` through the stages of a connection; says why it is over.
async fn drive<C, E>(
    mut http2: Pin<&mut C>,
    drain: impl Fn(Pin<&mut C>),
    signs: Box<Signs>,
    traffic: Traffic,
    mut stages: Stages,
    connected: &Connected,
) -> &'static str
where
    C: Future<Output = Result<(), E>>,
{
    let Connected { server, state } = connected;
    // Polled when one of the signs woke it, and not with each frame.
    let mut signs = FuturesUnordered::from_iter([Box::pin(signs.next(stages.awaited()))]);
    loop {
        let (sign, rest) = tokio::select! {
            // First, as a client that never stops to send leaves nothing of what a task may do at a time to what comes behind.
            biased;
            Some(sign) = signs.next() => sign,
            result = http2.as_mut() => return match result {
                Ok(()) => "it was done",
                Err(_) if traffic.is_flood() => {
                    server.flooding_connection(state.peer_address);
                    "its client sent too many frames that ask for nothing"
                }
                Err(_) => "it was lost",
            },
        };
        let seen = Seen {
            has_begun: traffic.has_begun(),
            read: traffic.read(),
            is_idle: state.in_flight() == 0 && !traffic.is_writing(),
        };
        match stages.told(sign, seen, Instant::now()) {
            Step::Stay => {}
            Step::Drain => drain(http2.as_mut()),
            Step::Refuse => state.refuse_calls(),
            Step::Close(why) => {
                if why == End::Silent {
                    server.silent_connection();
                }
                return why.into();
            }
        }
        signs.push(Box::pin(rest.next(stages.awaited())));
    }
}

/// Where the signs come from that a connection goes by.
struct Signs {
    ends: Ends,
    certificates: Certificates,
    peer: SocketAddr,
}

impl Signs {
    /// The next of those that are waited for, and what tells the one after it.
    async fn next(mut self: Box<Self>, awaited: Awaited) -> (Sign, Box<Self>) {
        let Ends { drain, shutdown, cut } = &self.ends;
        let sign = tokio::select! {
            () = cut.cancelled() => Sign::Cut,
            () = shutdown.cancelled(), if awaited.shutdown => Sign::Shutdown,
            () = drain.cancelled(), if awaited.drain => Sign::Drain,
            turn = self.certificates.next(self.peer) => Sign::Certificates(turn),
            () = sleep_until(awaited.until) => Sign::Time,
        };
        (sign, self)
    }
}

fn http2(options: &ServerOptions) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(Streams { end_when_denied: options.ends_denied_streams });
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(options.max_concurrent_streams)
        .max_header_list_size(options.max_header_list_size)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout);
    builder
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::task::consume_budget;
    use tokio::time::timeout;

    use super::*;
    use crate::server::state::ServerState;

    /// As HTTP/2 whose socket has always more: it takes all that a task may do at a time.
    async fn busy() -> Result<(), Infallible> {
        loop {
            consume_budget().await;
        }
    }

    /// Why a connection ends that never rests.
    async fn end_of_busy(options: ServerOptions, told: impl FnOnce(&Ends)) -> &'static str {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let connected = Arc::new(ServerState::new(address, None, &options, None)).connect(address, address);
        let token = CancellationToken::new;
        let ends = Ends { drain: token(), shutdown: token(), cut: token() };
        told(&ends);
        let signs = Box::new(Signs { ends, certificates: Certificates::default(), peer: address });
        let stages = Stages::new(&options, Instant::now());
        let http2 = pin!(busy());
        let end = drive(http2, |_| {}, signs, Traffic::default(), stages, &connected);
        timeout(Duration::from_secs(5), end).await.expect("it hears of its end")
    }

    #[tokio::test]
    async fn a_connection_that_never_rests_hears_every_sign() {
        let cut = end_of_busy(ServerOptions::new(), |ends| ends.cut.cancel()).await;
        let drained = end_of_busy(ServerOptions::new(), |ends| ends.drain.cancel()).await;
        let shut_down = end_of_busy(ServerOptions::new(), |ends| ends.shutdown.cancel()).await;
        let late = end_of_busy(ServerOptions::new().handshake_timeout(Duration::ZERO), |_| {}).await;
        let never_spoke: &str = End::NoHttp2.into();
        assert_eq!([cut, drained, shut_down, late], [End::Cut.into(), never_spoke, never_spoke, never_spoke]);
    }
}
