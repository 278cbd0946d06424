//! Sets up a [`Mesh`]: the doc of each method states its default, or links to the options that do.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "jwt")]
use super::issuers::KeyIssuers;
use super::life::Life;
use super::{Inner, Mesh};
use crate::aside::aside_in_time;
use crate::backoff::bounded;
use crate::balance::{BalanceOptions, Clusters, PolicyConfig, PolicyFactory, make_policy};
use crate::bootstrap::{Bootstrap, ChannelCredentials, ServerConfig};
use crate::connect::{Http2Connector, Http2Options};
use crate::error::{BoxError, Error};
#[cfg(feature = "tls")]
use crate::files::AllowedFolders;
#[cfg(feature = "filter")]
use crate::filter::FilterLayer;
#[cfg(feature = "tls")]
use crate::identity::Providers;
#[cfg(feature = "mirror")]
use crate::mirror::{MirrorLayer, Tasks};
use crate::origin::Sourced;
use crate::profile::Profile;
#[cfg(feature = "jwt")]
use crate::resource::jwt::remote::RemoteSets;
use crate::resource::local::LocalNames;
use crate::resource::named_policy::{MakePolicy, Policies};
#[cfg(feature = "retry")]
use crate::resource::retry_policy::RetryPolicy;
#[cfg(feature = "retry")]
use crate::retry::RetryLayer;
use crate::snapshot::Snapshot;
#[cfg(feature = "tls")]
use crate::tls::{ClientTls, Secrets, SecurityFloor};
use crate::xds::resource_type::Extensions;
use crate::xds::transport::Transport;
use crate::xds::transport::connector::InProcess;
use crate::xds::transport::grpc::{GrpcOptions, GrpcTransport};
use crate::xds::transport::side_channel::{MAX_RESPONSE, SideChannel};
use crate::xds::{XdsClient, XdsOptions};

/// Sets up a [`Mesh`]; [`Mesh::builder`] starts one.
///
/// Without a bootstrap the mesh has no control plane: `dns:`, `static:`, `ipv4:`, `ipv6:` and `unix:` targets and
/// snapshots made in code work, `xds:` targets are refused.
#[must_use = "a builder does nothing until `build` is called"]
pub struct MeshBuilder {
    bootstrap: Option<Bootstrap>,
    in_process: Option<InProcess>,
    transport: GrpcOptions,
    snapshots: HashMap<String, Arc<Snapshot>>,
    profile: Sourced<Profile>,
    xds: XdsOptions,
    balance: BalanceOptions,
    policies: HashMap<Arc<str>, Arc<MakePolicy>>,
    local_cluster: Option<Arc<str>>,
    #[cfg(feature = "mirror")]
    mirror: MirrorLayer<()>,
    #[cfg(feature = "retry")]
    retry: RetryLayer,
    #[cfg(feature = "tls")]
    pub(super) certificate_providers: super::certificates::Named,
    #[cfg(feature = "tls")]
    pub(super) floor: SecurityFloor,
    #[cfg(feature = "tls")]
    pub(super) folders: AllowedFolders,
    connections: Http2Options,
    #[cfg(feature = "dns")]
    dns_interval: Duration,
    drain_timeout: Sourced<Duration>,
}

/// How the listeners of servers are called at a control plane in this process.
pub(crate) const IN_PROCESS_SERVERS: &str = "grpc/server?xds.resource.listening_address=%s";

impl Default for MeshBuilder {
    fn default() -> Self {
        Self {
            bootstrap: None,
            in_process: None,
            transport: GrpcOptions::default(),
            snapshots: HashMap::new(),
            profile: Sourced::by_default(Profile::default()),
            xds: XdsOptions::default(),
            balance: BalanceOptions::default(),
            policies: HashMap::new(),
            local_cluster: None,
            #[cfg(feature = "mirror")]
            mirror: MirrorLayer::new(()),
            #[cfg(feature = "retry")]
            retry: RetryLayer::default(),
            #[cfg(feature = "tls")]
            certificate_providers: Default::default(),
            #[cfg(feature = "tls")]
            floor: SecurityFloor::new(),
            #[cfg(feature = "tls")]
            folders: AllowedFolders::default(),
            connections: Http2Options::default(),
            #[cfg(feature = "dns")]
            dns_interval: Duration::from_secs(30),
            drain_timeout: Sourced::by_default(Duration::from_secs(10)),
        }
    }
}

impl MeshBuilder {
    /// Takes the bootstrap from the environment, as gRPC does (A27): the file that `GRPC_XDS_BOOTSTRAP` names, else
    /// the JSON in `GRPC_XDS_BOOTSTRAP_CONFIG`.
    ///
    /// # Errors
    ///
    /// When neither is set, the file cannot be read, or the bootstrap is invalid.
    pub fn bootstrap_from_env(self) -> Result<Self, Error> {
        Ok(self.bootstrap(Bootstrap::from_env()?))
    }

    /// As [`bootstrap_from_env`](Self::bootstrap_from_env) if the environment names a bootstrap, else without a control
    /// plane: for programs that run with and without one.
    ///
    /// # Errors
    ///
    /// When a bootstrap is named, and cannot be read or is invalid.
    pub fn bootstrap_from_env_if_set(self) -> Result<Self, Error> {
        Ok(match Bootstrap::is_in_env() {
            true => self.bootstrap(Bootstrap::from_env()?),
            false => self,
        })
    }

    /// Takes the bootstrap from a file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or the bootstrap is invalid.
    pub fn bootstrap_from_file(self, path: impl AsRef<Path>) -> Result<Self, Error> {
        Ok(self.bootstrap(Bootstrap::from_file(path)?))
    }

    /// Takes a bootstrap made in code.
    pub fn bootstrap(mut self, bootstrap: Bootstrap) -> Self {
        self.bootstrap = Some(bootstrap);
        self
    }

    /// Takes connections to a control plane in this process.
    #[cfg(feature = "testing")]
    pub(crate) fn in_process(self, connect: InProcess) -> Self {
        Self { in_process: Some(connect), ..self }
    }

    /// Serves a target, such as `xds:///greeter`, from a snapshot made in code, whatever its scheme.
    pub fn snapshot(mut self, target: impl Into<String>, snapshot: Snapshot) -> Self {
        self.snapshots.insert(target.into(), Arc::new(snapshot));
        self
    }

    /// Whose rules hold where gRPC and Envoy differ. Default [`Profile::Grpc`].
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = Sourced::code(profile);
        self
    }

    /// How endpoints are connected, and how long calls wait for them.
    pub fn balance(mut self, options: BalanceOptions) -> Self {
        self.balance = options;
        self
    }

    /// Adds a balancing policy of your own, for clusters that ask for it by this name: in `load_balancing_policy`, by a
    /// `TypedStruct` whose `type_url` is the name or ends in `/` and the name (A52). `make` gets the struct as the policy's
    /// configuration; what it refuses is refused to the control plane too. What it makes lives as long as the cluster asks
    /// for the same policy with the same configuration. A policy that is built in goes before one of the same name. Default:
    /// such policies are passed over for the next in the cluster's list. [`BalanceOptions::policy`] balances clusters
    /// whatever the control plane says.
    ///
    /// ```
    /// use mesh_core::balance::{Choice, Member, PickRequest, Policy, PolicyConfig};
    ///
    /// struct Nth(usize);
    ///
    /// impl Policy for Nth {
    ///     fn pick(&self, _: &[Member], _: &PickRequest<'_>) -> Choice {
    ///         Choice::Endpoint(self.0)
    ///     }
    /// }
    ///
    /// let builder = mesh_core::Mesh::builder().policy("example.Nth", |config: &PolicyConfig| {
    ///     let n = config.number("n")?.unwrap_or_default() as usize;
    ///     Ok(move |_: &[Member]| Box::new(Nth(n)) as Box<dyn Policy>)
    /// });
    /// # let _ = builder;
    /// ```
    pub fn policy<F: PolicyFactory>(
        mut self,
        name: impl Into<Arc<str>>,
        make: impl Fn(&PolicyConfig) -> Result<F, BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.policies.insert(name.into(), make_policy(make));
        self
    }

    /// The xDS name of the cluster to which this process belongs, which is Envoy's `cluster_manager.local_cluster_name`: where
    /// its endpoints are (by EDS or STATIC), and where this process is (`node.locality` of the bootstrap, which must equal one
    /// of their localities), says how many of the calls to a cluster with a `zone_aware_lb_config` can stay in its zone. Only in
    /// [`Profile::Envoy`]. Default: none, and no call goes by zones.
    pub fn local_cluster(mut self, name: impl Into<Arc<str>>) -> Self {
        self.local_cluster = Some(name.into());
        self
    }

    /// How many retries each cluster gets, whatever the routes' policies say: so many for each hundred calls that have a
    /// policy, and so many more each second. Default 20 and 10; see [`RetryLayer::budget`].
    #[cfg(feature = "retry")]
    pub fn retry_budget(mut self, percent: u32, min_per_second: u32) -> Self {
        self.retry = self.retry.budget(percent, min_per_second);
        self
    }

    /// gRPC's throttle of retries (A6, `retryThrottling`) for each cluster, beside the budget: no retry while failures have
    /// taken half of `max_tokens`, of which each answer gives `token_ratio` back. No control plane can ask for it: xDS has no
    /// field for it, and gRPC reads it from service configs alone. Default none; see [`RetryLayer::throttling`].
    #[cfg(feature = "retry")]
    pub fn retry_throttling(mut self, max_tokens: u32, token_ratio: f32) -> Self {
        self.retry = self.retry.throttling(max_tokens, token_ratio);
        self
    }

    /// The retry or hedging policy of calls whose route has none: all those to targets without a control plane, and of an
    /// xDS target those that neither route nor virtual host has a policy for. Default: such calls are made once.
    ///
    /// ```
    /// # fn main() -> Result<(), mesh_core::Error> {
    /// let policy = mesh_core::RetryPolicy::on("unavailable")?.max_attempts(3);
    /// let builder = mesh_core::Mesh::builder().retry_policy(policy);
    /// # let _ = builder; Ok(()) }
    /// ```
    #[cfg(feature = "retry")]
    pub fn retry_policy(mut self, policy: RetryPolicy) -> Self {
        self.retry = self.retry.policy(policy);
        self
    }

    /// How many bytes of requests are held for retries, of all calls together; see [`RetryLayer::buffer_size`]. Default
    /// 16 MiB.
    #[cfg(feature = "retry")]
    pub fn retry_buffer_size(mut self, bytes: usize) -> Self {
        self.retry = self.retry.buffer_size(bytes);
        self
    }

    /// How many copies of calls may be in flight to mirrors; see [`MirrorLayer::max_in_flight`]. Default 128.
    #[cfg(feature = "mirror")]
    pub fn mirror_max_in_flight(mut self, copies: usize) -> Self {
        self.mirror = self.mirror.max_in_flight(copies);
        self
    }

    /// How many bytes of requests are held until they are sent to mirrors, of one copy and of all together; see
    /// [`MirrorLayer::buffer_size`]. Default 1 MiB and 16 MiB.
    #[cfg(feature = "mirror")]
    pub fn mirror_buffer_size(mut self, per_call: usize, in_all: usize) -> Self {
        self.mirror = self.mirror.buffer_size(per_call, in_all);
        self
    }

    /// How long a copy may take, if its call has no earlier deadline; see [`MirrorLayer::max_duration`]. Default 15 s.
    #[cfg(feature = "mirror")]
    pub fn mirror_max_duration(mut self, limit: Duration) -> Self {
        self.mirror = self.mirror.max_duration(limit);
        self
    }

    /// Keepalive and limits of the connections to endpoints.
    pub fn connections(mut self, options: Http2Options) -> Self {
        self.connections = options;
        self
    }

    /// How long after a resource was asked for, on a connected stream, its absence counts as an answer. Default 15 s
    /// (A57).
    pub fn does_not_exist_timeout(mut self, timeout: Duration) -> Self {
        self.xds.does_not_exist_timeout = Some(bounded(timeout));
        self
    }

    /// The delay after the first failed connection to the control plane and the longest one; each is up to 20 % longer
    /// or shorter. Default 1 s and 120 s.
    pub fn control_plane_backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.xds.backoff =
            crate::backoff::BackoffConfig { initial: bounded(initial), max: bounded(max), ..self.xds.backoff };
        self
    }

    /// How long connecting to the control plane may take, from resolving its name to the server's HTTP/2 SETTINGS. Default
    /// 10 s.
    pub fn control_plane_connect_timeout(mut self, timeout: Duration) -> Self {
        self.transport.connect_timeout = bounded(timeout);
        self
    }

    /// Silence on the connection to the control plane before a PING asks whether it is there (`None` for never), and
    /// silence after it before the connection is given up. Default 5 min, as in all gRPC clients, and 20 s; twice as
    /// long after the server complained of too many. The kernel finds most dead peers sooner: probes go out after 10 s
    /// of silence, and written bytes may stay unacknowledged for 20 s. [`connections`](Self::connections) is about
    /// endpoints alone.
    pub fn control_plane_keepalive(mut self, interval: Option<Duration>, timeout: Duration) -> Self {
        self.transport.ping_interval = interval.map(bounded);
        self.transport.ping_timeout = bounded(timeout);
        self
    }

    /// How long after a name was asked for, of a `dns:` target or of a cluster, it is asked for again when none of its
    /// addresses can be reached, if its records are valid for longer. Default 30 s, as in gRPC.
    #[cfg(feature = "dns")]
    pub fn dns_reresolution_interval(mut self, interval: Duration) -> Self {
        self.dns_interval = bounded(interval);
        self
    }

    /// How long [`Mesh::shutdown`] waits for calls in flight. Default 10 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = Sourced::code(bounded(timeout));
        self
    }

    /// Starts the mesh on the current tokio runtime. It does not wait for the control plane: see [`Mesh::ready`]. Files of the
    /// control plane's credentials are read now.
    ///
    /// # Errors
    ///
    /// Outside a tokio runtime; when the credentials of the bootstrap, or one of its certificate providers, cannot be built, or
    /// the files of those credentials take longer than 10 s to be read.
    pub async fn build(mut self) -> Result<Mesh, Error> {
        let life = Life::begin()?;
        let is_in_process = self.in_process.is_some();
        let bootstrap = match self.bootstrap.take() {
            None if is_in_process => Some(in_process_bootstrap()?),
            known => known,
        };
        #[cfg(feature = "tls")]
        if let Some(bootstrap) = &bootstrap {
            self.floor.check_control_plane(bootstrap)?;
        }
        let profile = self.profile;
        let local_cluster = self.local_cluster.take().filter(|_| profile.value == Profile::Envoy);
        let local_spread = local_cluster.as_deref().map(|name| super::local_cluster::of(name, bootstrap.as_ref()));
        let local_spread = local_spread.transpose()?;
        let transport = match &bootstrap {
            Some(bootstrap) => Some(self.transport_to(bootstrap, &life).await?),
            None => None,
        };
        #[cfg(feature = "tls")]
        let certificate_providers = {
            let own = std::mem::take(&mut self.certificate_providers);
            let all = super::certificates::all(bootstrap.as_ref(), own)?;
            Providers::start(all, &life.tasks, &life.runtime, &life.cancel)
        };
        #[cfg(feature = "jwt")]
        let key_sets = RemoteSets::default();
        let xds = bootstrap.as_ref().zip(transport).map(|(bootstrap, transport)| {
            let local = LocalNames {
                knows_zones: local_spread.is_some(),
                #[cfg(feature = "jwt")]
                key_sets: key_sets.clone(),
                #[cfg(feature = "tls")]
                certificate_providers: Arc::new(certificate_providers.names()),
                #[cfg(feature = "tls")]
                keys_may_come: is_in_process || bootstrap.server().is_private(),
                ..self.local_names(bootstrap, &life)
            };
            let extensions = Extensions::new(local.clone());
            let options = XdsOptions { profile: profile.value, extensions, ..self.xds.clone() };
            let Life { runtime, tasks, cancel, .. } = &life;
            let xds = XdsClient::start(bootstrap, options.clone(), transport, runtime, tasks, cancel);
            #[cfg(feature = "tls")]
            certificate_providers.open_secrets_with(Secrets::of(&xds, bootstrap, local, options, tasks));
            xds
        });
        let balance = self.balance.profile(profile.value).local_cluster(local_spread);
        #[cfg(feature = "tls")]
        let balance = balance.floor(self.floor.clone());
        let (max_wait, max_pending) = (balance.max_wait.value, balance.max_pending.value);
        let connector = Http2Connector::new(self.connections.counted_by(&life.tasks));
        #[cfg(feature = "tls")]
        let connector = connector.with_tls(ClientTls::new(certificate_providers.clone(), self.floor.clone()));
        let clusters = Clusters::new(connector, balance, Some(life.runtime.clone()), life.cancel.clone());
        if let Some((name, xds)) = local_cluster.zip(xds.as_ref()) {
            life.spawn_endless(super::local_cluster::follow(name, xds.subscriber(), clusters.clone()));
        }
        let mesh = Mesh::new(Inner {
            #[cfg(feature = "dns")]
            names: life.names(self.dns_interval),
            #[cfg(feature = "dns")]
            dns_interval: self.dns_interval,
            #[cfg(feature = "mirror")]
            mirror: self.mirror.tasks(Tasks::new(life.runtime.clone(), life.closed.clone())),
            xds,
            clusters,
            #[cfg(feature = "filter")]
            filter: FilterLayer::new(),
            #[cfg(feature = "retry")]
            retry: self.retry,
            #[cfg(feature = "cluster")]
            cluster: Default::default(),
            #[cfg(feature = "tls")]
            certificate_providers,
            #[cfg(feature = "tls")]
            floor: self.floor,
            bootstrap,
            snapshots: self.snapshots,
            targets: Default::default(),
            #[cfg(feature = "server")]
            servers: Default::default(),
            profile,
            max_wait,
            max_pending,
            drain_timeout: self.drain_timeout,
            life,
        });
        #[cfg(feature = "jwt")]
        key_sets.open_with(KeyIssuers::of(&mesh));
        Ok(mesh)
    }

    /// A transport to the control plane. The files of its credentials may be where nothing answers.
    async fn transport_to(&mut self, bootstrap: &Bootstrap, life: &Life) -> Result<Arc<dyn Transport>, Error> {
        let has_files = bootstrap.server().credentials != ChannelCredentials::Insecure;
        let (bootstrap, runtime) = (bootstrap.clone(), life.runtime.clone());
        let asked = std::mem::take(&mut self.transport);
        let options = self.grpc_options(asked, life);
        let in_process = self.in_process.take();
        let make = move || match in_process {
            Some(connect) => GrpcTransport::in_process(connect, &bootstrap, options, &runtime),
            None => GrpcTransport::new(&bootstrap, options, &runtime),
        };
        let made = match has_files {
            false => make(),
            true => aside_in_time(make).await.unwrap_or_else(|error| {
                let error =
                    Error::setup("the files of the control plane's credentials cannot be read").with_source(error);
                Err(error.with_next_step("check that their file system answers"))
            }),
        };
        Ok(Arc::new(made?))
    }

    fn grpc_options(&self, options: GrpcOptions, life: &Life) -> GrpcOptions {
        #[cfg(feature = "tls")]
        let tls_1_3_only = self.floor.is_tls_1_3_only();
        #[cfg(not(feature = "tls"))]
        let tls_1_3_only = false;
        GrpcOptions { tasks: life.tasks.clone(), tls_1_3_only, ..options }
    }

    /// What resources may name, but for what depends on more than the builder and the bootstrap.
    fn local_names(&self, bootstrap: &Bootstrap, life: &Life) -> LocalNames {
        let channel = |service: &ServerConfig| {
            let options = self.grpc_options(GrpcOptions { max_response: MAX_RESPONSE, ..Default::default() }, life);
            let channel = SideChannel::new(service.clone(), options, &life.runtime, &life.cancel);
            (service.uri.clone(), Arc::new(channel))
        };
        LocalNames {
            profile: self.profile.value,
            grpc_services: Arc::new(bootstrap.allowed_grpc_services().iter().map(channel).collect()),
            #[cfg(all(feature = "tls", feature = "server"))]
            fails_closed: self.floor.demand_on_callers(),
            policies: Policies::new(self.policies.clone()),
            #[cfg(feature = "tls")]
            folders: self.folders.clone(),
            ..Default::default()
        }
    }
}

/// That of a mesh whose control plane is in this process.
fn in_process_bootstrap() -> Result<Bootstrap, Error> {
    Bootstrap::builder("in-process")
        .insecure()
        .node_id("test")
        .server_listener_resource_name_template(IN_PROCESS_SERVERS)
        .build()
}

impl fmt::Debug for MeshBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshBuilder")
            .field("bootstrap", &self.bootstrap)
            .field("xds", &self.xds)
            .finish_non_exhaustive()
    }
}
