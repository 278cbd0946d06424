//! Targets that need no control plane: DNS names, addresses, Unix sockets.

use std::net::SocketAddr;
use std::path::Path;

use mesh_core::{Address, CallInfo, ErrorKind, Mesh};
use mesh_examples::helloworld::HelloRequest;
use mesh_tonic::MeshChannel;
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixListener};
use tokio::task::JoinHandle;
use tonic::Code;

use crate::support::backend::Backend;
use crate::support::client::{Client, assert_says, impatient, quick};
use crate::support::dns::{Answer, Dns, HERE, THERE, twins};
use crate::support::until;

#[tokio::test]
async fn a_dns_name_is_resolved_again_when_its_answer_expires() {
    let (here, there) = twins().await;
    let dns = Dns::start(Answer::Addresses(1, vec![HERE])).await;
    let mesh = Mesh::builder().build().await.unwrap();
    let client = Client::new(&mesh, &dns.target("greeter.test", here.address().port()));
    assert_eq!(client.hello().await.unwrap(), "here");
    dns.change(Answer::Addresses(1, vec![THERE]));
    client.hello_until("there").await;
    here.wait_for_connections(0).await;
    dns.change(Answer::Addresses(1, vec![HERE, THERE]));
    client.hello_until("here").await;
    // Whose turn it is depends on how fast each answered: by connections both are there.
    assert_eq!([here.connections(), there.connections()], [1, 1]);
}

#[tokio::test]
async fn the_last_good_addresses_stay_while_dns_fails() {
    let (here, _there) = twins().await;
    let dns = Dns::start(Answer::Addresses(0, vec![HERE])).await;
    let mesh = Mesh::builder().build().await.unwrap();
    let client = Client::new(&mesh, &dns.target("greeter.test", here.address().port()));
    assert_eq!(client.hello().await.unwrap(), "here");
    for failure in [Answer::Failure(3), Answer::Addresses(1, Vec::new()), Answer::Failure(2)] {
        dns.change(failure);
        dns.asked_again(1).await;
        for _ in 0..20 {
            assert_eq!(client.hello().await.unwrap(), "here");
        }
        // A good answer ends the backoff.
        dns.change(Answer::Addresses(0, vec![HERE]));
        dns.asked_again(1).await;
    }
    dns.change(Answer::Silence);
    dns.asked_again(1).await;
    assert_eq!(client.hello().await.unwrap(), "here");
}

#[tokio::test]
async fn a_name_that_does_not_exist_fails_calls_by_name_until_it_does() {
    let backend = Backend::start("a").await;
    let dns = Dns::start(Answer::Failure(3)).await;
    let mesh = Mesh::builder().build().await.unwrap();
    let target = dns.target("greeter.test", backend.address().port());
    let client = Client::new(&mesh, &target);
    let status = client.hello().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let server = format!("(asked DNS server {})", dns.address);
    let parts = ["DNS name `greeter.test` could not be resolved: there is no such name (NXDOMAIN)", &server, &target];
    assert_says(&status, &parts);
    assert_says(&status, &["; check the name; it is asked for again in the background"]);
    dns.change(Answer::Addresses(60, vec![HERE]));
    assert_eq!(client.recovers().await, "a");
}

#[tokio::test]
async fn each_failure_of_dns_is_a_sentence() {
    let mesh = Mesh::builder().build().await.unwrap();
    let cases = [
        (Answer::Addresses(1, Vec::new()), "the name has no address", "A or AAAA record"),
        (Answer::Failure(2), "the server failed (SERVFAIL)", "check the DNS server"),
        (Answer::Failure(5), "the server refused to answer (REFUSED)", "check the DNS server"),
    ];
    for (answer, reason, next_step) in cases {
        let dns = Dns::start(answer).await;
        let status = Client::new(&mesh, &dns.target("greeter.test", 1)).hello().await.unwrap_err();
        let message = format!("`greeter.test` could not be resolved: {reason} (asked DNS server {})", dns.address);
        assert_says(&status, &[&message, next_step]);
    }
}

#[tokio::test]
async fn a_dns_server_that_says_nothing_is_named_with_the_name_it_was_asked() {
    let dns = Dns::start(Answer::Silence).await;
    let mesh = Mesh::builder().build().await.unwrap();
    let client = Client::new(&mesh, &dns.target("greeter.test", 1));
    let status = client.hello_within(std::time::Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let waiting = format!("waiting for DNS name `greeter.test` (asked DNS server {})", dns.address);
    assert_says(&status, &[&waiting, "check that the DNS server runs"]);
}

#[tokio::test]
async fn a_target_that_does_not_get_ready_says_what_a_call_says() {
    let mut backend = Backend::start("a").await;
    backend.stop().await;
    let mesh = impatient().build().await.unwrap();
    let channel = MeshChannel::new(&mesh, &format!("static:///{}", backend.address())).unwrap();
    let error = channel.target().ready().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoEndpoint);
    let said = error.report();
    let address = backend.address().to_string();
    for part in ["no endpoint after a wait of", "1 in backoff", &address, "refused", "[target static", "; check that"] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
}

#[tokio::test]
async fn a_name_that_the_system_knows_needs_no_server() {
    let backend = Backend::start("a").await;
    let port = backend.address().port();
    let mesh = Mesh::builder().build().await.unwrap();
    for target in
        [format!("dns:///localhost:{port}"), format!("localhost:{port}"), format!("static:///localhost:{port}")]
    {
        let client = Client::new(&mesh, &target);
        assert_eq!(client.hello().await.unwrap_or_else(|status| panic!("{target}: {status}")), "a");
    }
}

#[tokio::test]
async fn all_addresses_of_a_list_are_called() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let mesh = Mesh::builder().build().await.unwrap();
    for scheme in ["ipv4:", "static:///"] {
        let client = Client::new(&mesh, &format!("{scheme}{},{}", a.address(), b.address()));
        client.recovers().await;
        a.hold();
        b.hold();
        // One that takes long to answer gets no more of them than the other.
        let calls = (0..20).map(|_| client.clone()).map(|client| tokio::spawn(async move { client.hello().await }));
        let calls: Vec<_> = calls.collect();
        until("calls at both", || a.in_flight() > 0 && b.in_flight() > 0).await;
        a.release();
        b.release();
        for call in calls {
            call.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn one_address_of_two_that_is_dead_fails_no_call() {
    let (a, mut b) = (Backend::start("a").await, Backend::start("b").await);
    b.stop().await;
    let mesh = quick().build().await.unwrap();
    let client = Client::new(&mesh, &format!("static:///{},{}", b.address(), a.address()));
    for _ in 0..50 {
        assert_eq!(client.hello().await.unwrap(), "a");
    }
    b.restart().await;
    client.hello_until("b").await;
}

#[tokio::test]
async fn a_unix_socket_is_called_and_named() {
    let backend = Backend::start("a").await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("greeter.sock");
    let mesh = quick().build().await.unwrap();
    let client = Client::new(&mesh, &format!("unix:{}", path.display()));
    let status = client.hello().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_says(&status, &[&path.display().to_string()]);

    let _relay = unix_relay(&path, backend.address());
    assert_eq!(client.recovers().await, "a");
    for form in [format!("unix:{}", path.display()), format!("unix://{}", path.display())] {
        let client = Client::new(&mesh, &form);
        let reply = client.greeter().say_hello(HelloRequest::default()).await.unwrap();
        let info = reply.extensions().get::<CallInfo>().unwrap();
        assert_eq!(*info.endpoint(), Address::Unix(path.as_path().into()), "{form}");
        assert_eq!(client.greeter().say_hello(HelloRequest::default()).await.unwrap().into_inner().message, "a");
    }
}

/// A Unix socket that leads to an address.
fn unix_relay(path: &Path, to: SocketAddr) -> JoinHandle<()> {
    let listener = UnixListener::bind(path).expect("a path that is free");
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut to = TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            });
        }
    })
}

#[tokio::test]
async fn targets_of_one_name_share_their_connections() {
    let backend = Backend::start("a").await;
    let mesh = Mesh::builder().build().await.unwrap();
    let target = format!("static:///{}", backend.address());
    let clients: Vec<Client> = (0..5).map(|_| Client::new(&mesh, &target)).collect();
    for client in &clients {
        assert_eq!(client.hello().await.unwrap(), "a");
    }
    assert_eq!(backend.connections(), 1);
    drop(clients);
    backend.wait_for_connections(0).await;
}
