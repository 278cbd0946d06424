//! Access control by fixed policies (A41), around any `http` service.
//!
//! A server of the mesh does what its control plane says by itself, before its layers; this layer is for policies that are
//! made in code, in a server of the mesh or in another.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use http::{Request, Response, StatusCode};
//! use mesh_core::authorize::{Policy, Rbac, RbacLayer, Rule};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let reading = Policy::new([Rule::path_prefix("/library.Books/")], [Rule::any()]);
//! let books = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(String::from("books"))) });
//! let server = ServiceBuilder::new().layer(RbacLayer::new(Rbac::allow([("reading", reading)]))).service(books);
//! let refused = server.oneshot(Request::get("/library.Admin/Drop").body(()).unwrap()).await.unwrap();
//! assert_eq!(refused.status(), StatusCode::FORBIDDEN);
//! # }
//! ```

mod layer;
#[cfg(all(test, feature = "tls"))]
mod tests;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
pub use layer::RbacLayer;
use pin_project::pin_project;
use tower_service::Service;

use crate::deadline::InboundProtocol;
use crate::error::{Error, ErrorKind};
pub use crate::resource::rbac::{Policy, Rbac, Rule};
use crate::resource::rbac::{RbacFilter, access};
use crate::server::inbound_call;

/// Serves the calls that policies let pass, and answers the others.
#[derive(Clone, Debug)]
pub struct RbacService<S> {
    inner: S,
    filter: std::sync::Arc<RbacFilter>,
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
                ResponseFuture { inner: None, refused: Some(refused(self.protocol)) }
            }
            None => ResponseFuture { inner: Some(self.inner.call(request)), refused: None },
        }
    }
}

fn refused(protocol: Option<&'static dyn InboundProtocol>) -> Response<()> {
    let error = Error::new(ErrorKind::PermissionDenied, crate::server::NOT_ALLOWED);
    protocol.map_or_else(
        || {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::FORBIDDEN;
            response
        },
        |protocol| protocol.refused(&error),
    )
}

/// The future of [`RbacService`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<F> {
    #[pin]
    inner: Option<F>,
    refused: Option<Response<()>>,
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(match this.inner.as_pin_mut() {
            Some(inner) => ready!(inner.poll(cx)).map(|response| response.map(|body| ResponseBody(Some(body)))),
            None => Ok(this.refused.take().expect("polled after it was ready").map(|()| ResponseBody(None))),
        })
    }
}

/// The body of a response; a call that was refused has none.
#[pin_project]
#[derive(Debug)]
pub struct ResponseBody<R>(#[pin] Option<R>);

impl<R: Body> Body for ResponseBody<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        self.project().0.as_pin_mut().map_or(Poll::Ready(None), |inner| inner.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
