//! Certificate providers: from the bootstrap and from code, and how their material changes (A29, A87).

use std::fs;
use std::time::Duration;

use base64::Engine as _;
use mesh_core::identity::{CertificateProvider, FileWatcher, KeyMaterial, ProviderFuture, Publisher};
use mesh_core::testing::ControlPlane;
use mesh_core::{Bootstrap, CertificateProviderStatus, Mesh};

use crate::support::PATIENCE;
use crate::support::client::quick;
use crate::support::pki::{Authority, Issued, Mounted};
use crate::support::secured::reported;

const ID: &str = "spiffe://cluster.local/ns/shop/sa/greeter";
const OFTEN: Duration = Duration::from_millis(5);

fn bootstrap(providers: &serde_json::Value) -> Bootstrap {
    let servers = serde_json::json!([{"server_uri": "127.0.0.1:1", "channel_creds": [{"type": "insecure"}]}]);
    let json = serde_json::json!({"xds_servers": servers, "certificate_providers": providers});
    Bootstrap::from_json(&json.to_string()).expect("a bootstrap")
}

/// Other tests may take all file descriptors of the process for a moment: another error than expected is no answer yet.
fn fails(provider: &CertificateProviderStatus, with: &str) -> bool {
    provider.last_error.as_ref().is_some_and(|error| error.contains(with))
}

fn files(mounted: &Mounted) -> FileWatcher {
    FileWatcher::new()
        .identity(mounted.file("tls.crt"), mounted.file("tls.key"))
        .roots(mounted.file("ca.crt"))
        .refresh_interval(OFTEN)
}

#[tokio::test]
async fn the_bootstrap_says_which_files_hold_the_certificates() {
    let authority = Authority::new();
    let issued = authority.svid(ID);
    let mounted = Mounted::new(&issued, &authority.pem());
    let providers = serde_json::json!({
        "default": {"plugin_name": "file_watcher", "config": {
            "certificate_file": mounted.file("tls.crt"),
            "private_key_file": mounted.file("tls.key"),
            "ca_certificate_file": mounted.file("ca.crt"),
            "refresh_interval": "600s",
        }},
        "roots": {"plugin_name": "file_watcher", "config": {"ca_certificate_file": "/nowhere/ca.pem"}},
    });
    let mesh = Mesh::builder().bootstrap(bootstrap(&providers)).build().await.unwrap();
    let status = reported(&mesh, |provider| &*provider.name == "default" && provider.generation == 1).await;
    assert_eq!((&*status.kind, status.spiffe_id.unwrap().as_str()), ("file_watcher", ID));
    assert_eq!(status.serial.as_deref(), Some(&*issued.serial));
    let status = reported(&mesh, |provider| fails(provider, "/nowhere/ca.pem: No such file")).await;
    assert_eq!((&*status.name, status.generation), ("roots", 0));
}

/// A87 has one name for it, and gRPC C-core reads another.
#[tokio::test]
async fn a_bootstrap_says_by_either_name_which_bundle_map_holds_the_roots() {
    let authority = Authority::new();
    let mounted = Mounted::new(&authority.svid(ID), &authority.pem());
    let root = base64::engine::general_purpose::STANDARD.encode(authority.der());
    let keys = serde_json::json!({"keys": [{"kty": "EC", "use": "x509-svid", "x5c": [root]}]});
    fs::write(mounted.file("map.json"), serde_json::json!({"trust_domains": {"a.test": keys}}).to_string()).unwrap();
    for name in ["spiffe_trust_bundle_map_file", "spiffe_bundle_map_file"] {
        let config = serde_json::json!({name: mounted.file("map.json"), "ca_certificate_file": mounted.file("ca.crt")});
        let providers = serde_json::json!({"default": {"plugin_name": "file_watcher", "config": config}});
        let mesh = Mesh::builder().bootstrap(bootstrap(&providers)).build().await.unwrap();
        let status = reported(&mesh, |provider| provider.generation == 1).await;
        assert_eq!(status.trust_domains.iter().map(|domain| domain.as_str()).collect::<Vec<_>>(), ["a.test"], "{name}");
    }
}

#[tokio::test]
async fn a_swap_of_the_folder_is_a_new_generation_and_bad_files_leave_the_last_good() {
    let authority = Authority::new();
    let (first, second) = (authority.svid(ID), authority.svid(ID));
    let mounted = Mounted::new(&first, &authority.pem());
    let mesh = Mesh::builder().certificate_provider("default", files(&mounted)).build().await.unwrap();
    let serial = |issued: &Issued| Some(issued.serial.clone());
    let status = reported(&mesh, |provider| provider.generation > 0).await;
    assert_eq!((status.generation, status.serial), (1, serial(&first)));

    mounted.swap(&second, &authority.pem());
    let status = reported(&mesh, |provider| provider.serial == serial(&second)).await;
    assert_eq!(status.generation, 2);

    // Another key than the leaf's, as when files are replaced one by one.
    fs::write(mounted.file("tls.key"), &first.key).unwrap();
    let status = reported(&mesh, |provider| fails(provider, "pair of certificate and key cannot be used")).await;
    assert_eq!((status.generation, status.serial), (2, serial(&second)));

    fs::write(mounted.file("tls.key"), &second.key).unwrap();
    let status = reported(&mesh, |provider| provider.last_error.is_none()).await;
    assert_eq!(status.generation, 2, "it is the same as before");
}

#[tokio::test]
async fn code_goes_before_the_bootstrap_and_may_bring_any_provider() {
    /// Publishes what it is told, and a failure.
    struct Told(Issued);
    impl CertificateProvider for Told {
        fn kind(&self) -> &str {
            "told"
        }
        fn run(self: Box<Self>, publisher: Publisher) -> ProviderFuture {
            Box::pin(async move {
                publisher.publish(KeyMaterial::new().identity(self.0.identity()));
                publisher.fail("the vault is sealed");
            })
        }
    }
    let authority = Authority::new();
    let providers = serde_json::json!({
        "default": {"plugin_name": "file_watcher", "config": {"ca_certificate_file": "/nowhere/ca.pem"}},
        "other": {"plugin_name": "cloud_agent", "config": {}},
    });
    let fixed = KeyMaterial::new().trust(authority.trust());
    let builder = Mesh::builder().bootstrap(bootstrap(&providers)).certificate_provider("fixed", fixed);
    let mesh = builder.certificate_provider("default", Told(authority.svid(ID))).build().await.unwrap();
    let status = reported(&mesh, |provider| &*provider.kind == "told" && provider.last_error.is_some()).await;
    assert_eq!((&*status.name, status.spiffe_id.unwrap().as_str(), status.generation), ("default", ID, 1));
    assert_eq!(status.last_error.as_deref(), Some("the vault is sealed"));
    let names: Vec<_> = mesh.status().certificate_providers.iter().map(|provider| provider.name.clone()).collect();
    assert_eq!(names, ["default".into(), "fixed".into()] as [std::sync::Arc<str>; 2]);
    let ignored = mesh.status().ignored_bootstrap;
    assert!(ignored.iter().any(|field| field.contains("`cloud_agent` is not supported")), "{ignored:?}");
}

#[tokio::test]
async fn a_provider_ends_with_its_mesh() {
    /// Says when it is dropped.
    struct Endless(tokio::sync::oneshot::Sender<()>);
    impl CertificateProvider for Endless {
        fn kind(&self) -> &str {
            "endless"
        }
        fn run(self: Box<Self>, _: Publisher) -> ProviderFuture {
            Box::pin(async move {
                std::future::pending::<()>().await;
                let _ = self.0.send(());
            })
        }
    }
    let control_plane = ControlPlane::new();
    let (alive, ended) = tokio::sync::oneshot::channel();
    let mesh = quick().control_plane(&control_plane).certificate_provider("x", Endless(alive)).build().await.unwrap();
    drop(mesh);
    let _ = tokio::time::timeout(PATIENCE, ended).await.expect("it is dropped");
}
