//! custom_metadata.

use bytes::Bytes;
use futures_util::stream;
use mesh_examples::grpc_testing::SimpleResponse;
use mesh_examples::grpc_testing::test_service_client::TestServiceClient;
use tonic::Request;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::streaming::output_request;
use super::unary::large_request;
use super::{check, check_ok, check_zeros};
use crate::Failure;
use crate::channel::Channel;
use crate::unary::{self, Reply};

const INITIAL: &str = "x-grpc-test-echo-initial";
const INITIAL_VALUE: &str = "test_initial_metadata_value";
const TRAILING: &str = "x-grpc-test-echo-trailing-bin";
const TRAILING_VALUE: &[u8] = &[0xab, 0xab, 0xab];

/// The server echoes one value as initial and one as trailing metadata, in a unary and in a streaming call.
pub(super) async fn custom(channel: Channel) -> Result<(), Failure> {
    unary(channel.clone()).await?;
    full_duplex(channel).await
}

async fn unary(channel: Channel) -> Result<(), Failure> {
    let request = with_metadata(large_request(271_828, 314_159));
    let reply = unary::call(channel, "/grpc.testing.TestService/UnaryCall", request).await;
    let Reply::<SimpleResponse> { initial, message, trailing } = check_ok("UnaryCall", reply)?;
    check_zeros("UnaryCall", message.payload, 314_159)?;
    check_metadata("UnaryCall", &initial, &trailing)
}

async fn full_duplex(channel: Channel) -> Result<(), Failure> {
    let requests = stream::iter([output_request(&[314_159], Some(271_828))]);
    let response = TestServiceClient::new(channel).full_duplex_call(with_metadata(requests)).await;
    let (initial, mut replies, _) = check_ok("FullDuplexCall", response)?.into_parts();
    let reply = check_ok("FullDuplexCall", replies.message().await)?.ok_or("FullDuplexCall: there is no response")?;
    check_zeros("FullDuplexCall", reply.payload, 314_159)?;
    check("the stream's end", check_ok("after the last response", replies.message().await)?, None)?;
    let trailing = check_ok("FullDuplexCall: trailers", replies.trailers().await)?.unwrap_or_default();
    check_metadata("FullDuplexCall", &initial, &trailing)
}

fn with_metadata<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(INITIAL, MetadataValue::from_static(INITIAL_VALUE));
    request.metadata_mut().insert_bin(TRAILING, MetadataValue::from_bytes(TRAILING_VALUE));
    request
}

fn check_metadata(what: &str, initial: &MetadataMap, trailing: &MetadataMap) -> Result<(), Failure> {
    let values: Vec<_> = initial.get_all(INITIAL).iter().map(|value| value.as_encoded_bytes()).collect();
    check(&format!("{what}: initial metadata {INITIAL}"), values, vec![INITIAL_VALUE.as_bytes()])?;
    let values: Result<Vec<_>, _> = trailing.get_all_bin(TRAILING).iter().map(|value| value.to_bytes()).collect();
    check(&format!("{what}: trailing metadata {TRAILING}"), values?, vec![Bytes::from_static(TRAILING_VALUE)])
}
