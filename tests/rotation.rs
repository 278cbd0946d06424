//! Connections that are open follow their certificates: replaced in time, drained when roots change, never kept for longer
//! than they are valid.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use mesh_core::Mesh;
use mesh_core::identity::{KeyMaterial, TrustBundle};
use mesh_core::testing::endpoints;
use tokio::time::Instant;
use tonic::Code;

use crate::support::PATIENCE;
use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, impatient, quick};
use crate::support::clock;
use crate::support::pki::Authority;
use crate::support::secured::{CLIENT, SERVER, Site, connections, context, says_in_time, told};
use crate::support::timed::timed;
use crate::support::tls::{TlsFront, server};

/// Certificates know whole seconds: one of this life has one to two.
const SHORT: Duration = Duration::from_secs(2);

/// Calls one after the other, from several tasks.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<u64>>,
}

impl Load {
    pub(crate) fn start(client: &Client) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let caller = |_| {
            let (client, stop) = (client.clone(), stop.clone());
            tokio::spawn(async move {
                let mut calls = 0;
                while !stop.load(Ordering::Relaxed) {
                    client.hello().await.expect("no call fails");
                    calls += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                calls
            })
        };
        Self { callers: (0..4).map(caller).collect(), stop }
    }

    /// How many calls there were, none of which failed.
    pub(crate) async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut calls = 0;
        for caller in self.callers {
            calls += caller.await.expect("no call fails");
        }
        calls
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let reached = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("never: {what}"));
}

pub(crate) fn serials(front: &TlsFront) -> Vec<String> {
    front.clients().into_iter().filter_map(|client| client.serial).collect()
}

#[tokio::test]
async fn s3_a_new_certificate_replaces_connections_in_time_and_no_call_fails() {
    timed(async || {
        let site = Site::mutual().await;
        site.ask(&context(&[SERVER]));
        let (first, second) = (site.authority.svid_for(CLIENT, SHORT), site.authority.svid(CLIENT));
        let (tell, told) = told();
        tell.send_replace(Some(Ok(site.material_of(&first))));
        let mesh = site.mesh(quick().certificate_provider("default", told)).await;
        let client = Client::new(&mesh, "xds:///greeter");
        client.hello().await.unwrap();
        let [old] = &connections(&mesh)[..] else { panic!("one connection") };
        assert_eq!(old.identity.as_ref().unwrap().not_after(), first.identity().not_after());

        let load = Load::start(&client);
        tell.send_replace(Some(Ok(site.material_of(&second))));
        until("a connection with the new certificate", || serials(&site.front).contains(&second.serial)).await;
        assert!(SystemTime::now() < first.identity().not_after(), "before the old one ends");
        until("it alone", || connections(&mesh).iter().all(|one| one.identity != old.identity)).await;
        assert!(load.stop().await > 0);
        let [new] = &connections(&mesh)[..] else { panic!("one connection") };
        assert_eq!((new.identity.clone(), &new.replaced), (Some(second.identity()), &None));
        assert_eq!(serials(&site.front), [first.serial, second.serial], "one handshake for each");
    })
    .await;
}

#[tokio::test]
async fn s3_the_old_connection_serves_until_another_is_made_and_the_status_says_why() {
    timed(async || {
        let site = Site::mutual().await;
        site.ask(&context(&[SERVER]));
        let (tell, told) = told();
        tell.send_replace(Some(Ok(site.material_of(&site.authority.svid_for(CLIENT, SHORT)))));
        let mesh = site.mesh(quick().certificate_provider("default", told)).await;
        let client = Client::new(&mesh, "xds:///greeter");
        client.hello().await.unwrap();

        // No other connection can be made.
        let stranger = Authority::new();
        site.front.configure(server(&stranger.svid(SERVER), None));
        let load = Load::start(&client);
        tell.send_replace(Some(Ok(site.material())));
        let why = || connections(&mesh)[0].replaced.clone();
        until("a replacement that is tried", || why().is_some()).await;
        assert!(why().unwrap().starts_with("certificate provider `default` has a newer certificate than the one that"));
        let failed = || mesh.status().targets[0].clusters[0].endpoints[0].last_error.clone();
        until("a replacement that failed", || failed().is_some_and(|why| why.contains("BadSignature"))).await;

        site.front.configure(server(&site.authority.svid(SERVER), Some(&site.authority)));
        until("the replacement", || why().is_none()).await;
        assert!(load.stop().await > 0);
    })
    .await;
}

#[tokio::test]
async fn s3_a_stream_has_the_time_of_its_certificate_and_not_more_and_the_call_says_why() {
    timed(async || {
        let site = Site::mutual().await;
        site.ask(&context(&[SERVER]));
        let (tell, told) = told();
        let short = site.authority.svid_for(CLIENT, SHORT);
        tell.send_replace(Some(Ok(site.material_of(&short))));
        let mesh = site.mesh(impatient().certificate_provider("default", told)).await;
        let client = Client::new(&mesh, "xds:///greeter");
        client.hello().await.unwrap();
        site.backend.hold();
        let held = tokio::spawn({
            let client = client.clone();
            async move { client.hello().await }
        });
        site.backend.wait_for_in_flight(1).await;
        tell.send_replace(Some(Err("the vault is sealed".into())));

        let status = held.await.unwrap().unwrap_err();
        // The test's own time is set forward in steps, so that what lasts until then may end a step before.
        let late = (SystemTime::now() + clock::MOST).duration_since(short.identity().not_after());
        assert!(late.is_ok(), "not before the certificate ended: {late:?}, {status}");
        assert_eq!(status.code(), Code::Unavailable);
        let says = [
            "connection closed, as its certificates do not hold any more",
            "certificate provider `default` (told) gave a certificate that expired at 20",
            "the vault is sealed",
            "see why no newer certificate or roots came in time",
        ];
        assert_says(&status, &says);
        // And no other is made with it that would last.
        site.backend.release();
        let status = client.hello().await.unwrap_err();
        assert_says(&status, &["certificate provider `default` (told)", "expired", "the vault is sealed"]);
        tell.send_replace(Some(Ok(site.material())));
        assert_eq!(client.recovers().await, "a");
    })
    .await;
}

#[tokio::test]
async fn s3_a_peer_whose_certificate_nears_its_end_is_connected_anew_and_one_that_does_not_renew_is_left_at_its_end() {
    timed(async || {
        let site = Site::mutual().await;
        let show = |life| site.front.configure(server(&site.authority.svid_for(SERVER, life), Some(&site.authority)));
        show(SHORT);
        site.ask(&context(&[SERVER]));
        let mesh = site.mesh(impatient().certificate_provider("default", site.material())).await;
        let client = Client::new(&mesh, "xds:///greeter");
        client.hello().await.unwrap();
        let load = Load::start(&client);
        show(SHORT);
        until("a second connection", || site.front.clients().len() == 2).await;
        assert!(load.stop().await > 0);

        site.backend.hold();
        let status = client.hello().await.unwrap_err();
        assert_says(
            &status,
            &["the peer's certificate expired: spiffe://cluster.local/ns/shop/sa/server (serial number "],
        );
        site.backend.release();
        says_in_time(&client, "certificate expired").await;
    })
    .await;
}

/// Two endpoints, each vouched for by an authority of its own.
#[tokio::test]
async fn s3_when_roots_change_what_they_vouch_for_goes_on_and_all_else_is_closed_a_second_later() {
    timed(async || {
        let site = Site::mutual().await;
        let other = Authority::new();
        let backend = Backend::start("b").await;
        let front = TlsFront::start(backend.address(), server(&other.svid(SERVER), None)).await;
        site.control_plane.put(endpoints("greeter").endpoint(site.front.address()).endpoint(front.address()));
        site.ask(&context(&[SERVER]));
        let identity = site.authority.svid(CLIENT).identity();
        let trusting = |pem: &str| {
            let trust = TrustBundle::from_pem(pem.as_bytes()).expect("roots");
            Some(Ok(KeyMaterial::new().identity(identity.clone()).trust(trust)))
        };
        let (tell, told) = told();
        tell.send_replace(trusting(&(site.authority.pem() + &other.pem())));
        let mesh = site.mesh(quick().certificate_provider("default", told)).await;
        let client = Client::new(&mesh, "xds:///greeter");
        client.hello_until("b").await;
        client.hello_until("a").await;
        backend.hold();
        let held = hold(&client, &backend).await;

        let published = Instant::now();
        tell.send_replace(trusting(&site.authority.pem()));
        until("one connection is left", || connections(&mesh).len() == 1).await;
        assert!(published.elapsed() < Duration::from_millis(900), "at once");
        let calls = backend.calls();
        let load = Load::start(&client);
        let status = held.await.unwrap().unwrap_err();
        assert!(published.elapsed() >= Duration::from_secs(1), "it has a second, and had {:?}", published.elapsed());
        assert_says(
            &status,
            &["trusted no more", "the roots that certificate provider `default` has now do not vouch for it"],
        );
        assert!(load.stop().await > 0);
        assert_eq!(backend.calls(), calls, "no new call went there");
        assert_eq!(site.front.clients().len(), 1, "the other connection is the one of the beginning");
    })
    .await;
}

/// A call that waits at the backend, which holds its calls.
pub(crate) async fn hold(client: &Client, backend: &Backend) -> tokio::task::JoinHandle<Result<String, tonic::Status>> {
    loop {
        let client = client.clone();
        let call = tokio::spawn(async move { client.hello().await });
        until("a call that is held or over", || backend.in_flight() == 1 || call.is_finished()).await;
        if !call.is_finished() {
            return call;
        }
    }
}

/// Both sides get new certificates all the time, the authority is
/// replaced with an overlap, and no call notices.
#[tokio::test]
async fn s3_rotations_of_both_sides_and_of_the_authority_under_load_fail_no_call() {
    timed(async || {
        const ENDPOINTS: usize = 3;
        let site = Site::mutual().await;
        let fronts = [
            TlsFront::start(site.backend.address(), server(&site.authority.svid_for(SERVER, SHORT), None)).await,
            TlsFront::start(site.backend.address(), server(&site.authority.svid_for(SERVER, SHORT), None)).await,
            TlsFront::start(site.backend.address(), server(&site.authority.svid_for(SERVER, SHORT), None)).await,
        ];
        let all = fronts.iter().fold(endpoints("greeter"), |all, front| all.endpoint(front.address()));
        site.control_plane.put(all);
        site.ask(&context(&[SERVER]));
        let next = Authority::new();
        let both = site.authority.pem() + &next.pem();
        let material = |authority: &Authority, roots: &str| {
            let trust = TrustBundle::from_pem(roots.as_bytes()).expect("roots");
            KeyMaterial::new().identity(authority.svid_for(CLIENT, SHORT).identity()).trust(trust)
        };
        let (tell, told) = told();
        tell.send_replace(Some(Ok(material(&site.authority, &site.authority.pem()))));
        let mesh = site.mesh(quick().certificate_provider("default", told)).await;
        let client = Client::new(&mesh, "xds:///greeter");
        client.hello().await.unwrap();
        until("all are connected", || connections(&mesh).len() == ENDPOINTS).await;
        let before = serials_of(&mesh);

        let load = Load::start(&client);
        // Roots first, then those whom the new ones vouch for.
        tell.send_replace(Some(Ok(material(&site.authority, &both))));
        let (start, mut looks, mut rotations) = (Instant::now(), 0, 0);
        until("every connection was replaced", || {
            looks += 1;
            if looks % 50 == 1 {
                rotations += 1;
                fronts.iter().for_each(|front| front.configure(server(&next.svid_for(SERVER, SHORT), None)));
                tell.send_replace(Some(Ok(material(&next, &both))));
            }
            serials_of(&mesh).iter().all(|serial| !before.contains(serial))
        })
        .await;
        assert!(load.stop().await > 0);
        // A replacement is due after half of what is left of a certificate at the soonest, and none has less than a second.
        let handshakes: usize = fronts.iter().map(|front| front.clients().len()).sum();
        let most = ENDPOINTS * (2 + usize::try_from(start.elapsed().as_millis() / 500).expect("a moment"));
        assert!(handshakes <= most, "{handshakes} handshakes, and {most} are plenty for {rotations} rotations");
    })
    .await;
}

/// Of the peers that are connected.
fn serials_of(mesh: &Mesh) -> Vec<String> {
    connections(mesh).into_iter().map(|connection| connection.peer.serial.to_string()).collect()
}
