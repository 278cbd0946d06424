//! The system's roots (A82), in a process of its own whose system trusts an authority of the test.

use std::path::PathBuf;
use std::process::Command;

use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use tempfile::TempDir;

use crate::support::client::{Client, assert_says, quick};
use crate::support::pki::{Authority, dns};
use crate::support::secured::{Site, context, validation};
use crate::support::tls::server;

/// Where a system has its roots, for who goes by OpenSSL's environment.
const ROOTS: &str = "SSL_CERT_FILE";

#[test]
fn the_systems_roots_vouch_for_the_names_that_are_asked_for() {
    let folder = TempDir::new().expect("a folder");
    let own = std::env::current_exe().expect("the path of the tests");
    let test = ["--exact", "system_roots::in_a_process_whose_system_trusts_an_authority", "--ignored", "--nocapture"];
    let mut command = Command::new(own);
    let output = command.args(test).env(ROOTS, folder.path().join("roots.pem")).env_remove("SSL_CERT_DIR").output();
    let output = output.expect("a process");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{complained}");
}

#[tokio::test]
#[ignore = "has a system of its own: run by the test above"]
async fn in_a_process_whose_system_trusts_an_authority() {
    let known = Authority::new();
    std::fs::write(PathBuf::from(std::env::var_os(ROOTS).expect("a path")), known.pem()).expect("a file");
    let site = |authority: Authority| async {
        let config = server(&authority.issue(&[dns("greeter.test")], |_| {}), None);
        Site::with(authority, config).await
    };
    let asked = |name: &str| {
        let mut asked = context(&[name]);
        asked.common_tls_context.as_mut().expect("it has one").tls_certificate_provider_instance = None;
        let names = validation(&mut asked);
        names.ca_certificate_provider_instance = None;
        names.system_root_certs = Some(tls::certificate_validation_context::SystemRootCerts::default());
        asked
    };
    let trusted = site(known).await;
    trusted.ask(&asked("greeter.test"));
    let mesh = trusted.mesh(quick()).await;
    assert_eq!(Client::new(&mesh, "xds:///greeter").hello().await.expect("the system vouches for it"), "a");

    let elsewhere = site(Authority::new()).await;
    elsewhere.ask(&asked("greeter.test"));
    let mesh = elsewhere.mesh(quick()).await;
    let status = Client::new(&mesh, "xds:///greeter").hello().await.unwrap_err();
    assert_says(&status, &["TLS: the handshake failed"]);
}
