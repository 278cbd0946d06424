//! The stream from the agent, opened again whenever it ends.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;

use super::material::{of_bundles, of_svids};
use super::messages::{Request, X509BundlesResponse, X509SvidResponse};
use super::{Wanted, WorkloadApi};
use crate::backoff::{Backoff, BackoffConfig};
use crate::bootstrap::{ChannelCredentials, ServerConfig, ServerFeatures};
use crate::error::{Error, ErrorKind};
use crate::identity::{KeyMaterial, Publisher};
use crate::providers::call::Call;
use crate::xds::transport::StreamError;
use crate::xds::transport::grpc::{GrpcOptions, GrpcTransport};

const FETCH_SVIDS: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
const FETCH_BUNDLES: &str = "/SpiffeWorkloadAPI/FetchX509Bundles";
/// Says that the call does not come from a browser that was tricked into it (SPIFFE Workload Endpoint, 4).
const SECURITY_HEADER: (HeaderName, HeaderValue) =
    (HeaderName::from_static("workload.spiffe.io"), HeaderValue::from_static("true"));
/// Some 1,000 certificates.
const MAX_RESPONSE: usize = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An agent answers at once, if only that the workload is not known to it.
const FIRST_RESPONSE: Duration = Duration::from_secs(30);
/// The shortest silence after which an agent is asked anew.
const MIN_SILENCE: Duration = Duration::from_secs(1);
/// A socket that is not there costs nothing to look for, and its return should be noticed within a second.
const UNREACHABLE: BackoffConfig =
    BackoffConfig { initial: Duration::from_millis(50), multiplier: 1.6, max: Duration::from_millis(600), jitter: 0.2 };
/// An agent that answers, and ends each stream then, is asked no more often.
const BETWEEN_REQUESTS: Duration = Duration::from_secs(1);
const REFUSED: BackoffConfig =
    BackoffConfig { initial: Duration::from_millis(200), multiplier: 1.6, max: Duration::from_secs(4), jitter: 0.2 };

/// Why a stream is over.
enum End {
    Unreachable(StreamError),
    Ended(StreamError),
    Silent(Duration),
    Unusable(Error),
}

/// Publishes what the agent sends, for ever.
pub(super) async fn follow(api: WorkloadApi, publisher: Publisher) {
    let (mut unreachable, mut refused) = (Backoff::new(UNREACHABLE), Backoff::new(REFUSED));
    loop {
        let (asked, mut has_published) = (Instant::now(), false);
        let end = one_stream(&api, publisher.tasks(), |material| {
            has_published = true;
            publisher.publish(material);
        });
        let Err(end) = end.await;
        if has_published {
            unreachable.reset();
            refused.reset();
        }
        let mut pause = match end {
            End::Unreachable(_) => unreachable.next_delay(fastrand::f64()),
            _ => refused.next_delay(fastrand::f64()),
        };
        if has_published {
            pause = pause.max(BETWEEN_REQUESTS.saturating_sub(asked.elapsed()));
        }
        publisher.fail(end.into_error(&api.endpoint).report());
        sleep(pause).await;
    }
}

/// One stream to its end, on a connection of its own.
async fn one_stream(
    api: &WorkloadApi,
    tasks: &TaskTracker,
    mut publish: impl FnMut(KeyMaterial),
) -> Result<Infallible, End> {
    let method = if api.wanted == Wanted::Bundles { FETCH_BUNDLES } else { FETCH_SVIDS };
    let mut call = Call::start(&transport(api, tasks)?, method, &Request {}).await.map_err(End::Unreachable)?;
    let mut patience = FIRST_RESPONSE;
    loop {
        let received = timeout(patience, receive(&mut call, &api.wanted)).await;
        let material = received.unwrap_or(Err(End::Silent(patience)))?;
        patience = silence(&material);
        publish(material);
    }
}

async fn receive(call: &mut Call, wanted: &Wanted) -> Result<KeyMaterial, End> {
    let material = match wanted {
        Wanted::Bundles => of_bundles(&call.response::<X509BundlesResponse>().await.map_err(End::Ended)?),
        Wanted::Svid { .. } => of_svids(&call.response::<X509SvidResponse>().await.map_err(End::Ended)?, wanted),
    };
    material.map_err(End::Unusable)
}

/// How long nothing may come after this: an agent renews a certificate at half of its life.
fn silence(material: &KeyMaterial) -> Duration {
    let Some(identity) = &material.identity else { return Duration::MAX };
    let left = identity.not_after().duration_since(SystemTime::now()).unwrap_or_default();
    (left / 4 * 3).max(MIN_SILENCE)
}

fn transport(api: &WorkloadApi, tasks: &TaskTracker) -> Result<GrpcTransport, End> {
    let server = ServerConfig {
        uri: api.endpoint.as_str().into(),
        address: api.address.clone(),
        credentials: ChannelCredentials::Insecure,
        tokens: Vec::new(),
        server_name: None,
        features: ServerFeatures::default(),
    };
    let options = GrpcOptions {
        connect_timeout: CONNECT_TIMEOUT,
        max_response: MAX_RESPONSE,
        headers: HeaderMap::from_iter([SECURITY_HEADER]),
        tasks: tasks.clone(),
        ..Default::default()
    };
    GrpcTransport::to(&server, options, &Handle::current()).map_err(End::Unusable)
}

impl End {
    fn into_error(self, endpoint: &str) -> Error {
        let (problem, next) = match self {
            Self::Unreachable(error) => (error.to_string(), UNREACHABLE_NEXT),
            Self::Ended(error) => (error.to_string(), next_step(error.code())),
            Self::Silent(time) => (format!("nothing came for {time:?}"), "look whether the agent hangs"),
            Self::Unusable(error) => (error.report(), "the agent's log may say more"),
        };
        let message = format!("SPIFFE Workload API at {endpoint}: {problem}");
        Error::new(ErrorKind::Connection, message).with_next_step(next)
    }
}

const UNREACHABLE_NEXT: &str =
    "check that the agent runs, that its socket is mounted there and that this process may open it";

fn next_step(code: &str) -> &'static str {
    match code {
        "PERMISSION_DENIED" => "register this workload with the agent: none of its entries is for this process",
        "UNIMPLEMENTED" | "UNKNOWN" => "check that what listens there is a SPIFFE Workload API",
        _ => "it is asked again; the agent's log may say more",
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tokio::net::UnixListener;

    use super::*;
    use crate::identity::Identity;

    /// Among the tasks that the mesh's end waits for.
    #[tokio::test]
    async fn its_connection_counts_until_the_socket_is_closed() {
        const PATIENCE: Duration = Duration::from_secs(10);
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let api = WorkloadApi::at(format!("unix://{}", path.display())).unwrap();
        let tasks = TaskTracker::new();
        let (publisher, _state) = Publisher::new("default".into(), &tasks);
        let following = tokio::spawn(follow(api, publisher));
        let asked = async {
            let mut agent = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
            let call = agent.accept().await.unwrap().unwrap();
            (agent, call)
        };
        let (mut agent, _call) = timeout(PATIENCE, asked).await.expect("the agent is asked");
        assert_eq!(tasks.len(), 1);
        following.abort();
        tasks.close();
        let closed = async { while agent.accept().await.is_some() {} };
        let ended = async { tokio::join!(tasks.wait(), closed) };
        timeout(PATIENCE, ended).await.expect("the socket is closed, and counts no more");
    }

    #[test]
    fn a_silent_agent_is_asked_anew_before_the_certificate_ends() {
        let left = |seconds: u64| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.not_after = (SystemTime::now() + Duration::from_secs(seconds)).into();
            let pem = params.self_signed(&key).unwrap().pem();
            let identity = Identity::from_pem(pem.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
            silence(&KeyMaterial::new().identity(identity)).as_secs()
        };
        assert!((2695..=2700).contains(&left(3600)));
        assert_eq!(left(0), 1);
        assert_eq!(silence(&KeyMaterial::new()), Duration::MAX);
    }
}
