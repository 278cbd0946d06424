//! The task of the client: moves what happens between the protocol, the transport and the store.

use std::collections::{HashMap, HashSet};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::xds::ads::{Ads, LONGEST_PAUSE, Summary, Updates};
use crate::xds::message::Response;
use crate::xds::resource_type::IgnoredField;
use crate::xds::transport::encode::Encoder;
use crate::xds::transport::{Stream, StreamError, Transport};

/// Resources of one response that are handled before other tasks get their turn: about a millisecond's worth.
const SLICE: usize = 256;
/// How long the end of the client may take: the last requests, the server's end of the stream, and that of the connection.
const CLOSING: Duration = Duration::from_secs(1);
/// Types that were not asked for, of which is told.
const MAX_STRANGERS: usize = 16;

/// Moves events and effects between the protocol, the transport and the store.
pub(super) struct Driver {
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
    method: &'static str,
    ads: Ads,
    encoder: Encoder,
    /// What the last NACK of each type said, so that a repetition is not logged again.
    nacks: HashMap<&'static str, Arc<str>>,
    /// The type URLs that came and were not asked for.
    strangers: HashSet<String>,
}

/// What a stream was waiting for.
enum Event {
    Received(Result<Bytes, StreamError>),
    Interests,
    Timer,
}

impl Driver {
    /// Opens its streams by a method of a transport.
    pub(super) fn new(
        shared: Arc<Shared>,
        (transport, method): (Arc<dyn Transport>, &'static str),
        ads: Ads,
        encoder: Encoder,
    ) -> Self {
        Self { shared, transport, method, ads, encoder, nacks: HashMap::new(), strangers: HashSet::new() }
    }

    /// Opens one stream after the other, while anything is wanted, and ends in order when `stop` says so.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut last = None;
        while let Some(mut stream) = stop.run_until_cancelled(self.open()).await {
            match stop.run_until_cancelled(self.drive(&mut *stream)).await {
                Some(error) => self.lost(&error),
                None => last = Some(stream),
            }
        }
        let limit = Instant::now() + CLOSING;
        if let Some(stream) = last {
            // A server that does not answer to the end may never answer.
            let _ = timeout_at(limit, self.finish(stream)).await;
        }
        let _ = timeout_at(limit, self.transport.close()).await;
    }

    /// The next stream, when anything is wanted and it is time.
    async fn open(&mut self) -> Box<dyn Stream> {
        loop {
            self.take_interests();
            if !self.ads.poll_connect(Instant::now()) {
                self.publish();
                self.wait().await;
                continue;
            }
            self.ads.handle_connecting(Instant::now());
            self.publish();
            match self.transport.open(self.method).await {
                Ok(stream) => return stream,
                Err(error) => self.lost(&error),
            }
        }
    }

    fn lost(&mut self, error: &StreamError) {
        self.ads.handle_closed(Instant::now(), &error.to_string(), fastrand::f64());
        self.publish();
    }

    async fn wait(&mut self) {
        let shared = self.shared.clone();
        let mut timer = pin!(Timer::new());
        let mut interests = pin!(shared.interests.notified());
        poll_fn(|cx| self.poll_idle(self.ads.poll_wake(), interests.as_mut(), timer.as_mut(), cx)).await;
    }

    /// Runs a stream to its end.
    async fn drive(&mut self, stream: &mut dyn Stream) -> StreamError {
        // What became wanted while connecting goes in the first requests.
        self.take_interests();
        self.ads.handle_opened(Instant::now());
        loop {
            match self.next_event(stream).await {
                Event::Received(Ok(message)) => {
                    if let Err(error) = self.receive(&message).await {
                        return error;
                    }
                }
                Event::Received(Err(error)) => return error,
                Event::Interests => {
                    // Others that woke with this one may want more: names known together go in one request.
                    tokio::task::yield_now().await;
                    self.take_interests();
                }
                Event::Timer => self.ads.handle_wake(Instant::now()),
            }
        }
    }

    async fn next_event(&mut self, stream: &mut dyn Stream) -> Event {
        let shared = self.shared.clone();
        let mut timer = pin!(Timer::new());
        let mut interests = pin!(shared.interests.notified());
        poll_fn(|cx| {
            let takes_more = self.poll_send(Instant::now(), stream, cx).is_ready();
            self.publish();
            // A request that is due, but not taken, is no reason to wake: the stream does when it takes it.
            let wake = if takes_more { self.ads.poll_wake() } else { self.ads.poll_deadline() };
            match stream.poll_recv(cx) {
                Poll::Ready(received) => Poll::Ready(Event::Received(received)),
                Poll::Pending => self.poll_idle(wake, interests.as_mut(), timer.as_mut(), cx),
            }
        })
        .await
    }

    /// Tells the control plane what it is owed (a call may have failed by a resource that was rejected a moment ago), and
    /// that no more comes. That the server ends the stream in turn says that it has read everything.
    async fn finish(&mut self, mut stream: Box<dyn Stream>) {
        let mut finished = false;
        poll_fn(|cx| {
            // By then every NACK is due.
            if !finished && self.poll_send(Instant::now() + LONGEST_PAUSE, &mut *stream, cx).is_ready() {
                stream.finish();
                finished = true;
            }
            while let Ok(_ignored) = ready!(stream.poll_recv(cx)) {}
            Poll::Ready(())
        })
        .await;
    }

    /// Sends what is due at `now`, as far as the stream takes it; ready when that is all.
    fn poll_send(&mut self, now: Instant, stream: &mut dyn Stream, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(stream.poll_ready(cx));
            let Some(request) = self.ads.poll_request(now) else { return Poll::Ready(()) };
            tracing::trace!(
                resource_type = request.resource_type.name,
                names = request.names.len(),
                version = &*request.version,
                nonce = &*request.nonce,
                "xDS request"
            );
            stream.send(self.encoder.encode(&request));
        }
    }

    fn poll_idle(
        &mut self,
        wake: Option<Instant>,
        interests: Pin<&mut Notified<'_>>,
        timer: Pin<&mut Timer>,
        cx: &mut Context<'_>,
    ) -> Poll<Event> {
        if interests.poll(cx).is_ready() {
            return Poll::Ready(Event::Interests);
        }
        timer.poll_at(wake, cx).map(|()| Event::Timer)
    }

    async fn receive(&mut self, message: &Bytes) -> Result<(), StreamError> {
        let response =
            Response::parse(message).map_err(|error| StreamError::new(format!("INTERNAL: response: {error}")))?;
        let Some(mut incoming) = self.ads.begin_response(response) else {
            self.log_stranger(response.type_url);
            return Ok(());
        };
        while self.ads.advance_response(&mut incoming, SLICE) {
            tokio::task::yield_now().await;
        }
        self.ads.finish_response(Instant::now(), incoming);
        Ok(())
    }

    /// A response of a type that was not asked for is ignored, but whoever sent it waits for an answer: say so once.
    fn log_stranger(&mut self, type_url: &str) {
        let (server, type_url) = (&*self.shared.server, type_url.chars().take(256).collect::<String>());
        let is_news = self.strangers.len() < MAX_STRANGERS && self.strangers.insert(type_url.clone());
        match is_news {
            true => tracing::warn!(server, type_url, "xDS response of a type that was not asked for is ignored"),
            false => tracing::debug!(server, type_url, "xDS response of a type that was not asked for is ignored"),
        }
    }

    fn take_interests(&mut self) {
        let interests = self.shared.store.lock().take_interests();
        for interest in interests {
            match interest.wanted {
                true => self.ads.handle_subscribe(interest.resource_type, interest.name),
                false => self.ads.handle_unsubscribe(interest.resource_type, &interest.name),
            }
        }
    }

    /// Shows what the protocol found.
    fn publish(&mut self) {
        self.publish_status();
        let updates = self.ads.take_updates();
        if updates.is_empty() {
            return;
        }
        self.log(&updates);
        let first_seen = self.shared.store.lock().apply(updates, SystemTime::now());
        log_ignored(first_seen);
    }

    fn publish_status(&self) {
        let status = self.ads.status();
        let mut shown = self.shared.status.lock();
        if *shown != status {
            *shown = status;
            self.shared.moved.notify_one();
        }
    }

    fn log(&mut self, updates: &Updates) {
        let server = &*self.shared.server;
        match &updates.connectivity {
            // The first failure says it all; the rest would only fill the log.
            Some(Some(error)) if self.ads.status().failures == 1 => {
                tracing::warn!(server, node = &*self.shared.node_id, error = &**error, "control plane unreachable");
            }
            Some(Some(error)) => tracing::debug!(server, error = &**error, "control plane still unreachable"),
            Some(None) => tracing::info!(server, "control plane answers again"),
            None => {}
        }
        for summary in &updates.responses {
            self.log_response(summary);
        }
        for update in &updates.resources {
            tracing::debug!(resource_type = update.resource_type.name, name = &*update.name, ?update.kind, "xDS resource");
        }
    }

    fn log_response(&mut self, summary: &Summary) {
        let Summary { resource_type, version, valid, invalid, strangers, nack } = summary;
        let (name, version) = (resource_type.name, &**version);
        tracing::debug!(resource_type = name, version, valid, invalid, strangers, "xDS response");
        match nack {
            None => drop(self.nacks.remove(resource_type.type_url)),
            Some(text) => {
                if self.nacks.insert(resource_type.type_url, text.clone()).as_ref() != Some(text) {
                    let server = &*self.shared.server;
                    tracing::warn!(server, resource_type = name, version, error = &**text, "xDS resources rejected");
                }
            }
        }
    }
}

/// However the task ends, with its runtime too, nothing is asked any more.
impl Drop for Driver {
    fn drop(&mut self) {
        self.ads.handle_shutdown(Instant::now());
        self.publish_status();
    }
}

/// A sleep that is moved only when its end is another one.
#[pin_project::pin_project]
struct Timer {
    #[pin]
    sleep: Option<Sleep>,
}

impl Timer {
    fn new() -> Self {
        Self { sleep: None }
    }

    fn poll_at(self: Pin<&mut Self>, wake: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let mut sleep = self.project().sleep;
        let Some(wake) = wake else { return Poll::Pending };
        match sleep.as_mut().as_pin_mut() {
            None => sleep.set(Some(sleep_until(wake))),
            Some(sleep) if sleep.deadline() != wake => sleep.reset(wake),
            Some(_) => {}
        }
        sleep.as_pin_mut().map_or(Poll::Pending, |sleep| sleep.poll(cx))
    }
}

/// Once for each field, however often it comes.
pub(super) fn log_ignored(fields: Vec<(&'static str, IgnoredField)>) {
    for (resource_type, field) in fields {
        tracing::info!(resource_type, field = field.path, reason = field.reason, "xDS field is not acted on");
    }
}
