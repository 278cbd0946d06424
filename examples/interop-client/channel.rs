//! Where channels come from.

use std::path::PathBuf;

use mesh_core::Mesh;
use mesh_tonic::MeshChannel;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

use crate::Failure;
use crate::args::Args;

/// What the generated clients call.
pub(crate) type Channel = InterceptedService<MeshChannel, AddMetadata>;

/// Opens meshes, and channels of theirs to the server.
pub(crate) struct Connector {
    bootstrap: Option<PathBuf>,
    target: String,
    authority: Option<String>,
    metadata: AddMetadata,
}

impl Connector {
    pub(crate) fn new(args: &Args) -> Result<Self, Failure> {
        Ok(Self {
            bootstrap: args.bootstrap.clone(),
            target: args.target()?,
            authority: args.authority().map(str::to_owned),
            metadata: AddMetadata(args.additional_metadata()?),
        })
    }

    /// A mesh; without a bootstrap only targets that name addresses or hosts can be called.
    pub(crate) async fn mesh(&self) -> Result<Mesh, Failure> {
        let builder = match &self.bootstrap {
            Some(file) => Mesh::builder().bootstrap_from_file(file)?,
            None => Mesh::builder().bootstrap_from_env_if_set()?,
        };
        Ok(builder.build().await?)
    }

    /// A channel of `mesh`.
    pub(crate) fn channel(&self, mesh: &Mesh) -> Result<Channel, Failure> {
        let channel = match &self.authority {
            Some(authority) => MeshChannel::builder(mesh, &self.target).authority(authority).build()?,
            None => MeshChannel::new(mesh, &self.target)?,
        };
        Ok(InterceptedService::new(channel, self.metadata.clone()))
    }
}

/// Adds what `--additional_metadata` says.
#[derive(Clone, Debug)]
pub(crate) struct AddMetadata(Vec<(AsciiMetadataKey, AsciiMetadataValue)>);

impl Interceptor for AddMetadata {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (key, value) in &self.0 {
            request.metadata_mut().append(key.clone(), value.clone());
        }
        Ok(request)
    }
}
