//! One connection, from its first byte to its end. It ends by itself, whatever its peer does.
//!
//! ```text
//! TLS ─▸ handshake ─ began? ─▸ serving ─ told to drain, or old ─▸ draining ─ calls ended, or grace over ─▸ closed
//!  └ no ─────┴ no ─▸ closed      └ PINGs unanswered ─▸ closed       │  └ cut ─▸ closed
//!                                                                   └ a moment later ─▸ new calls are refused
//!                                                                      └ at a shutdown, nothing under way, silence ─▸ closed
//! ```

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::ServerOptions;
use super::caller::{Caller, Forwarders};
use super::io::{Noticed, Traffic};
use super::listener::ChainState;
use super::passage::Terms;
use super::request::{Calls, ConnectInfo, Refusals, RequestBody};
use super::secure::{Certificates, Ready, Securing, Turn, Unsecured};
use super::state::{Connected, ConnectionState};
use crate::deadline::InboundProtocol;
use crate::error::{BoxError, Error, ErrorKind};
use crate::resource::rbac::audit::AuditLog;

/// What a call's answer may be ahead of its connection, in bytes; hyper's own bound is 400 kB. It need not cover the way to the client,
/// as the system's buffers do that: only the time until the call is asked for more.
const MAX_SEND_BUFFER: usize = 64 << 10;
/// Streams that a peer opened and reset before they were looked at (rapid reset, CVE-2023-44487): with one more, the
/// connection ends.
const MAX_PENDING_RESETS: usize = 20;
/// Streams that were reset here because the peer broke the protocol (RUSTSEC-2024-0003).
const MAX_ERROR_RESETS: usize = 256;
/// How long a client may take to hear that its connection drains: calls that it makes meanwhile are served, and later ones
/// refused for it to make elsewhere. Without that end, one that never acknowledges the GOAWAY (RFC 9113, 6.8) would be
/// served under a configuration that is gone for as long as it likes.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a client without a call may be silent when the server shuts down and it had the time to hear that. A client
/// that is there acknowledges a PING by then, and its connection is over; one that is not holds nobody up until the end of the
/// shutdown. As Envoy's `delayed_close_timeout`, it does not count while anything waits to be written to a slow reader.
const SILENCE: Duration = Duration::from_secs(1);
/// What no timer waits for.
const NEVER: Duration = Duration::from_secs(3600 * 24 * 365);

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
    let Serving { service, protocol, limit, options, securing, forwarders, audit } = serving;
    let context = securing.context(chain.as_ref().and_then(|chain| chain.security()).as_ref());
    let deadline = start + options.handshake_timeout;
    let handshake = timeout_at(deadline, securing.secure(context.as_ref(), stream));
    let Some(ready) = secured(handshake, &connected, &ends).await else { return };
    let Ready { stream: io, security, certificates } = ready;
    let caller = Caller::new(security.as_deref(), &forwarders);
    let ConnectionState { local_address, peer_address, .. } = *connected.state;
    let info = ConnectInfo { local_address, peer_address, is_secured: security.is_some() };
    connected.begins(security, context.is_some());
    let certificates = certificates.follow(&securing, &connected, context);
    let (server, connection) = (connected.server.clone(), connected.state.clone());
    let running = server.running.clone();
    let ServerOptions { deny_by_default, ends_denied_streams, .. } = *options;
    let terms = Terms { protocol, deny_by_default, ends_denied_streams, running, audit };
    let refusals = Refusals { server, protocol, limit };
    let calls = Calls { service, connection, info, caller, chain, terms, refusals };
    let (io, traffic) = Noticed::new(io);
    let http2 = pin!(http2(&options).serve_connection(TokioIo::new(io), calls));
    let drain = |connection: Pin<&mut http2::Connection<_, _, _>>| connection.graceful_shutdown();
    let signs = Signs { traffic, ends: &ends, certificates };
    let why = drive(http2, drain, signs, start, &options, &connected).await;
    let peer = connected.state.peer_address;
    tracing::debug!(%peer, why, "a connection ended");
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
    signs: Signs<'_>,
    start: Instant,
    options: &ServerOptions,
    connected: &Connected,
) -> &'static str
where
    C: Future<Output = Result<(), E>>,
{
    let Connected { server, state } = connected;
    let Signs { traffic, ends, mut certificates } = signs;
    let old = old_at(start, options.max_connection_age);
    let mut stage = Stage::Handshake;
    let mut timer = pin!(sleep_until(old.min(start + options.handshake_timeout)));
    let mut shuts_down = false;
    let mut distrusted = false;
    // Whether its calls have no more than the grace.
    let mut limited = false;
    let mut grace = start + NEVER;
    let mut heard = 0;
    loop {
        tokio::select! {
            result = http2.as_mut() => return match result {
                Ok(()) => "it was done",
                Err(_) if traffic.is_flood() => {
                    server.flooding_connection(state.peer_address);
                    "its client sent too many frames that ask for nothing"
                }
                Err(_) => "it was lost",
            },
            () = ends.cut.cancelled() => return "it was cut",
            () = ends.shutdown.cancelled(), if !shuts_down => shuts_down = true,
            // Also of one that drains for its certificates: what it serves by may be gone.
            () = ends.drain.cancelled(), if !limited && !shuts_down => limited = true,
            turn = certificates.next(state.peer_address) => match turn {
                Turn::Drain if stage.takes_calls() => {}
                Turn::Drain => continue,
                Turn::Refuse => distrusted = true,
                Turn::End => return "its certificates do not hold any more",
            },
            () = timer.as_mut() => match stage {
                Stage::Handshake if traffic.has_begun() && Instant::now() < old => {
                    stage = Stage::Serving;
                    timer.as_mut().reset(old);
                    continue;
                }
                Stage::Handshake | Stage::Serving => limited = true,
                Stage::Draining => {
                    stage = Stage::Refusing;
                    state.refuse_calls();
                    heard = traffic.read();
                    timer.as_mut().reset(if shuts_down { Instant::now() + SILENCE } else { grace });
                    continue;
                }
                Stage::Refusing if shuts_down => {
                    let before = std::mem::replace(&mut heard, traffic.read());
                    if heard == before && state.in_flight() == 0 && !traffic.is_writing() {
                        server.silent_connection();
                        return "its client, told of the shutdown and without a call, answered nothing";
                    }
                    timer.as_mut().reset(Instant::now() + SILENCE);
                    continue;
                }
                Stage::Refusing => return "it did not end within the grace",
            },
        }
        if !traffic.has_begun() {
            return "its peer did not speak HTTP/2";
        }
        stage = Stage::Draining;
        drain(http2.as_mut());
        let now = Instant::now();
        // What a shutdown leaves its calls is the server's to time, whyever the connection drained before; what certificates
        // alone do, theirs.
        grace = match limited && !shuts_down {
            true => grace.min(now + options.drain_grace),
            false => now + NEVER,
        };
        timer.as_mut().reset(grace.min(now + if distrusted { Duration::ZERO } else { FAREWELL }));
    }
}

/// What a connection goes by, beside its own timers.
struct Signs<'a> {
    traffic: Traffic,
    ends: &'a Ends,
    certificates: Certificates,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Handshake,
    Serving,
    /// The client is told.
    Draining,
    /// It has had the time to hear it.
    Refusing,
}

impl Stage {
    fn takes_calls(self) -> bool {
        matches!(self, Self::Handshake | Self::Serving)
    }
}

/// When a connection has its age, up to 10 % more or less so that they do not all leave at once (A9).
fn old_at(start: Instant, age: Option<Duration>) -> Instant {
    start + age.map_or(NEVER, |age| age.mul_f64(0.9 + 0.2 * fastrand::f64()))
}

fn http2(options: &ServerOptions) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
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
