//! The mesh of a process: its control plane, its connections, its background tasks, and their end.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use parking_lot::Mutex;
use tower_layer::Layer;

use crate::balance::{Balance, Clusters};
use crate::bootstrap::Bootstrap;
use crate::call::{EncodeDeadline, Protocol};
#[cfg(feature = "cluster")]
use crate::cluster::ClusterLayer;
use crate::connect::Http2Connector;
use crate::discover::{self, ControlPlaneFacts, Facts, Scheme, Source, Target, TargetUri};
use crate::error::{Error, ErrorKind};
#[cfg(feature = "filter")]
use crate::filter::FilterLayer;
#[cfg(feature = "tls")]
use crate::identity::{Awaited, Providers};
#[cfg(feature = "mirror")]
use crate::mirror::MirrorLayer;
use crate::origin::Sourced;
use crate::profile::Profile;
#[cfg(feature = "retry")]
use crate::retry::RetryLayer;
use crate::snapshot::demand::{Demand, Limits};
use crate::snapshot::dependencies::Dependencies;
use crate::snapshot::{PrepareClusters, Snapshot, fixed};
use crate::stack::client::{Attempt, ClientStack, ClientStackBuilder};
use crate::xds::{StreamState, XdsClient};

mod builder;
#[cfg(feature = "tls")]
mod certificates;
mod clusters;
mod in_force;
#[cfg(feature = "jwt")]
mod issuers;
#[cfg(feature = "istio")]
mod istio;
mod life;
mod local_cluster;
#[cfg(feature = "server")]
mod server;
mod status;

pub use builder::MeshBuilder;
#[cfg(feature = "tls")]
pub use certificates::CertificateProviderStatus;
pub use in_force::{Setting, SettingScope};
use life::Life;
#[cfg(feature = "server")]
pub use server::{ServerBuilder, ServerConnection, ServerStatus};
pub use status::{
    ClusterStatus, ControlPlaneStatus, EjectionCount, EjectionStatus, EndpointStatus, IgnoredField, LeafStatus,
    MeshStatus, ResourceStatus, TargetStatus,
};

/// The mesh of a process: share one among all channels.
///
/// It is cheap to clone. When the last clone is dropped, or after [`shutdown`](Self::shutdown), its background tasks
/// end, its connections close, and calls through its channels fail.
#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

struct Inner {
    life: Life,
    xds: Option<XdsClient>,
    clusters: Clusters<Http2Connector>,
    #[cfg(feature = "dns")]
    names: discover::Names,
    #[cfg(feature = "filter")]
    filter: FilterLayer,
    #[cfg(feature = "mirror")]
    mirror: MirrorLayer<()>,
    #[cfg(feature = "retry")]
    retry: RetryLayer,
    #[cfg(feature = "cluster")]
    cluster: ClusterLayer,
    #[cfg(feature = "dns")]
    dns_interval: Duration,
    #[cfg(feature = "tls")]
    certificate_providers: Providers,
    #[cfg(feature = "tls")]
    floor: crate::tls::SecurityFloor,
    bootstrap: Option<Bootstrap>,
    snapshots: HashMap<String, Arc<Snapshot>>,
    targets: Mutex<HashMap<TargetKey, discover::WeakTarget>>,
    #[cfg(feature = "server")]
    servers: server::Servers,
    profile: Sourced<Profile>,
    max_wait: Duration,
    max_pending: u32,
    drain_timeout: Sourced<Duration>,
}

/// How long the tasks of a mesh may take to end; that of the control plane takes up to a second.
const ENDING: Duration = Duration::from_secs(2);

/// Targets of the same name and authority share what is discovered.
type TargetKey = (String, Authority);

impl Mesh {
    /// Starts to set up a mesh.
    pub fn builder() -> MeshBuilder {
        MeshBuilder::default()
    }

    fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// Opens a target; channels to the same one share what is discovered.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is an `xds:` target and the mesh has no control plane.
    pub fn target(&self, target: &str) -> Result<Target, Error> {
        self.target_with_authority(target, None)
    }

    /// Opens a target whose calls carry another `:authority` than its own, and are routed by it.
    ///
    /// # Errors
    ///
    /// As [`target`](Self::target), and when the authority is not one.
    pub fn target_with_authority(&self, target: &str, authority: Option<&str>) -> Result<Target, Error> {
        let uri = TargetUri::parse(target, authority)?;
        let key = (target.to_owned(), uri.authority.clone());
        let mut targets = self.inner.targets.lock();
        if let Some(known) = targets.get(&key).and_then(discover::WeakTarget::upgrade) {
            return Ok(known);
        }
        let opened = self.open(uri)?;
        targets.retain(|_, target| target.upgrade().is_some());
        targets.insert(key, opened.downgrade());
        Ok(opened)
    }

    fn open(&self, uri: TargetUri) -> Result<Target, Error> {
        let inner = &self.inner;
        if let Some(snapshot) = inner.snapshots.get(&*uri.written) {
            let (target, source) = self.new_target(&uri, None);
            self.serve_fixed(source, snapshot.clone());
            return Ok(target);
        }
        match &uri.scheme {
            Scheme::Xds(name) => self.open_xds(&uri, name),
            #[cfg(feature = "dns")]
            Scheme::Dns { server, host, port } => {
                let (target, source) = self.new_target(&uri, None);
                let clusters: Arc<dyn PrepareClusters> = Arc::new(inner.clusters.clone());
                let name = discover::DnsTarget {
                    target: uri.written.clone(),
                    server: *server,
                    host: host.clone(),
                    port: *port,
                    reresolution_interval: inner.dns_interval,
                };
                self.spawn(discover::follow_dns(source, name, clusters));
                Ok(target)
            }
            #[cfg(not(feature = "dns"))]
            Scheme::Dns { .. } => {
                let message = format!("open `{}`: the feature `dns` is off", uri.written);
                Err(Error::new(ErrorKind::Setup, message).with_next_step("switch the feature on in Cargo.toml"))
            }
            Scheme::Fixed(addresses) => {
                let (target, source) = self.new_target(&uri, None);
                let snapshot = fixed::of_addresses(&uri.written, addresses.iter().cloned());
                self.serve_fixed(source, Arc::new(snapshot));
                Ok(target)
            }
        }
    }

    fn open_xds(&self, uri: &TargetUri, name: &Arc<str>) -> Result<Target, Error> {
        let Some(xds) = &self.inner.xds else {
            let message = format!("open `{}`: the mesh has no control plane", uri.written);
            return Err(Error::new(ErrorKind::Setup, message).with_next_step(
                "set `GRPC_XDS_BOOTSTRAP` or `GRPC_XDS_BOOTSTRAP_CONFIG` and call `bootstrap_from_env` on the builder, or \
                 call `bootstrap_from_file` or `bootstrap`",
            ));
        };
        let listener = self.inner.bootstrap.as_ref().map(|bootstrap| bootstrap.client_listener_name(name));
        let listener: Arc<str> = listener.map_or_else(|| name.clone(), Into::into);
        let (status, connection) = (xds.clone(), xds.clone());
        let facts = ControlPlaneFacts {
            name: xds.control_plane(),
            node_id: xds.node_id(),
            is_connected: Box::new(move || connection.status().state == StreamState::Open),
            status: Box::new(move || status.status().to_string()),
        };
        let (target, source) = self.new_target(uri, Some(facts));
        let limits = Limits { max_wait: self.inner.max_wait, max_pending: self.inner.max_pending };
        let dependencies = Dependencies::new(xds.control_plane(), listener, uri.authority.as_str().into())
            .trusting(self.inner.bootstrap.as_ref().is_some_and(Bootstrap::trusts_control_plane))
            .with_demand(Demand::new(limits, self.inner.life.closed.clone()));
        let clusters: Arc<dyn PrepareClusters> = Arc::new(self.inner.clusters.clone());
        let subscriptions = self.subscriptions(xds, &clusters);
        self.spawn(discover::follow_xds(source, subscriptions, dependencies, clusters));
        Ok(target)
    }

    fn subscriptions(&self, xds: &XdsClient, clusters: &Arc<dyn PrepareClusters>) -> discover::Subscriptions {
        #[cfg(not(feature = "dns"))]
        let _ = clusters;
        discover::Subscriptions {
            resources: xds.subscriber(),
            #[cfg(feature = "dns")]
            names: self.inner.names.subscriber(clusters.clone()),
            #[cfg(feature = "tls")]
            material: Awaited::new(self.inner.certificate_providers.clone()),
        }
    }

    fn new_target(&self, uri: &TargetUri, control_plane: Option<ControlPlaneFacts>) -> (Target, Source) {
        let facts = Facts {
            target: uri.written.clone(),
            authority: uri.authority.clone(),
            control_plane,
            #[cfg(feature = "tls")]
            expected: self.inner.floor.expected_at(uri.name()),
            clusters: Arc::new(self.inner.clusters.clone()),
            max_wait: self.inner.max_wait,
            max_pending: self.inner.max_pending,
            runtime: self.inner.life.runtime.clone(),
        };
        Target::new(facts, &self.inner.life.closed)
    }

    fn serve_fixed(&self, source: Source, snapshot: Arc<Snapshot>) {
        let clusters: Arc<dyn PrepareClusters> = Arc::new(self.inner.clusters.clone());
        self.spawn(discover::follow_fixed(source, snapshot, clusters));
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.life.spawn(task);
    }

    /// The layers of a call to `target`, in the recommended order, with `attempt_layer` around each attempt. Adapters
    /// build their channels on it. `tell_deadline` is what [`TimeoutLayer::tell_peer`] takes, `protocol` what
    /// [`TimeoutLayer::protocol`], [`RetryLayer::protocol`] and [`FilterLayer::protocol`] take; each does nothing while the feature of its layer is
    /// off.
    ///
    /// [`TimeoutLayer::tell_peer`]: crate::timeout::TimeoutLayer::tell_peer
    /// [`TimeoutLayer::protocol`]: crate::timeout::TimeoutLayer::protocol
    /// [`RetryLayer::protocol`]: crate::retry::RetryLayer::protocol
    /// [`FilterLayer::protocol`]: crate::filter::FilterLayer::protocol
    pub fn client_stack<L: Layer<Attempt, Service: 'static>>(
        &self,
        target: &Target,
        tell_deadline: Option<EncodeDeadline>,
        protocol: Option<&'static dyn Protocol>,
        attempt_layer: &L,
    ) -> ClientStack<L::Service> {
        let builder = ClientStackBuilder {
            target: target.clone(),
            balance: protocol.map_or_else(|| self.balance(), |known| self.balance().classify(known)),
            tell_deadline,
            #[cfg(feature = "timeout")]
            profile: self.inner.profile.value,
            #[cfg(feature = "timeout")]
            protocol,
            #[cfg(feature = "filter")]
            filter: protocol
                .map_or_else(|| self.inner.filter.clone(), |known| self.inner.filter.clone().protocol(known)),
            #[cfg(feature = "mirror")]
            mirror: self.inner.mirror.clone(),
            #[cfg(feature = "retry")]
            retry: protocol.map_or_else(|| self.inner.retry.clone(), |known| self.inner.retry.clone().protocol(known)),
            #[cfg(feature = "cluster")]
            cluster: self.inner.cluster.clone(),
        };
        builder.build(attempt_layer)
    }

    /// The innermost service of a stack of one's own: sends each call over the mesh's connections, to an endpoint of the
    /// cluster that a layer above chose.
    pub fn balance(&self) -> Balance<Http2Connector> {
        Balance::of(self.inner.clusters.clone())
    }

    /// Resolves when every target opened so far is [ready](Target::ready).
    ///
    /// # Errors
    ///
    /// That of the first target whose wait is over in vain: at once where waiting does not help, as
    /// [`Target::ready`](Target::ready) says, otherwise within `max_wait` (20 s).
    pub async fn ready(&self) -> Result<(), Error> {
        let targets = self.targets();
        futures_util::future::try_join_all(targets.iter().map(Target::ready)).await.map(drop)
    }

    fn targets(&self) -> Vec<Target> {
        self.inner.targets.lock().values().filter_map(discover::WeakTarget::upgrade).collect()
    }

    /// Ends the mesh. Its servers end first, each as it does when it is told to, so that their handlers can make calls to
    /// the last. Then nothing is watched any more, and connections close once the calls in flight are done, at most after
    /// `drain_timeout` (10 s); a call that takes longer is cut off and [says so](Error::is_shutdown).
    ///
    /// Resolves when the audit logs of the servers are written, the control plane was told what it is owed (that a resource
    /// was rejected, for one) and every connection is closed. A peer that does not read delays each of these by at most 2 s.
    pub async fn shutdown(&self) {
        #[cfg(feature = "server")]
        self.inner.servers.shut_down().await;
        self.inner.life.closed.cancel();
        self.inner.clusters.drained(self.inner.drain_timeout.value).await;
        self.inner.life.cancel.cancel();
        self.inner.life.tasks.close();
        // An endpoint that does not read may hold up the last bytes of its connection for longer.
        let _ = tokio::time::timeout(ENDING, self.inner.life.tasks.wait()).await;
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let control_plane = self.inner.xds.as_ref().map(XdsClient::control_plane);
        f.debug_struct("Mesh").field("control_plane", &control_plane).finish_non_exhaustive()
    }
}
