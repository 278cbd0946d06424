use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::bounds::{Bounds, Limits};
use super::{Mirror, MirrorCounts, Tasks};
use crate::origin::Origin;
use crate::resource::mirror::{MirrorCluster, MirrorPolicy};

/// Makes [`Mirror`] services, which send copies of calls by the service that the layer has for them. What one layer makes
/// shares its bounds.
///
/// In a client's stack, what is mirrored is for the calls' routes to say. Around any other `http` service the layer works
/// with a [`share`](Self::share) of its own:
///
/// ```
/// use std::convert::Infallible;
///
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Empty, Full};
/// use mesh_core::mirror::{CopyBody, MirrorLayer, RequestBody};
/// use tokio::sync::mpsc;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (copies, mut copied) = mpsc::unbounded_channel();
/// let mirror = service_fn(move |copy: Request<CopyBody>| {
///     let copies = copies.clone();
///     async move {
///         let authority = copy.uri().authority().map(ToString::to_string);
///         let body = copy.into_body().collect().await.map_err(|_| ())?.to_bytes();
///         copies.send((authority.unwrap_or_default(), body)).map_err(|_| ())?;
///         Ok::<_, ()>(Response::new(Empty::<Bytes>::new()))
///     }
/// });
/// let echo = service_fn(|call: Request<RequestBody<Full<Bytes>>>| async {
///     Ok::<_, Infallible>(Response::new(call.into_body().collect().await?.to_bytes()))
/// });
/// let client = ServiceBuilder::new().layer(MirrorLayer::new(mirror).share(1_000_000)).service(echo);
///
/// let response = client.oneshot(Request::post("http://orders/new").body(Full::from("tea"))?).await?;
/// assert_eq!(response.into_body(), "tea");
/// assert_eq!(copied.recv().await, Some(("orders-shadow".to_owned(), Bytes::from("tea"))));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct MirrorLayer<M> {
    mirror: M,
    pub(super) limits: Limits,
    bounds: Arc<Bounds>,
    fixed: Option<Arc<[MirrorPolicy]>>,
    tasks: Tasks,
}

impl<M> MirrorLayer<M> {
    /// Copies are sent by `mirror`, those of calls whose routes say so.
    pub fn new(mirror: M) -> Self {
        let limits = Limits::DEFAULT;
        Self { mirror, limits, bounds: Bounds::new(limits), fixed: None, tasks: Tasks::default() }
    }

    /// So many of a million calls are mirrored, whatever their routes say. Default: as their routes say.
    pub fn share(mut self, per_million: u32) -> Self {
        let all = MirrorPolicy::to(MirrorCluster::Named(Arc::from("")));
        self.fixed = Some(Arc::new([MirrorPolicy { share: per_million, ..all }]));
        self
    }

    /// How many copies may be in flight; beyond that, none is begun, so that a slow mirror takes no more
    /// calls than it answers. Default 128.
    pub fn max_in_flight(self, copies: usize) -> Self {
        self.limit(|limits| limits.in_flight = copies)
    }

    /// How many bytes of requests are held until they are sent to the mirror: of one copy and of all together. Copies that
    /// need more are given up. Default 1 MiB (as Envoy's buffer of a stream) and 16 MiB.
    pub fn buffer_size(self, per_call: usize, in_all: usize) -> Self {
        self.limit(|limits| (limits.held_per_call, limits.held) = (per_call, in_all))
    }

    /// How long a copy may take, if its call has no earlier deadline. Default 15 s.
    pub fn max_duration(self, limit: Duration) -> Self {
        self.limit(|limits| limits.duration = crate::backoff::bounded(limit))
    }

    fn limit(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self.limits.origin = Origin::Code;
        self.bounds = Bounds::new(self.limits);
        self
    }

    /// What was counted of the copies so far.
    pub fn counts(&self) -> MirrorCounts {
        self.bounds.counts()
    }

    /// Sends copies there.
    pub(crate) fn tasks(mut self, tasks: Tasks) -> Self {
        self.tasks = tasks;
        self
    }

    /// The same layer for another way to send copies.
    pub(crate) fn by<N>(&self, mirror: N) -> MirrorLayer<N> {
        let Self { mirror: _, limits, bounds, fixed, tasks } = self;
        MirrorLayer { mirror, limits: *limits, bounds: bounds.clone(), fixed: fixed.clone(), tasks: tasks.clone() }
    }
}

impl<S, M: Clone> Layer<S> for MirrorLayer<M> {
    type Service = Mirror<S, M>;

    fn layer(&self, inner: S) -> Mirror<S, M> {
        Mirror {
            inner,
            mirror: self.mirror.clone(),
            bounds: self.bounds.clone(),
            fixed: self.fixed.clone(),
            tasks: self.tasks.clone(),
        }
    }
}
