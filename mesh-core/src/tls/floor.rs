//! What security a mesh insists on, whatever its control plane asks for.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

use super::facts::Peer;
use crate::bootstrap::Bootstrap;
use crate::error::{Error, ErrorKind};
use crate::identity::{Leaf, MaterialSource, SpiffeId, TrustDomain};
#[cfg(feature = "server")]
use crate::resource::security::DownstreamTls;
use crate::resource::upstream_tls::{RootsFrom, UpstreamTls};

/// The least security of a mesh's connections, set in code: a control plane that asks for less does not get it. A cluster
/// that falls below is not used: its calls fail and say why, `Mesh::status` has it as the cluster's problem, and a warning is
/// logged; all other clusters live. Without a floor, connections are as the control plane asks.
///
/// ```
/// use mesh_core::{Mesh, SecurityFloor, TlsVersion};
///
/// let floor = SecurityFloor::new()
///     .require_mtls()
///     .min_tls_version(TlsVersion::V1_3)
///     .allow_trust_domain("cluster.local".parse()?)
///     .expect_peer("payments", ["spiffe://cluster.local/ns/shop/sa/payments".parse()?]);
/// let builder = Mesh::builder().security_floor(floor);
/// # let _ = builder; Ok::<(), mesh_core::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct SecurityFloor(Arc<Demands>);

#[derive(Clone, Default)]
struct Demands {
    mtls: bool,
    min_version: TlsVersion,
    trust_domains: Vec<TrustDomain>,
    peers: BTreeMap<Arc<str>, Arc<ExpectedPeers>>,
    local_roots: bool,
    clusters: Option<Vec<Arc<str>>>,
    secure_control_plane: bool,
}

/// Who alone may answer at a target or a cluster.
#[derive(Clone, Debug)]
pub(crate) struct ExpectedPeers {
    name: Arc<str>,
    ids: Vec<SpiffeId>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2, with the extended master secret and authenticated ciphers alone.
    #[default]
    V1_2,
    /// TLS 1.3.
    V1_3,
}

impl SecurityFloor {
    /// A floor that demands nothing beyond what always holds.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, change: impl FnOnce(&mut Demands)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// Both sides of every connection prove who they are. Clusters in plaintext, or by TLS without a certificate of this
    /// process, are not used; nor are targets without a control plane, which are in plaintext. A server whose Listener has a
    /// filter chain that requires no certificate of callers does not serve; one that no control plane configures, such as
    /// a port for probes, is as code says.
    pub fn require_mtls(self) -> Self {
        self.with(|floor| floor.mtls = true)
    }

    /// No older version is offered: on connections to endpoints, of servers, to the control plane and to the services that it
    /// may have asked. What a certificate provider connects to is its own concern. Default [`TlsVersion::V1_2`].
    pub fn min_tls_version(self, version: TlsVersion) -> Self {
        self.with(|floor| floor.min_version = version)
    }

    /// Every peer is a workload (its certificate is an SVID) of this trust domain, or of another one that is allowed as
    /// well. Clusters in plaintext are not used, and servers are as [`require_mtls`](Self::require_mtls) has them. Default: any
    /// that the roots vouch for.
    pub fn allow_trust_domain(self, domain: TrustDomain) -> Self {
        self.with(|floor| floor.trust_domains.push(domain))
    }

    /// Whoever answers the calls to the target of this name is one of these workloads, whatever clusters its control plane
    /// routes them to, copies (mirrors) included: a call that would go to somebody else, or in plaintext, fails before a byte
    /// of it is sent. The name is what comes after the scheme: `payments` for `xds:///payments`. A cluster of this name
    /// is connected to nobody else, whoever routes to it. With no IDs, nobody may answer.
    pub fn expect_peer(self, target: impl Into<Arc<str>>, ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        self.with(|floor| {
            let name = target.into();
            let expected =
                floor.peers.entry(name.clone()).or_insert_with(|| Arc::new(ExpectedPeers { name, ids: Vec::new() }));
            Arc::make_mut(expected).ids.extend(ids);
        })
    }

    /// Only roots of the certificate providers of bootstrap and code vouch for peers: not the system's, and none that a
    /// control plane sends.
    pub fn local_roots_only(self) -> Self {
        self.with(|floor| floor.local_roots = true)
    }

    /// Calls and their copies (mirrors) go to the cluster of this name, or of another one that is allowed as well, and to no
    /// other. A name that ends in `*` stands for all that begin with what is before it. A target without a control plane
    /// names its cluster by what comes after the scheme. Default: to all.
    pub fn allow_cluster(self, name: impl Into<Arc<str>>) -> Self {
        self.with(|floor| floor.clusters.get_or_insert_default().push(name.into()))
    }

    /// The control plane is reached by TLS; a Unix socket and one in this process are secure, too. Otherwise the mesh is not
    /// built.
    pub fn require_secure_control_plane(self) -> Self {
        self.with(|floor| floor.secure_control_plane = true)
    }

    /// Whether a cluster may be used whose endpoints are secured each by one of these: if one of them suffices.
    ///
    /// # Errors
    ///
    /// What it falls short of.
    pub(crate) fn check_cluster<'a>(
        &self,
        name: &str,
        securities: impl IntoIterator<Item = Option<&'a UpstreamTls>>,
    ) -> Result<(), Error> {
        let mut last = None;
        for security in securities {
            match self.shortfall(name, security) {
                Some(shortfall) => last = Some(shortfall),
                None => return Ok(()),
            }
        }
        last.map_or(Ok(()), |shortfall| Err(below(name, &format!("cluster `{name}`"), &shortfall)))
    }

    /// Whether an endpoint may be connected that is secured so.
    ///
    /// # Errors
    ///
    /// What it falls short of.
    pub(crate) fn check_endpoint(&self, cluster: &str, security: Option<&UpstreamTls>) -> Result<(), Error> {
        let shortfall = self.shortfall(cluster, security);
        shortfall
            .map_or(Ok(()), |shortfall| Err(below(cluster, &format!("an endpoint of cluster `{cluster}`"), &shortfall)))
    }

    fn shortfall(&self, name: &str, security: Option<&UpstreamTls>) -> Option<String> {
        let Demands { mtls, trust_domains, peers, local_roots, clusters, .. } = &*self.0;
        if clusters.as_ref().is_some_and(|allowed| !allowed.iter().any(|allowed| stands_for(allowed, name))) {
            return Some("it is none of the clusters that are allowed (`allow_cluster`)".to_owned());
        }
        let Some(security) = security else {
            let demand = match () {
                () if *mtls => "mTLS is required (`require_mtls`)",
                () if peers.contains_key(name) => "its peers are to prove who they are (`expect_peer`)",
                () if !trust_domains.is_empty() => "peers are to prove their trust domain (`allow_trust_domain`)",
                () => return None,
            };
            return Some(format!("it is in plaintext, and {demand}"));
        };
        if *mtls && security.identity.is_none() {
            return Some(
                "it asks for no certificate of this process, and mTLS is required (`require_mtls`)".to_owned(),
            );
        }
        let others = match &security.roots {
            RootsFrom::Source(source) => foreign(source)?,
            RootsFrom::System => "the system's roots",
        };
        local_roots.then(|| format!("it trusts {others}, {LOCAL_ROOTS}"))
    }

    /// Whether whoever answers at a cluster, or calls (`None`), may be this one, whose certificate was verified.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(super) fn check_peer(&self, cluster: Option<&str>, leaf: &Leaf) -> Result<(), String> {
        let Demands { trust_domains, peers, .. } = &*self.0;
        let expected = cluster.and_then(|cluster| Some((cluster, peers.get(cluster)?)));
        if expected.is_none() && trust_domains.is_empty() {
            return Ok(());
        }
        let id = leaf.spiffe_id().map_err(|error| format!("the floor in code demands a SPIFFE ID: {error}"))?;
        if !trust_domains.is_empty() && !trust_domains.contains(&id.trust_domain()) {
            return Err(format!("the floor in code allows no peer of the trust domain of {id} (`allow_trust_domain`)"));
        }
        match expected {
            Some((cluster, expected)) if !expected.ids.contains(&id) => Err(format!(
                "the floor in code expects another peer at cluster `{cluster}`, and this one is {id} (`expect_peer`)"
            )),
            _ => Ok(()),
        }
    }

    /// Who alone may answer at the target of this name; `None`: anybody whom its clusters take.
    pub(crate) fn expected_at(&self, target: &str) -> Option<Arc<ExpectedPeers>> {
        self.0.peers.get(target).cloned()
    }

    /// Whether the control plane of this bootstrap may be asked.
    ///
    /// # Errors
    ///
    /// When it may not.
    pub(crate) fn check_control_plane(&self, bootstrap: &Bootstrap) -> Result<(), Error> {
        let server = bootstrap.server();
        if !self.0.secure_control_plane || server.is_private() {
            return Ok(());
        }
        let message = format!(
            "the control plane at `{}` would be reached in plaintext, which is below the security floor",
            server.uri
        );
        let next = r#"give it `"channel_creds": [{"type": "tls"}]`, or drop `require_secure_control_plane`"#;
        Err(Error::new(ErrorKind::Setup, message).with_next_step(next))
    }

    /// Whether no older version than 1.3 is offered.
    pub(crate) fn is_tls_1_3_only(&self) -> bool {
        self.0.min_version == TlsVersion::V1_3
    }

    /// The versions that are offered, the newest first.
    pub(super) fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        static ALL: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
        if self.is_tls_1_3_only() { &ALL[..1] } else { &ALL }
    }

    /// Whether connections that a control plane has accepted may be secured so.
    ///
    /// # Errors
    ///
    /// What they fall short of.
    #[cfg(feature = "server")]
    pub(crate) fn check_chain(&self, name: &str, security: Option<&DownstreamTls>) -> Result<(), Error> {
        let callers = security.and_then(|context| context.callers.as_ref());
        let shortfall = match (self.demand_on_callers(), callers.and_then(|callers| foreign(&callers.roots))) {
            (Some(demand), _) if !callers.is_some_and(|callers| callers.is_required) => {
                format!("it requires no certificate of callers, and {demand}")
            }
            (_, Some(others)) if self.0.local_roots => format!("it trusts {others}, {LOCAL_ROOTS}"),
            _ => return Ok(()),
        };
        let message = format!("filter chain `{name}` is below the security floor of this mesh: {shortfall}");
        let next = "have the control plane send a `DownstreamTlsContext` that asks for what the floor demands, or lower the `SecurityFloor` in code";
        Err(Error::new(ErrorKind::Configuration, message).with_next_step(next))
    }

    /// Why callers of a server are to show certificates; `None`: they need not.
    #[cfg(feature = "server")]
    pub(crate) fn demand_on_callers(&self) -> Option<&'static str> {
        match () {
            () if self.0.mtls => Some("mTLS is required (`require_mtls`)"),
            () if !self.0.trust_domains.is_empty() => {
                Some("callers are to prove their trust domain (`allow_trust_domain`)")
            }
            () => None,
        }
    }
}

impl ExpectedPeers {
    /// Whether a call to the target may be sent to this peer; `None` in plaintext.
    ///
    /// # Errors
    ///
    /// When it may not.
    pub(crate) fn check(&self, peer: Option<&Peer>) -> Result<(), Error> {
        let who = match peer.map(|peer| &peer.uris[..]) {
            Some([id]) if self.ids.iter().any(|expected| expected.as_str() == id) => return Ok(()),
            Some([id]) => id,
            Some(_) => "somebody without a SPIFFE ID",
            None => "somebody in plaintext",
        };
        let message =
            format!("the floor in code expects another peer at target `{}` than {who} (`expect_peer`)", self.name);
        let next = "have the control plane route the target to the peers that are expected, or add this one to the `SecurityFloor` in code";
        Err(Error::new(ErrorKind::Configuration, message).with_next_step(next))
    }
}

fn below(cluster: &str, what: &str, shortfall: &str) -> Error {
    let message = format!("{what} is below the security floor of this mesh: {shortfall}");
    let next = "have the control plane ask for what the floor demands, or lower the `SecurityFloor` in code";
    let mut error = Error::new(ErrorKind::Configuration, message).with_next_step(next);
    error.context_mut().cluster = Some(cluster.into());
    error
}

/// What vouches for peers, if it is no provider of bootstrap or code.
fn foreign(roots: &MaterialSource) -> Option<&'static str> {
    match roots {
        MaterialSource::Provider(_) => None,
        MaterialSource::Carried(_) => Some("roots that the control plane sends, or names"),
        MaterialSource::Secret(_) => Some("roots that come as a secret (SDS)"),
    }
}

const LOCAL_ROOTS: &str = "and only those of this mesh's certificate providers vouch (`local_roots_only`)";

fn stands_for(allowed: &str, name: &str) -> bool {
    allowed.strip_suffix('*').map_or(allowed == name, |start| name.starts_with(start))
}

impl fmt::Debug for SecurityFloor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Demands { mtls, min_version, trust_domains, peers, local_roots, clusters, secure_control_plane } = &*self.0;
        f.debug_struct("SecurityFloor")
            .field("mtls", mtls)
            .field("min_tls_version", min_version)
            .field("trust_domains", trust_domains)
            .field("peers", peers)
            .field("local_roots_only", local_roots)
            .field("clusters", clusters)
            .field("secure_control_plane", secure_control_plane)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(identity: bool, roots: RootsFrom) -> UpstreamTls {
        UpstreamTls {
            identity: identity.then(|| "default".into()),
            roots,
            revoked: None,
            names: Vec::new(),
            sni: None,
            auto_host_sni: false,
            auto_sni_san_validation: false,
        }
    }

    #[test]
    fn s7_a_cluster_that_asks_for_less_is_not_used_and_one_that_asks_for_enough_is() {
        let floor = SecurityFloor::new;
        let provider = || RootsFrom::Source("default".into());
        let id = || "spiffe://a/b".parse::<SpiffeId>().unwrap();
        let (plaintext, tls, mtls) = (None, Some(context(false, provider())), Some(context(true, provider())));
        let system = Some(context(true, RootsFrom::System));
        for (floor, security, problem) in [
            (floor(), &plaintext, None),
            (floor().require_mtls(), &plaintext, Some("in plaintext, and mTLS is required")),
            (floor().require_mtls(), &tls, Some("no certificate of this process")),
            (floor().require_mtls(), &mtls, None),
            (floor().require_mtls(), &system, None),
            (floor().local_roots_only(), &system, Some("the system's roots")),
            (floor().local_roots_only(), &mtls, None),
            (floor().local_roots_only(), &plaintext, None),
            (floor().expect_peer("shop", [id()]), &plaintext, Some("`expect_peer`")),
            (floor().expect_peer("other", [id()]), &plaintext, None),
            (floor().expect_peer("shop", [id()]), &tls, None),
            (floor().allow_trust_domain("a".parse().unwrap()), &plaintext, Some("`allow_trust_domain`")),
            (floor().min_tls_version(TlsVersion::V1_3), &plaintext, None),
            (floor().require_secure_control_plane(), &plaintext, None),
            (floor().allow_cluster("shop"), &plaintext, None),
            (floor().allow_cluster("other").allow_cluster("sh*"), &plaintext, None),
            (floor().allow_cluster("sho"), &plaintext, Some("none of the clusters that are allowed")),
            (floor().allow_cluster("shop").require_mtls(), &plaintext, Some("mTLS is required")),
        ] {
            let found = floor.check_cluster("shop", [security.as_ref()]).map_err(|error| error.to_string());
            match problem {
                None => assert_eq!(found, Ok(()), "{floor:?}"),
                Some(problem) => {
                    assert!(found.as_ref().is_err_and(|found| found.contains(problem)), "{floor:?}: {found:?}")
                }
            }
        }
    }

    #[test]
    fn s7_a_cluster_lives_if_some_of_its_endpoints_may_be_connected() {
        let floor = SecurityFloor::new().require_mtls();
        let [tls, mtls] = [false, true].map(|own| context(own, RootsFrom::Source("default".into())));
        let is_used =
            |securities: &[Option<&UpstreamTls>]| floor.check_cluster("shop", securities.iter().copied()).is_ok();
        assert!(is_used(&[Some(&mtls), None]) && is_used(&[None, Some(&mtls)]));
        assert!(!is_used(&[Some(&tls), None]) && !is_used(&[None, Some(&tls)]));
        let error = floor.check_endpoint("shop", None).unwrap_err().to_string();
        let says =
            "an endpoint of cluster `shop` is below the security floor of this mesh: it is in plaintext, and mTLS";
        assert!(error.starts_with(says), "{error}");
        assert!(floor.check_endpoint("shop", Some(&mtls)).is_ok());
        let elsewhere = SecurityFloor::new().allow_cluster("other");
        assert!(elsewhere.check_cluster("shop", [Some(&mtls), None]).is_err());
    }

    #[test]
    fn s7_a_control_plane_in_plaintext_is_none_if_that_is_demanded() {
        let floor = SecurityFloor::new().require_secure_control_plane();
        let bootstrap = |uri: &str, kind: &str| {
            let server = serde_json::json!({"server_uri": uri, "channel_creds": [{"type": kind}]});
            Bootstrap::from_json(&serde_json::json!({"xds_servers": [server]}).to_string()).unwrap()
        };
        for (uri, kind, is_secure) in
            [("127.0.0.1:1", "insecure", false), ("127.0.0.1:1", "tls", true), ("unix:/run/ads.sock", "insecure", true)]
        {
            assert_eq!(floor.check_control_plane(&bootstrap(uri, kind)).is_ok(), is_secure, "{uri} {kind}");
            assert!(SecurityFloor::new().check_control_plane(&bootstrap(uri, kind)).is_ok());
        }
    }
}
