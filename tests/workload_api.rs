//! Certificates from a SPIFFE Workload API: `WorkloadApi`, and `spiffe_workload_api` in the bootstrap.

use std::time::{Duration, SystemTime};

use mesh_core::providers::WorkloadApi;
use mesh_core::{Bootstrap, CertificateProviderStatus, Mesh};
use tokio::time::Instant;
use tonic::Code;

use crate::support::agent::{Agent, Answer, Bundles, Svid, Svids};
use crate::support::client::{Client, assert_says, impatient, quick};
use crate::support::pki::{Authority, Issued, uri};
use crate::support::secured::{CLIENT, SERVER, Site, context, reported, says_in_time};
use crate::support::timed::timed;
use crate::support::tls::server;

const OTHER: &str = "spiffe://cluster.local/ns/shop/sa/other";

/// A backend that takes clients of its authority alone, and an agent that has this SVID for us.
async fn site(issue: impl FnOnce(&Authority) -> Issued) -> (Site, Agent, Issued) {
    let site = Site::mutual().await;
    site.ask(&context(&[SERVER]));
    let issued = issue(&site.authority);
    let agent = Agent::new(Svid::new(CLIENT, &issued, &site.authority));
    (site, agent, issued)
}

fn api(agent: &Agent) -> WorkloadApi {
    WorkloadApi::at(agent.endpoint()).expect("an endpoint")
}

/// An SVID that ends so many seconds from now.
fn ending_in(authority: &Authority, seconds: u64) -> Issued {
    authority.issue(&[uri(CLIENT)], |params| {
        params.not_after = (SystemTime::now() + Duration::from_secs(seconds)).into();
    })
}

async fn fails(mesh: &Mesh, with: &str) -> CertificateProviderStatus {
    reported(mesh, |provider| provider.last_error.as_ref().is_some_and(|error| error.contains(with))).await
}

#[tokio::test]
async fn the_agents_svid_is_shown_to_peers_and_its_bundle_trusted() {
    let (site, mut agent, issued) = site(|authority| authority.svid(CLIENT)).await;
    agent.start();
    let mesh = site.mesh(quick().certificate_provider("default", api(&agent))).await;
    assert_eq!(Client::new(&mesh, "xds:///greeter").hello().await.unwrap(), "a");
    assert_eq!(site.front.clients()[0].serial, Some(issued.serial));
    let status = reported(&mesh, |provider| provider.generation == 1).await;
    assert_eq!((&*status.kind, status.spiffe_id.unwrap().as_str()), ("spiffe_workload_api", CLIENT));
    assert_eq!(status.trust_domains[0].as_str(), "cluster.local");
}

#[tokio::test]
async fn s2_an_agent_that_ends_each_stream_after_its_answer_is_asked_once_a_second() {
    let (site, mut agent, issued) = site(|authority| authority.svid(CLIENT)).await;
    let Answer::Message(message) = Svid::new(CLIENT, &issued, &site.authority).into() else { unreachable!() };
    agent.say(Answer::Once(message));
    agent.start();
    let begin = Instant::now();
    let mesh = site.mesh(quick().certificate_provider("default", api(&agent))).await;
    agent.asked().wait_for("the agent is asked again", |asked| *asked == 2).await;
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(Client::new(&mesh, "xds:///greeter").hello().await.unwrap(), "a");
}

#[tokio::test]
async fn a_bootstrap_names_the_socket_and_the_svid() {
    let authority = Authority::new();
    let svid = |id: &str, hint: &str| Svid { hint: hint.into(), ..Svid::new(id, &authority.svid(id), &authority) };
    let svids = vec![svid(CLIENT, "a"), svid(OTHER, "b")];
    let agent = Agent::started(Svids { svids, ..Default::default() });
    let plugin = |config| serde_json::json!({"plugin_name": "spiffe_workload_api", "config": config});
    let bootstrap = |providers| {
        let servers = serde_json::json!([{"server_uri": "127.0.0.1:1", "channel_creds": [{"type": "insecure"}]}]);
        let json = serde_json::json!({"xds_servers": servers, "certificate_providers": providers});
        Bootstrap::from_json(&json.to_string())
    };
    let socket = agent.endpoint();
    let providers = serde_json::json!({
        "first": plugin(serde_json::json!({"endpoint_socket": socket})),
        "by_id": plugin(serde_json::json!({"endpoint_socket": socket, "spiffe_id": OTHER})),
        "by_hint": plugin(serde_json::json!({"endpoint_socket": socket, "hint": "b", "colour": "blue"})),
        "nobody": plugin(serde_json::json!({"endpoint_socket": socket, "hint": "c"})),
    });
    let mesh = Mesh::builder().bootstrap(bootstrap(providers).unwrap()).build().await.unwrap();
    for (name, id) in [("first", CLIENT), ("by_id", OTHER), ("by_hint", OTHER)] {
        let status = reported(&mesh, |provider| &*provider.name == name && provider.generation == 1).await;
        assert_eq!(status.spiffe_id.unwrap().as_str(), id, "{name}");
    }
    let status = fails(&mesh, "no SVID is one with the hint \"c\"; there are 2").await;
    assert_eq!((&*status.name, status.generation), ("nobody", 0));
    let ignored = mesh.status().ignored_bootstrap;
    assert_eq!(ignored, ["certificate_providers.by_hint.config.colour: unknown field"]);

    let wrong = serde_json::json!({"default": plugin(serde_json::json!({"endpoint_socket": "agent.sock"}))});
    let error = bootstrap(wrong).unwrap_err().to_string();
    assert!(error.contains("certificate_providers.default.config.endpoint_socket: `agent.sock` is neither"), "{error}");
    let wrong =
        serde_json::json!({"default": plugin(serde_json::json!({"endpoint_socket": socket, "spiffe_id": "x"}))});
    let error = Mesh::builder().bootstrap(bootstrap(wrong).unwrap()).build().await.unwrap_err().to_string();
    assert!(error.contains("SPIFFE ID \"x\""), "{error}");
}

#[tokio::test]
async fn a_new_svid_is_used_by_the_next_connection() {
    let (mut site, mut agent, first) = site(|authority| authority.svid(CLIENT)).await;
    agent.start();
    let mesh = site.mesh(quick().certificate_provider("default", api(&agent))).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.hello().await.unwrap(), "a");
    let second = site.authority.svid(CLIENT);
    agent.say(Svid::new(CLIENT, &second, &site.authority));
    reported(&mesh, |provider| provider.generation == 2).await;
    site.backend.stop().await;
    site.backend.restart().await;
    client.recovers().await;
    let serials: Vec<_> = site.front.clients().into_iter().filter_map(|client| client.serial).collect();
    assert_eq!((serials.first(), serials.last()), (Some(&first.serial), Some(&second.serial)));
    assert_eq!(agent.asked().get(), 1, "it came on the same stream");
}

#[tokio::test]
async fn an_agent_that_comes_late_goes_and_returns_is_found_again_within_a_second() {
    timed(async || {
        let (site, mut agent, _) = site(|authority| authority.svid(CLIENT)).await;
        let mesh = site.mesh(impatient().certificate_provider("default", api(&agent))).await;
        let client = Client::new(&mesh, "xds:///greeter");
        let status = fails(&mesh, "No such file").await;
        let error = status.last_error.unwrap();
        assert!(error.contains(&*agent.endpoint()) && error.contains("check that the agent runs"), "{error}");
        let status = client.hello().await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert_says(&status, &["`default` (spiffe_workload_api) has no key material", "No such file"]);

        agent.start();
        let began = Instant::now();
        reported(&mesh, |provider| provider.generation == 1 && provider.last_error.is_none()).await;
        // The longest pause, and what a busy machine adds.
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        assert_eq!(client.recovers().await, "a");

        agent.stop();
        let status = fails(&mesh, "UNAVAILABLE").await;
        assert_eq!((status.generation, status.spiffe_id.unwrap().as_str()), (1, CLIENT), "the last good one stays");
        assert_eq!(client.hello().await.unwrap(), "a");
        agent.start();
        let status = reported(&mesh, |provider| provider.last_error.is_none()).await;
        assert_eq!(status.generation, 1, "it is the same as before");
    })
    .await;
}

#[tokio::test]
async fn s1_an_expired_svid_means_no_connection_until_the_agent_is_back() {
    timed(async || {
        let (mut site, mut agent, _) = site(|authority| ending_in(authority, 2)).await;
        agent.start();
        let mesh = site.mesh(impatient().certificate_provider("default", api(&agent))).await;
        let client = Client::new(&mesh, "xds:///greeter");
        assert_eq!(client.hello().await.unwrap(), "a");
        agent.stop();
        fails(&mesh, "UNAVAILABLE").await;
        site.backend.stop().await;
        site.backend.restart().await;
        let status = says_in_time(&client, "has an expired certificate: since 20").await;
        assert_says(&status, &["`default` (spiffe_workload_api)", "last error, at 20", &agent.endpoint()]);
        let before = site.front.clients().len();
        client.hello().await.unwrap_err();
        assert_eq!(site.front.clients().len(), before, "not one connection was made");

        // What is expired is not taken from the agent either.
        agent.start();
        fails(&mesh, "its certificate expired at").await;
        agent.say(Svid::new(CLIENT, &site.authority.svid(CLIENT), &site.authority));
        assert_eq!(client.recovers().await, "a");
    })
    .await;
}

#[tokio::test]
async fn s6_each_trust_domain_is_vouched_for_by_its_own_bundle() {
    let (site, mut agent, issued) = site(|authority| authority.svid(CLIENT)).await;
    let (partner, foreign) = (Authority::new(), "spiffe://partner.example/web");
    let svids = vec![Svid::new(CLIENT, &issued, &site.authority)];
    let federated = [("spiffe://partner.example".to_owned(), partner.der().to_vec())].into();
    agent.say(Svids { svids: svids.clone(), federated_bundles: federated });
    agent.start();
    site.ask(&context(&[]));
    site.front.configure(server(&partner.svid(foreign), Some(&site.authority)));
    let mesh = site.mesh(impatient().certificate_provider("default", api(&agent))).await;
    let client = Client::new(&mesh, "xds:///greeter");
    assert_eq!(client.recovers().await, "a");

    // The partner's authority cannot vouch for a workload of ours.
    site.front.configure(server(&partner.svid(SERVER), Some(&site.authority)));
    site.ask(&context(&[SERVER]));
    says_in_time(&client, "BadSignature").await;

    // Nor for its own when the federation has ended, nor for a domain that nobody knows.
    agent.say(Svids { svids, ..Default::default() });
    reported(&mesh, |provider| provider.trust_domains.len() == 1).await;
    for id in [foreign, "spiffe://unknown.example/web"] {
        site.front.configure(server(&partner.svid(id), Some(&site.authority)));
        says_in_time(&client, &format!("no roots for the trust domain of {id}")).await;
    }
}

#[tokio::test]
async fn s2_an_answer_that_is_not_whole_leaves_the_last_good_one() {
    let authority = Authority::new();
    let good = Svid::new(CLIENT, &authority.svid(CLIENT), &authority);
    let agent = Agent::started(good.clone());
    let mesh = Mesh::builder().certificate_provider("default", api(&agent)).build().await.unwrap();
    reported(&mesh, |provider| provider.generation == 1).await;
    let huge = [&[0][..], &u32::MAX.to_be_bytes(), b"x"].concat();
    let other_key = Svid { x509_svid_key: authority.svid(CLIENT).key_der.secret_der().to_vec(), ..good.clone() };
    for (answer, problem) in [
        (Svids::default().into(), "the response has no SVID"),
        (other_key.into(), "KeyMismatch"),
        (
            Svid { bundle: vec![1, 2, 3], ..good.clone() }.into(),
            "the bundle of trust domain cluster.local cannot be used",
        ),
        (Svid { spiffe_id: OTHER.into(), ..good.clone() }.into(), "its certificate is that of"),
        (Answer::Message(vec![0xff; 100].into()), "INTERNAL: the response cannot be read"),
        (Answer::Raw(huge.into()), "RESOURCE_EXHAUSTED: response of 4294967295 bytes, over the limit of 4 MiB"),
        (Answer::Raw(vec![7; 100].into()), "RESOURCE_EXHAUSTED"),
        (Answer::Status(7, "no identity issued"), "PERMISSION_DENIED: no identity issued; register this workload"),
        (Answer::Status(12, "unknown service"), "UNIMPLEMENTED: unknown service; check that what listens there"),
        (Answer::Status(0, ""), "OK: the server ended the stream"),
    ] {
        agent.say(answer);
        let status = fails(&mesh, problem).await;
        assert_eq!((status.generation, status.spiffe_id.unwrap().as_str()), (1, CLIENT), "{problem}");
        assert!(status.last_error.unwrap().contains(&*agent.endpoint()));
        agent.say(good.clone());
        reported(&mesh, |provider| provider.last_error.is_none()).await;
    }
}

#[tokio::test]
async fn an_agent_that_keeps_silent_until_the_certificate_nears_its_end_is_asked_anew() {
    let authority = Authority::new();
    let agent = Agent::started(Svid::new(CLIENT, &ending_in(&authority, 2), &authority));
    let mesh = Mesh::builder().certificate_provider("default", api(&agent)).build().await.unwrap();
    reported(&mesh, |provider| provider.generation == 1).await;
    agent.say(Answer::Silence);
    fails(&mesh, "nothing came for").await;
    agent.asked().wait_for("asked", |asked| *asked >= 2).await;
    agent.say(Svid::new(CLIENT, &authority.svid(CLIENT), &authority));
    reported(&mesh, |provider| provider.generation == 2 && provider.last_error.is_none()).await;
}

#[tokio::test]
async fn bundles_can_be_had_without_an_svid() {
    let authority = Authority::new();
    let bundles = [("spiffe://cluster.local".to_owned(), authority.der().to_vec())].into();
    let agent = Agent::started(Bundles { bundles });
    let mesh = Mesh::builder().certificate_provider("roots", api(&agent).roots_only()).build().await.unwrap();
    let status = reported(&mesh, |provider| provider.generation == 1).await;
    assert_eq!((status.spiffe_id, status.trust_domains[0].as_str()), (None, "cluster.local"));
}
