//! Unary calls whose initial and trailing metadata stay apart; generated clients merge them.

use http::uri::PathAndQuery;
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::channel::Channel;

/// The response of a unary call.
#[derive(Debug)]
pub(crate) struct Reply<M> {
    pub(crate) initial: MetadataMap,
    pub(crate) message: M,
    pub(crate) trailing: MetadataMap,
}

/// Calls the unary method at `path`. On the wire it is what a generated client does.
pub(crate) async fn call<Q, M>(channel: Channel, path: &'static str, request: Request<Q>) -> Result<Reply<M>, Status>
where
    Q: Message + 'static,
    M: Message + Default + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let codec = ProstCodec::<Q, M>::default();
    let response = grpc.server_streaming(request, PathAndQuery::from_static(path), codec).await?;
    let (initial, mut messages, _) = response.into_parts();
    let message = messages.message().await?.ok_or_else(|| Status::internal("the response has no message"))?;
    if messages.message().await?.is_some() {
        return Err(Status::internal("the response of a unary call has a second message"));
    }
    let trailing = messages.trailers().await?.unwrap_or_default();
    Ok(Reply { initial, message, trailing })
}
