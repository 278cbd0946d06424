//! Sets a connection up, and is its owner's and callers' handle.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Builder, SendRequest};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::config::Config;
use super::driver::Driver;
use super::error::{ConnectionError, ConnectionErrorKind};
use super::shared::{Shared, State};
use super::slots::Unavailable;
use super::wire::Wire;

/// Not a number that SETTINGS can carry: while `h2` reports it, the peer's SETTINGS have not come.
const NO_SETTINGS_YET: usize = usize::MAX - 1;

/// So long a peer that does not read may hold up the end of a connection without calls.
const GRACE: Duration = Duration::from_secs(1);

/// Speaks HTTP/2 over `io` and spawns the connection's task on `runtime`. Ready when the peer's SETTINGS have arrived: a
/// peer that accepts and says nothing is not a connection.
///
/// # Errors
///
/// The socket fails, the peer does not speak HTTP/2, or [`Config::handshake_timeout`] passes.
pub(crate) async fn handshake<IO>(io: IO, config: &Config, runtime: &Handle) -> Result<Connection, ConnectionError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let shared = Arc::new(Shared::new(config));
    let established = timeout(config.handshake_timeout, establish(io, config, &shared)).await;
    let (sender, driver) = established.unwrap_or_else(|_| Err(handshake_timeout(config)))?;
    let task = config.tasks.spawn_on(driver, runtime).abort_handle();
    let sender = Mutex::new(Some(Sender { requests: sender, ended: None }));
    let inner = Inner { sender, shared, runtime: runtime.clone(), task };
    Ok(Connection { inner: Arc::new(inner) })
}

async fn establish<IO>(
    io: IO,
    config: &Config,
    shared: &Arc<Shared>,
) -> Result<(SendRequest<Bytes>, Driver<IO>), ConnectionError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let wire = Wire::new(io, Arc::clone(shared));
    let (sender, mut connection) =
        builder(config).handshake(wire.clone()).await.map_err(|error| shared.explain(&error))?;
    poll_fn(|cx| {
        if let Poll::Ready(end) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(Err(shared.why_ended(end)));
        }
        if let Poll::Ready(Err(error)) = wire.poll_send(cx) {
            return Poll::Ready(Err(shared.explain_io(&error)));
        }
        match connection.max_concurrent_send_streams() {
            NO_SETTINGS_YET => Poll::Pending,
            limit => {
                shared.slots.set_limit(limit);
                Poll::Ready(Ok(()))
            }
        }
    })
    .await?;
    Ok((sender, Driver::new(connection, wire, Arc::clone(shared), config)))
}

fn builder(config: &Config) -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_max_send_streams(NO_SETTINGS_YET)
        .initial_window_size(config.stream_window)
        .initial_connection_window_size(config.connection_window)
        .max_frame_size(config.max_frame_size)
        .max_header_list_size(config.max_header_list_size.saturating_mul(4))
        .max_send_buffer_size(config.max_send_buffer)
        .max_concurrent_reset_streams(config.max_remembered_resets)
        .reset_stream_duration(config.reset_memory)
        .max_local_error_reset_streams(Some(config.max_broken_streams))
        .data_frame_budget(config.small_frame_budget);
    builder
}

fn handshake_timeout(config: &Config) -> ConnectionError {
    ConnectionError::new(
        ConnectionErrorKind::HandshakeTimeout,
        format!("no HTTP/2 SETTINGS from the peer within {:?}", config.handshake_timeout),
    )
}

/// One HTTP/2 connection; clones share it. It closes when the last clone and the last call are gone.
#[derive(Clone)]
pub(crate) struct Connection {
    inner: Arc<Inner>,
}

impl Connection {
    /// A slot for one call, or why there is none. Never waits.
    pub(crate) fn try_acquire(&self) -> Result<Slot, Unavailable> {
        self.inner.shared.slots.try_acquire()?;
        Ok(Slot(Arc::clone(&self.inner)))
    }

    /// Calls that hold a slot.
    pub(crate) fn in_flight(&self) -> u32 {
        self.inner.shared.slots.in_flight()
    }

    /// Calls that the peer allows at a time; follows its SETTINGS.
    pub(crate) fn limit(&self) -> u32 {
        self.inner.shared.slots.limit()
    }

    /// The state, now and as it changes.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.inner.shared.state.subscribe()
    }

    /// Whether the peer owes the answer to a PING for so long that it may hang, now and as it changes.
    pub(crate) fn doubt(&self) -> watch::Receiver<bool> {
        self.inner.shared.doubt.subscribe()
    }

    /// Takes no new calls from now on and closes, with a GOAWAY, when the last one is done.
    pub(crate) fn drain(&self) {
        self.inner.shared.drain(None);
        // Without this handle `h2` closes by itself once no stream is left.
        self.inner.sender.lock().take();
    }

    /// Takes no new calls from now on and closes: with a GOAWAY, for which the peer has [`GRACE`], or at once if there are
    /// calls in flight, which fail with `reason`.
    pub(crate) fn close(&self, reason: &str) {
        let Inner { shared, sender, task, .. } = &*self.inner;
        shared.lost(ConnectionError::new(ConnectionErrorKind::Closed, reason));
        shared.close_by(Instant::now() + GRACE);
        // As in a drain; one that is drained already is not woken by this.
        match sender.lock().take() {
            Some(sender) if self.in_flight() == 0 => drop(sender),
            _ => task.abort(),
        }
    }

    /// Closes at once, as certificates do not hold any more; calls in flight fail with `reason`.
    #[cfg(feature = "tls")]
    pub(crate) fn distrust(&self, reason: Arc<str>) {
        self.inner.shared.lost(ConnectionError::new(ConnectionErrorKind::Untrusted, reason));
        self.inner.sender.lock().take();
        self.inner.task.abort();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("state", &*self.inner.shared.state.borrow())
            .field("in_flight", &self.in_flight())
            .field("limit", &self.limit())
            .finish()
    }
}

/// The right to one call on a connection; given back on drop.
pub(crate) struct Slot(Arc<Inner>);

impl Slot {
    pub(super) fn connection(&self) -> &Inner {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.shared.slots.release();
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

/// Where requests go in.
pub(super) struct Sender {
    pub(super) requests: SendRequest<Bytes>,
    /// The last stream that came to its end. To let go of a stream wakes the connection's task, which finds nothing to
    /// do; the next request, which wakes it anyhow, lets go of this one.
    pub(super) ended: Option<RecvStream>,
}

/// What callers need; each slot holds it.
pub(super) struct Inner {
    /// Shared instead of cloned per call, which would lock and count inside `h2` twice; `None` once it takes no calls.
    pub(super) sender: Mutex<Option<Sender>>,
    pub(super) shared: Arc<Shared>,
    pub(super) runtime: Handle,
    task: AbortHandle,
}

impl Inner {
    /// Keeps a stream until the next request: its response is over and its request is queued, so that for `h2` it is
    /// closed, and to let go of it sends nothing.
    pub(super) fn retire(&self, stream: RecvStream) {
        // The one before is let go of when the lock is free.
        let _before = self.sender.lock().as_mut().map(|sender| sender.ended.replace(stream));
    }
}
