//! A whole handshake between the two sides.

use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, SanType};
use rustls::NamedGroup;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::chains::ID;
use super::exact;
use crate::identity::{CertificateProvider, Identity, KeyMaterial, Providers, TrustBundle};
use crate::resource::downstream_tls::{Callers, DownstreamTls};
use crate::resource::security::Security;
use crate::resource::upstream_tls::{RootsFrom, UpstreamTls};
use crate::tls::client::ClientTls;
use crate::tls::floor::SecurityFloor;
use crate::tls::server::Acceptor;

/// In memory, as nothing that leaves the process says how its key was agreed on.
#[tokio::test]
async fn a_handshake_agrees_on_its_key_by_the_cryptography_that_was_compiled_in() {
    let authority = CertifiedIssuer::self_signed(CertificateParams::default(), KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(SanType::URI(ID.try_into().unwrap()));
    let chain = params.signed_by(&key, &authority).unwrap().pem();
    let identity = Identity::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let trust = TrustBundle::from_pem(authority.pem().as_bytes()).unwrap();
    let both: Box<dyn CertificateProvider> = Box::new(KeyMaterial::new().identity(identity).trust(trust));
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let providers = Providers::start([("both".into(), both)].into(), &tasks, &Handle::current(), &shutdown);

    let context = UpstreamTls {
        identity: Some("both".into()),
        roots: RootsFrom::Source("both".into()),
        revoked: None,
        names: vec![exact(ID)],
        sni: None,
        auto_host_sni: false,
        auto_sni_san_validation: false,
    };
    let security = Security { cluster: "cluster".into(), context: Some(Arc::new(context)), server_name: None };
    let made = ClientTls::new(providers.clone(), SecurityFloor::new()).prepare(&security).await.unwrap();
    let callers = Callers { roots: "both".into(), revoked: None, names: Vec::new(), is_required: true };
    let context = Arc::new(DownstreamTls { identity: "both".into(), callers: Some(callers) });
    let accepted = Acceptor::new(providers, SecurityFloor::new()).prepare(&context).unwrap();
    let (client, server) = tokio::io::duplex(1 << 16);
    let ((stream, ..), served) = tokio::try_join!(made.run(client), accepted.run(server)).unwrap();
    let expected = if cfg!(feature = "post-quantum") { NamedGroup::X25519MLKEM768 } else { NamedGroup::X25519 };
    assert_eq!(stream.get_ref().1.negotiated_key_exchange_group().unwrap().name(), expected);
    drop(served);
}
