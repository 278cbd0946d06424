//! A balancing policy of your own: in place of the one that the control plane asks for, or because it asks for it by name.
//!
//! Three greeters of weights 1, 2 and 4 run in this process, and an embedded control plane that says `ROUND_ROBIN`, or with
//! `--by-name` a `TypedStruct` of the type `example.LeastLoaded` (A52). The policy sends each call to the endpoint that is the least loaded for its weight, so the shares become 1, 2 and 4 sevenths.

#[path = "../own-stack/greeters.rs"]
mod greeters;

use std::collections::BTreeMap;

use clap::Parser;
use futures_util::future::try_join_all;
use mesh_core::Mesh;
use mesh_core::balance::{BalanceOptions, Choice, Member, PickRequest, Policy, PolicyConfig};
use mesh_core::testing::{ControlPlane, Resources, cluster, endpoint};
use mesh_examples::helloworld::HelloRequest;
use mesh_examples::helloworld::greeter_client::GreeterClient;
use mesh_tonic::MeshChannel;
use mesh_xds_proto::xds::r#type::v3::TypedStruct;
use tonic::codegen::StdError;

/// Calls three greeters by a balancing policy that is defined here.
#[derive(Parser)]
struct Args {
    /// The control plane asks for the policy by its name.
    #[arg(long)]
    by_name: bool,
    /// Calls that are made at a time.
    #[arg(long, default_value_t = 70)]
    calls: usize,
}

/// The fewest calls in flight for the weight.
struct LeastLoaded;

impl Policy for LeastLoaded {
    fn pick(&self, members: &[Member], _: &PickRequest<'_>) -> Choice {
        // The call that is to be placed counts, so that an idle endpoint of weight 4 goes before one of weight 1.
        let load = |index: &usize| f64::from(members[*index].in_flight() + 1) / f64::from(members[*index].weight());
        let least = (0..members.len()).min_by(|one, other| load(one).total_cmp(&load(other)));
        least.map_or(Choice::Fail, Choice::Endpoint)
    }
}

#[tokio::main]
async fn main() -> Result<(), StdError> {
    let args = Args::parse();
    let mut endpoints = Vec::new();
    for (name, weight) in [("one", 1), ("two", 2), ("four", 4)] {
        endpoints.push(endpoint(greeters::start(name).await?).weight(weight));
    }
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", endpoints));

    let start = |_: &[Member]| Box::new(LeastLoaded) as Box<dyn Policy>;
    let builder = match args.by_name {
        true => {
            let named = TypedStruct { type_url: "type.googleapis.com/example.LeastLoaded".to_owned(), value: None };
            control_plane.put(cluster("greeter").policy("least_loaded", &named));
            // The struct's fields would be the policy's configuration.
            Mesh::builder().policy("example.LeastLoaded", move |_: &PolicyConfig| Ok(start))
        }
        // `policy_of` is for one cluster, `policy` would be for all.
        false => Mesh::builder().balance(BalanceOptions::new().policy_of("greeter", start)),
    };
    let mesh = builder.control_plane(&control_plane).build().await?;
    let greeter = GreeterClient::new(MeshChannel::new(&mesh, "xds:///greeter")?);
    all_answer(greeter.clone()).await?;

    let calls = (0..args.calls).map(|_| hello(greeter.clone()));
    let mut shares = BTreeMap::<String, usize>::new();
    for name in try_join_all(calls).await? {
        *shares.entry(name).or_default() += 1;
    }
    println!("of {} calls at a time:", args.calls);
    for (name, calls) in shares {
        println!("  {calls:>3}: {name}");
    }
    mesh.shutdown().await;
    Ok(())
}

/// Until every greeter is connected, those that are get all the calls.
async fn all_answer(greeter: GreeterClient<MeshChannel>) -> Result<(), StdError> {
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 3 {
        let calls = (0..7).map(|_| hello(greeter.clone()));
        seen.extend(try_join_all(calls).await?);
    }
    Ok(())
}

async fn hello(mut greeter: GreeterClient<MeshChannel>) -> Result<String, StdError> {
    let reply = greeter.say_hello(HelloRequest { name: "balancer".to_owned() }).await?;
    Ok(reply.into_inner().message)
}
