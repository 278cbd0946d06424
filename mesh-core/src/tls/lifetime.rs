//! What certificates make of a connection that is open: it is replaced, drained and closed as they change and end.

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::time::sleep_until;

#[cfg(feature = "server")]
use super::facts::AcceptedSecurity;
use super::facts::{ConnectionSecurity, Peer};
use super::plan::{Now, Plan, Side, Step, Turn, Whose};
use crate::identity::{Identity, Provider, TrustBundle, TrustDomain, Utc};

/// The wall clock may be set while nothing else happens: it is looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The life of one connection, of either side. Whoever keeps the connection asks for its turns, in the task that it has:
///
/// ```text
/// tokio::select! {
///     turn = lifetime.next() => match turn {
///         Turn::Replace(why) => …   // a client makes another first; a server drains, its calls have all their time
///         Turn::Drain(why) => …     // no new calls
///         Turn::End(why) => …       // closed; `next` is not asked again
///     }
///     …
/// }
/// ```
pub(crate) struct Lifetime {
    plan: Plan,
    /// The provider of what was shown to the peer, and what that was.
    own: Option<(Provider, Identity)>,
    /// The peer's, the leaf first; empty if it showed none.
    chain: Vec<CertificateDer<'static>>,
    /// What vouches for the peer; `None`: what never changes, as the system's roots.
    vouching: Option<Vouching>,
    peer: String,
}

struct Vouching {
    provider: Provider,
    /// Of the certificate whose trust domain is ours.
    own: Option<Provider>,
    /// The roots by which the peer was verified last, and our trust domain then.
    by: (Option<TrustBundle>, Option<TrustDomain>),
    verify: Box<dyn VerifyAgain>,
}

/// What a connection's peer is verified by from now on.
pub(crate) struct Successor<V> {
    /// What says now whether the peer is let in.
    pub(crate) verify: V,
    /// The provider of the roots, unless they never change, and what it had.
    pub(crate) vouching: Option<(Provider, TrustBundle)>,
    /// The provider of our certificate.
    pub(crate) own: Option<Provider>,
}

/// Verifies the chain of a peer that was verified once.
pub(crate) trait VerifyAgain: Send + Sync {
    /// Whether it is let in.
    ///
    /// # Errors
    ///
    /// Why it is not.
    fn verify_now(&self, chain: &[CertificateDer<'static>]) -> Result<(), String>;

    /// Whether these roots vouch for it now, for one whose own certificate is of the trust domain `own`.
    ///
    /// # Errors
    ///
    /// Why they do not.
    fn verify_again(
        &self,
        trust: &TrustBundle,
        own: Option<&TrustDomain>,
        chain: &[CertificateDer<'static>],
    ) -> Result<(), String>;
}

impl Lifetime {
    /// Of a connection that was made now. `own`: the provider of the certificate that was shown to the peer.
    pub(crate) fn new(facts: &ConnectionSecurity, own: Option<Provider>) -> Self {
        Self::of(Side::Made, own.zip(facts.identity.clone()), Some(&facts.peer))
    }

    /// Of a connection that was accepted now. `own`: the provider of the certificate that was shown to the peer.
    #[cfg(feature = "server")]
    pub(crate) fn accepted(facts: &AcceptedSecurity, own: Provider) -> Self {
        Self::of(Side::Accepted, Some((own, facts.identity.clone())), facts.peer.as_ref())
    }

    fn of(side: Side, own: Option<(Provider, Identity)>, peer: Option<&Peer>) -> Self {
        let own_end = own.as_ref().map(|(_, shown)| shown.not_after());
        let plan = Plan::new(side, own_end, peer.map(|peer| peer.not_after), Now::here(), fastrand::f64());
        let peer = match peer {
            Some(Peer { spiffe_id: Some(id), serial, .. }) => format!("{id} (serial number {serial})"),
            Some(Peer { serial, .. }) => format!("serial number {serial}"),
            None => "it showed none".to_owned(),
        };
        Self { plan, own, chain: Vec::new(), vouching: None, peer }
    }

    /// What the peer showed, the leaf first.
    pub(crate) fn with_chain(mut self, chain: Vec<CertificateDer<'static>>) -> Self {
        self.chain = chain;
        self
    }

    /// The peer is verified again whenever `provider` publishes other roots than `trust`, by which it was verified.
    pub(crate) fn vouched_for_by(
        mut self,
        provider: Provider,
        trust: TrustBundle,
        verify: impl VerifyAgain + 'static,
    ) -> Self {
        let own = domain(self.own.as_ref().map(|(_, shown)| shown));
        let of_own = self.own.as_ref().map(|(provider, _)| provider.clone());
        self.vouching = Some(Vouching { provider, own: of_own, by: (Some(trust), own), verify: Box::new(verify) });
        self
    }

    /// The connection was made by a context that another one has taken the place of: its peer must be one that this lets in,
    /// too, now and whenever other roots are published.
    pub(crate) fn reconsider<V: VerifyAgain + 'static>(&mut self, successor: Successor<V>) {
        let Successor { verify, vouching, mut own } = successor;
        if let Err(why) = verify.verify_now(&self.chain) {
            self.refuse(&why);
        }
        self.vouching = vouching.map(|(provider, trust)| {
            let domain = own.as_mut().and_then(latest_domain);
            Vouching { provider, own, by: (Some(trust), domain), verify: Box::new(verify) }
        });
    }

    /// What secures connections now does not let the peer in.
    pub(crate) fn refuse(&mut self, why: &str) {
        let why = format!("what secures its connections now does not let it in: {why}");
        self.plan.handle_refused(why.into(), Now::here().at);
    }

    /// Whether the peer proved who it is.
    #[cfg(feature = "server")]
    pub(crate) fn has_peer(&self) -> bool {
        !self.chain.is_empty()
    }

    /// What is to become of the connection next; waits until there is something. May be dropped and asked again.
    pub(crate) async fn next(&mut self) -> Turn {
        loop {
            let now = Now::here();
            self.look(now);
            if let Some(step) = self.plan.step(now) {
                return self.turn(step);
            }
            let wake = self.plan.due().min(now.at + LOOK_EVERY);
            tokio::select! {
                () = news(self.own.as_mut().map(|(provider, _)| provider)) => {}
                () = news(self.vouching.as_mut().map(|vouching| &mut vouching.provider)) => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Takes in what the providers published.
    fn look(&mut self, now: Now) {
        if let Some((provider, shown)) = &mut self.own {
            let latest = provider.latest().material.and_then(|material| material.identity.clone());
            if latest.as_ref().is_some_and(|latest| latest != shown) {
                self.plan.handle_renewed(now, fastrand::f64());
            }
        }
        let Some(vouching) = self.vouching.as_mut().filter(|_| !self.plan.is_refused()) else { return };
        let state = vouching.provider.latest();
        let Some(material) = state.material else { return };
        let own = vouching.own.as_mut().and_then(latest_domain).or_else(|| vouching.by.1.clone());
        let by = (material.trust.clone(), own);
        if by == vouching.by {
            return;
        }
        vouching.by = by;
        if let Err(why) = vouching.verify(&self.chain) {
            let published = state.updated.map_or(now.at, |(at, _)| at);
            let name = &vouching.provider.name;
            let why = format!("the roots that certificate provider `{name}` has now do not vouch for it: {why}");
            self.plan.handle_refused(why.into(), published);
        }
    }

    fn turn(&self, step: Step) -> Turn {
        let of_peer = |why: &str| -> Arc<str> { format!("the peer, {}, is trusted no more: {why}", self.peer).into() };
        match (step, &self.own) {
            (Step::Replace(Whose::Own), Some((provider, shown))) => {
                let (name, expires) = (&provider.name, Utc(shown.not_after()));
                let why = format!(
                    "certificate provider `{name}` has a newer certificate than the one that expires at {expires}"
                );
                Turn::Replace(why.into())
            }
            (Step::Replace(_), _) => {
                Turn::Replace(format!("the peer's certificate nears its end: {}", self.peer).into())
            }
            (Step::Drain(why), _) => Turn::Drain(of_peer(&why)),
            (Step::Refused(why), _) => Turn::End(of_peer(&why)),
            (Step::Expired(Whose::Own), Some((provider, shown))) => Turn::End(provider.expired(shown).into()),
            (Step::Expired(_), _) => Turn::End(format!("the peer's certificate expired: {}", self.peer).into()),
        }
    }
}

impl Vouching {
    fn verify(&self, chain: &[CertificateDer<'static>]) -> Result<(), String> {
        let (trust, own) = &self.by;
        let trust = trust.as_ref().ok_or("there are none")?;
        self.verify.verify_again(trust, own.as_ref(), chain)
    }
}

/// Ends when the provider published something; never, if it will not.
pub(super) async fn news(provider: Option<&mut Provider>) {
    let has_news = match provider {
        Some(provider) => provider.changed().await,
        None => false,
    };
    if !has_news {
        pending().await
    }
}

/// The trust domain of the certificate that a provider has now.
fn latest_domain(provider: &mut Provider) -> Option<TrustDomain> {
    domain(provider.latest().material?.identity.as_ref())
}

fn domain(identity: Option<&Identity>) -> Option<TrustDomain> {
    identity.and_then(Identity::spiffe_id).map(|id| id.trust_domain())
}

impl fmt::Debug for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifetime").field("plan", &self.plan).field("peer", &self.peer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rcgen::{CertificateParams, KeyPair};
    use tokio::time::Instant;

    use super::*;
    use crate::identity::{KeyMaterial, Leaf};

    const HOUR: u64 = 3600;

    fn identity(seconds: u64) -> Identity {
        let mut params = CertificateParams::default();
        params.not_after = (SystemTime::now() + Duration::from_secs(seconds)).into();
        let key = KeyPair::generate().unwrap();
        let chain = params.self_signed(&key).unwrap().pem();
        Identity::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }

    fn root() -> TrustBundle {
        let root = rcgen::generate_simple_self_signed(["root".to_owned()]).unwrap();
        TrustBundle::from_pem(root.cert.pem().as_bytes()).unwrap()
    }

    /// A connection whose own certificate has an hour, and the peer's a day.
    fn facts(own: &Identity) -> (ConnectionSecurity, Vec<CertificateDer<'static>>) {
        let chain = identity(24 * HOUR).pair().cert.clone();
        let peer = Peer::new(&Leaf::read(&chain[0]).unwrap(), &chain[0]);
        (ConnectionSecurity { protocol: "TLSv1.3", peer, identity: Some(own.clone()), replaced: None }, chain)
    }

    /// Roots vouch for everyone, but for those that are named here.
    struct Unless(TrustBundle);

    impl VerifyAgain for Unless {
        fn verify_now(&self, _: &[CertificateDer<'static>]) -> Result<(), String> {
            Ok(())
        }

        fn verify_again(
            &self,
            trust: &TrustBundle,
            _: Option<&TrustDomain>,
            _: &[CertificateDer<'static>],
        ) -> Result<(), String> {
            if *trust == self.0 { Err("UnknownIssuer".to_owned()) } else { Ok(()) }
        }
    }

    fn minutes(start: Instant) -> u64 {
        (start.elapsed().as_secs_f64() / 60.0).round() as u64
    }

    #[tokio::test(start_paused = true)]
    async fn s3_a_connection_is_replaced_after_a_renewal_and_ends_with_its_certificate() {
        let (own, start) = (identity(HOUR), Instant::now());
        let (publisher, provider) = Provider::told("default");
        publisher.publish(KeyMaterial::new().identity(own.clone()));
        let mut lifetime = Lifetime::new(&facts(&own).0, Some(provider));
        let renewal = async {
            tokio::time::sleep(Duration::from_secs(HOUR / 2)).await;
            publisher.publish(KeyMaterial::new().identity(identity(HOUR)));
            publisher.fail("no answer");
        };
        let (turn, ()) = tokio::join!(lifetime.next(), renewal);
        assert!(matches!(&turn, Turn::Replace(why) if why.contains("`default` has a newer certificate")), "{turn:?}");
        // After 50 to 90 % of the half hour that was left.
        assert!((45..=57).contains(&minutes(start)), "{}", minutes(start));
        let turn = lifetime.next().await;
        let says = "certificate provider `default` (told) gave a certificate that expired at ";
        assert!(matches!(&turn, Turn::End(why) if why.starts_with(says) && why.ends_with(": no answer")), "{turn:?}");
        assert_eq!(minutes(start), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn s3_a_peer_is_verified_again_when_roots_change_and_not_when_anything_else_does() {
        let (own, start) = (identity(HOUR), Instant::now());
        let (facts, chain) = facts(&own);
        let (first, second, bad) = (root(), root(), root());
        let (publisher, provider) = Provider::told("default");
        let publish =
            |trust: &TrustBundle| publisher.publish(KeyMaterial::new().identity(own.clone()).trust(trust.clone()));
        publish(&first);
        let lifetime = Lifetime::new(&facts, Some(provider.clone()));
        let mut lifetime = lifetime.with_chain(chain).vouched_for_by(provider, first, Unless(bad.clone()));
        let changes = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            publish(&second);
            publisher.fail("no answer");
            tokio::time::sleep(Duration::from_secs(60)).await;
            publish(&bad);
        };
        let (turn, ()) = tokio::join!(lifetime.next(), changes);
        assert!(matches!(&turn, Turn::Drain(why) if why.contains("do not vouch for it: UnknownIssuer")), "{turn:?}");
        assert_eq!(start.elapsed(), Duration::from_secs(120));
        let turn = lifetime.next().await;
        assert!(matches!(&turn, Turn::End(why) if why.contains("trusted no more")), "{turn:?}");
        assert_eq!(start.elapsed(), Duration::from_secs(121));
    }

    #[tokio::test(start_paused = true)]
    async fn s3_what_a_provider_publishes_while_a_connection_is_made_is_not_missed() {
        let own = identity(HOUR);
        let (facts, chain) = facts(&own);
        let (first, bad) = (root(), root());
        let (publisher, provider) = Provider::told("default");
        // It was verified by the first; since then, the other was published.
        publisher.publish(KeyMaterial::new().identity(own).trust(bad.clone()));
        let lifetime = Lifetime::new(&facts, Some(provider.clone()));
        let mut lifetime = lifetime.with_chain(chain).vouched_for_by(provider, first, Unless(bad));
        assert!(matches!(lifetime.next().await, Turn::Drain(_)));
    }
}
