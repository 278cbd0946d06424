//! Calls that another service must allow (A92; Envoy's `ext_authz`), by what is said in code.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tower_layer::Layer;
use tower_service::Service;

use crate::backoff::bounded;
use crate::bootstrap::{Bootstrap, GrpcService};
use crate::error::Error;
use crate::filter::{AnswerProtocol, Filter};
use crate::resource::answer::or_error;
use crate::resource::ext_authz::{AuthorizationService, DEFAULT_TIMEOUT, ExtAuthz, ExtAuthzConfig};
use crate::resource::filter::FilterConfig;
use crate::server::parties_of;
use crate::snapshot::{Chain, ChainFilter};
use crate::xds::transport::grpc::GrpcOptions;
use crate::xds::transport::side_channel::{MAX_RESPONSE, SideChannel};

/// Makes [`ExtAuthzService`]s, which ask a service of gRPC (`envoy.service.auth.v3.Authorization`) about each call: it lets the
/// call pass, changed or not, or says how it is answered. A call whose check fails, however it fails, is denied.
///
/// The service is told what A92 tells it; of the connection, what a server of the mesh puts into the request's extensions.
///
/// ```no_run
/// use mesh_core::GrpcService;
/// use mesh_core::authorize::ExtAuthzLayer;
/// # async fn example<S>(greeter: S) -> Result<(), mesh_core::Error> {
/// let authorization = GrpcService::new("dns:///authz.example.org:9000").tls();
/// let server = tower::ServiceBuilder::new().layer(ExtAuthzLayer::new(authorization)?).service(greeter);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ExtAuthzLayer {
    service: AuthorizationService,
    failure_mode_allow: bool,
    status_on_error: StatusCode,
    context_extensions: BTreeMap<String, String>,
    protocol: Option<&'static dyn AnswerProtocol>,
}

impl ExtAuthzLayer {
    /// Asks this service. It is connected at the first call, and connections run on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// When its address cannot be read, or it has no credentials; outside a tokio runtime.
    pub fn new(service: GrpcService) -> Result<Self, Error> {
        let runtime = Handle::try_current()
            .map_err(|error| Error::setup("make a layer that asks another service").with_source(error))?;
        let bootstrap = Bootstrap::builder("127.0.0.1:1").insecure().allow_grpc_service(service).build()?;
        let server = bootstrap.allowed_grpc_services().first().expect("the one that it was made with").clone();
        let options = GrpcOptions { max_response: MAX_RESPONSE, ..Default::default() };
        let channel = Arc::new(SideChannel::new(server, options, &runtime, &CancellationToken::new()));
        Ok(Self {
            service: AuthorizationService { channel, timeout: DEFAULT_TIMEOUT },
            failure_mode_allow: false,
            status_on_error: StatusCode::FORBIDDEN,
            context_extensions: BTreeMap::new(),
            protocol: None,
        })
    }

    /// How long a check takes at most. Default 10 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.service.timeout = bounded(timeout);
        self
    }

    /// Lets calls pass whose check fails: nobody has allowed them then. Default: they are denied.
    pub fn failure_mode_allow(mut self) -> Self {
        self.failure_mode_allow = true;
        self
    }

    /// The answer to a call whose check fails. Default 403, which also takes the place of a status that says no error: who is
    /// denied must not take it for an answer.
    pub fn status_on_error(mut self, status: StatusCode) -> Self {
        self.status_on_error = or_error(status, StatusCode::FORBIDDEN);
        self
    }

    /// Tells the service something more about each call, in `context_extensions`.
    pub fn context_extension(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.context_extensions.insert(key.into(), value.into());
        self
    }

    /// What the callers speak, and so what a denied call is answered with; gRPC's is the adapter's. Default: HTTP.
    pub fn protocol(mut self, protocol: &'static dyn AnswerProtocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    fn config(&self) -> ExtAuthzConfig {
        let filter = ExtAuthz {
            service: self.service.clone(),
            enabled: 1_000_000,
            deny_at_disable: false,
            failure_mode_allow: self.failure_mode_allow,
            failure_mode_allow_header_add: false,
            status_on_error: self.status_on_error,
            allowed_headers: None,
            disallowed_headers: Box::default(),
            rules: Default::default(),
            include_peer_certificate: false,
            is_open: AtomicBool::new(false),
        };
        let context_extensions = Arc::new(self.context_extensions.clone());
        ExtAuthzConfig { filter: Some(Arc::new(filter)), service: None, context_extensions }
    }
}

impl<S> Layer<S> for ExtAuthzLayer {
    type Service = ExtAuthzService<S>;

    fn layer(&self, inner: S) -> ExtAuthzService<S> {
        let filter = ChainFilter::alone(FilterConfig::ExtAuthz(self.config()));
        ExtAuthzService { inner: Filter::alone(inner, Arc::new(Chain::of(vec![filter])), self.protocol) }
    }
}

/// Serves the calls that another service allows, and answers the others.
#[derive(Clone, Debug)]
pub struct ExtAuthzService<S> {
    inner: Filter<S>,
}

impl<S, B, R> Service<Request<B>> for ExtAuthzService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
{
    type Response = Response<super::ResponseBody<R>>;
    type Error = S::Error;
    type Future = crate::filter::ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(parties) = parties_of(request.extensions()) {
            request.extensions_mut().insert(parties);
        }
        self.inner.call(request)
    }
}
