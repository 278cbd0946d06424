//! What the cluster's configuration allows each attempt: whether the cluster can be used at all, and the share of
//! calls that the control plane asks to drop (A27, `drop_overloads`).
//!
//! A call needs the cluster that [`Route`](crate::route::Route) gave it, and fails without one.

mod layer;

use std::task::{Context, Poll};

use http::Request;
pub use layer::ClusterLayer;
use tower_service::Service;

pub use crate::call::ResponseFuture;
use crate::call::{self, Call};
use crate::error::{Error, ErrorKind};
use crate::resource::endpoints::DropOverload;
use crate::snapshot::ClusterEntry;

/// Admits each attempt, or fails it.
#[derive(Clone, Debug)]
pub struct Cluster<S> {
    inner: S,
}

impl<S> Cluster<S> {
    /// Admits attempts to `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B> Service<Request<B>> for Cluster<S>
where
    S: Service<Request<B>, Error = Error>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let call = call::of(request.extensions_mut());
        match admit(call) {
            Ok(()) => ResponseFuture::calling(self.inner.call(request)),
            Err(mut error) => {
                call.explain(&mut error);
                ResponseFuture::failed(error)
            }
        }
    }
}

fn admit(call: &Call) -> Result<(), Error> {
    let cluster = call.cluster.as_ref().ok_or_else(no_cluster)?;
    if let Some(leaf) = cluster.leaf() {
        // The error is the leaf's, whatever the call names.
        return admit_to(&leaf).map_err(|mut error| {
            error.context_mut().cluster = Some(leaf.key.name.clone());
            error
        });
    }
    admit_to(cluster)
}

fn admit_to(cluster: &ClusterEntry) -> Result<(), Error> {
    let config = cluster.config.as_ref().map_err(|problem| problem.to_error())?;
    match config.endpoints.drops.iter().find(|drop| fastrand::u32(..1_000_000) < drop.per_million) {
        Some(drop) => Err(dropped(drop)),
        None => Ok(()),
    }
}

fn dropped(drop: &DropOverload) -> Error {
    let share = f64::from(drop.per_million) / 10_000.0;
    let message = format!("the control plane asks to drop {share} % of the calls of category `{}`", drop.category);
    Error::new(ErrorKind::Overloaded, message)
        .with_next_step("see policy.drop_overloads of the cluster's ClusterLoadAssignment")
}

fn no_cluster() -> Error {
    Error::new(ErrorKind::Setup, "send a call that has no cluster")
        .with_next_step("put a DiscoverLayer and a RouteLayer in front of the ClusterLayer")
}
