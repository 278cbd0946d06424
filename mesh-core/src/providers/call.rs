//! One gRPC call to whoever issues certificates: one request, and one response or many.

use std::future::poll_fn;

use prost::Message;

use crate::xds::transport::grpc::GrpcTransport;
use crate::xds::transport::{Stream, StreamError, Transport};

/// A call under way. Dropped, it is cancelled.
pub(super) struct Call(Box<dyn Stream>);

impl Call {
    /// Sends the request of a call. Returns when it goes out on a connection: not when the server answers.
    pub(super) async fn start(
        transport: &GrpcTransport,
        method: &'static str,
        request: &impl Message,
    ) -> Result<Self, StreamError> {
        let mut stream = transport.open(method).await?;
        poll_fn(|cx| stream.poll_ready(cx)).await;
        stream.send(request.encode_to_vec().into());
        stream.finish();
        Ok(Self(stream))
    }

    /// The next response, or the status with which the call ended.
    pub(super) async fn response<M: Message + Default>(&mut self) -> Result<M, StreamError> {
        let bytes = poll_fn(|cx| self.0.poll_recv(cx)).await?;
        M::decode(bytes).map_err(|error| StreamError::new(format!("INTERNAL: the response cannot be read: {error}")))
    }

    /// Whether the call succeeded, after its one response.
    #[cfg(feature = "istio")]
    pub(super) async fn end(mut self) -> Result<(), StreamError> {
        match poll_fn(|cx| self.0.poll_recv(cx)).await {
            Err(status) if status.code() == "OK" => Ok(()),
            Err(status) => Err(status),
            Ok(_) => Err(StreamError::new("INTERNAL: there is more than one response")),
        }
    }
}
