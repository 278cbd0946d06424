//! Echoes metadata of the request in the response ("Echo Metadata" of gRPC's interop tests), and adds the header
//! `hostname`, by which the mesh tests know who answered.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::header::InvalidHeaderValue;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use tonic::body::Body;
use tower::{Layer, Service};

const INITIAL: HeaderName = HeaderName::from_static("x-grpc-test-echo-initial");
const TRAILING: HeaderName = HeaderName::from_static("x-grpc-test-echo-trailing-bin");
const HOST_NAME: HeaderName = HeaderName::from_static("hostname");

/// Wraps the test service.
#[derive(Clone, Debug)]
pub(crate) struct EchoMetadataLayer {
    host_name: HeaderValue,
}

impl EchoMetadataLayer {
    pub(crate) fn new(host_name: &str) -> Result<Self, InvalidHeaderValue> {
        Ok(Self { host_name: HeaderValue::from_str(host_name)? })
    }
}

impl<S> Layer<S> for EchoMetadataLayer {
    type Service = EchoMetadata<S>;

    fn layer(&self, inner: S) -> EchoMetadata<S> {
        EchoMetadata { inner, host_name: self.host_name.clone() }
    }
}

/// Made by [`EchoMetadataLayer`].
#[derive(Clone, Debug)]
pub(crate) struct EchoMetadata<S> {
    inner: S,
    host_name: HeaderValue,
}

impl<S, B> Service<Request<B>> for EchoMetadata<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut initial = values_of(request.headers(), INITIAL);
        initial.insert(HOST_NAME, self.host_name.clone());
        let trailing = values_of(request.headers(), TRAILING);
        let response = self.inner.call(request);
        Box::pin(async move { Ok(with_metadata(response.await?, initial, trailing)) })
    }
}

fn values_of(headers: &HeaderMap, name: HeaderName) -> HeaderMap {
    headers.get_all(&name).iter().map(|value| (name.clone(), value.clone())).collect()
}

fn with_metadata(mut response: Response<Body>, initial: HeaderMap, trailing: HeaderMap) -> Response<Body> {
    append(response.headers_mut(), initial);
    if trailing.is_empty() {
        return response;
    }
    // A response whose head has the status is "trailers only": its head is its trailers.
    if response.headers().contains_key("grpc-status") {
        append(response.headers_mut(), trailing);
        return response;
    }
    response.map(|body| {
        Body::new(body.map_frame(move |mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                append(trailers, trailing.clone());
            }
            frame
        }))
    })
}

/// `HeaderMap::extend` replaces values of a name that is there; this keeps them.
fn append(headers: &mut HeaderMap, more: HeaderMap) {
    for (name, value) in more.iter() {
        headers.append(name, value.clone());
    }
}
