//! The channel that generated clients call.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::Body;
use mesh_core::stack::client::{Attempt, AttemptBody, ClientStack};
use mesh_core::{Call, Mesh, Target};
use pin_project::pin_project;
use tower_layer::{Identity, Layer, Stack};
use tower_service::Service;

use crate::prepared::{Prepare, PreparedLayer};
use crate::{Error, Grpc, ResponseBody, deadline};

const USER_AGENT: &str = concat!("grpc-rust-mesh/", env!("CARGO_PKG_VERSION"));

/// A channel to one target of a mesh, for any tonic-generated client.
///
/// It is cheap to clone, always ready, and works in spawned tasks. Waiting, for the first configuration or for an
/// endpoint, happens inside the call, while there is hope and no longer; see
/// [`CallOptions::wait_for_ready`](mesh_core::CallOptions::wait_for_ready).
///
/// The channel does not keep its [`Mesh`] alive: once the mesh is dropped or shut down, calls fail.
#[derive(Clone)]
pub struct MeshChannel<A = Attempt> {
    stack: ClientStack<A>,
    target: Target,
    user_agent: HeaderValue,
}

impl MeshChannel {
    /// A channel to `target`: `xds:///greeter`, `dns:///greeter:80`, `static:///10.0.0.1:80,10.0.0.2:80`,
    /// `ipv4:10.0.0.1:80` or `unix:/run/greeter.sock`.
    ///
    /// # Errors
    ///
    /// When the target cannot be read, or is an `xds:` target and the mesh has no control plane.
    pub fn new(mesh: &Mesh, target: &str) -> Result<Self, mesh_core::Error> {
        Self::builder(mesh, target).build()
    }

    /// A channel with settings of its own.
    pub fn builder<'a>(mesh: &'a Mesh, target: &'a str) -> MeshChannelBuilder<'a> {
        MeshChannelBuilder { mesh, target, authority: None, user_agent: None, attempt_layer: Identity::new() }
    }
}

impl<A> MeshChannel<A> {
    /// What the channel calls: its connectivity, and when it is ready.
    pub fn target(&self) -> &Target {
        &self.target
    }
}

/// Sets up a [`MeshChannel`].
#[derive(Debug)]
#[must_use = "a builder opens nothing until `build`"]
pub struct MeshChannelBuilder<'a, L = Identity> {
    mesh: &'a Mesh,
    target: &'a str,
    authority: Option<&'a str>,
    user_agent: Option<&'a str>,
    attempt_layer: L,
}

impl<'a, L> MeshChannelBuilder<'a, L> {
    /// The `:authority` of the calls, which also selects the virtual host. Default: the path of the target, and of a
    /// list of addresses the first as written.
    pub fn authority(mut self, authority: &'a str) -> Self {
        self.authority = Some(authority);
        self
    }

    /// What to put before the mesh's own name in `user-agent`. Default: nothing.
    pub fn user_agent(mut self, user_agent: &'a str) -> Self {
        self.user_agent = Some(user_agent);
        self
    }

    /// A layer around each attempt of a call, between retries and load balancing: its requests have an [`AttemptBody`]. A
    /// layer around the whole call goes around the channel itself. What it makes is cloned for each attempt, which waits until
    /// the clone is ready: a `ConcurrencyLimitLayer` holds attempts back. Of several, the first is the outermost.
    pub fn attempt_layer<M>(self, attempt_layer: M) -> MeshChannelBuilder<'a, Stack<PreparedLayer<M>, L>> {
        let Self { mesh, target, authority, user_agent, attempt_layer: outer } = self;
        let attempt_layer = Stack::new(PreparedLayer::new(attempt_layer, Prepare), outer);
        MeshChannelBuilder { mesh, target, authority, user_agent, attempt_layer }
    }

    /// The channel.
    ///
    /// # Errors
    ///
    /// When the target or the authority cannot be read, or the target is an `xds:` target and the mesh has no
    /// control plane.
    pub fn build(self) -> Result<MeshChannel<L::Service>, mesh_core::Error>
    where
        L: Layer<Attempt, Service: 'static>,
    {
        let target = self.mesh.target_with_authority(self.target, self.authority)?;
        let stack = self.mesh.client_stack(&target, Some(deadline::encode_timeout), Some(&Grpc), &self.attempt_layer);
        let user_agent = match self.user_agent {
            Some(application) => HeaderValue::try_from(format!("{application} {USER_AGENT}")).map_err(|_| {
                mesh_core::Error::setup(format!("use `{application}` as user agent: it is no header value"))
            })?,
            None => HeaderValue::from_static(USER_AGENT),
        };
        Ok(MeshChannel { stack, target, user_agent })
    }
}

impl<A, B, R> Service<Request<B>> for MeshChannel<A>
where
    A: Service<Request<AttemptBody<B>>, Response = Response<R>, Error = mesh_core::Error> + Clone,
    B: Body<Data = Bytes> + Send + 'static,
    R: Body<Data = Bytes, Error = mesh_core::Error> + Send + Unpin + 'static,
{
    type Response = Response<ResponseBody<CallBody<R>>>;
    type Error = Error;
    type Future = ResponseFuture<<ClientStack<A> as Service<Request<B>>>::Future>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        prepare(&mut request, &self.user_agent);
        ResponseFuture { inner: self.stack.call(request) }
    }
}

/// The body of a call's response, with its target and its deadline, or of the mesh's own answer.
pub(crate) type CallBody<R> =
    mesh_core::discover::ResponseBody<mesh_core::timeout::ResponseBody<mesh_core::filter::ResponseBody<R>>>;

/// Starts the call that the layers below go on with.
fn prepare<B>(request: &mut Request<B>, user_agent: &HeaderValue) {
    let timeout = deadline::decode_timeout(request.headers());
    request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| user_agent.clone());
    request.extensions_mut().insert(Call::new(timeout));
}

/// The future of a call through a [`MeshChannel`].
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    inner: F,
}

impl<F, R> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, mesh_core::Error>>,
{
    type Output = Result<Response<ResponseBody<R>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.project().inner.poll(cx));
        Poll::Ready(result.map(|response| response.map(ResponseBody::new)).map_err(Error::from))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<A> fmt::Debug for MeshChannel<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshChannel").field("target", &self.target).finish_non_exhaustive()
    }
}
