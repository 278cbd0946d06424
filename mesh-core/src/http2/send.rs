//! One request from its slot to the response's head.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::Response;
use http_body::Body;

use super::body::RecvBody;
use super::connection::{Inner, Sender, Slot};
use super::error::{BoxError, Code, ConnectionError, ConnectionErrorKind, SendError, SendErrorKind};
use super::request::{Outgoing, to_h2};
use super::shared::Shared;
use super::upload::{Opening, Upload};
use crate::replay::{Head, HeadCopy};

impl Slot {
    /// Sends `request` on this slot's connection. Nothing happens before the future is polled.
    pub(crate) fn send<B>(self, request: Outgoing<B>) -> Send<B> {
        let Outgoing { head, body } = request;
        Send {
            response: None,
            upload: Some(Upload::new(body)),
            head: Some(head),
            copy: HeadCopy::default(),
            writes: 0,
            slot: Some(self),
        }
    }
}

/// Resolves to the response's head; its body keeps the slot. Dropped earlier, it resets the stream.
///
/// The parts are taken one by one where they end: moving them together would copy a kilobyte per call several times.
#[must_use = "futures do nothing unless polled"]
pub(crate) struct Send<B> {
    // Before the slot: the stream ends first.
    response: Option<ResponseFuture>,
    upload: Option<Upload<B>>,
    /// Until `h2` has it.
    head: Option<Head>,
    /// Empty until then.
    copy: HeadCopy,
    /// Writes on the connection before the head was queued.
    writes: u64,
    slot: Option<Slot>,
}

const READY: &str = "not polled again after it was ready";
const QUEUED: &str = "queued once";

impl<B> Future for Send<B>
where
    B: Body<Data = Bytes> + std::marker::Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<RecvBody>, SendError<B>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.get_mut();
        if me.response.is_none()
            && let Err(kind) = me.queue(cx)
        {
            return Poll::Ready(Err(me.fail(kind)));
        }
        match Pin::new(me.response.as_mut().expect("queued above")).poll(cx) {
            Poll::Ready(Ok(response)) => Poll::Ready(me.receive(response)),
            Poll::Ready(Err(error)) => {
                let kind = classify(&me.connection().shared, &error, me.writes);
                Poll::Ready(Err(me.fail(kind)))
            }
            Poll::Pending => match me.upload.as_mut().expect(READY).poll(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(me.fail(SendErrorKind::RequestBody(error)))),
                _ => Poll::Pending,
            },
        }
    }
}

impl<B> Send<B> {
    fn connection(&self) -> &Inner {
        self.slot.as_ref().expect(READY).connection()
    }

    /// Ends the call, and gives the request back where it may be sent elsewhere.
    fn fail(&mut self, kind: SendErrorKind) -> SendError<B> {
        self.response = None;
        let upload = self.upload.take();
        let again = matches!(kind, SendErrorKind::Unsent(_) | SendErrorKind::Refused(_));
        let body = upload.filter(|_| again).map(|upload| upload.body);
        let body = body.and_then(|mut body| body.rewind().then_some(body));
        self.slot = None;
        let request = body.map(|body| {
            let head = self.head.take().unwrap_or_else(|| self.copy.to_head());
            Box::new(Outgoing { head, body })
        });
        SendError { kind, replay: request }
    }
}

impl<B> Send<B>
where
    B: Body<Data = Bytes> + std::marker::Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Hands to `h2` what there is of the request.
    fn queue(&mut self, cx: &mut Context<'_>) -> Result<(), SendErrorKind> {
        let upload = self.upload.as_mut().expect(READY);
        let opening = Opening::poll(&mut upload.body, cx).map_err(SendErrorKind::RequestBody)?;
        let connection = self.slot.as_ref().expect(READY).connection();
        let head = self.head.take().expect(QUEUED);
        self.copy.fill(&head.method, &head.uri, &head.headers);
        connection.shared.check_request(self.copy.list_size()).map_err(SendErrorKind::TooLarge)?;
        self.writes = connection.shared.writes();
        let (response, stream) = connection.open(head, &self.copy, opening.is_empty())?;
        upload.begin(stream, opening, &connection.shared);
        self.response = Some(response);
        Ok(())
    }

    fn receive(&mut self, response: Response<h2::RecvStream>) -> Result<Response<RecvBody>, SendError<B>> {
        if let Err(why) = self.connection().shared.check_headers(response.headers()) {
            return Err(self.fail(SendErrorKind::BadResponse(why)));
        }
        let slot = self.slot.take().expect(READY);
        let rest = self.upload.take_if(|upload| !upload.is_done());
        let rest = rest.map(|mut rest| {
            rest.body.forget();
            slot.connection().runtime.spawn(rest)
        });
        (self.response, self.upload) = (None, None);
        Ok(response.map(|stream| RecvBody::new(stream, rest, slot)))
    }
}

impl<B> fmt::Debug for Send<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Send").field("queued", &self.response.is_some()).finish_non_exhaustive()
    }
}

/// What an error of a stream says about its request, which was queued after so many `writes`.
///
/// `h2` hands a remote GOAWAY to the streams above its last id alone; those below go on, and fail with the socket's
/// error or with our own GOAWAY if the connection ends before them.
fn classify(shared: &Shared, error: &h2::Error, writes: u64) -> SendErrorKind {
    if error.is_reset() {
        let code = Code::from(error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR));
        return match code {
            _ if !error.is_remote() => SendErrorKind::BadResponse(shared.bad_response(error)),
            Code::REFUSED_STREAM => SendErrorKind::Refused(None),
            code => SendErrorKind::Reset(code),
        };
    }
    let why = shared.explain(error);
    if error.is_go_away() && error.is_remote() {
        return match Code::from(error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR)) {
            Code::NO_ERROR | Code::REFUSED_STREAM | Code::ENHANCE_YOUR_CALM => SendErrorKind::Refused(Some(why)),
            // The peer could not bear something that was sent, which may be this request: it must not reach another peer.
            _ => SendErrorKind::ConnectionLost(why),
        };
    }
    if shared.writes() == writes { SendErrorKind::Unsent(why) } else { SendErrorKind::ConnectionLost(why) }
}

impl Inner {
    /// Queues a head inside `h2`.
    fn open(
        &self,
        head: Head,
        copy: &HeadCopy,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), SendErrorKind> {
        let mut sender = self.sender.lock();
        let Some(Sender { requests: live, ended }) = sender.as_mut() else {
            return Err(SendErrorKind::Unsent(self.shared.why_no_calls()));
        };
        *ended = None;
        self.shared.queued();
        let opened = match live.send_request(to_h2(head), end) {
            Err(error) if !error.is_io() && !error.is_go_away() => self.open_again(live, copy, end),
            opened => opened.map_err(|error| SendErrorKind::Unsent(self.shared.explain(&error))),
        };
        // At the peer's limit a handle keeps the stream until the next request, and a call that is dropped before would
        // not be reset.
        if self.shared.slots.are_taken() {
            *live = live.clone();
        }
        opened
    }

    /// `h2` did not take the request: it cannot be sent at all, or the one before has not left. Near the peer's limit a
    /// handle takes no other until then; a new handle knows of none before. As the one before may leave at any moment,
    /// only a second try tells which of the two it was.
    fn open_again(
        &self,
        live: &mut SendRequest<Bytes>,
        copy: &HeadCopy,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), SendErrorKind> {
        match live.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Err(SendErrorKind::Unsent(self.exhausted(&error))),
            Poll::Pending => *live = live.clone(),
        }
        live.send_request(to_h2(copy.to_head()), end).map_err(|error| {
            if error.is_io() || error.is_go_away() {
                return SendErrorKind::Unsent(self.shared.explain(&error));
            }
            SendErrorKind::BadRequest(error.to_string())
        })
    }

    /// After 2^30 calls there are no stream ids left: the next call needs another connection.
    fn exhausted(&self, error: &h2::Error) -> ConnectionError {
        if error.is_io() || error.is_go_away() {
            return self.shared.explain(error);
        }
        self.shared.drain(None);
        ConnectionError::new(ConnectionErrorKind::Closed, "stream ids used up")
    }
}
