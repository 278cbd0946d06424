//! One gRPC call to the server: an ADS stream, or a call that it does not know.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use mesh_xds_proto::envoy::service::discovery::v3::DiscoveryRequest;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::time::Instant;

use crate::testing::fault::{FaultId, StreamEnd};
use crate::testing::frame::Deframer;
use crate::testing::shared::Shared;

const SDS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
const SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// gRPC status codes.
const OK: i32 = 0;
const INVALID_ARGUMENT: i32 = 3;
const UNIMPLEMENTED: i32 = 12;

/// What `grpc-message` escapes, from gRPC's PROTOCOL-HTTP2: all but printable ASCII, and the percent sign.
const MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// Serves one call to its end.
pub(super) async fn serve(shared: Arc<Shared>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    let mut reply = Reply::Waiting(respond);
    if ![SOTW, SDS].contains(&path.as_str()) {
        reply.end(StreamEnd::Status(UNIMPLEMENTED, format!("no method `{path}` here")));
        return;
    }
    let (id, plan) = shared.open_stream();
    let _close = CloseOnDrop { shared: &shared, id };
    if let Some(end) = plan.end {
        reply.end(end);
        return;
    }
    let reader = Reader { body: request.into_body(), deframer: Deframer::default() };
    let mut stream = Stream { shared: &shared, id, reader, reply, withheld: plan.withheld, queue: VecDeque::new() };
    // An error means that the client has gone.
    let _ = stream.run().await;
}

struct CloseOnDrop<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.shared.close_stream(self.id);
    }
}

struct Stream<'a> {
    shared: &'a Shared,
    id: u64,
    reader: Reader,
    reply: Reply,
    /// Nothing is sent, not even headers, while this fault stands.
    withheld: Option<FaultId>,
    queue: VecDeque<(Instant, Outgoing)>,
}

enum Outgoing {
    Frame(Bytes),
    End(StreamEnd),
}

impl Stream<'_> {
    async fn run(&mut self) -> Result<(), h2::Error> {
        let mut changes = self.shared.config_changes();
        loop {
            self.withheld = self.withheld.filter(|fault| self.shared.look().faults.stands(*fault));
            if self.withheld.is_none() && self.send_due()? {
                return Ok(());
            }
            let next = self.queue.front().map(|(at, _)| *at).filter(|_| self.withheld.is_none());
            tokio::select! {
                request = self.reader.next() => match request {
                    Ok(Some(request)) => self.shared.receive(self.id, request),
                    Ok(None) => break self.reply.end(StreamEnd::Status(OK, String::new())),
                    Err(ReadError::Message(problem)) => {
                        break self.reply.end(StreamEnd::Status(INVALID_ARGUMENT, problem.to_string()));
                    }
                    Err(ReadError::Http2(error)) => return Err(error),
                },
                _ = changes.changed() => (),
                () = wait_until(next) => (),
            }
        }
        Ok(())
    }

    /// Queues what became due and sends what is due by now; whether that was the end.
    fn send_due(&mut self) -> Result<bool, h2::Error> {
        self.reply.start()?;
        let due = self.shared.due(self.id);
        let now = Instant::now();
        self.queue.extend(due.frames.into_iter().map(|(delay, frame)| (now + delay, Outgoing::Frame(frame))));
        self.queue.extend(due.end.map(|(delay, end)| (now + delay, Outgoing::End(end))));
        self.queue.make_contiguous().sort_by_key(|(at, _)| *at);
        while self.queue.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, outgoing)) = self.queue.pop_front() else { break };
            match outgoing {
                Outgoing::Frame(frame) => self.reply.send(frame)?,
                Outgoing::End(end) => {
                    self.reply.end(end);
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The response, before and after its headers.
enum Reply {
    Waiting(SendResponse<Bytes>),
    Started(SendStream<Bytes>),
}

impl Reply {
    fn start(&mut self) -> Result<(), h2::Error> {
        if let Self::Waiting(respond) = self {
            *self = Self::Started(respond.send_response(head(), false)?);
        }
        Ok(())
    }

    fn send(&mut self, frame: Bytes) -> Result<(), h2::Error> {
        match self {
            Self::Waiting(_) => Ok(()),
            Self::Started(stream) => stream.send_data(frame, false),
        }
    }

    /// Trailers, with the headers if these were not sent; a client that has gone does not miss them.
    fn end(&mut self, end: StreamEnd) {
        match (self, end) {
            (Self::Waiting(respond), StreamEnd::Status(code, message)) => {
                let mut response = head();
                response.headers_mut().extend(trailers(code, &message));
                let _ = respond.send_response(response, true);
            }
            (Self::Started(stream), StreamEnd::Status(code, message)) => {
                let _ = stream.send_trailers(trailers(code, &message));
            }
            (Self::Waiting(respond), StreamEnd::Reset) => respond.send_reset(Reason::INTERNAL_ERROR),
            (Self::Started(stream), StreamEnd::Reset) => stream.send_reset(Reason::INTERNAL_ERROR),
        }
    }
}

fn head() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn trailers(code: i32, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    let message = utf8_percent_encode(message, MESSAGE).to_string();
    if let Some(message) = HeaderValue::try_from(message).ok().filter(|message| !message.is_empty()) {
        trailers.insert("grpc-message", message);
    }
    trailers
}

/// The requests of a stream.
struct Reader {
    body: RecvStream,
    deframer: Deframer,
}

enum ReadError {
    Http2(h2::Error),
    Message(io::Error),
}

impl Reader {
    /// The next request; none at the end of the stream. Nothing is lost if the future is dropped.
    async fn next(&mut self) -> Result<Option<DiscoveryRequest>, ReadError> {
        loop {
            if let Some(request) = self.deframer.next().map_err(ReadError::Message)? {
                return Ok(Some(request));
            }
            let Some(data) = self.body.data().await else { return Ok(None) };
            let data = data.map_err(ReadError::Http2)?;
            self.body.flow_control().release_capacity(data.len()).map_err(ReadError::Http2)?;
            self.deframer.push(&data);
        }
    }
}
