//! What an agent's response comes to: one SVID, and bundles by trust domain. Anything wrong refuses the whole.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use super::Wanted;
use super::messages::{X509BundlesResponse, X509Svid, X509SvidResponse};
use crate::error::Error;
use crate::identity::{Identity, KeyMaterial, SpiffeId, TrustBundle, TrustDomain, Utc};

/// The wanted SVID, and whom to trust by all of them.
pub(super) fn of_svids(response: &X509SvidResponse, wanted: &Wanted) -> Result<KeyMaterial, Error> {
    let svid = choose(&response.svids, wanted)?;
    let in_svid = |error: Error| Error::setup(format!("SVID {:?}", svid.spiffe_id)).with_source(error);
    let identity = identity(svid).map_err(in_svid)?;
    let mut bundles = by_domain(&response.federated_bundles)?;
    // The chosen one comes last, so that its own roots are those of its trust domain.
    for svid in response.svids.iter().chain([svid]) {
        let id = svid.spiffe_id.parse::<SpiffeId>()?;
        bundles.insert(id.trust_domain(), &svid.bundle);
    }
    Ok(KeyMaterial::new().identity(identity).trust(TrustBundle::by_domain(bundles)?))
}

/// Whom to trust.
pub(super) fn of_bundles(response: &X509BundlesResponse) -> Result<KeyMaterial, Error> {
    if response.bundles.is_empty() {
        return Err(Error::setup("the response has no bundle"));
    }
    Ok(KeyMaterial::new().trust(TrustBundle::by_domain(by_domain(&response.bundles)?)?))
}

fn choose<'a>(svids: &'a [X509Svid], wanted: &Wanted) -> Result<&'a X509Svid, Error> {
    let Wanted::Svid { id, hint } = wanted else { return Err(Error::setup("an SVID was not asked for")) };
    let is_wanted = |svid: &&X509Svid| {
        id.as_ref().is_none_or(|id| svid.spiffe_id == id.as_str())
            && hint.as_ref().is_none_or(|hint| svid.hint == *hint)
    };
    svids.iter().find(is_wanted).ok_or_else(|| {
        if svids.is_empty() {
            return Error::setup("the response has no SVID");
        }
        let there: Vec<String> = svids.iter().take(4).map(|svid| format!("{svid:?}")).collect();
        let wanted = match (id, hint) {
            (Some(id), Some(hint)) => format!("{id} with the hint {hint:?}"),
            (Some(id), None) => id.to_string(),
            (None, hint) => format!("one with the hint {:?}", hint.as_deref().unwrap_or_default()),
        };
        Error::setup(format!("no SVID is {wanted}; there are {}: {}", svids.len(), there.join(", ")))
    })
}

fn identity(svid: &X509Svid) -> Result<Identity, Error> {
    let identity = Identity::from_der(&svid.x509_svid, &svid.x509_svid_key)?;
    match identity.spiffe_id() {
        Some(id) if id.as_str() == svid.spiffe_id => {}
        Some(id) => return Err(Error::setup(format!("its certificate is that of {id}"))),
        None => return Err(Error::setup("its certificate is no SVID")),
    }
    if identity.not_after() <= SystemTime::now() {
        return Err(Error::setup(format!("its certificate expired at {}", Utc(identity.not_after()))));
    }
    Ok(identity)
}

fn by_domain(bundles: &HashMap<String, Vec<u8>>) -> Result<BTreeMap<TrustDomain, &[u8]>, Error> {
    bundles.iter().map(|(domain, bundle)| Ok((trust_domain(domain)?, bundle.as_slice()))).collect()
}

/// Written as a name or as a SPIFFE ID.
fn trust_domain(text: &str) -> Result<TrustDomain, Error> {
    if text.starts_with("spiffe://") { Ok(text.parse::<SpiffeId>()?.trust_domain()) } else { text.parse() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    const FIRST: Wanted = Wanted::Svid { id: None, hint: None };

    fn svid(id: &str, hint: &str) -> X509Svid {
        expiring(id, hint, SystemTime::now() + Duration::from_secs(60))
    }

    fn expiring(id: &str, hint: &str, not_after: SystemTime) -> X509Svid {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.not_after = not_after.into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        X509Svid {
            spiffe_id: id.into(),
            x509_svid: certificate.clone(),
            x509_svid_key: key.serialize_der(),
            bundle: certificate,
            hint: hint.into(),
        }
    }

    fn response(svids: &[&X509Svid]) -> X509SvidResponse {
        X509SvidResponse { svids: svids.iter().map(|&svid| svid.clone()).collect(), ..Default::default() }
    }

    fn wanted(id: Option<&str>, hint: Option<&str>) -> Wanted {
        Wanted::Svid { id: id.map(|id| id.parse().unwrap()), hint: hint.map(Into::into) }
    }

    #[test]
    fn the_first_svid_is_used_unless_another_is_chosen() {
        let svids = [svid("spiffe://a/1", "x"), svid("spiffe://a/2", "y"), svid("spiffe://b/2", "x")];
        let all = response(&svids.each_ref());
        for (wanted, id) in [
            (FIRST, "spiffe://a/1"),
            (wanted(Some("spiffe://a/2"), None), "spiffe://a/2"),
            (wanted(None, Some("y")), "spiffe://a/2"),
            (wanted(None, Some("x")), "spiffe://a/1"),
            (wanted(Some("spiffe://b/2"), Some("x")), "spiffe://b/2"),
        ] {
            let material = of_svids(&all, &wanted).unwrap();
            assert_eq!(material.identity.unwrap().spiffe_id().unwrap().as_str(), id);
            assert_eq!(material.trust.unwrap().trust_domains().len(), 2);
        }
        for (wanted, problem) in [
            (wanted(Some("spiffe://a/3"), None), "no SVID is spiffe://a/3; there are 3: X509Svid"),
            (wanted(None, Some("z")), "no SVID is one with the hint \"z\""),
            (wanted(Some("spiffe://a/1"), Some("y")), "no SVID is spiffe://a/1 with the hint \"y\""),
        ] {
            let error = of_svids(&all, &wanted).unwrap_err().report();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn anything_that_is_wrong_refuses_the_whole() {
        let good = svid("spiffe://a/1", "");
        let with = |change: fn(&mut X509Svid)| {
            let mut svid = good.clone();
            change(&mut svid);
            response(&[&svid])
        };
        let federated = |domain: &str, bundle: &[u8]| X509SvidResponse {
            federated_bundles: [(domain.to_owned(), bundle.to_vec())].into(),
            ..response(&[&good])
        };
        let over = expiring("spiffe://a/1", "", SystemTime::now() - Duration::from_secs(5));
        for (response, problem) in [
            (X509SvidResponse::default(), "the response has no SVID"),
            (with(|svid| svid.x509_svid.clear()), "SVID \"spiffe://a/1\": the certificate chain cannot be used"),
            (with(|svid| svid.x509_svid_key.clear()), "pair of certificate and key cannot be used"),
            (with(|svid| svid.x509_svid_key = KeyPair::generate().unwrap().serialize_der()), "KeyMismatch"),
            (with(|svid| svid.spiffe_id = "spiffe://a/2".into()), "its certificate is that of spiffe://a/1"),
            (with(|svid| svid.bundle.clear()), "the bundle of trust domain a cannot be used"),
            (with(|svid| svid.bundle.truncate(9)), "the bundle of trust domain a cannot be used"),
            (response(&[&good, &X509Svid::default()]), "read SPIFFE ID \"\""),
            (federated("B", &good.bundle), "read trust domain \"B\""),
            (federated("b", &[]), "the bundle of trust domain b cannot be used"),
            (federated("b", &[0x30, 0]), "the bundle of trust domain b cannot be used"),
            (response(&[&over]), "its certificate expired at"),
        ] {
            let error = of_svids(&response, &FIRST).unwrap_err().report();
            assert!(error.contains(problem), "{problem}: {error}");
        }
    }

    #[test]
    fn each_trust_domain_has_the_roots_that_were_sent_for_it() {
        let (own, other) = (svid("spiffe://a/1", ""), svid("spiffe://b/1", ""));
        let mut all = response(&[&own]);
        all.federated_bundles =
            [("b".to_owned(), other.bundle.clone()), ("spiffe://a".to_owned(), other.bundle)].into();
        let trust = of_svids(&all, &FIRST).unwrap().trust.unwrap();
        let wanted = [("a", &own.bundle), ("b", &all.federated_bundles["b"])];
        let wanted = wanted.map(|(domain, bundle)| (domain.parse().unwrap(), bundle.as_slice()));
        assert!(trust == TrustBundle::by_domain(wanted).unwrap(), "the own bundle goes before a federated one");
    }

    #[test]
    fn bundles_alone_are_whom_to_trust() {
        let bundle = svid("spiffe://a/1", "").bundle;
        let response = X509BundlesResponse { bundles: [("spiffe://a".to_owned(), bundle)].into() };
        let material = of_bundles(&response).unwrap();
        assert!(material.identity.is_none());
        assert_eq!(material.trust.unwrap().trust_domains()[0].as_str(), "a");
        assert!(of_bundles(&X509BundlesResponse::default()).is_err());
    }

    #[test]
    fn s9_a_key_is_never_printed() {
        let all = response(&[&svid("spiffe://a/1", "x")]);
        assert_eq!(format!("{:?}", all.svids[0]), r#"X509Svid { spiffe_id: "spiffe://a/1", hint: "x", .. }"#);
        assert!(format!("{all:?}").len() < 200, "{all:?}");
    }
}
