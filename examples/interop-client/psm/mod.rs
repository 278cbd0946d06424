//! The client of `doc/xds-test-descriptions.md` of grpc/grpc: calls at a steady rate, and says who answered.

mod config;
mod services;
mod stats;

use std::sync::Arc;
use std::time::Duration;

use mesh_examples::grpc_testing::client_configure_request::RpcType;
use mesh_examples::grpc_testing::load_balancer_stats_service_server::LoadBalancerStatsServiceServer;
use mesh_examples::grpc_testing::xds_update_client_configure_service_server::XdsUpdateClientConfigureServiceServer;
use mesh_examples::grpc_testing::{Empty, Payload, SimpleRequest, SimpleResponse};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Status};

use self::config::Config;
use self::services::{ConfigureService, StatsService};
use self::stats::{Answer, Stats};
use crate::Failure;
use crate::args::{Args, PsmArgs};
use crate::channel::{Channel, Connector};
use crate::unary;

/// What the calls share.
struct Psm {
    args: PsmArgs,
    config: Mutex<Arc<Config>>,
    stats: Stats,
    failures: mpsc::Sender<Status>,
}

/// Calls until SIGTERM, ctrl-c, or a failure that may not be.
pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    let connector = Connector::new(args)?;
    let mesh = connector.mesh().await?;
    let channels = (0..args.psm.num_channels).map(|_| connector.channel(&mesh)).collect::<Result<Vec<_>, _>>()?;
    let config = Mutex::new(Arc::new(Config::from_args(&args.psm)?));
    let (failures, mut failed) = mpsc::channel(1);
    let psm = Arc::new(Psm { args: args.psm.clone(), config, stats: Stats::default(), failures });

    serve(&psm).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        never = send(&psm, &channels) => match never {},
        Some(status) = failed.recv() => Err(format!("a call failed: {:?}: {}", status.code(), status.message()).into()),
        _ = terminate.recv() => Ok(()),
        interrupt = tokio::signal::ctrl_c() => Ok(interrupt?),
    }
}

/// Serves what the test driver asks.
async fn serve(psm: &Arc<Psm>) -> Result<(), Failure> {
    let address = psm.args.stats_address();
    let listener = TcpListener::bind(address).await.map_err(|error| format!("listen on {address}: {error}"))?;
    println!("{}", listener.local_addr()?);
    let services = Server::builder()
        .add_service(LoadBalancerStatsServiceServer::new(StatsService(psm.clone())))
        .add_service(XdsUpdateClientConfigureServiceServer::new(ConfigureService(psm.clone())));
    tokio::spawn(services.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))));
    Ok(())
}

/// Starts calls at the rate asked for, on each channel in turn; a tick that comes late is made up for.
async fn send(psm: &Arc<Psm>, channels: &[Channel]) -> std::convert::Infallible {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / (psm.args.qps() * psm.args.num_channels));
    loop {
        for channel in channels {
            ticks.tick().await;
            let config = psm.config.lock().clone();
            for rpc_type in config.rpc_types() {
                let id = psm.stats.start(rpc_type);
                tokio::spawn(call(psm.clone(), config.clone(), channel.clone(), rpc_type, id));
            }
        }
    }
}

async fn call(psm: Arc<Psm>, config: Arc<Config>, channel: Channel, rpc_type: RpcType, id: u64) {
    let result = match rpc_type {
        RpcType::EmptyCall => empty_call(&config, channel).await,
        RpcType::UnaryCall => unary_call(&psm.args, &config, channel).await,
    };
    if psm.args.print_response {
        println!("{} {result:?}", rpc_type.as_str_name());
    }
    let succeeded_before = psm.stats.end(id, rpc_type, &result);
    if let Err(status) = result
        && psm.args.fail_on_failed_rpc
        && succeeded_before
    {
        let _ = psm.failures.try_send(status);
    }
}

async fn empty_call(config: &Config, channel: Channel) -> Result<Answer, Status> {
    let request = config.request(RpcType::EmptyCall, Empty {});
    let reply = unary::call::<_, Empty>(channel, "/grpc.testing.TestService/EmptyCall", request).await?;
    Ok(Answer::new(reply.initial, reply.trailing, String::new()))
}

async fn unary_call(args: &PsmArgs, config: &Config, channel: Channel) -> Result<Answer, Status> {
    let body = vec![0; args.request_payload_size].into();
    let message = SimpleRequest {
        response_size: args.response_payload_size,
        payload: (args.request_payload_size > 0).then_some(Payload { body, ..Default::default() }),
        fill_server_id: true,
        ..Default::default()
    };
    let request: Request<SimpleRequest> = config.request(RpcType::UnaryCall, message);
    let reply = unary::call::<_, SimpleResponse>(channel, "/grpc.testing.TestService/UnaryCall", request).await?;
    Ok(Answer::new(reply.initial, reply.trailing, reply.message.hostname))
}
