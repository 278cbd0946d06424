//! A secret as a provider of certificates: watched at the control plane, or at an agent's Unix socket (SDS).
//!
//! ```text
//! control plane ─▸ the mesh's XdsClient ┬▸ Secret ─▸ Carried ─▸ Publisher (identity/)
//! agent's socket ─▸ one of its own ─────┘ (resource/)
//! ```
//!
//! A secret is a resource as any other: what is wrong with it is told by a NACK, and the last good one stays. Each secret
//! of an agent has a stream of its own, as in Envoy: agents end the stream of a name that they do not know.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::aside::aside;
use crate::backoff::{Backoff, BackoffConfig};
use crate::bootstrap::{Bootstrap, ChannelCredentials, ServerAddress, ServerConfig, ServerFeatures};
use crate::error::BoxError;
use crate::files::NamedFile;
use crate::identity::{
    Carried, CertificateProvider, OpenSecret, Part, ProviderFuture, Publisher, SecretServer, SecretSource,
};
use crate::resource::SECRET;
use crate::resource::local::LocalNames;
use crate::resource::secret::Secret;
use crate::xds::resource_type::Extensions;
use crate::xds::transport::SDS;
use crate::xds::transport::grpc::{GrpcOptions, GrpcTransport};
use crate::xds::{ResourceState, Subscriber, Verdict, XdsClient, XdsOptions};

/// A pair and its roots are some kilobytes.
const MAX_RESPONSE: usize = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A socket that is not there costs nothing to look for, and its return should be noticed within a second.
const UNREACHABLE: BackoffConfig =
    BackoffConfig { initial: Duration::from_millis(50), multiplier: 1.6, max: Duration::from_millis(600), jitter: 0.2 };

/// Whom to ask for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Secrets {
    control_plane: XdsClient,
    /// Says who asks an agent.
    bootstrap: Bootstrap,
    /// Of the streams to agents.
    options: XdsOptions,
    tasks: TaskTracker,
}

impl Secrets {
    /// Makes the providers of secrets: of those that the control plane has, and of those of agents, which are asked as the
    /// same node, by the same names and options.
    pub(crate) fn of(
        control_plane: &XdsClient,
        bootstrap: &Bootstrap,
        local: LocalNames,
        options: XdsOptions,
        tasks: &TaskTracker,
    ) -> OpenSecret {
        // Nobody reads along at a Unix socket.
        let extensions = Extensions::new(LocalNames { keys_may_come: true, ..local });
        let secrets = Self {
            control_plane: control_plane.clone(),
            bootstrap: bootstrap.clone(),
            options: XdsOptions { method: SDS, backoff: UNREACHABLE, extensions, ..options },
            tasks: tasks.clone(),
        };
        Box::new(move |source| Box::new(Provider { secrets: secrets.clone(), source: source.clone() }))
    }
}

struct Provider {
    secrets: Secrets,
    source: Arc<SecretSource>,
}

impl CertificateProvider for Provider {
    fn kind(&self) -> &str {
        "sds"
    }

    fn run(self: Box<Self>, publisher: Publisher) -> ProviderFuture {
        Box::pin(async move {
            let Self { secrets, source } = *self;
            let mut secret = Followed { source, publisher, files: None };
            match &secret.source.at {
                SecretServer::ControlPlane => secret.follow(secrets.control_plane.subscriber(), None).await,
                SecretServer::Socket(socket) => {
                    let socket = socket.clone();
                    secret.follow_agent(&secrets, &socket).await
                }
            };
        })
    }
}

impl Secrets {
    /// A client of the agent at a socket, which is here.
    fn client(&self, socket: &NamedFile, path: &Path) -> Result<XdsClient, BoxError> {
        let server = ServerConfig {
            uri: format!("unix:{socket}").into(),
            address: ServerAddress::Unix(path.to_owned()),
            credentials: ChannelCredentials::Insecure,
            tokens: Vec::new(),
            server_name: None,
            features: ServerFeatures::default(),
        };
        let transport = GrpcOptions {
            connect_timeout: CONNECT_TIMEOUT,
            max_response: MAX_RESPONSE,
            tasks: self.tasks.clone(),
            ..Default::default()
        };
        let runtime = Handle::current();
        let bootstrap = self.bootstrap.at(server);
        let transport = Arc::new(GrpcTransport::new(&bootstrap, transport, &runtime)?);
        let (options, never) = (self.options.clone(), CancellationToken::new());
        Ok(XdsClient::start(&bootstrap, options, transport, &runtime, &self.tasks, &never))
    }
}

/// An agent that is asked.
struct Agent {
    client: XdsClient,
    socket: NamedFile,
    /// Where that is.
    path: PathBuf,
}

/// A secret that is published as it changes.
struct Followed {
    source: Arc<SecretSource>,
    publisher: Publisher,
    files: Option<Files>,
}

/// Files that a secret names, and what reads them.
struct Files {
    of: Arc<Carried>,
    reading: ProviderFuture,
}

impl Followed {
    /// Asks whoever listens where the path of a socket leads to, for ever.
    async fn follow_agent(&mut self, secrets: &Secrets, socket: &NamedFile) {
        let mut backoff = Backoff::new(UNREACHABLE);
        loop {
            match locate(socket).await.and_then(|path| Ok((secrets.client(socket, &path)?, path))) {
                Ok((client, path)) => {
                    let resources = client.subscriber();
                    self.follow(resources, Some(Agent { client, socket: socket.clone(), path })).await;
                    backoff.reset();
                }
                Err(error) => self.publisher.stand(Some(error)),
            }
            sleep(backoff.next_delay(fastrand::f64())).await;
        }
    }

    /// Publishes what comes; that an agent cannot be asked is a failure. Ends when the agent's socket is elsewhere.
    async fn follow(&mut self, mut resources: Subscriber, agent: Option<Agent>) {
        resources.watch(&[(&SECRET, &[self.source.name.clone()].into_iter().collect())]);
        loop {
            let unreachable = agent.as_ref().and_then(|agent| Some((agent, agent.problem()?)));
            self.take(&resources.get(&SECRET, &self.source.name), unreachable.as_ref().map(|(_, problem)| &**problem));
            if let Some((agent, _)) = unreachable
                && agent.has_moved().await
            {
                return;
            }
            tokio::select! {
                _ = resources.changed() => {}
                () = status_changed(&agent) => {}
                () = read(&mut self.files) => {}
            }
        }
    }

    /// What stays while something is wrong does not end the failure, which goes on.
    fn take(&mut self, state: &ResourceState, unreachable: Option<&str>) {
        let secret = state.value::<Secret>();
        let wanted = secret.as_ref().filter(|secret| secret.part == self.source.part);
        let other = secret.as_ref().filter(|_| wanted.is_none()).map(|_| of_another_kind(self.source.part).to_owned());
        let problem = unreachable.map(str::to_owned).or_else(|| problem(state)).or(other);
        match problem {
            Some(problem) => self.publisher.stand(Some(problem.into())),
            None if wanted.is_some() => self.publisher.stand(None),
            // Nobody said anything yet.
            None => {}
        }
        if let Some(secret) = wanted {
            self.publish(&secret.material);
        }
    }

    fn publish(&mut self, material: &Arc<Carried>) {
        match &**material {
            Carried::Inline(inline) => {
                self.files = None;
                self.publisher.publish(inline.clone());
            }
            Carried::Files(_) if self.files.as_ref().is_some_and(|known| known.of == *material) => {}
            Carried::Files(_) => {
                let reading = Box::new(Carried::clone(material)).run(self.publisher.clone());
                self.files = Some(Files { of: material.clone(), reading });
            }
        }
    }
}

impl Agent {
    /// Why it cannot be asked.
    fn problem(&self) -> Option<String> {
        let status = self.client.status();
        let error = status.last_error.filter(|_| status.failures > 0)?;
        Some(format!("the agent at {} cannot be asked: {error}", status.server))
    }

    /// Whether the path leads elsewhere by now, as when a folder of Kubernetes is swapped.
    async fn has_moved(&self) -> bool {
        locate(&self.socket).await.is_ok_and(|path| path != self.path)
    }
}

async fn locate(socket: &NamedFile) -> Result<PathBuf, BoxError> {
    let socket = socket.clone();
    aside(move || socket.locate()).await?
}

async fn status_changed(agent: &Option<Agent>) {
    match agent {
        Some(agent) => agent.client.status_changed().await,
        None => pending().await,
    }
}

async fn read(files: &mut Option<Files>) {
    match files {
        Some(files) => files.reading.as_mut().await,
        None => pending().await,
    }
}

fn of_another_kind(wanted: Part) -> &'static str {
    match wanted {
        Part::Identity => "the secret is a `validation_context`, and a `tls_certificate` is asked for",
        Part::Roots => "the secret is a `tls_certificate`, and a `validation_context` is asked for",
    }
}

/// What is wrong with a secret; with a good one, with what came after.
fn problem(state: &ResourceState) -> Option<String> {
    let error = || state.error.as_deref();
    match &state.verdict {
        Verdict::Present => error().map(str::to_owned),
        Verdict::Pending => None,
        Verdict::DoesNotExist => {
            let reason = error().map(|reason| format!(": {reason}")).unwrap_or_default();
            Some(format!("it does not exist{reason}"))
        }
        Verdict::Refused(reason) => Some(format!("it cannot be had: {reason}")),
        Verdict::Invalid(reason) => Some(format!("it was rejected (NACK): {reason}")),
    }
}
