//! The acts about identity: a vault that serves by mTLS, and those who call it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use mesh_core::identity::{CertificateProvider, Identity, KeyMaterial, ProviderFuture, Publisher, TrustBundle};
use mesh_core::server::Peer;
use mesh_core::testing::ControlPlane;
use mesh_core::{CallInfo, Mesh};
use mesh_examples::helloworld::greeter_client::GreeterClient;
use mesh_examples::helloworld::greeter_server::{Greeter, GreeterServer};
use mesh_examples::helloworld::{HelloReply, HelloRequest};
use mesh_tonic::{MeshChannel, MeshServer};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request, Response, Status};

use crate::Failure;
use crate::policy::{PROVIDER, SERVICE, resources};
use crate::story::{Story, calls, ms};

pub(crate) const VAULT: &str = "spiffe://demo/vault";
const TILL: &str = "spiffe://demo/till";
const INTERN: &str = "spiffe://demo/intern";
/// The name that those greet with who are not to be served.
const STRANGER: &str = "stranger";
/// How long certificates live: certificates know whole seconds, so that it is up to one less.
const LIFE: Duration = Duration::from_secs(4);
/// That of certificates which are not to change any more.
const LONG_LIFE: Duration = Duration::from_secs(60);
/// How long a push may take to act.
const PATIENCE: Duration = Duration::from_secs(5);

/// Plays the acts.
pub(crate) async fn play(story: &mut Story) -> Result<(), Failure> {
    let authority = Authority::new()?;
    let vault = Vault::open(&authority).await?;
    let till = Till::start(&vault, &authority).await?;
    rotation(story, &authority, &vault, &till).await?;
    strangers(story, &authority, &vault).await?;
    policy(story, &vault, &till).await;
    till.load.abort();
    till.mesh.shutdown().await;
    vault.mesh.shutdown().await;
    Ok(())
}

async fn rotation(story: &mut Story, authority: &Authority, vault: &Vault, till: &Till) -> Result<(), Failure> {
    story.act("Both sides prove who they are, and their certificates change");
    story.say(format!("A vault joins the mesh, by mTLS. {TILL} calls it. Certificates live {} s.", LIFE.as_secs()));
    let from = Instant::now();
    // At once: on a slow machine the first ones have lived for a while. The last ones are for the acts to come.
    for life in [LIFE, LIFE, LONG_LIFE] {
        vault.certificates.send_replace(authority.issue(VAULT, life)?);
        till.certificates.send_replace(authority.issue(TILL, life)?);
        sleep(LIFE / 3).await;
    }
    let made = till.since(from);
    let failed = made.iter().filter(|call| call.outcome.is_err()).count();
    let shown: BTreeSet<&Arc<str>> = made.iter().filter_map(|call| call.outcome.as_ref().ok()).collect();
    let text = format!("{}, {failed} failed, while the vault showed {} certificates", calls(made.len()), shown.len());
    story.promise(failed == 0 && shown.len() > 1, text);
    if let Some(Err(status)) = made.iter().map(|call| &call.outcome).find(|outcome| outcome.is_err()) {
        story.say(format!("  {:?}: {}", status.code(), status.message()));
    }
    Ok(())
}

async fn strangers(story: &mut Story, authority: &Authority, vault: &Vault) -> Result<(), Failure> {
    story.act("Others knock at the vault");
    let forged = Authority::new()?.issue(TILL, LONG_LIFE)?.trust(authority.trust()?);
    for (who, material, expected) in [
        ("Somebody with a forged certificate", forged, Code::Unavailable),
        ("An intern, whom no policy admits,", authority.issue(INTERN, LONG_LIFE)?, Code::PermissionDenied),
    ] {
        let mesh = mesh(&vault.control_plane, material).await?;
        let answer = GreeterClient::new(MeshChannel::new(&mesh, &format!("xds:///{SERVICE}"))?)
            .say_hello(HelloRequest { name: STRANGER.into() })
            .await;
        let said = answer.map_or_else(|status| format!("{:?}", status.code()), |_| "an answer".to_owned());
        story.promise(said == format!("{expected:?}"), format!("{who} gets {said}"));
        mesh.shutdown().await;
    }
    story.promise(vault.visitors.strangers() == 0, "Neither reached the vault's handler");
    Ok(())
}

async fn policy(story: &mut Story, vault: &Vault, till: &Till) {
    story.act("The policy changes");
    story.say("Pushed: the vault is for the intern alone.");
    for (what, admitted, expected) in
        [("the till is refused", INTERN, Some(Code::PermissionDenied)), ("the till is served again", TILL, None)]
    {
        let pushed = Instant::now();
        vault.control_plane.set(resources(vault.address, admitted));
        let acted = till.first_since(pushed, expected).await;
        let text = acted.map_or_else(
            || format!("{what}: not within {} s", PATIENCE.as_secs()),
            |at| format!("{what}, {} after the push", ms(at - pushed)),
        );
        story.promise(acted.is_some(), text);
    }
}

async fn mesh(control_plane: &ControlPlane, certificates: impl CertificateProvider) -> Result<Mesh, mesh_core::Error> {
    let step = Duration::from_millis(50);
    let patience = mesh_core::balance::BalanceOptions::new().backoff(step, step);
    Mesh::builder()
        .control_plane(control_plane)
        .balance(patience)
        .certificate_provider(PROVIDER, certificates)
        .build()
        .await
}

/// Certificates as whoever issues them hands them over.
struct Handed(watch::Receiver<KeyMaterial>);

impl CertificateProvider for Handed {
    fn kind(&self) -> &str {
        "handed"
    }

    fn run(mut self: Box<Self>, publisher: Publisher) -> ProviderFuture {
        Box::pin(async move {
            loop {
                publisher.publish(self.0.borrow_and_update().clone());
                if self.0.changed().await.is_err() {
                    return;
                }
            }
        })
    }
}

/// A certificate authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Result<Self, Failure> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    fn trust(&self) -> Result<TrustBundle, Failure> {
        Ok(TrustBundle::from_pem(self.0.pem().as_bytes())?)
    }

    /// A certificate of this workload, with its key and the roots.
    fn issue(&self, id: &str, life: Duration) -> Result<KeyMaterial, Failure> {
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into()?)];
        params.not_before = (now - Duration::from_secs(60)).into();
        params.not_after = (now + life).into();
        let key = KeyPair::generate()?;
        let chain = params.signed_by(&key, &self.0)?.pem();
        let identity = Identity::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes())?;
        Ok(KeyMaterial::new().identity(identity).trust(self.trust()?))
    }
}

/// Whom the vault's handler has seen.
#[derive(Clone, Default)]
struct Visitors {
    strangers: Arc<AtomicUsize>,
}

impl Visitors {
    /// Calls of those who are not to get here, whoever they claim to be.
    fn strangers(&self) -> usize {
        self.strangers.load(Ordering::Relaxed)
    }
}

#[tonic::async_trait]
impl Greeter for Visitors {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let caller = request.extensions().get::<Peer>().and_then(|peer| peer.spiffe_id.clone());
        let caller = caller.map_or_else(|| "somebody".to_owned(), |id| id.to_string());
        self.strangers.fetch_add(usize::from(request.get_ref().name == STRANGER), Ordering::Relaxed);
        Ok(Response::new(HelloReply { message: format!("Hello {caller}") }))
    }
}

/// A server of the mesh that a control plane tells whom to serve, and how.
struct Vault {
    address: std::net::SocketAddr,
    control_plane: ControlPlane,
    mesh: Mesh,
    certificates: watch::Sender<KeyMaterial>,
    visitors: Visitors,
}

impl Vault {
    async fn open(authority: &Authority) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let control_plane = ControlPlane::new();
        control_plane.set(resources(address, TILL));
        let (certificates, handed) = watch::channel(authority.issue(VAULT, LIFE)?);
        let mesh = mesh(&control_plane, Handed(handed)).await?;
        let visitors = Visitors::default();
        let server = MeshServer::new(&mesh).add_service(GreeterServer::new(visitors.clone()));
        tokio::spawn(server.serve(listener));
        Ok(Self { address, control_plane, mesh, certificates, visitors })
    }
}

/// A client that calls the vault all the while.
struct Till {
    mesh: Mesh,
    certificates: watch::Sender<KeyMaterial>,
    made: Arc<Mutex<Vec<Call>>>,
    load: AbortHandle,
}

#[derive(Clone)]
struct Call {
    started: Instant,
    ended: Instant,
    /// The serial number of the certificate that the vault showed.
    outcome: Result<Arc<str>, Status>,
}

impl Till {
    async fn start(vault: &Vault, authority: &Authority) -> Result<Self, Failure> {
        let (certificates, handed) = watch::channel(authority.issue(TILL, LIFE)?);
        let mesh = mesh(&vault.control_plane, Handed(handed)).await?;
        let client = GreeterClient::new(MeshChannel::new(&mesh, &format!("xds:///{SERVICE}"))?);
        let made = Arc::<Mutex<Vec<Call>>>::default();
        let load = tokio::spawn(call_steadily(client, made.clone())).abort_handle();
        Ok(Self { mesh, certificates, made, load })
    }

    fn since(&self, from: Instant) -> Vec<Call> {
        self.made.lock().iter().filter(|call| call.started >= from).cloned().collect()
    }

    /// When the first call ended that was started since then and came to this; `None` if that takes too long.
    async fn first_since(&self, from: Instant, wanted: Option<Code>) -> Option<Instant> {
        let came_to = |call: &Call| call.outcome.as_ref().err().map(Status::code) == wanted;
        let seen = async {
            loop {
                if let Some(call) = self.since(from).into_iter().find(came_to) {
                    return call.ended;
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, seen).await.ok()
    }
}

/// Some 200 times a second.
async fn call_steadily(mut client: GreeterClient<MeshChannel>, made: Arc<Mutex<Vec<Call>>>) {
    loop {
        let started = Instant::now();
        let answer = client.say_hello(HelloRequest::default()).await;
        let outcome = answer.map(|reply| {
            let peer = reply.extensions().get::<CallInfo>().and_then(CallInfo::peer);
            peer.map_or_else(|| "none".into(), |peer| peer.serial.clone())
        });
        made.lock().push(Call { started, ended: Instant::now(), outcome });
        sleep(Duration::from_millis(5)).await;
    }
}
