//! Istio without an agent: all that one would be told, taken from the environment of a pod.

use std::time::Duration;

use serde_json::{Map, Value};

use super::MeshBuilder;
use crate::bootstrap::{Bootstrap, BootstrapBuilder};
use crate::error::Error;
use crate::identity::SpiffeId;
use crate::providers::IstioCa;

const ISTIOD: &str = "istiod.istio-system.svc:15012";
const ROOTS: &str = "/var/run/secrets/istio/root-cert.pem";
const TOKEN: &str = "/var/run/secrets/tokens/istio-token";
const FIRST_PARTY_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// How Istio calls the listeners of servers without a proxy.
const SERVERS: &str = "xds.istio.io/grpc/lds/inbound/%s";

impl MeshBuilder {
    /// Joins a mesh of Istio without an agent: the control plane is istiod, over TLS and with the pod's token, and the
    /// certificate provider `default` has its certificates issued by Istio's CA.
    ///
    /// It reads the variables that Istio's injection sets and its agent reads:
    ///
    /// | variable | |
    /// |---|---|
    /// | `POD_NAME`, `POD_NAMESPACE`, `INSTANCE_IP` | who this is; all three are needed |
    /// | `SERVICE_ACCOUNT` | default `default` |
    /// | `TRUST_DOMAIN` | default `cluster.local` |
    /// | `PROXY_CONFIG` | JSON; its `discoveryAddress` is istiod's. Default `istiod.istio-system.svc:15012` |
    /// | `CA_ADDR` | default: istiod's address |
    /// | `XDS_ROOT_CA`, `CA_ROOT_CA` | files of roots. Default `/var/run/secrets/istio/root-cert.pem` |
    /// | `JWT_POLICY` | `first-party-jwt` for the service account's own token. Default: that in `/var/run/secrets/tokens/istio-token` |
    /// | `SECRET_TTL` | how long certificates are to be valid, as in `12h` or `1h30m`. Default 24 h |
    /// | `ISTIO_META_…`, `ISTIO_METAJSON_…` | metadata of the node: texts, and values in JSON |
    ///
    /// # Errors
    ///
    /// When a variable is missing or cannot be read.
    pub fn istio_from_env(self) -> Result<Self, Error> {
        let environment: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let pod = Pod(environment);
        Ok(self.bootstrap(pod.bootstrap()?).certificate_provider("default", pod.ca()?))
    }
}

/// The environment of a pod. An empty variable is an unset one.
struct Pod(Vec<(String, String)>);

impl Pod {
    fn find(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, value)| known == name && !value.is_empty())?;
        Some(value)
    }

    fn required(&self, name: &str) -> Result<&str, Error> {
        let next = "let the pod's template set it by the downward API, as Istio's injection does";
        self.find(name).ok_or_else(|| Error::setup(format!("{name} is not set")).with_next_step(next))
    }

    fn bootstrap(&self) -> Result<Bootstrap, Error> {
        let (name, namespace, ip) =
            (self.required("POD_NAME")?, self.required("POD_NAMESPACE")?, self.required("INSTANCE_IP")?);
        let builder = Bootstrap::builder(self.discovery_address()?)
            .tls_with_roots(self.find("XDS_ROOT_CA").unwrap_or(ROOTS))
            .jwt_token_file(self.token())
            .node_id(format!("sidecar~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local"))
            .server_listener_resource_name_template(SERVERS)
            .node_metadata("GENERATOR", "grpc")
            .node_metadata("NAMESPACE", namespace)
            .node_metadata("INSTANCE_IPS", ip)
            .node_metadata("SERVICE_ACCOUNT", self.service_account());
        self.metadata(builder)?.build()
    }

    fn metadata(&self, mut builder: BootstrapBuilder) -> Result<BootstrapBuilder, Error> {
        for (name, value) in &self.0 {
            if let Some(key) = name.strip_prefix("ISTIO_META_") {
                builder = builder.node_metadata(key, value.as_str());
            } else if let Some(key) = name.strip_prefix("ISTIO_METAJSON_") {
                let value: Value = serde_json::from_str(value).map_err(|error| not_json(name, error))?;
                builder = builder.node_metadata_value(key, value);
            }
        }
        Ok(builder)
    }

    fn ca(&self) -> Result<IstioCa, Error> {
        let address = match self.find("CA_ADDR") {
            Some(address) => address.to_owned(),
            None => self.discovery_address()?,
        };
        let domain = self.find("TRUST_DOMAIN").unwrap_or("cluster.local");
        let (namespace, account) = (self.required("POD_NAMESPACE")?, self.service_account());
        let id: SpiffeId = format!("spiffe://{domain}/ns/{namespace}/sa/{account}").parse()?;
        let ca = IstioCa::new(address, id)?
            .token(self.token())
            .roots(self.find("CA_ROOT_CA").unwrap_or(ROOTS))
            .cluster_id(self.find("ISTIO_META_CLUSTER_ID").unwrap_or("Kubernetes"));
        match self.find("SECRET_TTL") {
            Some(text) => Ok(ca.validity(validity(text)?)),
            None => Ok(ca),
        }
    }

    fn service_account(&self) -> &str {
        self.find("SERVICE_ACCOUNT").unwrap_or("default")
    }

    fn token(&self) -> &str {
        if self.find("JWT_POLICY") == Some("first-party-jwt") { FIRST_PARTY_TOKEN } else { TOKEN }
    }

    fn discovery_address(&self) -> Result<String, Error> {
        let Some(config) = self.find("PROXY_CONFIG") else { return Ok(ISTIOD.to_owned()) };
        let config: Map<String, Value> =
            serde_json::from_str(config).map_err(|error| not_json("PROXY_CONFIG", error))?;
        Ok(config.get("discoveryAddress").and_then(Value::as_str).unwrap_or(ISTIOD).to_owned())
    }
}

/// Numbers with units, as Go writes durations; at least a second.
fn validity(text: &str) -> Result<Duration, Error> {
    let unusable =
        || Error::setup(format!("SECRET_TTL is {text:?}, which is no time of at least 1s, such as 12h or 1h30m"));
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let at = rest.find(|sign: char| sign.is_ascii_alphabetic()).ok_or_else(unusable)?;
        let (number, with_unit) = rest.split_at(at);
        let next = with_unit.find(|sign: char| !sign.is_ascii_alphabetic()).unwrap_or(with_unit.len());
        let (unit, after) = with_unit.split_at(next);
        let number: f64 = number.parse().map_err(|_| unusable())?;
        let factor = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            _ => return Err(unusable()),
        };
        seconds += number * factor;
        rest = after;
    }
    let validity = Duration::try_from_secs_f64(seconds).map_err(|_| unusable())?;
    if validity < Duration::from_secs(1) { Err(unusable()) } else { Ok(validity) }
}

fn not_json(name: &str, error: serde_json::Error) -> Error {
    Error::setup(format!("{name} is not JSON")).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::ChannelCredentials;

    const POD: [(&str, &str); 3] = [("POD_NAME", "cart-1"), ("POD_NAMESPACE", "shop"), ("INSTANCE_IP", "10.0.0.7")];

    fn pod(more: &[(&str, &str)]) -> Pod {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Pod(more.iter().chain(&POD).map(own).collect())
    }

    #[test]
    fn a_pod_that_says_who_it_is_needs_no_more() {
        let pod = pod(&[]);
        let bootstrap = pod.bootstrap().unwrap();
        assert_eq!(bootstrap.server_uri(), ISTIOD);
        assert_eq!(bootstrap.node_id(), "sidecar~10.0.0.7~cart-1.shop~shop.svc.cluster.local");
        let ChannelCredentials::Tls(files) = &bootstrap.server().credentials else { panic!("TLS") };
        assert_eq!(files.ca_certificate.as_deref(), Some(ROOTS.as_ref()));
        assert_eq!(bootstrap.server().tokens, [std::path::PathBuf::from(TOKEN)]);
        assert_eq!(bootstrap.node().metadata["GENERATOR"], "grpc");
        let ca = format!("{:?}", pod.ca().unwrap());
        for part in [ISTIOD, "spiffe://cluster.local/ns/shop/sa/default", ROOTS, TOKEN, "Kubernetes"] {
            assert!(ca.contains(part), "{part}: {ca}");
        }
    }

    #[test]
    fn what_the_environment_says_goes_before_the_defaults() {
        let pod = pod(&[
            ("SERVICE_ACCOUNT", "cart"),
            ("TRUST_DOMAIN", "a.test"),
            ("PROXY_CONFIG", r#"{"discoveryAddress": "istiod-canary.istio-system.svc:15012"}"#),
            ("CA_ADDR", "ca.test:443"),
            ("XDS_ROOT_CA", "/x.pem"),
            ("CA_ROOT_CA", "/y.pem"),
            ("JWT_POLICY", "first-party-jwt"),
            ("SECRET_TTL", "1h30m0s"),
            ("ISTIO_META_CLUSTER_ID", "west"),
            ("ISTIO_METAJSON_LABELS", r#"{"app": "cart"}"#),
        ]);
        let bootstrap = pod.bootstrap().unwrap();
        assert_eq!(bootstrap.server_uri(), "istiod-canary.istio-system.svc:15012");
        assert_eq!(bootstrap.node().metadata["CLUSTER_ID"], "west");
        assert_eq!(bootstrap.node().metadata["LABELS"]["app"], "cart");
        let ca = format!("{:?}", pod.ca().unwrap());
        for part in ["ca.test", "spiffe://a.test/ns/shop/sa/cart", "/y.pem", FIRST_PARTY_TOKEN, "west", "5400s"] {
            assert!(ca.contains(part), "{part}: {ca}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let error = Pod(Vec::new()).bootstrap().unwrap_err().report();
        assert!(error.starts_with("POD_NAME is not set; let the pod's template set it"), "{error}");
        for (variable, problem) in [
            (("PROXY_CONFIG", "discoveryAddress: x"), "PROXY_CONFIG is not JSON"),
            (("ISTIO_METAJSON_LABELS", "{"), "ISTIO_METAJSON_LABELS is not JSON"),
            (("XDS_ROOT_CA", ""), ""),
        ] {
            let error = pod(&[variable]).bootstrap().map_or_else(|error| error.report(), |_| String::new());
            assert!(error.starts_with(problem), "{error}");
        }
        for wrong in ["x", "5", "s", "5d", "1.2.3s", "-5s", "0s", "500ms", "5 s", "99999999999999999999h"] {
            let error = pod(&[("SECRET_TTL", wrong)]).ca().unwrap_err().report();
            assert!(error.starts_with("SECRET_TTL is"), "{wrong}: {error}");
        }
        assert!(pod(&[("SERVICE_ACCOUNT", "a b")]).ca().unwrap_err().report().contains("SPIFFE ID"));
    }
}
