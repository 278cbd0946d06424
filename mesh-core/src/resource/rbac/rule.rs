//! The condition of a policy on a call or on its caller.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::Action;
use super::metadata::{ClaimMatch, Known};
use crate::resource::filter_chain::Prefix;
use crate::resource::matcher::RequestHead;
use crate::resource::matcher::header::{Condition, HeaderMatch};
use crate::resource::matcher::text::TextMatch;

/// A condition of a [`Policy`](super::Policy): permissions and principals are made of the same ones.
#[derive(Debug)]
pub struct Rule(pub(crate) Kind);

#[derive(Debug)]
pub(crate) enum Kind {
    Constant(bool),
    All(Box<[Rule]>),
    OneOf(Box<[Rule]>),
    Not(Box<Rule>),
    Header(HeaderMatch),
    /// Of the path without its query.
    Path(TextMatch),
    LocalIp(Prefix),
    LocalPort(Range<u32>),
    PeerIp(Prefix),
    /// Of what its tokens claim.
    Claim(ClaimMatch),
    /// Of the caller's name; `None`: of any caller over TLS.
    Authenticated(Option<TextMatch>),
}

/// A call, as rules see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InboundCall<'a> {
    pub(crate) head: RequestHead<'a>,
    /// Ours and the caller's; `None`: nobody said them.
    pub(crate) addresses: Option<(SocketAddr, SocketAddr)>,
    pub(crate) caller: Callers<'a>,
    /// What filters have found out.
    pub(crate) known: Known<'a>,
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Callers<'a> {
    /// Nobody that is verified, in plaintext.
    Plaintext,
    /// Nobody that is verified, over TLS.
    Anonymous,
    /// The holder of a verified certificate, by all of its names. A41 looks at DNS names only where there are no URIs; gRPC's
    /// implementations and Envoy look at all, so that whoever is denied by one of its names is denied.
    Verified { uris: &'a [String], dns_names: &'a [String], subject: &'a str },
}

/// What holds of a fact that is not known: where calls are allowed it counts against the caller, however often it is
/// negated, and where they are denied too (A41 has its own word on names, see [`Kind::Authenticated`]). What no token claims
/// is known: it is not claimed, as metadata that is absent matches nothing (A41).
#[derive(Clone, Copy)]
struct Doubt {
    action: Action,
    unknown: bool,
}

impl Rule {
    /// Holds for every call.
    pub fn any() -> Self {
        Self(Kind::Constant(true))
    }

    /// Holds where all of these hold.
    pub fn all(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self(Kind::All(rules.into_iter().collect()))
    }

    /// Holds where one of these holds.
    pub fn one_of(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self(Kind::OneOf(rules.into_iter().collect()))
    }

    /// Holds where that one does not. A policy that allows calls never allows one because its caller, who is not verified,
    /// lacks the name that the rule is about.
    #[allow(clippy::should_implement_trait)]
    pub fn not(rule: Rule) -> Self {
        Self(Kind::Not(Box::new(rule)))
    }

    /// The path is this one, such as `/library.Books/Get`.
    pub fn path(path: &str) -> Self {
        Self(Kind::Path(TextMatch::exact(path, false)))
    }

    /// The path begins so, such as `/library.Books/`.
    pub fn path_prefix(prefix: &str) -> Self {
        Self(Kind::Path(TextMatch::prefix(prefix, false)))
    }

    /// There is a header of this name with this value, several values being joined with `,` (A41). Where that is a reason to
    /// refuse a call, one of the values is enough, so that to send a header twice evades nothing. `None` if the name can be
    /// no header's, or is one that policies do not see: `:scheme`, and those that begin with `grpc-`.
    pub fn header(name: &str, value: &str) -> Option<Self> {
        let header = HeaderMatch::inbound(name, Condition::Text(TextMatch::exact(value, false)))?;
        Some(Self(Kind::Header(header)))
    }

    /// The caller's verified name is this one: one of its certificate's URIs, of which a SPIFFE ID is one, one of its DNS
    /// names, or its subject.
    pub fn principal(name: &str) -> Self {
        Self(Kind::Authenticated(Some(TextMatch::exact(name, false))))
    }

    /// The caller's verified name begins so: `spiffe://example.org/` is a trust domain.
    pub fn principal_prefix(prefix: &str) -> Self {
        Self(Kind::Authenticated(Some(TextMatch::prefix(prefix, false))))
    }

    /// The caller is verified, whoever it is.
    pub fn authenticated() -> Self {
        Self(Kind::Authenticated(None))
    }

    /// The caller's address begins with so many bits of this one.
    pub fn peer_ip(address: IpAddr, bits: u8) -> Self {
        Self(Kind::PeerIp(Prefix::new(address, bits.into())))
    }

    pub(super) fn holds(&self, call: &InboundCall<'_>, action: Action) -> bool {
        self.holds_with(call, Doubt { action, unknown: action == Action::Deny })
    }

    fn holds_with(&self, call: &InboundCall<'_>, doubt: Doubt) -> bool {
        match &self.0 {
            Kind::Constant(holds) => *holds,
            Kind::All(rules) => rules.iter().all(|rule| rule.holds_with(call, doubt)),
            Kind::OneOf(rules) => rules.iter().any(|rule| rule.holds_with(call, doubt)),
            Kind::Not(rule) => !rule.holds_with(call, Doubt { unknown: !doubt.unknown, ..doubt }),
            // What a caller repeats must not hide what is denied, nor what keeps a call from being allowed: A41 joins the
            // values with `,`, where no value matches alone.
            Kind::Header(header) if doubt.unknown => header.matches_any(&call.head),
            Kind::Header(header) => header.matches_each(&call.head),
            Kind::Path(path) => path.matches(call.head.bare_path().as_bytes()),
            Kind::LocalIp(prefix) => {
                call.local().map_or(doubt.unknown, |local| prefix.contains(local.ip().to_canonical()))
            }
            Kind::LocalPort(ports) => call.local().map_or(doubt.unknown, |local| ports.contains(&local.port().into())),
            Kind::PeerIp(prefix) => call.peer().map_or(doubt.unknown, |peer| prefix.contains(peer.ip().to_canonical())),
            Kind::Claim(claim) => claim.holds(call.known),
            Kind::Authenticated(name) => call.caller.is(name.as_ref(), doubt),
        }
    }
}

impl InboundCall<'_> {
    fn local(&self) -> Option<SocketAddr> {
        self.addresses.map(|(local, _)| local)
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.addresses.map(|(_, peer)| peer)
    }
}

impl<'a> Callers<'a> {
    /// Nobody that is known.
    pub(crate) fn unverified(is_over_tls: bool) -> Self {
        if is_over_tls { Self::Anonymous } else { Self::Plaintext }
    }

    /// The names that it may be known by; the empty one of a caller over TLS without a certificate (A41).
    pub(super) fn names(self) -> impl Iterator<Item = &'a str> {
        let (uris, dns_names, subject): (&[String], &[String], _) = match self {
            Self::Plaintext => (&[], &[], None),
            Self::Anonymous => (&[], &[], Some("")),
            Self::Verified { uris, dns_names, subject } => (uris, dns_names, Some(subject)),
        };
        uris.iter().chain(dns_names).map(String::as_str).chain(subject)
    }

    /// The first of its names, for people.
    pub(super) fn name(self) -> &'a str {
        self.names().next().unwrap_or_default()
    }

    /// What a policy that denies asks is answered as A41 has it. One that allows is never met by a caller who is not
    /// verified, neither by an empty condition nor by one that is negated.
    fn is(self, name: Option<&TextMatch>, doubt: Doubt) -> bool {
        match (self, name) {
            (Self::Plaintext | Self::Anonymous, _) if doubt.action == Action::Allow => doubt.unknown,
            (Self::Plaintext, _) => false,
            (_, None) => true,
            (caller, Some(name)) => caller.names().any(|known| name.matches(known.as_bytes())),
        }
    }
}
