//! The balancer over sockets, with the mesh's own connector.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tokio::net::TcpListener;
use tower::Layer;

use super::*;
use crate::balance::BalanceLayer;
use crate::connect::{Http2Connector, Http2Options};
use crate::error::ErrorKind;

/// Answers every request with its own address; sends GOAWAY after `calls`.
async fn serve(listener: TcpListener, calls: usize) {
    let name = listener.local_addr().unwrap().to_string();
    while let Ok((socket, _)) = listener.accept().await {
        let name = name.clone();
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(socket).await.unwrap();
            let mut left = calls;
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data(Bytes::from(name.clone()), true).unwrap();
                left = left.saturating_sub(1);
                if left == 0 {
                    connection.graceful_shutdown();
                }
            }
        });
    }
}

async fn server(calls: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, calls));
    address
}

fn balance(endpoints: &[SocketAddr]) -> Balance<Http2Connector> {
    let connector = Http2Connector::new(Http2Options::new());
    let balance = BalanceLayer::new(BalanceOptions::new()).layer(connector);
    balance.with_endpoints("greeter", endpoints.iter().copied().map(Address::Socket))
}

async fn call(balance: &Balance<Http2Connector>) -> Result<String, Error> {
    let request = Request::post("http://greeter/hello").body(Full::new(Bytes::from_static(b"hello"))).unwrap();
    let response = balance.clone().call(request).await?;
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn calls_reach_every_endpoint() {
    let addresses = [server(usize::MAX).await, server(usize::MAX).await];
    let balance = balance(&addresses);
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 2 {
        seen.insert(call(&balance).await.unwrap());
    }
    assert_eq!(seen, addresses.map(|address| address.to_string()).into());
}

#[tokio::test]
async fn servers_that_say_goodbye_all_the_time_cost_no_call() {
    let addresses = [server(10).await, server(7).await];
    let balance = balance(&addresses);
    let calls = (0..4).map(|_| {
        let balance = balance.clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                call(&balance).await.unwrap();
            }
        })
    });
    for calls in calls.collect::<Vec<_>>() {
        calls.await.unwrap();
    }
}

#[tokio::test]
async fn a_refused_connection_is_named_in_the_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = call(&balance(&[address])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoEndpoint);
    let expected = format!("cluster `greeter` has no ready endpoint: 1 in backoff ({address}: Connection refused");
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[tokio::test]
async fn a_host_name_is_resolved() {
    let address = server(usize::MAX).await;
    let connector = Http2Connector::new(Http2Options::new());
    let host = Address::Host("localhost".into(), address.port());
    let balance = BalanceLayer::new(BalanceOptions::new()).layer(connector).with_endpoints("greeter", [host]);
    assert_eq!(call(&balance).await.unwrap(), address.to_string());
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_an_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"unix"), true).unwrap();
        }
    });
    let connector = Http2Connector::new(Http2Options::new());
    let endpoint = Address::Unix(path.as_path().into());
    let balance = BalanceLayer::new(BalanceOptions::new()).layer(connector).with_endpoints("greeter", [endpoint]);
    assert_eq!(call(&balance).await.unwrap(), "unix");
}
