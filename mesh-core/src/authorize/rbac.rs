//! Access control by fixed policies (A41).

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tower_layer::Layer;
use tower_service::Service;

use super::{Rbac, ResponseBody, ResponseFuture};
use crate::deadline::InboundProtocol;
use crate::error::{Error, ErrorKind};
use crate::resource::rbac::{RbacFilter, access};
use crate::server::inbound_call;

/// Makes [`RbacService`]s.
///
/// It takes the caller's `Peer` and [`ConnectInfo`](crate::server::ConnectInfo) from the extensions of each request, where
/// a server of the mesh puts them. Without a `Peer` the caller is not verified; without a `ConnectInfo` nothing is known of
/// addresses. What is not known counts against the caller: it is no reason to allow a call.
#[derive(Clone, Debug)]
pub struct RbacLayer {
    filter: Arc<RbacFilter>,
    protocol: Option<&'static dyn InboundProtocol>,
}

impl RbacLayer {
    /// Lets pass what this allows, or does not deny. Callers of a protocol of which nothing is known but HTTP are answered
    /// with 403.
    pub fn new(rbac: Rbac) -> Self {
        Self { filter: Arc::new(RbacFilter { rules: Some(rbac), shadow: None }), protocol: None }
    }

    /// What the callers speak; gRPC's is the adapter's.
    pub fn protocol(mut self, protocol: &'static dyn InboundProtocol) -> Self {
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
    protocol: Option<&'static dyn InboundProtocol>,
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

fn refused(protocol: Option<&'static dyn InboundProtocol>) -> Response<Bytes> {
    let error = Error::new(ErrorKind::PermissionDenied, crate::server::NOT_ALLOWED);
    let head = protocol.map_or_else(
        || {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::FORBIDDEN;
            response
        },
        |protocol| protocol.refused(&error),
    );
    head.map(|()| Bytes::new())
}
