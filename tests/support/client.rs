//! Clients of the greeter, and meshes whose timers are short.

use std::time::Duration;

use mesh_core::balance::BalanceOptions;
use mesh_core::testing::ControlPlane;
use mesh_core::{CallInfo, Mesh, MeshBuilder};
use mesh_examples::helloworld::HelloRequest;
use mesh_examples::helloworld::greeter_client::GreeterClient;
use mesh_tonic::MeshChannel;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::{Request, Status};

use super::PATIENCE;
use super::clock::pass_over_stalls;

/// The timers of [`impatient`].
pub(crate) const SOON: Duration = Duration::from_millis(200);

/// A mesh that tries again soon. What it waits for may take as long as a busy machine makes it take.
pub(crate) fn quick() -> MeshBuilder {
    waiting(PATIENCE, PATIENCE)
}

/// A [`quick`] mesh that also gives up soon, for tests of what is said then. What is there before it gives up is found,
/// however long the machine stands still.
pub(crate) fn impatient() -> MeshBuilder {
    pass_over_stalls();
    waiting(SOON, 5 * SOON)
}

fn waiting(does_not_exist: Duration, max_wait: Duration) -> MeshBuilder {
    let step = Duration::from_millis(10);
    let balance = BalanceOptions::new().backoff(step, 5 * step).max_wait(max_wait);
    Mesh::builder().does_not_exist_timeout(does_not_exist).control_plane_backoff(step, 5 * step).balance(balance)
}

/// A [`quick`] mesh that asks this control plane, in process.
pub(crate) async fn quick_mesh(control_plane: &ControlPlane) -> Mesh {
    quick().control_plane(control_plane).build().await.expect("a mesh")
}

/// An [`impatient`] mesh that asks this control plane, in process.
pub(crate) async fn impatient_mesh(control_plane: &ControlPlane) -> Mesh {
    impatient().control_plane(control_plane).build().await.expect("a mesh")
}

/// A client of one target.
#[derive(Clone)]
pub(crate) struct Client {
    greeter: GreeterClient<MeshChannel>,
}

impl Client {
    pub(crate) fn new(mesh: &Mesh, target: &str) -> Self {
        Self::with_authority(mesh, target, None)
    }

    /// With an `:authority` of its own.
    pub(crate) fn with_authority(mesh: &Mesh, target: &str, authority: Option<&str>) -> Self {
        let mut builder = MeshChannel::builder(mesh, target);
        if let Some(authority) = authority {
            builder = builder.authority(authority);
        }
        Self { greeter: GreeterClient::new(builder.build().expect("a target")) }
    }

    pub(crate) fn greeter(&self) -> GreeterClient<MeshChannel> {
        self.greeter.clone()
    }

    /// Who answered.
    pub(crate) async fn hello(&self) -> Result<String, Status> {
        self.hello_with(MetadataMap::new()).await
    }

    /// Who answered a call with this metadata.
    pub(crate) async fn hello_with(&self, metadata: MetadataMap) -> Result<String, Status> {
        let reply = self.greeter().say_hello(request(metadata)).await?;
        Ok(reply.into_inner().message)
    }

    /// The cluster whose endpoint answered.
    pub(crate) async fn cluster(&self) -> Result<String, Status> {
        let reply = self.greeter().say_hello(HelloRequest::default()).await?;
        Ok(reply.extensions().get::<CallInfo>().expect("every response has it").cluster().to_owned())
    }

    /// Who answered a call that must end within `timeout`.
    pub(crate) async fn hello_within(&self, timeout: Duration) -> Result<String, Status> {
        let mut request = Request::new(HelloRequest::default());
        request.set_timeout(timeout);
        Ok(self.greeter().say_hello(request).await?.into_inner().message)
    }

    /// Calls until `name` answers; no call may fail meanwhile. Returns who else answered before.
    pub(crate) async fn hello_until(&self, name: &str) -> Vec<String> {
        let mut others = Vec::new();
        let reached = async {
            loop {
                match self.hello().await.expect("no call fails meanwhile") {
                    reply if reply == name => return,
                    reply => others.push(reply),
                }
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, reached).await.is_ok();
        assert!(in_time, "`{name}` never answered, but {:?}", others.last());
        others
    }

    /// Calls until a call succeeds; returns who answered.
    pub(crate) async fn recovers(&self) -> String {
        let recovered = async {
            loop {
                match self.hello().await {
                    Ok(reply) => return reply,
                    // A call that fails at once leaves no time for what would make the next one succeed.
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, recovered).await.expect("calls succeed again")
    }
}

/// Metadata of these pairs; one name may come several times.
pub(crate) fn metadata(pairs: &[(&'static str, &str)]) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    for (name, value) in pairs {
        metadata.append(*name, value.parse().expect("a header's value"));
    }
    metadata
}

fn request(metadata: MetadataMap) -> Request<HelloRequest> {
    let mut request = Request::new(HelloRequest::default());
    for entry in metadata.iter() {
        match entry {
            KeyAndValueRef::Ascii(key, value) => _ = request.metadata_mut().append(key, value.clone()),
            KeyAndValueRef::Binary(key, value) => _ = request.metadata_mut().append_bin(key, value.clone()),
        }
    }
    request
}

/// That the text has each of the parts.
#[track_caller]
pub(crate) fn assert_says(status: &Status, parts: &[&str]) {
    for part in parts {
        assert!(status.message().contains(part), "`{part}` is not in: {status}");
    }
}
