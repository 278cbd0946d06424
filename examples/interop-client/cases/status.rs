//! timeout_on_sleeping_server, status_code_and_message, special_status_message, unimplemented_method,
//! unimplemented_service.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use mesh_examples::grpc_testing::unimplemented_service_client::UnimplementedServiceClient;
use mesh_examples::grpc_testing::{
    EchoStatus, Empty, SimpleRequest, StreamingOutputCallRequest, StreamingOutputCallResponse,
};
use tonic::{Code, Request, Response, Status, Streaming};

use super::streaming::output_request;
use super::{Client, check, check_code};
use crate::Failure;
use crate::channel::Channel;

/// The server has nothing to say, and the deadline is 1 ms.
pub(super) async fn timeout_on_sleeping_server(mut client: Client) -> Result<(), Failure> {
    let requests = stream::iter([output_request(&[], Some(27_182))]).chain(stream::pending());
    let mut request = Request::new(requests);
    request.set_timeout(Duration::from_millis(1));
    let result = client.full_duplex_call(request).await;
    check_code("FullDuplexCall", first_message(result).await, Code::DeadlineExceeded).map(drop)
}

/// The status that a call asks for comes back, unary and streaming.
pub(super) async fn code_and_message(mut client: Client) -> Result<(), Failure> {
    let message = "test status message";
    let wanted = EchoStatus { code: 2, message: message.to_owned() };
    let request = SimpleRequest { response_status: Some(wanted.clone()), ..Default::default() };
    let status = check_code("UnaryCall", client.unary_call(request).await, Code::Unknown)?;
    check("UnaryCall: message", status.message(), message)?;

    let request = StreamingOutputCallRequest { response_status: Some(wanted), ..Default::default() };
    let result = client.full_duplex_call(stream::iter([request])).await;
    let status = check_code("FullDuplexCall", first_message(result).await, Code::Unknown)?;
    check("FullDuplexCall: message", status.message(), message)
}

/// White space and characters beyond ASCII survive in a status message.
pub(super) async fn special_message(mut client: Client) -> Result<(), Failure> {
    let message = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";
    let wanted = EchoStatus { code: 2, message: message.to_owned() };
    let request = SimpleRequest { response_status: Some(wanted), ..Default::default() };
    let status = check_code("UnaryCall", client.unary_call(request).await, Code::Unknown)?;
    check("message", status.message(), message)
}

/// A method that the server's service does not have.
pub(super) async fn unimplemented_method(mut client: Client) -> Result<(), Failure> {
    let result = client.unimplemented_call(Empty {}).await;
    check_code("TestService/UnimplementedCall", result, Code::Unimplemented).map(drop)
}

/// A service that the server does not have.
pub(super) async fn unimplemented_service(channel: Channel) -> Result<(), Failure> {
    let result = UnimplementedServiceClient::new(channel).unimplemented_call(Empty {}).await;
    check_code("UnimplementedService/UnimplementedCall", result, Code::Unimplemented).map(drop)
}

/// The status of a streaming call comes with its head or behind it.
async fn first_message(
    result: Result<Response<Streaming<StreamingOutputCallResponse>>, Status>,
) -> Result<Option<StreamingOutputCallResponse>, Status> {
    result?.into_inner().message().await
}
