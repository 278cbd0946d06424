//! What a server's listener says at this moment: whether it serves, and what each connection and each call gets (A36).
//!
//! ```text
//! Listener ▸ its chains ▸ the routes that each names ─▸ Setup ─┬─ matches as before: connections go on, and their next
//!   (xds)                  (all have a verdict)               │  calls get what is new
//!                                                             └─ others: new connections get them, older ones drain
//! ```

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::Request;
use tokio_util::sync::CancellationToken;

use super::access::{denied, inbound_call};
use super::mode::ServingMode;
use super::open::{OpenCall, OpenCalls};
use super::passage::{Passage, Terms};
use super::secure::Securing;
use super::state::ConnectionState;
use crate::error::{Error, ErrorKind};
use crate::filter::ConcurrencyStatus;
#[cfg(feature = "tls")]
use crate::identity::Awaited;
use crate::names::NameIndexSet;
use crate::resource::filter::FilterConfig;
use crate::resource::filter_chain::{FilterChain, FilterChains};
#[cfg(feature = "jwt")]
use crate::resource::jwt::remote::UnderWay;
use crate::resource::listener::{Listener, RouteSource, SocketListener};
use crate::resource::matcher::RequestHead;
use crate::resource::rbac::RbacFilter;
use crate::resource::rbac::access::decide;
use crate::resource::route::RouteAction;
use crate::resource::route_config::RouteConfiguration;
use crate::resource::security::DownstreamTls;
#[cfg(feature = "tls")]
use crate::resource::security::{MaterialSource, on_demand_by_servers};
use crate::resource::{LISTENER, ROUTE_CONFIGURATION};
#[cfg(feature = "tls")]
use crate::snapshot::dependencies::is_ready;
use crate::snapshot::dependencies::{Missing, value_of};
use crate::snapshot::{Chain, Chains, Problem};
use crate::xds::Subscriber;

/// How many characters of what a caller sent are kept.
const MOST_SHOWN: usize = 200;

/// What connections are accepted under.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Which of the chains a connection gets; `None`: there is no control plane, and no chain.
    matches: Option<Arc<Listener>>,
    /// In the listener's order, the default one last.
    chains: Vec<Arc<ChainState>>,
    /// Its connections take no new call.
    drain: CancellationToken,
}

/// What a connection is accepted with.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    pub(super) chain: Option<Arc<ChainState>>,
    pub(super) drain: CancellationToken,
}

/// The chain of connections. What it holds may change while they are open.
#[derive(Debug)]
pub(super) struct ChainState {
    in_force: ArcSwap<ChainInForce>,
    /// Those of its server's calls that end when they are denied.
    open: Arc<OpenCalls>,
}

#[derive(Debug)]
pub(super) struct ChainInForce {
    listener: Arc<str>,
    chain: Arc<FilterChain>,
    routes: Result<Arc<RouteConfiguration>, Problem>,
    /// What the calls of each virtual host's routes pass, in the order of the virtual hosts.
    passed: Arc<[Chains]>,
}

impl Setup {
    /// Every connection is served, and every call.
    pub(super) fn without_listener() -> Self {
        Self { matches: None, chains: Vec::new(), drain: CancellationToken::new() }
    }

    /// `None`: the listener has no chain for the connection.
    pub(super) fn admit(&self, local: SocketAddr, peer: SocketAddr) -> Option<Admission> {
        let chain = match self.matches.as_deref() {
            Some(Listener::Socket(listener)) => Some(self.chains[listener.chains.find(local, peer)?].clone()),
            _ => None,
        };
        Some(Admission { chain, drain: self.drain.clone() })
    }

    /// What secures the connections of each chain.
    pub(super) fn contexts(&self, securing: &Securing) -> Vec<Option<Arc<DownstreamTls>>> {
        match self.matches {
            None => vec![securing.context(None)],
            Some(_) => self.chains.iter().map(|chain| securing.context(chain.security().as_ref())).collect(),
        }
    }

    /// Whether all chains are secured as code insists, whatever the control plane asks for.
    ///
    /// # Errors
    ///
    /// What the first of the others falls short of.
    pub(super) fn check(&self, securing: &Securing) -> Result<(), Error> {
        self.chains.iter().try_for_each(|state| {
            let in_force = state.in_force.load();
            let ChainInForce { chain, .. } = &**in_force;
            securing.check(&chain.name, chain.security.as_ref()).map_err(|error| in_force.located(error))
        })
    }

    /// The state of the concurrency limits of its filters.
    pub(super) fn concurrency(&self) -> Vec<ConcurrencyStatus> {
        let (mut seen, mut all) = (HashSet::new(), Vec::new());
        for state in &self.chains {
            let in_force = state.in_force.load();
            let chain = &in_force.chain.name;
            in_force.passed.iter().for_each(|chains| {
                chains.each_filter(&mut |filter, config| {
                    if let FilterConfig::ConcurrencyLimit(limit) = config
                        && seen.insert(Arc::as_ptr(limit))
                    {
                        all.push(limit.status_of(format!("{chain}/{filter}").into()));
                    }
                });
            });
        }
        all
    }

    /// Gives its connections what other chains with the same matches say.
    fn update(&self, chains: Vec<ChainInForce>) {
        for (state, chain) in self.chains.iter().zip(chains) {
            // What is the same judges no call anew.
            if !state.in_force.load().is_same(&chain) {
                state.in_force.store(Arc::new(chain));
            }
        }
    }

    fn has_the_matches_of(&self, other: &FilterChains) -> bool {
        matches!(self.matches.as_deref(), Some(Listener::Socket(listener)) if listener.chains.matches_as(other))
    }
}

impl ChainState {
    fn new(chain: ChainInForce, open: Arc<OpenCalls>) -> Self {
        Self { in_force: ArcSwap::from_pointee(chain), open }
    }

    pub(super) fn open(&self) -> &Arc<OpenCalls> {
        &self.open
    }

    /// What its connections and its calls get now.
    pub(super) fn in_force(&self) -> Arc<ChainInForce> {
        self.in_force.load_full()
    }

    /// What secures its connections; that never changes.
    pub(super) fn security(&self) -> Option<Arc<DownstreamTls>> {
        self.in_force.load().chain.security.clone()
    }

    /// Whether a call is to be served: its route says so, with `non_forwarding_action` (A36), and its policies do (A41).
    /// If its filters have more to do than to decide, they are to be passed yet.
    pub(super) fn admit<B>(
        &self,
        request: &Request<B>,
        terms: &Terms,
        connection: &Arc<ConnectionState>,
        open: Option<&OpenCall>,
    ) -> Result<Option<Passage>, Error> {
        let chain = self.in_force.load();
        let routes = chain.routes.as_ref().map_err(|problem| chain.located(problem.to_error()))?;
        let mut draws = open.map(OpenCall::draws);
        let draw = || draws.as_mut().map_or_else(|| fastrand::u32(..1_000_000), |draw| draw());
        let (place, index) = chain.route(routes, &RequestHead::of(request), draw)?;
        let name = &routes.virtual_hosts[place].routes[index].name;
        pass(chain.passed[place].get(index, 0), request, name, terms, connection)
    }
}

/// What filters that only decide say of a call; others are to be passed yet.
fn pass<B>(
    passed: Option<&Arc<Chain>>,
    request: &Request<B>,
    route: &Arc<str>,
    terms: &Terms,
    connection: &Arc<ConnectionState>,
) -> Result<Option<Passage>, Error> {
    match passed {
        None if !terms.deny_by_default => return Ok(None),
        Some(chain) if !chain.only_decides() => {
            return Ok(Some(Passage::new(chain.clone(), route.clone(), terms, connection)));
        }
        _ => {}
    }
    let call = inbound_call(request);
    decide(&call, policies(passed), terms.deny_by_default, Some(&terms.audit))
        .map_err(|refusal| denied(refusal, &call, route))?;
    Ok(None)
}

/// Those of the filters that are policies.
fn policies(passed: Option<&Arc<Chain>>) -> impl Iterator<Item = (&str, &RbacFilter)> {
    passed.into_iter().flat_map(|chain| &chain.filters).filter_map(|filter| match &filter.config {
        FilterConfig::Rbac(rbac) => Some((&*filter.name, &**rbac)),
        _ => None,
    })
}

impl ChainInForce {
    fn new(
        listener: Arc<str>,
        chain: Arc<FilterChain>,
        routes: Result<Arc<RouteConfiguration>, Problem>,
        before: Option<&Self>,
    ) -> Self {
        let passed = match (&routes, before) {
            (Err(_), _) => Arc::default(),
            (Ok(routes), Some(before)) if before.is_of(&chain, routes) => before.passed.clone(),
            (Ok(routes), before) => {
                let passed = passed(&chain, routes);
                if let Some((Ok(routes_before), passed_before)) = before.map(|b| (&b.routes, &b.passed)) {
                    inherit((routes, &passed), (routes_before, passed_before));
                }
                passed
            }
        };
        Self { listener, chain, routes, passed }
    }

    /// The places of a call's virtual host and of its route there, which serves it.
    fn route(
        &self,
        routes: &RouteConfiguration,
        head: &RequestHead<'_>,
        draw: impl FnMut() -> u32,
    ) -> Result<(usize, usize), Error> {
        let place = routes.virtual_host_index(head.authority).ok_or_else(|| {
            let message = format!("no virtual host has a domain for authority `{:.MOST_SHOWN$}`", head.authority);
            self.error(routes, message, "add the authority to a virtual host's `domains`")
        })?;
        let host = &routes.virtual_hosts[place];
        let index = host.route(head, draw).ok_or_else(|| {
            let message = format!("no route of virtual host `{}` matches path `{:.MOST_SHOWN$}`", host.name, head.path);
            self.error(routes, message, "add a route with `non_forwarding_action` that matches")
        })?;
        let route = &host.routes[index];
        match &route.action {
            RouteAction::NonForwarding => Ok((place, index)),
            other => {
                let message = format!("route `{}` has the action `{}` on a server", route.name, other.name());
                Err(self.error(routes, message, "give the route a `non_forwarding_action`"))
            }
        }
    }

    /// What it says of a call that was let in before. Routes that cannot be had say nothing.
    pub(super) fn allows(&self, call: &OpenCall) -> Result<(), Error> {
        let Ok(routes) = &self.routes else { return Ok(()) };
        let mut head = call.head();
        let found = self.route(routes, &RequestHead::of_parts(&head), call.draws());
        let (place, index) = found.map_err(|error| {
            Error::new(ErrorKind::PermissionDenied, "no route leads to the call any more").with_source(error)
        })?;
        let passed = self.passed[place].get(index, 0);
        Passage::judge(passed, &routes.virtual_hosts[place].routes[index].name, call, &mut head)
    }

    /// Has the keys fetched that its filters need. Which fetches are waited for before it is put in force.
    #[cfg(feature = "jwt")]
    fn fetch_keys(&self) -> Vec<UnderWay> {
        let mut awaited = Vec::new();
        for chains in self.passed.iter() {
            chains.each_filter(&mut |_, config| {
                if let FilterConfig::Jwt(jwt) = config {
                    awaited.extend(jwt.start());
                }
            });
        }
        awaited
    }

    /// Whether its connections and calls get the same of both.
    fn is_same(&self, other: &Self) -> bool {
        other.routes.as_ref().is_ok_and(|routes| self.is_of(&other.chain, routes))
            && Arc::ptr_eq(&self.passed, &other.passed)
    }

    /// Whether it is made of these values.
    fn is_of(&self, chain: &Arc<FilterChain>, routes: &Arc<RouteConfiguration>) -> bool {
        Arc::ptr_eq(&self.chain, chain) && self.routes.as_ref().is_ok_and(|own| Arc::ptr_eq(own, routes))
    }

    fn error(&self, routes: &RouteConfiguration, message: String, next_step: &'static str) -> Error {
        let mut error = Error::new(ErrorKind::Configuration, message).with_next_step(next_step);
        error.context_mut().resource = Some(format!("RouteConfiguration `{}`", routes.name));
        self.located(error)
    }

    /// With the listener and its chain.
    fn located(&self, mut error: Error) -> Error {
        let place = format!("Listener `{}`, filter chain `{}`", self.listener, self.chain.name);
        let resource = &mut error.context_mut().resource;
        *resource = Some(resource.take().map_or(place.clone(), |resource| format!("{resource} of {place}")));
        error
    }
}

/// What calls pass, of each virtual host.
fn passed(chain: &FilterChain, routes: &RouteConfiguration) -> Arc<[Chains]> {
    let hosts = routes.virtual_hosts.iter();
    // No call goes anywhere, and so none has an authority that could be rewritten.
    hosts.map(|host| Chains::new(&chain.filters, &routes.whole, host, false)).collect()
}

/// Lets filters go on with what those counted whose place they take, by the names of virtual hosts and routes.
fn inherit(now: (&RouteConfiguration, &[Chains]), before: (&RouteConfiguration, &[Chains])) {
    let hosts_before = before.0.virtual_hosts.iter().zip(before.1);
    let known: HashMap<&str, _> = hosts_before.map(|(host, chains)| (&*host.name, (host, chains))).collect();
    for (host, chains) in now.0.virtual_hosts.iter().zip(now.1) {
        if let Some((host_before, before)) = known.get(&*host.name) {
            chains.inherit(host, before, host_before);
        }
    }
}

/// Makes setups of what the control plane says.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) name: Arc<str>,
    pub(super) address: SocketAddr,
    in_force: Option<InForce>,
    /// It outlives listeners that go away.
    open: Arc<OpenCalls>,
    /// Certificates and roots that chains name.
    #[cfg(feature = "tls")]
    material: Awaited,
    /// Fetches of keys that its newest listener waits for.
    #[cfg(feature = "jwt")]
    keys: Vec<UnderWay>,
}

#[derive(Debug)]
struct InForce {
    /// The listener whose routes are in use. The setup may have come with an older one that has the same matches.
    listener: Arc<Listener>,
    setup: Arc<Setup>,
}

impl InForce {
    fn named_routes(&self) -> NameIndexSet<Arc<str>> {
        named_routes(&self.listener)
    }

    #[cfg(feature = "tls")]
    fn sources(&self) -> Vec<MaterialSource> {
        sources(&self.listener)
    }

    fn chains(&self) -> Vec<Arc<ChainInForce>> {
        self.setup.chains.iter().map(|state| state.in_force.load_full()).collect()
    }
}

fn named_routes(listener: &Listener) -> NameIndexSet<Arc<str>> {
    match listener {
        Listener::Socket(listener) => listener.named_routes(),
        Listener::Api(_) => NameIndexSet::default(),
    }
}

/// What the chains take certificates and roots from that is started on demand.
#[cfg(feature = "tls")]
fn sources(listener: &Listener) -> Vec<MaterialSource> {
    let Listener::Socket(listener) = listener else { return Vec::new() };
    listener.chains.all().flat_map(|chain| on_demand_by_servers(chain.security.as_deref())).cloned().collect()
}

/// Waits until these have ended; for ever if there are none.
#[cfg(feature = "jwt")]
async fn fetched(keys: &mut [UnderWay]) {
    if keys.is_empty() {
        std::future::pending::<()>().await;
    }
    for one in keys {
        one.ended().await;
    }
}

/// What became of news.
pub(super) enum News {
    /// There is no verdict yet, or the newest listener names routes that cannot be had; of what, in words. What is in force
    /// stays.
    Awaiting {
        what: String,
        /// That something is wrong.
        is_stuck: bool,
    },
    Mode(ServingMode, Option<Arc<Setup>>),
}

impl Watcher {
    pub(super) fn new(name: Arc<str>, address: SocketAddr, securing: &Securing) -> Self {
        #[cfg(not(feature = "tls"))]
        let _ = securing;
        Self {
            name,
            address,
            in_force: None,
            open: Arc::default(),
            #[cfg(feature = "tls")]
            material: Awaited::new(securing.acceptor.providers().clone()),
            #[cfg(feature = "jwt")]
            keys: Vec::new(),
        }
    }

    /// Waits until a certificate, roots or keys came that a chain waits for, or cannot be had.
    pub(super) async fn changed(&mut self) {
        #[cfg(feature = "jwt")]
        let keys = fetched(&mut self.keys);
        #[cfg(not(feature = "jwt"))]
        let keys = std::future::pending();
        #[cfg(feature = "tls")]
        let material = async { drop(self.material.changed().await) };
        #[cfg(not(feature = "tls"))]
        let material = std::future::pending();
        tokio::select! {
            () = keys => {}
            () = material => {}
        }
    }

    /// The calls that are open under what it took up.
    pub(super) fn open(&self) -> Arc<OpenCalls> {
        self.open.clone()
    }

    /// Takes up what the resources say now.
    pub(super) fn take(&mut self, resources: &mut Subscriber) -> News {
        // What the listener before waited for may be over long since.
        #[cfg(feature = "jwt")]
        self.keys.clear();
        let state = resources.get(&LISTENER, &self.name);
        let issue = state.error.clone();
        let listener = value_of::<Listener>(state, &LISTENER, &self.name);
        self.watch(listener.as_deref().ok(), resources);
        let listener = match listener {
            Ok(listener) => listener,
            Err(missing) => return self.without(missing, issue.as_deref()),
        };
        let Listener::Socket(socket) = &*listener else {
            return self
                .stop(&self.problem("is for clients: it has an `api_listener`", "send a listener with filter chains"));
        };
        if let Some(problem) = self.elsewhere(socket) {
            return self.stop(&problem);
        }
        let chains = self.chains(socket, resources);
        match chains.and_then(|chains| self.check_keys(&chains).map(|()| chains)) {
            Ok(chains) => {
                let news = self.serve(&listener, &socket.chains, chains);
                // No more of the routes that were in use before.
                self.watch(Some(&listener), resources);
                news
            }
            Err(missing) => {
                self.refresh(resources);
                self.without(missing, None)
            }
        }
    }

    /// Watches what the newest listener names, and what that in force does: it serves on until the newest is complete.
    fn watch(&mut self, newest: Option<&Listener>, resources: &mut Subscriber) {
        #[cfg(feature = "tls")]
        {
            let in_force = self.in_force.iter().flat_map(InForce::sources);
            let sources = newest.into_iter().flat_map(sources).chain(in_force).collect();
            self.material.watch(&sources);
        }
        let names = [self.name.clone()].into_iter().collect();
        let mut routes = newest.map(named_routes).unwrap_or_default();
        routes.extend(self.in_force.iter().flat_map(InForce::named_routes));
        resources.watch(&[(&LISTENER, &names), (&ROUTE_CONFIGURATION, &routes)]);
    }

    fn without(&mut self, missing: Missing, issue: Option<&str>) -> News {
        match missing {
            Missing::Pending(what) => {
                let what = issue.map_or_else(|| what.clone(), |issue| format!("{what}: {issue}"));
                News::Awaiting { what, is_stuck: issue.is_some() }
            }
            Missing::Behind(problem) => News::Awaiting { what: problem.to_error().report(), is_stuck: true },
            Missing::Absent(problem) => self.stop(&problem),
        }
    }

    /// The chains with their routes. Routes that a listener cannot have hold it back while another serves: no fault of the
    /// control plane stops traffic. Without another, or when the control plane took away what is in use, they fail their
    /// chain's calls, and not the listener (A36).
    fn chains(&self, listener: &SocketListener, resources: &Subscriber) -> Result<Vec<ChainInForce>, Missing> {
        let before = self.in_force.as_ref().map(InForce::chains).unwrap_or_default();
        let in_use = self.in_force.as_ref().map(InForce::named_routes);
        let mut left = before.clone();
        let in_force = |chain: &Arc<FilterChain>| {
            self.check_material(chain)?;
            let routes = match &chain.routes {
                RouteSource::Inline(routes) => Ok(routes.clone()),
                RouteSource::Named(name) => {
                    let routes = value_of(resources.get(&ROUTE_CONFIGURATION, name), &ROUTE_CONFIGURATION, name);
                    let is_in_use = in_use.as_ref().is_none_or(|names| names.contains(name));
                    match routes.map_err(|missing| missing.behind(is_in_use)) {
                        Ok(routes) => Ok(routes),
                        Err(Missing::Absent(problem)) => Err(problem),
                        Err(missing) => return Err(missing),
                    }
                }
            };
            // Of several of one name, each goes on with another one's counts.
            let place = left.iter().position(|before| before.chain.name == chain.name);
            let before = place.map(|place| left.remove(place));
            Ok(ChainInForce::new(self.name.clone(), chain.clone(), routes, before.as_deref()))
        };
        let chains: Vec<_> = listener.chains.all().map(in_force).collect::<Result<_, _>>()?;
        self.list_ignored(&chains, &before, resources);
        Ok(chains)
    }

    /// A certificate or roots that have not come hold a listener back while another serves. Without another it is put in
    /// force all the same, and serves as soon as they come.
    #[cfg(feature = "tls")]
    fn check_material(&self, chain: &FilterChain) -> Result<(), Missing> {
        let Some(in_force) = &self.in_force else { return Ok(()) };
        let in_use = in_force.sources();
        on_demand_by_servers(chain.security.as_deref())
            .filter(|source| !in_use.contains(*source))
            .try_for_each(|source| is_ready(source, self.material.of(source)))
            .map_err(|missing| missing.behind(false))
    }

    /// Keys that are being fetched for the first time hold a listener back while another serves: streams that are open are
    /// judged by them. Whether they come or not, that is over soon.
    #[cfg(feature = "jwt")]
    fn check_keys(&mut self, chains: &[ChainInForce]) -> Result<(), Missing> {
        self.keys = chains.iter().flat_map(ChainInForce::fetch_keys).collect();
        match self.in_force.is_some() && !self.keys.is_empty() {
            true => Err(Missing::Pending(format!("the keys of issuers that Listener `{}` names", self.name))),
            false => {
                self.keys.clear();
                Ok(())
            }
        }
    }

    #[cfg(not(feature = "jwt"))]
    fn check_keys(&mut self, _: &[ChainInForce]) -> Result<(), Missing> {
        Ok(())
    }

    #[cfg(not(feature = "tls"))]
    fn check_material(&self, _: &FilterChain) -> Result<(), Missing> {
        Ok(())
    }

    /// Lists what routes have for clients alone, once for all chains that take them up.
    fn list_ignored(&self, chains: &[ChainInForce], before: &[Arc<ChainInForce>], resources: &Subscriber) {
        let routes_before = before.iter().filter_map(|chain| chain.routes.as_ref().ok());
        let mut known: HashSet<_> = routes_before.map(Arc::as_ptr).collect();
        for ChainInForce { chain, routes, .. } in chains {
            let Some(routes) = routes.as_ref().ok().filter(|routes| known.insert(Arc::as_ptr(routes))) else {
                continue;
            };
            match &chain.routes {
                RouteSource::Inline(_) => resources.ignores(&LISTENER, &self.name, &routes.of_clients),
                RouteSource::Named(name) => resources.ignores(&ROUTE_CONFIGURATION, name, &routes.of_clients),
            }
        }
    }

    /// Lets what is in force follow its own routes.
    fn refresh(&self, resources: &Subscriber) {
        let Some(in_force) = &self.in_force else { return };
        if let Listener::Socket(socket) = &*in_force.listener
            && let Ok(chains) = self.chains(socket, resources)
        {
            #[cfg(feature = "jwt")]
            chains.iter().for_each(|chain| drop(chain.fetch_keys()));
            in_force.setup.update(chains);
            self.open.are_due(&in_force.setup);
        }
    }

    fn serve(&mut self, listener: &Arc<Listener>, matches: &FilterChains, chains: Vec<ChainInForce>) -> News {
        let setup = match &self.in_force {
            Some(in_force) if in_force.setup.has_the_matches_of(matches) => {
                in_force.setup.update(chains);
                in_force.setup.clone()
            }
            _ => {
                let chains = chains.into_iter().map(|chain| Arc::new(ChainState::new(chain, self.open.clone())));
                let (chains, drain) = (chains.collect(), CancellationToken::new());
                Arc::new(Setup { matches: Some(listener.clone()), chains, drain })
            }
        };
        self.replace(Some(InForce { listener: listener.clone(), setup: setup.clone() }));
        self.open.are_due(&setup);
        News::Mode(ServingMode::Serving, Some(setup))
    }

    fn stop(&mut self, problem: &Problem) -> News {
        self.replace(None);
        News::Mode(ServingMode::NotServing(problem.to_error().report().into()), None)
    }

    fn replace(&mut self, in_force: Option<InForce>) {
        let before = std::mem::replace(&mut self.in_force, in_force).map(|before| before.setup);
        let now = self.in_force.as_ref().map(|now| &now.setup);
        if let Some(before) = before.filter(|before| !now.is_some_and(|now| Arc::ptr_eq(now, before))) {
            before.drain.cancel();
        }
    }

    /// That the listener is for another address than ours.
    fn elsewhere(&self, listener: &SocketListener) -> Option<Problem> {
        let same = |(ip, port): &(IpAddr, u16)| *ip == self.address.ip() && *port == self.address.port();
        let found = match &listener.address {
            Some(address) if same(address) => return None,
            Some((ip, port)) => {
                format!("is for {}, and the server listens on {}", SocketAddr::new(*ip, *port), self.address)
            }
            None => "has no `address.socket_address` with an IP address and a port".to_owned(),
        };
        Some(self.problem(&found, "give the listener the address that the server listens on"))
    }

    fn problem(&self, found: &str, next_step: &'static str) -> Problem {
        let resource = format!("Listener `{}`", self.name);
        Problem { message: format!("{resource} {found}").into(), resource: resource.into(), next_step }
    }
}
