//! gRPC calls beside the mesh's own, to a service that the bootstrap or code allows (A102).
//!
//! ```text
//! call ─▸ connected? ─ yes ─▸ a slot (waits while all are taken) ─▸ one request, one response
//!             ├ not yet: waits for the one attempt that all calls wait for
//!             └ failed a moment ago: fails at once, until the backoff is over
//! ```
//!
//! A call waits at most as long as its caller does. What connects is a task of its own, so that no caller's deadline ends
//! it. There is one connection at a time; it is closed with the mesh.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::StreamError;
use super::grpc::{Failure, GrpcOptions, GrpcTransport};
use crate::aside::{PATIENCE, aside, patiently};
use crate::backoff::{Backoff, BackoffConfig};
use crate::bootstrap::ServerConfig;
use crate::http2::{Connection, Slot, State as ConnectionState, Unavailable};

/// The longest answer of such a service, in bytes.
pub(crate) const MAX_RESPONSE: usize = 256 << 10;
/// A service that is back is found soon: all that wait for it are callers.
const BACKOFF: BackoffConfig =
    BackoffConfig { initial: Duration::from_millis(200), multiplier: 1.6, max: Duration::from_secs(5), jitter: 0.2 };
/// A connection that lives for less counts as a failed one.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// How often one call waits for a connection, or finds that it takes no calls, before it fails.
const MAX_TRIES: usize = 6;

/// A service, and the connection to it.
pub(crate) struct SideChannel {
    inner: Arc<Inner>,
    _end_on_drop: DropGuard,
}

struct Inner {
    server: ServerConfig,
    options: GrpcOptions,
    runtime: Handle,
    end: CancellationToken,
    state: Mutex<State>,
    /// A call has ended.
    freed: Notify,
}

struct State {
    /// Once its credentials were read.
    transport: Option<GrpcTransport>,
    link: Link,
    backoff: Backoff,
}

#[derive(Clone)]
enum Link {
    Idle,
    /// Changes when the attempt has ended.
    Connecting(watch::Receiver<()>),
    Connected(Connection, GrpcTransport, Instant),
    Failed(StreamError, Instant),
}

impl SideChannel {
    /// Connects when it is first used. Connections run on `runtime`, until `end`.
    pub(crate) fn new(server: ServerConfig, options: GrpcOptions, runtime: &Handle, end: &CancellationToken) -> Self {
        let end = end.child_token();
        let state = Mutex::new(State { transport: None, link: Link::Idle, backoff: Backoff::new(BACKOFF) });
        let _end_on_drop = end.clone().drop_guard();
        let inner = Inner { server, options, runtime: runtime.clone(), end, state, freed: Notify::new() };
        Self { inner: Arc::new(inner), _end_on_drop }
    }

    /// Where it leads, as the bootstrap says it.
    pub(crate) fn target(&self) -> &str {
        &self.inner.server.uri
    }

    /// Makes a call of one request and one response. One that the service did nothing of is made once more.
    ///
    /// # Errors
    ///
    /// The status that it ended with.
    pub(crate) async fn call(
        &self,
        method: &'static str,
        headers: HeaderMap,
        request: Bytes,
    ) -> Result<Bytes, StreamError> {
        let _freed = Freed(&self.inner.freed);
        let mut is_first = true;
        loop {
            let (transport, slot) = self.inner.slot().await?;
            match transport.call(slot, method, headers.clone(), &request).await {
                Ok(response) => return Ok(response),
                Err(Failure::Unsent(_)) if is_first => is_first = false,
                Err(Failure::Unsent(error) | Failure::Status(error)) => return Err(error),
            }
        }
    }
}

/// Lets another call have the slot of one that is over.
struct Freed<'a>(&'a Notify);

impl Drop for Freed<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Inner {
    async fn slot(self: &Arc<Self>) -> Result<(GrpcTransport, Slot), StreamError> {
        let mut tries = 0;
        while tries < MAX_TRIES {
            let mut freed = pin!(self.freed.notified());
            // From here on no slot becomes free unheard.
            freed.as_mut().enable();
            match self.link() {
                Link::Connected(connection, transport, since) => match connection.try_acquire() {
                    Ok(slot) => return Ok((transport, slot)),
                    Err(Unavailable::Full) => {
                        freed.await;
                        continue;
                    }
                    Err(Unavailable::Draining | Unavailable::Closed) => self.forget(since),
                },
                // An error says that it has ended, too.
                Link::Connecting(mut attempt) => drop(attempt.changed().await),
                Link::Failed(error, _) => return Err(error),
                Link::Idle => return Err(StreamError::new("UNAVAILABLE: the mesh is shut down")),
            }
            tries += 1;
        }
        Err(closes_connections())
    }

    /// How it stands, with an attempt begun if it is time for one.
    fn link(self: &Arc<Self>) -> Link {
        let mut state = self.state.lock();
        let is_due = match &state.link {
            Link::Idle => true,
            Link::Failed(_, until) => Instant::now() >= *until,
            Link::Connecting(_) | Link::Connected(..) => false,
        };
        if is_due && !self.end.is_cancelled() {
            let (ended, attempt) = watch::channel(());
            state.link = Link::Connecting(attempt);
            let (this, end) = (self.clone(), self.end.clone());
            self.runtime.spawn(async move {
                let connecting = end.run_until_cancelled(this.connect(ended)).await;
                let Some(Some(connection)) = connecting else { return this.settle(Link::Idle) };
                drop(this);
                keep(connection, &end).await;
            });
        }
        state.link.clone()
    }

    /// Takes up what an attempt comes to. Those who wait for it see it when `ended` is dropped.
    async fn connect(&self, ended: watch::Sender<()>) -> Option<Connection> {
        let connected = self.dial().await;
        let mut state = self.state.lock();
        let (link, connection) = match connected {
            Ok((transport, connection)) => {
                state.transport = Some(transport.clone());
                (Link::Connected(connection.clone(), transport, Instant::now()), Some(connection))
            }
            Err(error) => {
                tracing::warn!(service = %self.server.uri, %error, "a service beside the mesh cannot be reached");
                (state.failed(error), None)
            }
        };
        state.link = link;
        drop(state);
        drop(ended);
        connection
    }

    async fn dial(&self) -> Result<(GrpcTransport, Connection), StreamError> {
        let known = self.state.lock().transport.clone();
        let transport = match known {
            Some(transport) => transport,
            None => self.transport().await?,
        };
        let connection = transport.dial().await?;
        Ok((transport, connection))
    }

    /// Reading the files of credentials may block.
    async fn transport(&self) -> Result<GrpcTransport, StreamError> {
        let (server, options, runtime) = (self.server.clone(), self.options.clone(), self.runtime.clone());
        let slow = || {
            let service = &*self.server.uri;
            tracing::warn!(
                service,
                "the files of its credentials could not be read within {PATIENCE:?}, and are waited for"
            );
        };
        let reading = aside(move || GrpcTransport::to(&server, options, &runtime));
        match patiently(reading, slow).await {
            Ok(Ok(transport)) => Ok(transport),
            Ok(Err(error)) => Err(StreamError::new(format!("UNAVAILABLE: {}", error.report()))),
            Err(error) => Err(StreamError::new(format!("UNAVAILABLE: {error}"))),
        }
    }

    /// The mesh has ended, if an attempt was under way.
    fn settle(&self, link: Link) {
        let mut state = self.state.lock();
        if matches!(state.link, Link::Connecting(_)) {
            state.link = link;
        }
    }

    /// That the connection which is there since then takes no more calls.
    fn forget(&self, since: Instant) {
        let mut state = self.state.lock();
        if !matches!(state.link, Link::Connected(_, _, known) if known == since) {
            return;
        }
        if since.elapsed() < SHORT_LIFE {
            let link = state.failed(closes_connections());
            state.link = link;
        } else {
            state.backoff.reset();
            state.link = Link::Idle;
        }
    }
}

impl State {
    fn failed(&mut self, error: StreamError) -> Link {
        Link::Failed(error, Instant::now() + self.backoff.next_delay(fastrand::f64()))
    }
}

fn closes_connections() -> StreamError {
    StreamError::new("UNAVAILABLE: the server closes its connections")
}

/// Closes the connection at the end.
async fn keep(connection: Connection, end: &CancellationToken) {
    let mut state = connection.state();
    tokio::select! {
        _ = state.wait_for(|state| matches!(state, ConnectionState::Lost(_))) => {}
        () = end.cancelled() => connection.close("the mesh is shut down"),
    }
}

impl fmt::Debug for SideChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SideChannel").field("target", &self.target()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::DuplexStream;
    use tokio::sync::mpsc;
    use tokio::time::sleep;

    use super::*;
    use crate::bootstrap::{Bootstrap, GrpcService};
    use crate::xds::transport::connector::BoxIo;

    /// A service in this process: refuses connections, or hands on its ends of them.
    struct Service {
        channel: SideChannel,
        refuses: Arc<AtomicBool>,
        connections: mpsc::UnboundedReceiver<DuplexStream>,
    }

    fn service() -> Service {
        let allowed = GrpcService::new("127.0.0.1:1").insecure();
        let bootstrap = Bootstrap::builder("a:1").insecure().allow_grpc_service(allowed).build().expect("a bootstrap");
        let (runtime, end) = (Handle::current(), CancellationToken::new());
        let (refuses, (accepted, connections)) = (Arc::new(AtomicBool::new(true)), mpsc::unbounded_channel());
        let connect = {
            let refuses = refuses.clone();
            move || {
                if refuses.load(Ordering::Relaxed) {
                    return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
                }
                let (ours, theirs) = tokio::io::duplex(1 << 16);
                accepted.send(theirs).expect("the test listens");
                Ok(Box::new(ours) as BoxIo)
            }
        };
        let transport = GrpcTransport::in_process(Arc::new(connect), &bootstrap, GrpcOptions::default(), &runtime);
        let server = bootstrap.allowed_grpc_services()[0].clone();
        let channel = SideChannel::new(server, GrpcOptions::default(), &runtime, &end);
        channel.inner.state.lock().transport = Some(transport.expect("a transport"));
        Service { channel, refuses, connections }
    }

    impl Service {
        async fn call(&self) -> Result<Bytes, StreamError> {
            self.channel.call("/a/b", HeaderMap::new(), Bytes::new()).await
        }

        /// How long calls fail from now on without another attempt to connect.
        fn backoff(&self) -> Duration {
            match &self.channel.inner.state.lock().link {
                Link::Failed(_, until) => until.saturating_duration_since(Instant::now()),
                _ => panic!("the last attempt failed"),
            }
        }

        /// Makes calls until so many attempts have failed; how long the last one is waited out.
        async fn fails(&self, attempts: u32) -> Duration {
            for _ in 1..attempts {
                self.call().await.expect_err("it is refused");
                sleep(self.backoff()).await;
            }
            self.call().await.expect_err("it is refused");
            self.backoff()
        }

        /// Takes a connection, which lives for so long and has no calls, and is over then.
        async fn serves(&mut self, life: Duration) {
            self.refuses.store(false, Ordering::Relaxed);
            let connecting = self.channel.inner.slot();
            let accepting = async {
                let accepted = self.connections.recv().await.expect("a connection");
                h2::server::handshake(accepted).await.expect("a handshake")
            };
            let (slot, mut connection): (_, h2::server::Connection<_, Bytes>) = tokio::join!(connecting, accepting);
            drop(slot.expect("it is connected"));
            let ends = async {
                sleep(life).await;
            };
            tokio::select! {
                _ = connection.accept() => panic!("nobody calls"),
                () = ends => {}
            }
            self.refuses.store(true, Ordering::Relaxed);
            drop(connection);
            // The client finds the end of it before its next call does.
            sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_cannot_be_reached_is_tried_ever_less_often_until_it_was_there_for_a_while() {
        let longest_first = BACKOFF.initial.mul_f64(1.0 + BACKOFF.jitter);
        let mut service = service();
        assert!(service.fails(1).await <= longest_first);
        sleep(BACKOFF.max).await;
        assert!(service.fails(6).await > 3 * BACKOFF.initial);
        sleep(BACKOFF.max * 2).await;
        // One that closes its connections at once is not there.
        service.serves(SHORT_LIFE / 2).await;
        service.call().await.expect_err("its connection is over");
        assert!(service.backoff() > 3 * BACKOFF.initial);
        sleep(BACKOFF.max * 2).await;
        service.serves(2 * SHORT_LIFE).await;
        assert!(service.fails(1).await <= longest_first, "it was there, and should be looked for soon");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_fail_at_once_while_a_failure_is_young() {
        let service = service();
        service.call().await.expect_err("it is refused");
        let before = Instant::now();
        service.call().await.expect_err("it was refused a moment ago");
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert!(service.connections.is_empty());
    }
}
