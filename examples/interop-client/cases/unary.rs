//! empty_unary, large_unary.

use mesh_examples::grpc_testing::{Empty, PayloadType, SimpleRequest};

use super::{Client, check, check_ok, check_zeros, zeros};
use crate::Failure;

/// Request and response of no byte.
pub(super) async fn empty(mut client: Client) -> Result<(), Failure> {
    let reply = check_ok("EmptyCall", client.empty_call(Empty {}).await)?;
    check("the response", reply.into_inner(), Empty {})
}

/// Messages larger than a flow control window.
pub(super) async fn large(mut client: Client) -> Result<(), Failure> {
    let reply = check_ok("UnaryCall", client.unary_call(large_request(271_828, 314_159)).await)?;
    check_zeros("the response", reply.into_inner().payload, 314_159)
}

/// A request of so many bytes that asks for a response of so many.
pub(super) fn large_request(request_size: usize, response_size: i32) -> SimpleRequest {
    SimpleRequest {
        response_type: PayloadType::Compressable.into(),
        response_size,
        payload: zeros(request_size),
        ..Default::default()
    }
}
