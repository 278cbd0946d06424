//! A call of one request and one response.

use std::future::poll_fn;

use super::*;

/// Why there is no response.
pub(in crate::xds::transport) enum Failure {
    /// The server did nothing of it: it may be sent again.
    Unsent(StreamError),
    Status(StreamError),
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        Self::Status(error)
    }
}

/// The one message that goes out.
struct Once(Option<Bytes>);

impl Body for Once {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|message| Ok(Frame::data(message))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

impl GrpcTransport {
    /// Another connection, which is the caller's to keep.
    pub(in crate::xds::transport) async fn dial(&self) -> Result<Connection, StreamError> {
        self.inner.dial(0).await
    }

    /// Makes a call; dropped, it is cancelled.
    pub(in crate::xds::transport) async fn call(
        &self,
        slot: Slot,
        method: &'static str,
        more: HeaderMap,
        request: &Bytes,
    ) -> Result<Bytes, Failure> {
        let mut headers = self.inner.headers().await?;
        headers.extend(more);
        let uri = self.inner.uri(method).map_err(|error| StreamError::new(format!("INTERNAL: {error}")))?;
        let message = frame(request).ok_or_else(|| StreamError::new("INTERNAL: request of more than 4 GiB"))?;
        let outgoing = Outgoing::from(head(uri, headers).map(|()| Once(Some(message))));
        let response = slot.send(outgoing).await.map_err(|error| match &error.kind {
            kind @ (SendErrorKind::Unsent(_) | SendErrorKind::Refused(_)) => Failure::Unsent(send_error(kind)),
            kind => Failure::Status(send_error(kind)),
        })?;
        Ok(only_message(check_head(response)?, self.inner.options.max_response).await?)
    }
}

/// The message of a response that has one, and ends well.
async fn only_message(mut body: RecvBody, limit: usize) -> Result<Bytes, StreamError> {
    let (mut received, mut only) = (Deframer::new(limit), None);
    loop {
        while let Some(message) = received.next()? {
            if only.replace(message).is_some() {
                return Err(StreamError::new("INTERNAL: there is more than one response"));
            }
        }
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let frame = frame.ok_or_else(no_status)?.map_err(|error| unavailable(&error))?;
        match frame.into_data() {
            Ok(data) => received.push(&data),
            Err(frame) => {
                let end = status(&frame.into_trailers().unwrap_or_default()).unwrap_or_else(no_status);
                return match end.code() {
                    "OK" => only.ok_or_else(|| StreamError::new("INTERNAL: there is no response")),
                    _ => Err(end),
                };
            }
        }
    }
}
