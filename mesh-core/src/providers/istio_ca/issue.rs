//! One certificate: a key made here, a signing request, and what the CA answers.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::IstioCa;
use crate::aside::{PATIENCE, aside, patiently};
use crate::bootstrap::{ChannelCredentials, ServerConfig, ServerFeatures, TlsFiles};
use crate::error::{BoxError, Error, ErrorKind};
use crate::files;
use crate::identity::{Identity, KeyMaterial, Publisher, TrustBundle, Utc};
use crate::providers::call::Call;
use crate::xds::transport::StreamError;
use crate::xds::transport::authorization;
use crate::xds::transport::grpc::{GrpcOptions, GrpcTransport};

const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
const CLUSTER_ID: HeaderName = HeaderName::from_static("clusterid");
/// Some 100 certificates in PEM.
const MAX_RESPONSE: usize = 256 << 10;
/// From the connection's first packet to the certificate.
const TIME: Duration = Duration::from_secs(10);

/// `IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    /// PEM.
    #[prost(string, tag = "1")]
    csr: String,
    /// Seconds.
    #[prost(int64, tag = "3")]
    validity_duration: i64,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    /// PEM: the leaf, those that lead to the root, and the root.
    #[prost(string, repeated, tag = "1")]
    cert_chain: Vec<String>,
}

/// Why there is no certificate.
pub(super) enum Failure {
    /// Before anything was sent.
    Here(Error),
    Call(StreamError),
    Late,
    Answer(Error),
}

/// A new certificate of a new key, and the roots as they are now. Files that cannot be read are waited for, and `publisher` is
/// told.
pub(super) async fn issue(ca: &Arc<IstioCa>, publisher: &Publisher) -> Result<KeyMaterial, Failure> {
    let (of, runtime, tasks) = (ca.clone(), Handle::current(), publisher.tasks().clone());
    let slow = || publisher.fail(unread(ca));
    let preparing = patiently(aside(move || Prepared::new(&of, &runtime, tasks)), slow).await;
    let failed = |error| Err(Failure::Here(Error::setup("prepare a request").with_source(error)));
    let Prepared { transport, request, key, trust } = preparing.unwrap_or_else(failed)?;
    let response = timeout(TIME, call(&transport, &request)).await.unwrap_or(Err(Failure::Late))?;
    let identity = identity(&response, &key).map_err(Failure::Answer)?;
    Ok(KeyMaterial::new().identity(identity).trust(trust))
}

fn unread(ca: &IstioCa) -> String {
    let (token, roots) = (ca.token.display(), ca.roots.display());
    format!("Istio CA at {}: {token} and {roots} could not be read within {PATIENCE:?}, and are waited for", ca.uri)
}

/// What a request takes; reading and signing may block.
struct Prepared {
    transport: GrpcTransport,
    request: Request,
    key: KeyPair,
    trust: TrustBundle,
}

impl Prepared {
    fn new(ca: &IstioCa, runtime: &Handle, tasks: TaskTracker) -> Result<Self, Failure> {
        let trust = roots(ca).map_err(Failure::Here)?;
        let token = authorization(&ca.token).map_err(Failure::Call)?;
        let unusable = |error: rcgen::Error| Failure::Here(Error::setup("make a signing request").with_source(error));
        let key = KeyPair::generate().map_err(unusable)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(ca.id.as_str().try_into().map_err(unusable)?)];
        let csr = params.serialize_request(&key).and_then(|request| request.pem()).map_err(unusable)?;
        let validity_duration = ca.validity.as_secs().try_into().unwrap_or(i64::MAX);
        let transport = transport(ca, token, tasks, runtime).map_err(Failure::Here)?;
        Ok(Self { transport, request: Request { csr, validity_duration }, key, trust })
    }
}

/// Whom to trust, by the file as it is now.
pub(super) fn roots(ca: &IstioCa) -> Result<TrustBundle, Error> {
    let unusable = |error: BoxError| Error::setup(format!("the roots in {}", ca.roots.display())).with_source(error);
    let pem = files::read(&ca.roots).map_err(unusable)?;
    TrustBundle::from_pem(&pem).map_err(|error| unusable(error.into()))
}

/// Over TLS: there is no other way to a CA, so that the token is never sent in plaintext.
fn transport(ca: &IstioCa, token: HeaderValue, tasks: TaskTracker, runtime: &Handle) -> Result<GrpcTransport, Error> {
    let files = TlsFiles { ca_certificate: Some(ca.roots.clone()), identity: None, refresh_interval: Duration::MAX };
    let server = ServerConfig {
        uri: ca.uri.as_str().into(),
        address: ca.address.clone(),
        credentials: ChannelCredentials::Tls(files),
        // It has been read.
        tokens: Vec::new(),
        server_name: ca.server_name.clone(),
        features: ServerFeatures::default(),
    };
    let cluster_id = HeaderValue::try_from(&ca.cluster_id)
        .map_err(|error| Error::setup(format!("the cluster id {:?}", ca.cluster_id)).with_source(error))?;
    let options = GrpcOptions {
        max_response: MAX_RESPONSE,
        headers: HeaderMap::from_iter([(CLUSTER_ID, cluster_id), (AUTHORIZATION, token)]),
        tasks,
        ..Default::default()
    };
    GrpcTransport::to(&server, options, runtime)
}

async fn call(transport: &GrpcTransport, request: &Request) -> Result<Response, Failure> {
    let mut call = Call::start(transport, CREATE_CERTIFICATE, request).await.map_err(Failure::Call)?;
    let response = call.response().await.map_err(Failure::Call)?;
    call.end().await.map_err(Failure::Call)?;
    Ok(response)
}

/// Peers have the root: it is not shown to them.
fn identity(response: &Response, key: &KeyPair) -> Result<Identity, Error> {
    let chain = match &response.cert_chain[..] {
        [] => return Err(Error::setup("the response has no certificate")),
        [leaf] => leaf.clone(),
        [shown @ .., _root] => shown.concat(),
    };
    let identity = Identity::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes())?;
    if identity.not_after() <= SystemTime::now() {
        return Err(Error::setup(format!("the certificate expired at {}", Utc(identity.not_after()))));
    }
    Ok(identity)
}

impl Failure {
    pub(super) fn into_error(self, ca: &IstioCa) -> Error {
        let (problem, next) = match self {
            Self::Here(error) => {
                (error.report(), "mount the ConfigMap `istio-ca-root-cert`, or give the path of the roots".to_owned())
            }
            Self::Call(error) => (error.to_string(), next_step(error.code(), ca)),
            Self::Late => (format!("no answer within {TIME:?}"), next_step("", ca)),
            Self::Answer(error) => (error.report(), "what listens there may be no CA of Istio".to_owned()),
        };
        Error::new(ErrorKind::Connection, format!("Istio CA at {}: {problem}", ca.uri)).with_next_step(next)
    }
}

fn next_step(code: &str, ca: &IstioCa) -> String {
    match code {
        "UNAUTHENTICATED" | "PERMISSION_DENIED" => format!(
            "check the token in {}: it must be valid now, for the audience that istiod expects (`istio-ca`), and of this \
             workload's service account",
            ca.token.display()
        ),
        _ => "check that istiod runs, that its address is right and that the roots vouch for it".to_owned(),
    }
}
