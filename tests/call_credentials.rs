//! Bearer tokens for the control plane: `call_creds` of the bootstrap, `jwt_token_file` (A97).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_core::{Bootstrap, Mesh};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::support::pki::{Authority, dns};
use crate::support::tls::server;
use crate::support::{PATIENCE, in_time, until};

fn token(name: &str) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(format!(r#"{{"sub": "{name}"}}"#)))
}

/// Tells with which `authorization` each ADS stream comes, and ends its connection.
async fn control_plane(authority: &Authority) -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("a bound listener").port();
    let tls = TlsAcceptor::from(Arc::new(server(&authority.issue(&[dns("localhost")], |_| {}), None)));
    let (seen, tokens) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = tls.accept(stream).await else { continue };
            let Ok(mut connection) = h2::server::handshake(stream).await else { continue };
            let Some(Ok((request, _))) = connection.accept().await else { continue };
            let header = request.headers().get("authorization");
            let value = header.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
            if seen.send(value).is_err() {
                return;
            }
        }
    });
    (port, tokens)
}

fn bootstrap(port: u16, folder: &Path) -> Bootstrap {
    let builder = Bootstrap::builder(format!("localhost:{port}")).tls_with_roots(folder.join("ca.pem"));
    builder.jwt_token_file(folder.join("token")).build().expect("a bootstrap")
}

async fn next(tokens: &mut mpsc::UnboundedReceiver<String>) -> String {
    tokio::time::timeout(PATIENCE, tokens.recv()).await.expect("in time").expect("a stream")
}

#[tokio::test]
async fn each_stream_carries_the_token_that_is_in_the_file_at_its_time() {
    let (authority, folder) = (Authority::new(), TempDir::new().unwrap());
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    let (port, mut tokens) = control_plane(&authority).await;
    let step = Duration::from_millis(10);
    let builder = Mesh::builder().bootstrap(bootstrap(port, folder.path())).control_plane_backoff(step, step);
    let mesh = builder.build().await.unwrap();
    let _target = mesh.target("xds:///greeter").unwrap();

    // Without a token no stream is opened.
    let missing = async {
        while !mesh.status().control_plane.is_some_and(|status| format!("{status:?}").contains("token: No such file")) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let said = tokio::time::timeout(PATIENCE, missing).await;
    assert!(said.is_ok(), "{:?}", mesh.status().control_plane);
    assert!(tokens.try_recv().is_err());

    // Nor with what would never be read to its end.
    assert!(std::process::Command::new("mkfifo").arg(folder.path().join("token")).status().unwrap().success());
    let told = || format!("{:?}", mesh.status().control_plane).contains("token: it is no regular file");
    until("a pipe is told of", told).await;
    std::fs::remove_file(folder.path().join("token")).unwrap();
    assert!(tokens.try_recv().is_err());

    std::fs::write(folder.path().join("token"), token("first")).unwrap();
    assert_eq!(next(&mut tokens).await, format!("Bearer {}", token("first")));
    std::fs::write(folder.path().join("new"), token("second")).unwrap();
    std::fs::rename(folder.path().join("new"), folder.path().join("token")).unwrap();
    in_time("the stream after has the second token", async {
        while next(&mut tokens).await != format!("Bearer {}", token("second")) {}
    })
    .await;
}

#[test]
fn a_token_is_refused_over_plaintext() {
    let error = Bootstrap::builder("localhost:1").insecure().jwt_token_file("/token").build().unwrap_err().report();
    assert!(error.contains("xds_servers[0].call_creds: a token is never sent in plaintext"), "{error}");
}
