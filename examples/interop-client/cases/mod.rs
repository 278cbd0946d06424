//! The cases of `doc/interop-test-descriptions.md` of grpc/grpc; each asserts what its section says.

mod cancel;
mod metadata;
mod soak;
mod status;
mod streaming;
mod unary;

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use mesh_examples::grpc_testing::test_service_client::TestServiceClient;
use mesh_examples::grpc_testing::{Payload, PayloadType};
use tonic::{Code, Status};

use crate::Failure;
use crate::args::Args;
use crate::channel::{Channel, Connector};

/// The test service's client.
type Client = TestServiceClient<Channel>;

/// Every case, in the order in which `all` runs them.
const CASES: [&str; 16] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
];

/// A case that takes longer has failed; the soak tests have a limit of their own.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs the cases asked for, up to the first that fails.
pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    let connector = Connector::new(args)?;
    let mesh = connector.mesh().await?;
    let channel = connector.channel(&mesh)?;
    for case in names(&args.test_case) {
        let limit =
            LIMIT + Duration::from_secs(if case.ends_with("_soak") { args.soak.overall_timeout_seconds } else { 0 });
        let outcome = tokio::time::timeout(limit, run_case(case, args, &connector, &channel)).await;
        match outcome.unwrap_or_else(|_| Err(format!("not done after {limit:?}").into())) {
            Ok(()) => println!("{case}: ok"),
            Err(error) => {
                println!("{case}: failed");
                return Err(format!("{case}: {error}").into());
            }
        }
    }
    mesh.shutdown().await;
    Ok(())
}

fn names(asked: &[String]) -> Vec<&str> {
    match asked {
        [] => vec!["large_unary"],
        [all] if all == "all" => CASES.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    }
}

async fn run_case(case: &str, args: &Args, connector: &Connector, channel: &Channel) -> Result<(), Failure> {
    let client = TestServiceClient::new(channel.clone());
    match case {
        "empty_unary" => unary::empty(client).await,
        "large_unary" => unary::large(client).await,
        "client_streaming" => streaming::client(client).await,
        "server_streaming" => streaming::server(client).await,
        "ping_pong" => streaming::ping_pong(client).await,
        "empty_stream" => streaming::empty(client).await,
        "timeout_on_sleeping_server" => status::timeout_on_sleeping_server(client).await,
        "cancel_after_begin" => cancel::after_begin(client).await,
        "cancel_after_first_response" => cancel::after_first_response(client).await,
        "status_code_and_message" => status::code_and_message(client).await,
        "special_status_message" => status::special_message(client).await,
        "custom_metadata" => metadata::custom(channel.clone()).await,
        "unimplemented_method" => status::unimplemented_method(client).await,
        "unimplemented_service" => status::unimplemented_service(channel.clone()).await,
        "rpc_soak" => soak::one_channel(&args.soak, channel.clone()).await,
        "channel_soak" => soak::channel_per_call(&args.soak, connector).await,
        _ => Err(format!("there is no such case; there are {}", CASES.join(", ")).into()),
    }
}

/// A payload of so many zeros.
fn zeros(size: usize) -> Option<Payload> {
    Some(Payload { r#type: PayloadType::Compressable.into(), body: vec![0; size].into() })
}

/// A payload received has to be so many zeros.
fn check_zeros(what: &str, payload: Option<Payload>, size: usize) -> Result<(), Failure> {
    let Payload { r#type, body } = payload.unwrap_or_default();
    check(&format!("{what}: payload type"), r#type, PayloadType::Compressable.into())?;
    check(&format!("{what}: payload size"), body.len(), size)?;
    check(&format!("{what}: payload is zeros"), is_zeros(&body), true)
}

fn is_zeros(body: &Bytes) -> bool {
    body.iter().all(|byte| *byte == 0)
}

/// A value received has to be the wanted one.
fn check<T: Debug + PartialEq>(what: &str, found: T, wanted: T) -> Result<(), Failure> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: found {found:?}, wanted {wanted:?}").into()) }
}

/// A call has to have failed with this code.
fn check_code<T>(what: &str, result: Result<T, Status>, code: Code) -> Result<Status, Failure> {
    match result {
        Ok(_) => Err(format!("{what}: succeeded, wanted the status {code:?}").into()),
        Err(status) if status.code() == code => Ok(status),
        Err(status) => Err(format!("{what}: found {:?} ({}), wanted {code:?}", status.code(), status.message()).into()),
    }
}

/// A call has to have succeeded.
fn check_ok<T>(what: &str, result: Result<T, Status>) -> Result<T, Failure> {
    result.map_err(|status| format!("{what}: {:?}: {}", status.code(), status.message()).into())
}
