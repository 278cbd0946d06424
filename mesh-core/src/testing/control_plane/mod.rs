//! The handle of an embedded control plane.

mod breaking;
mod builder;
mod connector;
mod observe;

pub use builder::ControlPlaneBuilder;
pub use connector::Connector;
pub use observe::RequestWatch;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_xds_proto::envoy::service::discovery::v3::DiscoveryResponse;
use prost::{Message, Name};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::frame;
use super::resources::{Resource, Resources};
use super::server;
use super::shared::{Shared, State};

/// An xDS control plane inside the test's process: state of the world over ADS, in process and over TCP.
///
/// It is a handle: clones are the same control plane, and the server ends with the last of them. Nothing in it needs
/// a sleep: each effect can be waited for. Connections in process run on tokio's clock alone, so that they work with
/// paused time; TCP does not.
///
/// ```
/// use mesh_core::testing::{ControlPlane, Fault, Resources, endpoints, type_url};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let control_plane = ControlPlane::builder().listen("127.0.0.1:0").start().await?;
/// control_plane.set(Resources::service("greeter", ["127.0.0.1:50051"]));
///
/// // … a client with `control_plane.bootstrap_json()` calls `xds:///greeter`, and is told of another endpoint:
/// control_plane.put(endpoints("greeter").endpoint("127.0.0.1:50052"));
/// // control_plane.acked(type_url::ENDPOINTS).await;
///
/// // The next push never comes, and then the control plane goes away for a while.
/// control_plane.inject(Fault::silence());
/// control_plane.stop().await;
/// control_plane.restart().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ControlPlane {
    owner: Arc<Owner>,
}

/// Ends the server when the last handle goes.
struct Owner {
    shared: Arc<Shared>,
    patience: Duration,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.change(State::stop);
    }
}

/// Starting, connecting, stopping.
impl ControlPlane {
    /// A control plane in process, without resources.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, which runs its connections.
    #[expect(clippy::new_without_default, reason = "it starts something")]
    pub fn new() -> Self {
        Self::builder().start_in_process()
    }

    /// A control plane that also listens, or has other options.
    pub fn builder() -> ControlPlaneBuilder {
        ControlPlaneBuilder::new()
    }

    /// Where it listens.
    ///
    /// # Panics
    ///
    /// If it was not made to listen.
    pub fn addr(&self) -> SocketAddr {
        let address = self.shared().look().address;
        address.expect("`addr` wants a control plane that was made with `listen`")
    }

    /// Makes connections in process.
    pub fn connector(&self) -> Connector {
        Connector { shared: self.shared().clone() }
    }

    /// A bootstrap (A27) for [`addr`](Self::addr), with node id `test`.
    ///
    /// # Panics
    ///
    /// As [`addr`](Self::addr) does.
    pub fn bootstrap_json(&self) -> String {
        let server = serde_json::json!({
            "server_uri": self.addr().to_string(),
            "channel_creds": [{ "type": "insecure" }],
            "server_features": ["xds_v3"],
        });
        let node = serde_json::json!({ "id": "test", "cluster": "test", "locality": {} });
        // The last two are for gRPC's Node.js client, which wants them to be there.
        let bootstrap = serde_json::json!({
            "xds_servers": [server], "node": node,
            "server_listener_resource_name_template": "grpc/server?xds.resource.listening_address=%s",
            "authorities": {}, "certificate_providers": {},
        });
        bootstrap.to_string()
    }

    /// Closes the port and all connections, at once and without ceremony. Resources and faults stay.
    pub async fn stop(&self) {
        self.shared().change(State::stop);
        self.shared().tasks.close();
        self.shared().tasks.wait().await;
    }

    /// Starts again after [`stop`](Self::stop), on the same port.
    ///
    /// # Errors
    ///
    /// If the port was taken by another meanwhile.
    pub async fn restart(&self) -> io::Result<()> {
        let address = self.shared().look().address;
        let listener = match address {
            Some(address) => Some(TcpListener::bind(address).await?),
            None => None,
        };
        self.run(listener);
        Ok(())
    }

    fn run(&self, listener: Option<TcpListener>) {
        let shared = self.shared();
        shared.tasks.reopen();
        let stopped = CancellationToken::new();
        shared.change(|state| state.run = Some(stopped.clone()));
        if let Some(listener) = listener {
            shared.tasks.spawn_on(server::accept(shared.clone(), listener, stopped), &shared.runtime);
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }
}

/// What it serves.
impl ControlPlane {
    /// Replaces all resources at once, as one version. What stays the same is not sent again; listeners and clusters
    /// that are left out are deleted for clients too.
    pub fn set(&self, resources: Resources) {
        self.shared().change(|state| state.store.set(resources));
    }

    /// Adds a resource, or replaces the one of its type and name.
    pub fn put(&self, resource: impl Into<Resource>) {
        let resource = resource.into();
        self.shared().change(|state| state.store.put([resource]));
    }

    /// Adds or replaces these resources at once, as one version, and leaves the others.
    pub fn put_all(&self, resources: Resources) {
        self.shared().change(|state| state.store.put(resources.into_resources()));
    }

    /// Adds bytes as a resource; see [`Resource::raw`].
    pub fn put_raw(&self, type_url: &str, name: &str, value: impl Into<Vec<u8>>) {
        self.put(Resource::raw(type_url, name, value));
    }

    /// Takes a resource out; whether it was there.
    pub fn remove(&self, type_url: &str, name: &str) -> bool {
        self.shared().change(|state| state.store.remove(type_url, name))
    }

    /// Changes the message of this type and name.
    ///
    /// ```
    /// # use mesh_core::testing::{ControlPlane, cluster};
    /// use mesh_xds_proto::envoy::config::cluster::v3::Cluster;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let control_plane = ControlPlane::new();
    /// # control_plane.put(cluster("greeter"));
    /// control_plane.modify("greeter", |cluster: &mut Cluster| cluster.lb_policy = 2);
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If it is not there or does not decode: the test asks for something that it did not put.
    pub fn modify<M: Message + Name + Default>(&self, name: &str, change: impl FnOnce(&mut M)) {
        let message = self.shared().look().store.message::<M>(name);
        let Some(mut message) = message else { panic!("there is no {} `{name}` to modify", M::full_name()) };
        change(&mut message);
        self.put(Resource::new(name, &message));
    }

    /// Sends all resources of a type again, in the version that they have, to everyone who asked for them.
    pub fn resend(&self, type_url: &str) {
        self.shared().change(|state| state.store.resend(type_url));
    }

    /// Sends a response as it is on every open stream, now: whatever was asked for, acknowledged or injected.
    pub fn send(&self, response: &DiscoveryResponse) {
        let frame = frame::of_message(response);
        self.shared().change(|state| {
            state.streams.values_mut().for_each(|stream| stream.extra.push(frame.clone()));
        });
    }

    /// The number of changes so far.
    pub fn version(&self) -> u64 {
        self.shared().look().store.version()
    }
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared().look();
        let last = state.log.end().saturating_sub(20);
        let requests: Vec<_> = state.log.since(last).map(|(_, request)| request).collect();
        f.debug_struct("ControlPlane")
            .field("version", &state.store.version())
            .field("streams", &state.streams.len())
            .field("last_requests", &requests)
            .finish_non_exhaustive()
    }
}

impl State {
    fn stop(&mut self) {
        if let Some(run) = self.run.take() {
            run.cancel();
        }
    }
}
