//! Access control by fixed policies (A41).

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::{Rbac, ResponseBody, ResponseFuture};
use crate::filter::{Answer, AnswerProtocol, AnswerStatus};
use crate::resource::rbac::{RbacFilter, access};
use crate::server::inbound_call;

/// As a code of gRPC.
const PERMISSION_DENIED: u8 = 7;

/// Makes [`RbacService`]s.
///
/// It takes the caller's `Peer` and [`ConnectInfo`](crate::server::ConnectInfo) from the extensions of each request, where
/// a server of the mesh puts them. Without a `Peer` the caller is not verified; without a `ConnectInfo` nothing is known of
/// addresses. What is not known counts against the caller: it is no reason to allow a call.
#[derive(Clone, Debug)]
pub struct RbacLayer {
    filter: Arc<RbacFilter>,
    protocol: Option<&'static dyn AnswerProtocol>,
}

impl RbacLayer {
    /// Lets pass what this allows, or does not deny. Other calls are refused: with 403, or gRPC's PERMISSION_DENIED.
    pub fn new(rbac: Rbac) -> Self {
        Self { filter: Arc::new(RbacFilter { rules: Some(rbac), shadow: None }), protocol: None }
    }

    /// What the callers speak, and so what a refused call is answered with; gRPC's is the adapter's. Default: HTTP.
    pub fn protocol(mut self, protocol: &'static dyn AnswerProtocol) -> Self {
        self.protocol = Some(protocol);
        self
    }
}

impl<S> Layer<S> for RbacLayer {
    type Service = RbacService<S>;

    fn layer(&self, inner: S) -> RbacService<S> {
        RbacService { inner, filter: self.filter.clone(), protocol: self.protocol }
    }
}

/// Serves the calls that policies let pass, and answers the others.
#[derive(Clone, Debug)]
pub struct RbacService<S> {
    inner: S,
    filter: Arc<RbacFilter>,
    protocol: Option<&'static dyn AnswerProtocol>,
}

impl<S, B, R> Service<Request<B>> for RbacService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = inbound_call(&request);
        let refusal = access::decide(&call, [("code", &*self.filter)].into_iter(), false, None).err();
        match refusal {
            Some(refusal) => {
                tracing::debug!("a call was refused: {}", refusal.describe(&call, ""));
                ResponseFuture::refuse(refused(self.protocol))
            }
            None => ResponseFuture::serve(self.inner.call(request)),
        }
    }
}

fn refused(protocol: Option<&'static dyn AnswerProtocol>) -> Response<Bytes> {
    let answer = Answer::new(AnswerStatus::Grpc(PERMISSION_DENIED), crate::server::NOT_ALLOWED);
    match protocol {
        Some(protocol) => protocol.respond(answer),
        None => answer.into_http(),
    }
}
