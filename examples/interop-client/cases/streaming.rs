//! client_streaming, server_streaming, ping_pong, empty_stream.

use futures_util::stream;
use mesh_examples::grpc_testing::{
    PayloadType, ResponseParameters, StreamingInputCallRequest, StreamingOutputCallRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Client, check, check_ok, check_zeros, zeros};
use crate::Failure;

const REQUEST_SIZES: [usize; 4] = [27_182, 8, 1_828, 45_904];
const RESPONSE_SIZES: [i32; 4] = [31_415, 9, 2_653, 58_979];

/// Four requests, one response with the sum of their sizes.
pub(super) async fn client(mut client: Client) -> Result<(), Failure> {
    let requests = REQUEST_SIZES.map(|size| StreamingInputCallRequest { payload: zeros(size), ..Default::default() });
    let reply = check_ok("StreamingInputCall", client.streaming_input_call(stream::iter(requests)).await)?;
    check("aggregated_payload_size", reply.into_inner().aggregated_payload_size, 74_922)
}

/// One request, four responses in order.
pub(super) async fn server(mut client: Client) -> Result<(), Failure> {
    let request = output_request(&RESPONSE_SIZES, None);
    let replies = check_ok("StreamingOutputCall", client.streaming_output_call(request).await)?;
    let mut replies = replies.into_inner();
    for (index, size) in RESPONSE_SIZES.into_iter().enumerate() {
        let what = format!("response {index}");
        let reply = check_ok(&what, replies.message().await)?.ok_or_else(|| format!("{what}: the stream ended"))?;
        check_zeros(&what, reply.payload, usize::try_from(size)?)?;
    }
    check("the stream's end", check_ok("after the last response", replies.message().await)?, None)
}

/// Four times one request, then one response; then the client closes.
pub(super) async fn ping_pong(mut client: Client) -> Result<(), Failure> {
    let (send, requests) = mpsc::channel(1);
    // The first request goes before the call, since a server may send its head with the first response only.
    send.send(output_request(&RESPONSE_SIZES[..1], Some(REQUEST_SIZES[0]))).await?;
    let replies = check_ok("FullDuplexCall", client.full_duplex_call(ReceiverStream::new(requests)).await)?;
    let mut replies = replies.into_inner();
    for (index, size) in RESPONSE_SIZES.into_iter().enumerate() {
        if index > 0 {
            send.send(output_request(&[size], Some(REQUEST_SIZES[index]))).await?;
        }
        let what = format!("response {index}");
        let reply = check_ok(&what, replies.message().await)?.ok_or_else(|| format!("{what}: the stream ended"))?;
        check_zeros(&what, reply.payload, usize::try_from(size)?)?;
    }
    drop(send);
    check("the stream's end", check_ok("after the last response", replies.message().await)?, None)
}

/// No request, no response, success.
pub(super) async fn empty(mut client: Client) -> Result<(), Failure> {
    let replies = check_ok("FullDuplexCall", client.full_duplex_call(stream::empty()).await)?;
    check("the stream's end", check_ok("the call", replies.into_inner().message().await)?, None)
}

/// A request for responses of these sizes, perhaps with a payload of its own.
pub(super) fn output_request(response_sizes: &[i32], request_size: Option<usize>) -> StreamingOutputCallRequest {
    let parameters = response_sizes.iter().map(|size| ResponseParameters { size: *size, ..Default::default() });
    StreamingOutputCallRequest {
        response_type: PayloadType::Compressable.into(),
        response_parameters: parameters.collect(),
        payload: request_size.and_then(zeros),
        ..Default::default()
    }
}
