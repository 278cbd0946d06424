//! rpc_soak, channel_soak.

use std::time::Duration;

use futures_util::future::try_join_all;
use mesh_examples::grpc_testing::test_service_client::TestServiceClient;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::unary::large_request;
use super::{check_ok, check_zeros};
use crate::Failure;
use crate::args::SoakArgs;
use crate::channel::{Channel, Connector};

/// Large calls one after another on one channel.
pub(super) async fn one_channel(args: &SoakArgs, channel: Channel) -> Result<(), Failure> {
    run(args, async || call(args, channel.clone()).await).await
}

/// Large calls one after another, each on a channel of a mesh of its own, so that nothing is shared with the last one.
pub(super) async fn channel_per_call(args: &SoakArgs, connector: &Connector) -> Result<(), Failure> {
    run(args, async || {
        let mesh = connector.mesh().await?;
        call(args, connector.channel(&mesh)?).await?;
        mesh.shutdown().await;
        Ok(())
    })
    .await
}

async fn call(args: &SoakArgs, channel: Channel) -> Result<(), Failure> {
    let request = large_request(args.request_size, args.response_size);
    let reply = check_ok("UnaryCall", TestServiceClient::new(channel).unary_call(request).await)?;
    check_zeros("the response", reply.into_inner().payload, usize::try_from(args.response_size)?)
}

/// Makes the calls, in as many loops at the same time as there are "threads".
async fn run(args: &SoakArgs, call: impl AsyncFn() -> Result<(), Failure>) -> Result<(), Failure> {
    if !args.iterations.is_multiple_of(args.num_threads) {
        return Err("--soak_iterations is not a multiple of --soak_num_threads".into());
    }
    let end = Instant::now() + Duration::from_secs(args.overall_timeout_seconds);
    let loops = (0..args.num_threads).map(|_| run_loop(args, &call, end));
    let failures: u32 = match timeout_at(end, try_join_all(loops)).await {
        Ok(failures) => failures?.into_iter().sum(),
        Err(_) => return Err(format!("not done after {} s", args.overall_timeout_seconds).into()),
    };
    eprintln!("soak: {} calls, {failures} failed", args.iterations);
    if failures > args.max_failures {
        return Err(format!("{failures} calls failed or took too long, {} may", args.max_failures).into());
    }
    Ok(())
}

async fn run_loop(args: &SoakArgs, call: &impl AsyncFn() -> Result<(), Failure>, end: Instant) -> Result<u32, Failure> {
    let mut failures = 0;
    for iteration in 0..args.iterations / args.num_threads {
        let start = Instant::now();
        let result = timeout_at(end, call()).await?;
        let elapsed = start.elapsed();
        if let Err(error) = &result {
            eprintln!("soak: call {iteration} failed after {elapsed:?}: {error}");
        } else if elapsed > Duration::from_millis(args.max_latency_ms) {
            eprintln!("soak: call {iteration} took {elapsed:?}");
        }
        failures += u32::from(result.is_err() || elapsed > Duration::from_millis(args.max_latency_ms));
        sleep_until(start + Duration::from_millis(args.min_time_ms_between_rpcs)).await;
    }
    Ok(failures)
}
