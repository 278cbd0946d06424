//! The connector of the mesh: TCP and Unix sockets, HTTP/2.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::complaints::Complaints;
use super::load_reports::{self, ReportSink, ReportsEnd};
#[cfg(feature = "tls")]
use super::readiness::Readiness;
#[cfg(feature = "tls")]
use super::secured::Secured;
use super::{Connect, Connection, SendError, SendErrorKind, SendRequest, StreamError, Unavailable, VerifiedPeer};
use crate::backoff::bounded;
use crate::error::BoxError;
#[cfg(feature = "tls")]
use crate::error::{Error, ErrorKind};
use crate::http2;
use crate::resource::endpoints::Address;
use crate::resource::rewrite::rewrite_authority;
#[cfg(feature = "tls")]
use crate::resource::security::Security;
#[cfg(feature = "tls")]
use crate::tls::{ClientTls, ConnectionSecurity, Handshake, OWN_REFUSED};

/// A handshake that is prepared, and who prepared it.
#[cfg(feature = "tls")]
type Prepared = (ClientTls, Handshake);
/// Without the feature `tls` there is none.
#[cfg(not(feature = "tls"))]
type Prepared = std::convert::Infallible;
#[cfg(not(feature = "tls"))]
type Secured = std::convert::Infallible;

/// The timers of an application's choice leave time for calls.
const SHORTEST: Duration = Duration::from_millis(10);

fn paced(silence: Duration) -> Duration {
    bounded(silence).max(SHORTEST)
}

/// How connections are made and kept.
///
/// ```
/// use std::time::Duration;
///
/// let options = mesh_core::connect::Http2Options::new().tcp_user_timeout(Some(Duration::from_secs(5)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Http2Options {
    http2: http2::Config,
    tcp: http2::TcpConfig,
}

impl Http2Options {
    /// Options with every default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Silence while calls are open before a PING asks whether the peer is there; `None` for never. Default 10 s, at least
    /// 10 ms. The first PING after data from the peer goes out sooner if a request is followed by silence, see
    /// [`keepalive_doubt`](Self::keepalive_doubt). Without data, two are sent and then one in five minutes, as gRPC servers
    /// bear no more; at twice the interval, and none sooner, to a peer that complained.
    pub fn keepalive_interval(mut self, interval: Option<Duration>) -> Self {
        let known = self.http2.keepalive.unwrap_or_default();
        self.http2.keepalive = interval.map(|interval| http2::Keepalive { interval: paced(interval), ..known });
        self
    }

    /// Silence after a PING before the connection is given up. Default 20 s. Turns PINGs on.
    pub fn keepalive_timeout(mut self, timeout: Duration) -> Self {
        let known = self.http2.keepalive.unwrap_or_default();
        self.http2.keepalive = Some(http2::Keepalive { timeout: bounded(timeout), ..known });
        self
    }

    /// Silence after a PING before it is doubted that the peer is there: it gets no new calls and another connection is
    /// made, until it is heard or given up; its calls go on. The first PING is sent when a request is followed by silence
    /// for half of this to all of it. Default 1 s, at least 10 ms; less than a round trip doubts every peer,
    /// more than [`keepalive_timeout`](Self::keepalive_timeout) none. Turns PINGs on.
    pub fn keepalive_doubt(mut self, silence: Duration) -> Self {
        let known = self.http2.keepalive.unwrap_or_default();
        self.http2.keepalive = Some(http2::Keepalive { doubt: paced(silence), ..known });
        self
    }

    /// How long written bytes may stay unacknowledged before the kernel gives the connection up (Linux). Default 20 s, as
    /// in gRFC A18.
    pub fn tcp_user_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.tcp.user_timeout = timeout;
        self
    }

    /// Silence before the kernel probes the peer; `None` for never. Default 10 s, then three probes 5 s apart.
    pub fn tcp_keepalive(mut self, silence: Option<Duration>) -> Self {
        self.tcp.keepalive = silence;
        self
    }

    /// Bytes that a peer may send on one stream, at first, before the reader takes them; bulk data lets it grow to 1 MiB.
    /// Default 256 KiB; from 64 KiB to 2 GiB.
    pub fn stream_window(mut self, bytes: u32) -> Self {
        self.http2.stream_window = bytes.clamp(http2::MIN_STREAM_WINDOW, http2::MAX_STREAM_WINDOW);
        self
    }

    /// The largest list of response headers, as HTTP/2 counts it. Default 16 KiB; a longer one fails its call.
    pub fn max_header_list_size(mut self, bytes: u32) -> Self {
        self.http2.max_header_list_size = bytes;
        self
    }

    /// Counts the connections' tasks, each until its socket is closed.
    pub(crate) fn counted_by(mut self, tasks: &TaskTracker) -> Self {
        self.http2.tasks = tasks.clone();
        self
    }
}

/// Connects to endpoints by HTTP/2; over TLS in a mesh that has certificate providers, where a cluster asks for it.
#[derive(Clone, Debug, Default)]
pub struct Http2Connector {
    options: Arc<Http2Options>,
    complaints: Arc<Complaints>,
    #[cfg(feature = "tls")]
    tls: Option<ClientTls>,
}

impl Http2Connector {
    /// A connector with these options.
    pub fn new(options: Http2Options) -> Self {
        Self { options: Arc::new(options), ..Self::default() }
    }

    /// Secures the connections of clusters that ask for it. Without, such clusters are not connected.
    #[cfg(feature = "tls")]
    pub(crate) fn with_tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The whole attempt is bounded by who asked for it.
    async fn open(self, address: Address, secured: Option<Prepared>) -> Result<Http2Connection, BoxError> {
        let tcp = &self.options.tcp;
        match &address {
            Address::Socket(socket) => {
                let io = http2::connect_tcp(*socket, tcp).await?;
                self.secure(io, address, secured).await
            }
            Address::Host(name, port) => {
                let addresses = tokio::net::lookup_host((&**name, *port)).await?;
                let io = http2::connect_first(addresses, tcp).await?;
                self.secure(io, address, secured).await
            }
            #[cfg(unix)]
            Address::Unix(path) => {
                let io = tokio::net::UnixStream::connect(path).await?;
                self.secure(io, address, secured).await
            }
            #[cfg(not(unix))]
            Address::Unix(_) => Err("there are no Unix sockets on this system".into()),
        }
    }

    async fn secure<IO>(&self, io: IO, address: Address, secured: Option<Prepared>) -> Result<Http2Connection, BoxError>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (connection, secured) = match secured {
            None => (self.handshake(io, &address).await?, None),
            #[cfg(feature = "tls")]
            Some((tls, handshake)) => {
                let (io, facts, lifetime) = handshake.run(io).await?;
                let connection = self.handshake(io, &address).await.map_err(not_taken)?;
                let secured = Secured::new(facts, lifetime, &connection, &address, tls);
                (connection, Some(secured))
            }
            #[cfg(not(feature = "tls"))]
            Some(never) => match never {},
        };
        let origin = Origin { address, complaints: self.complaints.clone(), secured };
        Ok(Http2Connection { connection, origin: Arc::new(origin) })
    }

    async fn handshake<IO>(&self, io: IO, address: &Address) -> Result<http2::Connection, BoxError>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut config = self.options.http2.clone();
        config.keepalive = config.keepalive.map(|keepalive| self.complaints.keepalive(address, keepalive));
        Ok(http2::handshake(io, &config, &Handle::current()).await?)
    }
}

/// A peer that ends a connection which was secured just now: in TLS 1.3 it says so late what it makes of a certificate.
#[cfg(feature = "tls")]
fn not_taken(error: BoxError) -> BoxError {
    Error::new(ErrorKind::Connection, "no HTTP/2 over TLS").with_source(error).with_next_step(OWN_REFUSED).into()
}

impl Connect for Http2Connector {
    type Connection = Http2Connection;
    type Future = Pin<Box<dyn Future<Output = Result<Http2Connection, BoxError>> + Send>>;

    fn connect(&self, address: &Address) -> Self::Future {
        Box::pin(self.clone().open(address.clone(), None))
    }

    /// What TLS needs comes first: without it, no byte is sent.
    #[cfg(feature = "tls")]
    fn connect_secured(&self, address: &Address, security: &Security) -> Option<Self::Future> {
        let (this, address, security) = (self.clone(), address.clone(), security.clone());
        let tls = self.tls.clone()?;
        Some(Box::pin(async move {
            let handshake = tls.prepare(&security).await?;
            this.open(address, Some((tls, handshake))).await
        }))
    }

    #[cfg(feature = "tls")]
    fn readiness(&self, security: &Security) -> Readiness {
        self.tls.as_ref().map(|tls| Readiness::of(tls.material(security))).unwrap_or_default()
    }
}

/// An HTTP/2 connection.
#[derive(Clone, Debug)]
pub struct Http2Connection {
    connection: http2::Connection,
    origin: Arc<Origin>,
}

/// Whom to tell what became of a connection: one reference, as pickers clone connections by the thousand.
#[derive(Debug)]
struct Origin {
    address: Address,
    complaints: Arc<Complaints>,
    secured: Option<Secured>,
}

impl Connection for Http2Connection {
    type Slot = Http2Slot;

    fn try_acquire(&self) -> Result<Http2Slot, Unavailable> {
        match self.connection.try_acquire() {
            Ok(slot) => Ok(Http2Slot { slot, is_secured: self.origin.secured.is_some(), peer: self.peer() }),
            Err(http2::Unavailable::Full) => Err(Unavailable::Full),
            Err(http2::Unavailable::Draining) => Err(Unavailable::Draining),
            Err(http2::Unavailable::Closed) => Err(Unavailable::Closed),
        }
    }

    async fn ended(&self) -> BoxError {
        let mut state = self.connection.state();
        let why = match state.wait_for(|state| !matches!(state, http2::State::Ready)).await.as_deref() {
            Ok(http2::State::Lost(why) | http2::State::Draining(Some(why))) => why.clone(),
            _ => return self.why_drained(),
        };
        if why.is_too_many_pings() {
            self.origin.complaints.complained(&self.origin.address);
        }
        why.into()
    }

    #[cfg(feature = "tls")]
    async fn outlived(&self) -> Arc<str> {
        match &self.origin.secured {
            Some(secured) => secured.outlived().await,
            None => std::future::pending().await,
        }
    }

    async fn doubted(&self) -> Arc<str> {
        // The sender is in the connection, so it cannot be gone.
        let _ = self.connection.doubt().wait_for(|in_doubt| *in_doubt).await;
        "the peer does not answer a PING".into()
    }

    async fn heard(&self) {
        let _ = self.connection.doubt().wait_for(|in_doubt| !in_doubt).await;
    }

    fn drain(&self) {
        self.connection.drain();
    }

    #[cfg(feature = "tls")]
    fn reconsider(&self, security: &Security) {
        if let Some(secured) = &self.origin.secured {
            secured.reconsider(security);
        }
    }

    fn is_idle(&self) -> bool {
        self.connection.in_flight() == 0
    }

    fn close(&self) {
        self.connection.close("the mesh was shut down");
    }

    #[cfg(feature = "tls")]
    fn security(&self) -> Option<Arc<ConnectionSecurity>> {
        self.origin.secured.as_ref().map(Secured::facts)
    }

    fn load_reports(&self, period: Duration, sink: ReportSink) -> impl Future<Output = ReportsEnd> + Send {
        let authority = match &self.origin.address {
            Address::Unix(_) => "localhost".to_owned(),
            address => address.to_string(),
        };
        let scheme = if self.origin.secured.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        load_reports::stream(self.connection.clone(), scheme, authority, period, sink)
    }
}

impl Http2Connection {
    #[cfg(feature = "tls")]
    fn peer(&self) -> VerifiedPeer {
        VerifiedPeer::new(self.origin.secured.as_ref().map(Secured::peer))
    }

    #[cfg(not(feature = "tls"))]
    fn peer(&self) -> VerifiedPeer {
        VerifiedPeer::default()
    }

    fn why_drained(&self) -> BoxError {
        #[cfg(feature = "tls")]
        if let Some(why) = self.origin.secured.as_ref().and_then(Secured::why_drained) {
            return why;
        }
        "connection drained".into()
    }
}

/// The right to one stream on an [`Http2Connection`].
#[derive(Debug)]
pub struct Http2Slot {
    slot: http2::Slot,
    is_secured: bool,
    peer: VerifiedPeer,
}

impl<B> SendRequest<B> for Http2Slot
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Outgoing = Http2Request<B>;
    type Body = Http2Body;
    type Future = Http2Send<B>;

    fn peer(&self) -> VerifiedPeer {
        self.peer.clone()
    }

    fn set_authority(request: &mut Http2Request<B>, authority: Option<&Authority>) {
        request.go_to(authority);
    }

    fn send(self, mut request: Http2Request<B>) -> Http2Send<B> {
        request.go_over(self.is_secured);
        let Http2Request { outgoing, own_authority, .. } = request;
        Http2Send { send: self.slot.send(outgoing), over_tls: self.is_secured, own_authority }
    }
}

/// A request on its way out, whose head and whose first 64 KiB of body can be sent again.
pub struct Http2Request<B> {
    outgoing: http2::Outgoing<B>,
    /// Its scheme is that of a connection over TLS, over which it did not go in the end.
    over_tls: bool,
    /// The authority that it came with, if it has that of an endpoint.
    own_authority: Option<Box<Authority>>,
}

impl<B> Http2Request<B> {
    /// The scheme of a request is that of the connection it goes over; without TLS, the one that it came with.
    fn go_over(&mut self, tls: bool) {
        if self.over_tls != tls {
            let scheme = if tls { Scheme::HTTPS } else { Scheme::HTTP };
            self.outgoing.head.uri = with_scheme(std::mem::take(&mut self.outgoing.head.uri), scheme);
            self.over_tls = tls;
        }
    }

    /// To the endpoint of this authority; `None`: by its own.
    fn go_to(&mut self, authority: Option<&Authority>) {
        let uri = &mut self.outgoing.head.uri;
        match authority {
            Some(authority) => {
                if self.own_authority.is_none() {
                    self.own_authority = uri.authority().cloned().map(Box::new);
                }
                rewrite_authority(uri, authority);
            }
            None => {
                if let Some(own) = self.own_authority.take() {
                    rewrite_authority(uri, &own);
                }
            }
        }
    }
}

fn with_scheme(uri: Uri, scheme: Scheme) -> Uri {
    let mut parts = uri.into_parts();
    parts.scheme = parts.authority.is_some().then_some(scheme);
    // What was a URI is one with another scheme.
    Uri::from_parts(parts).unwrap_or_default()
}

impl<B> From<Request<B>> for Http2Request<B> {
    fn from(request: Request<B>) -> Self {
        Self { outgoing: request.into(), over_tls: false, own_authority: None }
    }
}

impl<B> fmt::Debug for Http2Request<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Http2Request").field(&self.outgoing.head).finish()
    }
}

/// Ends with the response's head; dropped before, it resets the stream.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Http2Send<B> {
    send: http2::Send<B>,
    over_tls: bool,
    own_authority: Option<Box<Authority>>,
}

impl<B> Future for Http2Send<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Http2Body>, SendError<Http2Request<B>>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let sent = ready!(Pin::new(&mut self.send).poll(cx));
        Poll::Ready(match sent {
            Ok(response) => Ok(response.map(Http2Body)),
            Err(error) => Err(failed(error, self.over_tls, self.own_authority.take())),
        })
    }
}

#[cold]
fn failed<B>(
    error: http2::SendError<B>,
    over_tls: bool,
    own_authority: Option<Box<Authority>>,
) -> SendError<Http2Request<B>> {
    use http2::SendErrorKind as From;
    let http2::SendError { kind, replay } = error;
    let refused = "REFUSED_STREAM";
    let error = match kind {
        From::Unsent(why) => StreamError::new(SendErrorKind::Unsent, why),
        From::Refused(Some(why)) => StreamError::new(SendErrorKind::Refused, why),
        From::Refused(None) => StreamError::new(SendErrorKind::Refused, refused),
        From::Reset(code) => StreamError::new(SendErrorKind::Reset(code.0), code.to_string()),
        From::ConnectionLost(why) => lost(why),
        From::BadResponse(why) => StreamError::new(SendErrorKind::BadResponse, why),
        From::BadRequest(why) => StreamError::new(SendErrorKind::BadRequest, why),
        From::TooLarge(why) => StreamError::new(SendErrorKind::TooLarge, why),
        From::RequestBody(why) => StreamError::new(SendErrorKind::RequestBody, why),
    };
    let again = |outgoing: Box<_>| Box::new(Http2Request { outgoing: *outgoing, over_tls, own_authority });
    SendError { error, replay: replay.map(again) }
}

/// The body of a response.
#[derive(Debug)]
#[pin_project]
pub struct Http2Body(#[pin] http2::RecvBody);

impl Body for Http2Body {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let frame = ready!(self.project().0.poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(broken)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

fn lost(why: http2::ConnectionError) -> StreamError {
    let kind = match () {
        () if why.is_closed_here() => SendErrorKind::Closed,
        () if why.is_untrusted() => SendErrorKind::Untrusted,
        () => SendErrorKind::ConnectionLost,
    };
    StreamError::new(kind, why)
}

#[cold]
fn broken(error: http2::BodyError) -> StreamError {
    match error {
        http2::BodyError::Reset(code) => StreamError::new(SendErrorKind::Reset(code.0), code.to_string()),
        http2::BodyError::ConnectionLost(why) => lost(why),
        http2::BodyError::BadResponse(why) => StreamError::new(SendErrorKind::BadResponse, why),
        http2::BodyError::RequestBody(why) => StreamError::new(SendErrorKind::RequestBody, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_scheme_of_the_connection_that_it_goes_over_at_last() {
        let mut request = Http2Request::from(Request::get("http://greeter/hello?a=b").body(()).expect("a request"));
        for (tls, uri) in [
            (false, "http://greeter/hello?a=b"),
            (true, "https://greeter/hello?a=b"),
            (true, "https://greeter/hello?a=b"),
            (false, "http://greeter/hello?a=b"),
            (true, "https://greeter/hello?a=b"),
        ] {
            request.go_over(tls);
            assert_eq!(request.outgoing.head.uri, uri);
        }
    }

    #[test]
    fn a_request_has_the_authority_of_the_endpoint_that_it_goes_to_at_last() {
        let mut request = Http2Request::from(Request::get("http://greeter/hello?a=b").body(()).expect("a request"));
        for (authority, uri) in [
            (None, "http://greeter/hello?a=b"),
            (Some("a.example:80"), "http://a.example:80/hello?a=b"),
            (Some("b.example"), "http://b.example/hello?a=b"),
            (None, "http://greeter/hello?a=b"),
        ] {
            request.go_to(authority.map(Authority::from_static).as_ref());
            assert_eq!(request.outgoing.head.uri, uri);
        }
    }

    #[test]
    fn what_is_set_beyond_bounds_is_brought_within_them() {
        let options = |window| Http2Options::new().stream_window(window).http2.stream_window;
        assert_eq!([0, 100 << 10, u32::MAX].map(options), [64 << 10, 100 << 10, (1 << 31) - 1]);
        let longest = Http2Options::new().keepalive_interval(Some(Duration::MAX)).keepalive_timeout(Duration::MAX);
        let keepalive = longest.http2.keepalive.expect("PINGs are on");
        let now = tokio::time::Instant::now();
        assert!(now.checked_add(keepalive.interval).is_some() && now.checked_add(keepalive.timeout).is_some());
    }
}
