//! The server's side of a gRPC call of one request, for services that are no more than that.

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::request::Parts;
use http::{HeaderMap, Request, Response};

/// The head and the message of a request.
pub(crate) async fn received(request: Request<RecvStream>) -> (Parts, Bytes) {
    let (head, mut body) = request.into_parts();
    let mut received = BytesMut::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        received.extend_from_slice(&data);
    }
    (head, received.split_off(5.min(received.len())).freeze())
}

/// A message in its frame.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("a short message");
    [&[0][..], &length.to_be_bytes(), message].concat().into()
}

/// Answers with these bytes, if there are any, and a status.
pub(crate) fn answer(respond: &mut SendResponse<Bytes>, body: Option<Bytes>, code: u16, text: &'static str) {
    let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    if let Some(body) = body {
        let _ = stream.send_data(body, false);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    trailers.insert("grpc-message", text.parse().expect("ASCII"));
    let _ = stream.send_trailers(trailers);
}
