//! Servers in this process and their callers in another, so that CPU, allocations and instructions are the server's.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use hdrhistogram::Histogram;
use mesh_core::Mesh;
use mesh_core::server::ServerTls;
use mesh_core::testing::{ControlPlane, FilterChainBuilder, any, filter_chain, server_listener};
use mesh_tonic::MeshServer;
use mesh_xds_proto::envoy::config::core::v3::{
    RuntimeFractionalPercent, TransportSocket, transport_socket::ConfigType,
};
use mesh_xds_proto::envoy::config::rbac::v3::permission::Rule;
use mesh_xds_proto::envoy::config::rbac::v3::principal::{Authenticated, Identifier};
use mesh_xds_proto::envoy::config::rbac::v3::{Permission, Policy, Principal, Rbac as Rules};
use mesh_xds_proto::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use mesh_xds_proto::envoy::extensions::filters::http::rbac::v3::Rbac;
use mesh_xds_proto::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use mesh_xds_proto::envoy::r#type::matcher::v3::{
    PathMatcher, StringMatcher, path_matcher, string_matcher::MatchPattern,
};
use mesh_xds_proto::envoy::r#type::v3::{FractionalPercent, TokenBucket, fractional_percent::DenominatorType};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tonic::transport::Server;

use crate::drive::{Sample, Work, closed_loop, histogram};
use crate::echo::echo_server::EchoServer;
use crate::meter::Meter;
use crate::paths::{Load, PROVIDER, Path, Transport, certificates};
use crate::server::{EchoService, listen};
use crate::site::{CLIENT_ID, Site};
use crate::{Error, Flavor};

/// Of access control: the last by name is that of the callers.
const POLICIES: usize = 100;

/// What callers in another process are to do.
#[derive(Serialize, Deserialize)]
struct Job {
    site: Site,
    /// Before they are measured.
    warming: Option<Work>,
    work: Work,
}

/// Serves by `path` while another process makes calls: their latency is the callers', the rest the server's.
///
/// # Errors
///
/// Fails when either side cannot be started, or a call fails.
pub async fn measure(path: Path, warming: Option<Work>, work: Work) -> Result<Sample, Error> {
    let mut site = Site::new()?;
    let (address, _running) = start(path, &site).await?;
    site.secured.push(address);
    let job = serde_json::to_string(&Job { site, warming, work })?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["call", &job])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (mut tell, said) = (child.stdin.take().ok_or("no input")?, child.stdout.take().ok_or("no output")?);
    let mut said = BufReader::new(said).lines();
    said.next_line().await?.ok_or("the callers did not begin")?;
    let meter = Meter::start();
    tell.write_all(b"go\n").await?;
    let latency = said.next_line().await?.ok_or("the callers did not end")?;
    let used = meter.stop();
    child.wait().await?;
    Ok(Sample { latency: read(&latency)?, used })
}

/// Makes the calls of a job, as it is told by [`measure`].
///
/// # Errors
///
/// Fails when a call does.
pub fn call(job: &str) -> Result<(), Error> {
    let Job { site, warming, work } = serde_json::from_str(job)?;
    Flavor::Current.runtime()?.block_on(Path::TonicMtls.load(&site, Callers { warming, work }))
}

struct Callers {
    warming: Option<Work>,
    work: Work,
}

impl Load for Callers {
    type Output = ();

    async fn run<T: Transport>(self, channel: T) -> Result<(), Error> {
        if let Some(warming) = &self.warming {
            closed_loop(channel.clone(), warming).await?;
        }
        println!("ready");
        std::io::stdin().read_line(&mut String::new())?;
        println!("{}", written(&closed_loop(channel, &self.work).await?.latency)?);
        Ok(())
    }
}

fn written(latency: &Histogram<u32>) -> Result<String, Error> {
    let counts: Vec<_> =
        latency.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
    Ok(serde_json::to_string(&counts)?)
}

fn read(latency: &str) -> Result<Histogram<u32>, Error> {
    let mut all = histogram();
    for (value, count) in serde_json::from_str::<Vec<(u64, u32)>>(latency)? {
        all.saturating_record_n(value, count);
    }
    Ok(all)
}

/// A server, for as long as the runtime lives, and what it needs to go on.
///
/// # Errors
///
/// Fails when no port is left, or the server cannot be secured.
pub async fn start(path: Path, site: &Site) -> Result<(SocketAddr, Option<(Mesh, ControlPlane)>), Error> {
    if path == Path::Server {
        return Ok((listen(Server::builder().tls_config(site.server_tls())?).await?, None));
    }
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = socket.local_addr()?;
    let control_plane = ControlPlane::new();
    control_plane.put(server_listener(address).chains([guarded()]));
    let mesh = Mesh::builder().certificate_provider(PROVIDER, site.server_material()?);
    let mesh = if path == Path::ServerMeshFull { mesh.control_plane(&control_plane) } else { mesh };
    let mesh = mesh.build().await?;
    let server =
        MeshServer::new(&mesh).tls(ServerTls::new(PROVIDER)).add_service(EchoServer::new(EchoService::default()));
    tokio::spawn(server.serve(socket));
    Ok((address, Some((mesh, control_plane))))
}

/// mTLS, a local rate limit that is not reached, and policies that each name one caller and the prefix of one path.
fn guarded() -> FilterChainBuilder {
    let context = DownstreamTlsContext {
        common_tls_context: Some(certificates(Vec::new())),
        require_client_certificate: Some(true),
        ..Default::default()
    };
    let config_type = Some(ConfigType::TypedConfig(any(&context)));
    let socket = TransportSocket { name: "envoy.transport_sockets.tls".into(), config_type };
    let others = (1..POLICIES).map(|number| {
        let id = format!("spiffe://bench/ns/default/sa/other-{number}");
        (format!("policy-{number:03}"), policy(&id, &format!("/bench.Other{number}/")))
    });
    let policies = others.chain([("policy-own".to_owned(), policy(CLIENT_ID, "/bench.Echo/"))]).collect();
    let rules = Rules { policies, ..Default::default() };
    filter_chain()
        .filter("limit", &unreached())
        .filter("rbac", &Rbac { rules: Some(rules), ..Default::default() })
        .modify(|chain| chain.transport_socket = Some(socket))
}

/// In force for every call, with more tokens than there are calls.
fn unreached() -> LocalRateLimit {
    let always = FractionalPercent { numerator: 100, denominator: DenominatorType::Hundred.into() };
    let always = Some(RuntimeFractionalPercent { default_value: Some(always), ..Default::default() });
    let bucket = TokenBucket {
        max_tokens: u32::MAX,
        tokens_per_fill: Some(u32::MAX),
        fill_interval: Duration::from_secs(1).try_into().ok(),
    };
    LocalRateLimit {
        stat_prefix: "limit".to_owned(),
        token_bucket: Some(bucket),
        filter_enabled: always.clone(),
        filter_enforced: always,
        ..Default::default()
    }
}

fn policy(id: &str, prefix: &str) -> Policy {
    let matches = |pattern| StringMatcher { match_pattern: Some(pattern), ..Default::default() };
    let path = path_matcher::Rule::Path(matches(MatchPattern::Prefix(prefix.to_owned())));
    let name = Authenticated { principal_name: Some(matches(MatchPattern::Exact(id.to_owned()))) };
    Policy {
        permissions: vec![Permission { rule: Some(Rule::UrlPath(PathMatcher { rule: Some(path) })) }],
        principals: vec![Principal { identifier: Some(Identifier::Authenticated(name)) }],
        ..Default::default()
    }
}
