//! What the test driver calls.

use std::sync::Arc;
use std::time::Duration;

use mesh_examples::grpc_testing::load_balancer_stats_service_server::LoadBalancerStatsService;
use mesh_examples::grpc_testing::xds_update_client_configure_service_server::XdsUpdateClientConfigureService;
use mesh_examples::grpc_testing::{
    ClientConfigureRequest, ClientConfigureResponse, LoadBalancerAccumulatedStatsRequest,
    LoadBalancerAccumulatedStatsResponse, LoadBalancerStatsRequest, LoadBalancerStatsResponse,
};
use tonic::{Request, Response, Status};

use super::Psm;
use super::config::Config;

/// Who answered.
pub(super) struct StatsService(pub(super) Arc<Psm>);

#[tonic::async_trait]
impl LoadBalancerStatsService for StatsService {
    async fn get_client_stats(
        &self,
        request: Request<LoadBalancerStatsRequest>,
    ) -> Result<Response<LoadBalancerStatsResponse>, Status> {
        let request = request.into_inner();
        let timeout = Duration::from_secs(u64::try_from(request.timeout_sec).unwrap_or(0));
        Ok(Response::new(self.0.stats.watch(&request, timeout).await))
    }

    async fn get_client_accumulated_stats(
        &self,
        _: Request<LoadBalancerAccumulatedStatsRequest>,
    ) -> Result<Response<LoadBalancerAccumulatedStatsResponse>, Status> {
        Ok(Response::new(self.0.stats.accumulated()))
    }
}

/// What is sent from now on.
pub(super) struct ConfigureService(pub(super) Arc<Psm>);

#[tonic::async_trait]
impl XdsUpdateClientConfigureService for ConfigureService {
    async fn configure(
        &self,
        request: Request<ClientConfigureRequest>,
    ) -> Result<Response<ClientConfigureResponse>, Status> {
        let config = Config::from_request(request.get_ref(), &self.0.args)?;
        *self.0.config.lock() = Arc::new(config);
        Ok(Response::new(ClientConfigureResponse {}))
    }
}
