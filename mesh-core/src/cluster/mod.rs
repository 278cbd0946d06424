//! What the cluster's configuration allows each attempt: whether the cluster can be used at all, the share of calls
//! that the control plane asks to drop (A27, `drop_overloads`), and how many may be in flight (A32, `max_requests`).
//!
//! A call needs the cluster that [`Route`](crate::route::Route) gave it, and fails without one. An attempt that is not
//! admitted fails with [`ErrorKind::Overloaded`] and is not repeated; one that is counts until its response's body has
//! ended.

mod admission;
mod body;
mod breaker;
mod future;
mod in_force;
mod layer;

use std::task::{Context, Poll};

pub use body::ResponseBody;
pub use future::ResponseFuture;
use http::{Request, Response};
pub use layer::ClusterLayer;
use tower_service::Service;

use self::admission::{Admissions, Refusal};
use self::breaker::Permit;
use crate::call::Call;
use crate::error::{Error, ErrorKind};
use crate::snapshot::ClusterEntry;

/// Admits each attempt, or fails it. Clones count together.
#[derive(Clone, Debug)]
pub struct Cluster<S> {
    inner: S,
    admissions: Admissions,
}

impl<S> Cluster<S> {
    fn new(inner: S, admissions: Admissions) -> Self {
        Self { inner, admissions }
    }
}

impl<S, B, R> Service<Request<B>> for Cluster<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Error>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = request.extensions().get::<Call>();
        match admit(&self.admissions, call) {
            Ok(permit) => ResponseFuture::calling(self.inner.call(request), permit),
            Err(mut error) => {
                call.into_iter().for_each(|call| call.explain(&mut error));
                ResponseFuture::failed(error)
            }
        }
    }
}

fn admit(admissions: &Admissions, call: Option<&Call>) -> Result<Option<Permit>, Error> {
    let cluster = call.and_then(|call| call.cluster.as_ref()).ok_or_else(no_cluster)?;
    if let Some(leaf) = cluster.leaf() {
        // The error is the leaf's, whatever the call names.
        return admit_to(admissions, &leaf).map_err(|mut error| {
            error.context_mut().cluster = Some(leaf.key.name.clone());
            error
        });
    }
    admit_to(admissions, cluster)
}

fn admit_to(admissions: &Admissions, cluster: &ClusterEntry) -> Result<Option<Permit>, Error> {
    let config = cluster.config.as_ref().map_err(|problem| problem.to_error())?;
    let draw = || fastrand::u32(..1_000_000);
    admissions.admit(cluster, config, draw).map_err(|refusal| refused(refusal, &cluster.key.name))
}

fn refused(refusal: Refusal<'_>, cluster: &str) -> Error {
    let (message, next_step) = match refusal {
        Refusal::Dropped(drop) => {
            let share = f64::from(drop.per_million) / 10_000.0;
            let message =
                format!("the control plane asks to drop {share} % of the calls of category `{}`", drop.category);
            (message, "see policy.drop_overloads of the cluster's ClusterLoadAssignment")
        }
        Refusal::CircuitBreaker { max_requests } => {
            let message = format!("circuit breaker: cluster `{cluster}` may have {max_requests} requests in flight");
            (message, "send less at a time, or raise circuit_breakers.thresholds.max_requests of the Cluster")
        }
    };
    Error::new(ErrorKind::Overloaded, message).with_next_step(next_step)
}

fn no_cluster() -> Error {
    Error::new(ErrorKind::Setup, "send a call that has no cluster").with_next_step(
        "put a DiscoverLayer and a RouteLayer in front of the ClusterLayer, and for routes that answer calls a FilterLayer",
    )
}
