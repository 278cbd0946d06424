//! A service that is polled ready by each call itself: a channel is always ready, and polls nothing ahead of its calls.

use std::task::{Context, Poll};

use tower::util::Oneshot;
use tower_layer::{Layer, Stack};
use tower_service::Service;

/// The application's layer, whose service may have to be polled ready.
pub type PreparedLayer<L> = Stack<L, Prepare>;

/// Makes [`Prepared`] services.
#[derive(Clone, Copy, Debug)]
pub struct Prepare;

impl<S> Layer<S> for Prepare {
    type Service = Prepared<S>;

    fn layer(&self, inner: S) -> Prepared<S> {
        Prepared(inner)
    }
}

/// Each call waits for its own clone of the service.
#[derive(Clone, Debug)]
pub struct Prepared<S>(S);

impl<S, R> Service<R> for Prepared<S>
where
    S: Service<R> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Oneshot<S, R>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        Oneshot::new(self.0.clone(), request)
    }
}
