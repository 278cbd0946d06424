//! `XdsUpdateHealthService`: a test driver tells the server whether to say that it is healthy.

use mesh_examples::grpc_testing::xds_update_health_service_server::XdsUpdateHealthService;
use mesh_examples::grpc_testing::{Empty, HookRequest, HookResponse};
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};

/// Sets what `grpc.health.v1.Health` answers for the server as a whole.
#[derive(Clone, Debug)]
pub(crate) struct UpdateHealth {
    reporter: HealthReporter,
}

impl UpdateHealth {
    /// The health service, serving, and the service that changes it.
    pub(crate) async fn new() -> (HealthServer<impl Health>, Self) {
        let (reporter, service) = health_reporter();
        let update = Self { reporter };
        update.set(ServingStatus::Serving).await;
        (service, update)
    }

    async fn set(&self, status: ServingStatus) {
        // The empty name is the server as a whole (grpc/grpc, doc/health-checking.md).
        self.reporter.set_service_status("", status).await;
    }
}

#[tonic::async_trait]
impl XdsUpdateHealthService for UpdateHealth {
    async fn set_serving(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.set(ServingStatus::Serving).await;
        Ok(Response::new(Empty {}))
    }

    async fn set_not_serving(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.set(ServingStatus::NotServing).await;
        Ok(Response::new(Empty {}))
    }

    async fn send_hook_request(&self, _: Request<HookRequest>) -> Result<Response<HookResponse>, Status> {
        Err(Status::unimplemented("there is no pod hook to control here"))
    }
}
