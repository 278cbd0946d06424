//! The channel, and which endpoint its calls went to.

use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_util::TryFutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use mesh_core::{CallInfo, Mesh, MeshBuilder, Target};
use mesh_tonic::MeshChannel;
use tower::Service;

use crate::Failure;
use crate::args::Args;

/// What the calls are made with.
pub(crate) type Channel = Observed<MeshChannel>;

/// Opens the mesh and the channel; without a bootstrap only targets that name addresses or hosts can be called.
pub(crate) async fn open(args: &Args) -> Result<(Mesh, Channel), Failure> {
    let builder = match &args.bootstrap {
        Some(file) => Mesh::builder().bootstrap_from_file(file)?,
        None if args.istio => Mesh::builder().istio_from_env()?,
        None => Mesh::builder().bootstrap_from_env_if_set()?,
    };
    let builder = args.allow_files_below.iter().fold(builder, MeshBuilder::allow_files_below);
    let builder = match &args.local_cluster {
        Some(name) => builder.local_cluster(name.as_str()),
        None => builder,
    };
    let builder = match args.retry_throttling {
        Some((tokens, ratio)) => builder.retry_throttling(tokens, ratio),
        None => builder,
    };
    let mesh = builder.profile(args.profile()).build().await?;
    let channel = match &args.authority {
        Some(authority) => MeshChannel::builder(&mesh, &args.target).authority(authority).build()?,
        None => MeshChannel::new(&mesh, &args.target)?,
    };
    Ok((mesh, Observed(channel)))
}

/// The endpoint of a call: goes with the request, and is filled in when the call has ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoint(Arc<OnceLock<String>>);

impl Endpoint {
    /// The address, if the call was sent.
    pub(crate) fn get(&self) -> Option<String> {
        self.0.get().cloned()
    }
}

/// A channel that fills in [`Endpoint`]. A generated client's response has `CallInfo` too, but a failed call has only
/// its status, also when an endpoint answered with it.
#[derive(Clone, Debug)]
pub(crate) struct Observed<C>(C);

impl Channel {
    pub(crate) fn target(&self) -> &Target {
        self.0.target()
    }
}

impl<C, B, R> Service<Request<B>> for Observed<C>
where
    C: Service<Request<B>, Response = Response<R>>,
    C::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = C::Error;
    type Future = BoxFuture<'static, Result<Response<R>, C::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let endpoint = request.extensions_mut().remove::<Endpoint>().unwrap_or_default();
        let response = self.0.call(request);
        Box::pin(response.inspect_ok(move |response| {
            if let Some(info) = response.extensions().get::<CallInfo>() {
                endpoint.0.get_or_init(|| info.endpoint().to_string());
            }
        }))
    }
}
