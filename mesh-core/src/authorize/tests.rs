use std::convert::Infallible;
use std::time::SystemTime;

use http::{Request, Response, StatusCode};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::{Policy, Rbac, RbacLayer, Rule};
use crate::server::ConnectInfo;
use crate::tls::Peer;

const ALICE: &str = "spiffe://test/alice";

fn peer(uris: &[&str], dns_names: &[&str], subject: &str) -> Peer {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Peer {
        spiffe_id: uris.first().and_then(|uri| uri.parse().ok()),
        uris: owned(uris),
        dns_names: owned(dns_names),
        subject: subject.into(),
        serial: "01".into(),
        not_after: SystemTime::UNIX_EPOCH,
        certificate: [].into(),
    }
}

fn of(principal: Rule) -> [(&'static str, Policy); 1] {
    [("p", Policy::new([Rule::any()], [principal]))]
}

async fn is_served(rbac: Rbac, peer: Option<Peer>) -> bool {
    let handler = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(String::new())) });
    let server = ServiceBuilder::new().layer(RbacLayer::new(rbac)).service(handler);
    let mut request = Request::new(());
    let (local_address, peer_address) = (([127, 0, 0, 1], 1).into(), ([10, 0, 0, 9], 2).into());
    request.extensions_mut().insert(ConnectInfo { local_address, peer_address, is_secured: false });
    peer.map(|peer| request.extensions_mut().insert(peer));
    match server.oneshot(request).await.expect("an answer").status() {
        StatusCode::OK => true,
        StatusCode::FORBIDDEN => false,
        other => panic!("{other}"),
    }
}

/// Of any kind, as gRPC's implementations and Envoy have it: whoever is denied by one of its names is denied.
#[tokio::test]
async fn s13_a_principal_is_one_of_the_names_that_the_verified_certificate_has() {
    let all = || peer(&[ALICE, "https://test/a"], &["a.test"], "CN=a");
    let named = || peer(&[], &["a.test", "b.test"], "CN=a");
    let only_subject = || peer(&[], &[], "CN=a,O=b");
    for (what, principal, peer, expected) in [
        ("its SPIFFE ID", ALICE, all(), true),
        ("another URI of it", "https://test/a", all(), true),
        ("a DNS name beside a URI", "a.test", all(), true),
        ("the subject beside a URI", "CN=a", all(), true),
        ("a DNS name", "b.test", named(), true),
        ("the subject beside a DNS name", "CN=a", named(), true),
        ("the subject", "CN=a,O=b", only_subject(), true),
        ("a part of the subject", "CN=a", only_subject(), false),
        ("somebody else", "spiffe://test/bob", all(), false),
    ] {
        let (allow, deny) = (Rbac::allow(of(Rule::principal(principal))), Rbac::deny(of(Rule::principal(principal))));
        assert_eq!(is_served(allow, Some(peer.clone())).await, expected, "{what}");
        assert_eq!(is_served(deny, Some(peer)).await, !expected, "{what}");
    }
}

#[tokio::test]
async fn s12_who_is_not_verified_is_let_in_by_no_principal() {
    for principal in [
        || Rule::authenticated(),
        || Rule::principal(""),
        || Rule::principal_prefix(""),
        || Rule::not(Rule::principal(ALICE)),
        || Rule::not(Rule::authenticated()),
    ] {
        assert!(!is_served(Rbac::allow(of(principal())), None).await, "{:?}", principal());
    }
    let somebody = || Some(peer(&["spiffe://test/bob"], &[], ""));
    assert!(is_served(Rbac::allow(of(Rule::not(Rule::principal(ALICE)))), somebody()).await);
    assert!(is_served(Rbac::allow(of(Rule::authenticated())), somebody()).await);
}

#[tokio::test]
async fn a_policy_that_denies_stops_whom_it_names() {
    let denies = || Rbac::deny(of(Rule::all([Rule::principal(ALICE), Rule::peer_ip([10, 0, 0, 0].into(), 8)])));
    assert!(!is_served(denies(), Some(peer(&[ALICE], &[], ""))).await);
    assert!(is_served(denies(), Some(peer(&["spiffe://test/bob"], &[], ""))).await);
    assert!(is_served(denies(), None).await);
}
