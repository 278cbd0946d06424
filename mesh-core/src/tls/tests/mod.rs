//! What each way to verify a peer says of certificates and chains, good and hostile ones.

#[expect(dead_code, reason = "what takes a whole handshake is tested over sockets")]
mod chains;
mod forge;
#[cfg(feature = "server")]
mod handshake;

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use rustls_pki_types::{CertificateDer, UnixTime};

use self::chains::{ALL, HOST, ID, Mode, Pki};
use super::floor::SecurityFloor;
use super::verify::{Expected, Trusted, Verifier};
use crate::identity::{Roots, TrustBundle, crypto};
use crate::resource::downstream_tls::{Callers, DownstreamTls};
use crate::resource::matcher::text::TextMatch;
use crate::resource::upstream_tls::{NameMatch, RootsFrom, UpstreamTls};

fn bundle(pki: &Pki, mode: Mode) -> TrustBundle {
    let base64 = |der: &[u8]| base64::engine::general_purpose::STANDARD.encode(der);
    if matches!(mode, Mode::Map | Mode::CallerMap) {
        let keys =
            |root: &[u8]| serde_json::json!({"keys": [{"kty": "EC", "use": "x509-svid", "x5c": [base64(root)]}]});
        let domains =
            BTreeMap::from([("cluster.local", keys(&pki.root)), ("partner.example", keys(&pki.partner_root))]);
        let json = serde_json::json!({"trust_domains": domains}).to_string();
        return TrustBundle::from_spiffe_bundle_map(&json).expect("a bundle map");
    }
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", base64(&pki.root));
    TrustBundle::from_pem(pem.as_bytes()).expect("roots")
}

fn exact(name: &str) -> NameMatch {
    NameMatch::new(None, TextMatch::exact(name, false), name.into())
}

fn verifier(pki: &Pki, mode: Mode) -> Verifier {
    let names = match mode {
        Mode::Named => vec![exact(ID)],
        Mode::Web => vec![exact(HOST)],
        _ => Vec::new(),
    };
    let is_web = matches!(mode, Mode::Web | Mode::Asked);
    let expected = if matches!(mode, Mode::Caller | Mode::CallerMap) {
        let callers = Callers { roots: "roots".into(), revoked: None, names, is_required: true };
        Expected::Caller(Arc::new(DownstreamTls { identity: "own".into(), callers: Some(callers) }))
    } else {
        let context = UpstreamTls {
            identity: None,
            roots: if is_web { RootsFrom::System } else { RootsFrom::Source("roots".into()) },
            revoked: None,
            names,
            sni: None,
            auto_host_sni: false,
            auto_sni_san_validation: mode == Mode::Asked,
        };
        let asked = (mode == Mode::Asked).then(|| HOST.into());
        Expected::Endpoint { cluster: "cluster".into(), context: Arc::new(context), asked }
    };
    let trust = if is_web {
        Trusted::System(Roots::system(vec![CertificateDer::from(pki.root.clone())]).expect("a root"))
    } else {
        Trusted::Bundle { bundle: bundle(pki, mode), own: Some("cluster.local".parse().expect("a trust domain")) }
    };
    Verifier { trust, expected, crypto: crypto().expect("cryptography"), floor: SecurityFloor::new() }
}

#[test]
fn s6_each_way_to_verify_says_of_each_chain_what_the_table_says() {
    let pki = Pki::new();
    let rows = pki.rows();
    let mut wrong = Vec::new();
    for mode in ALL {
        let verifier = verifier(&pki, *mode);
        for row in &rows {
            let chain: Vec<CertificateDer<'_>> = row.chain.iter().map(|one| CertificateDer::from(&**one)).collect();
            let (leaf, others) = chain.split_first().expect("a leaf");
            let says = verifier.verify(leaf, others, UnixTime::now()).map(drop).map_err(|error| error.to_string());
            let is_right = match (row.refused_by(*mode), &says) {
                (None, Ok(())) => true,
                (Some(why), Err(says)) => says.contains(why),
                _ => false,
            };
            if !is_right {
                wrong.push(format!("{mode:?}, {}: {says:?}, not {:?}", row.what, row.refused_by(*mode)));
            }
        }
    }
    assert!(rows.len() * ALL.len() > 1000, "{} rows", rows.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len() * ALL.len(), wrong.join("\n"));
}
