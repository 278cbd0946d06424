//! The filter chains of a server's listener, and which of them a connection gets (A36).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::filter::HttpFilters;
use super::listener::RouteSource;
use super::security::DownstreamTls;

/// What is done to the calls of a connection.
#[derive(Debug)]
pub(crate) struct FilterChain {
    /// Its name, or else its place in the listener.
    pub(crate) name: Arc<str>,
    /// `None`: the chain asks for none.
    pub(crate) security: Option<Arc<DownstreamTls>>,
    pub(crate) filters: HttpFilters,
    pub(crate) routes: RouteSource,
}

/// A listener's chains with the connections that each is for.
#[derive(Debug, Default)]
pub(crate) struct FilterChains {
    pub(crate) chains: Vec<(ChainMatch, Arc<FilterChain>)>,
    /// Of connections that no other matches.
    pub(crate) default: Option<Arc<FilterChain>>,
}

/// The connections that a chain is for. A list that is empty takes all, and is less specific than any that is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChainMatch {
    /// Of our address.
    pub(crate) destinations: Vec<Prefix>,
    /// The chain says that it is for connections without TLS, which is more specific than to say nothing.
    pub(crate) raw_buffer: bool,
    pub(crate) source_type: SourceType,
    /// Of the peer's address.
    pub(crate) sources: Vec<Prefix>,
    pub(crate) source_ports: Vec<u16>,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum SourceType {
    #[default]
    Any,
    SameIpOrLoopback,
    External,
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Prefix {
    /// Bits behind the length are 0.
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// A length beyond the address's is the address's (A36).
    pub(crate) fn new(address: IpAddr, length: u32) -> Self {
        let all: u8 = if address.is_ipv4() { 32 } else { 128 };
        let length = u8::try_from(length).map_or(all, |length| length.min(all));
        Self { address: masked(address, length), length }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && masked(address, self.length) == self.address
    }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

/// How well a criterion is met; `None`: not at all. More is more specific, and 0 is a criterion that says nothing.
type Fit = Option<u16>;

/// A connection, as the criteria see it.
struct Connection {
    local: IpAddr,
    peer: IpAddr,
    peer_port: u16,
}

impl FilterChains {
    /// The place in [`all`](Self::all) of a connection's chain; `None`: there is none for it. The criteria are asked in
    /// their order, and each leaves only those that fit it best: a chain that an earlier one ruled out is not gone back to
    /// (A36, Envoy).
    pub(crate) fn find(&self, local: SocketAddr, peer: SocketAddr) -> Option<usize> {
        const CRITERIA: [fn(&ChainMatch, &Connection) -> Fit; 5] = [
            |chain, connection| best(&chain.destinations, connection.local),
            |chain, _| Some(u16::from(chain.raw_buffer)),
            |chain, connection| chain.source_type.fit(connection),
            |chain, connection| best(&chain.sources, connection.peer),
            |chain, connection| match chain.source_ports.as_slice() {
                [] => Some(0),
                ports => ports.contains(&connection.peer_port).then_some(1),
            },
        ];
        let (local, peer_ip) = (local.ip().to_canonical(), peer.ip().to_canonical());
        let connection = Connection { local, peer: peer_ip, peer_port: peer.port() };
        let mut left: Vec<usize> = (0..self.chains.len()).collect();
        for criterion in CRITERIA {
            let fit = |place: &usize| criterion(&self.chains[*place].0, &connection);
            let most = left.iter().filter_map(fit).max();
            left.retain(|place| most.is_some() && fit(place) == most);
        }
        left.first().copied().or(self.default.as_ref().map(|_| self.chains.len()))
    }

    /// All chains, the default one last.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.chains.iter().map(|(_, chain)| chain).chain(&self.default)
    }

    /// Whether every connection gets the chain of the same place here and there, and is secured in the same way.
    pub(crate) fn matches_as(&self, other: &Self) -> bool {
        let same = |(one, other): (&(ChainMatch, _), &(ChainMatch, _))| one.0 == other.0;
        self.default.is_some() == other.default.is_some()
            && self.chains.len() == other.chains.len()
            && self.chains.iter().zip(&other.chains).all(same)
            && self.all().zip(other.all()).all(|(one, other)| one.security == other.security)
    }
}

/// How long the longest prefix is that contains the address.
fn best(prefixes: &[Prefix], address: IpAddr) -> Fit {
    match prefixes {
        [] => Some(0),
        _ => prefixes.iter().filter(|prefix| prefix.contains(address)).map(|prefix| 1 + u16::from(prefix.length)).max(),
    }
}

impl SourceType {
    fn fit(self, connection: &Connection) -> Fit {
        let is_local = connection.peer.is_loopback() || connection.peer == connection.local;
        match self {
            Self::Any => Some(0),
            Self::SameIpOrLoopback => is_local.then_some(1),
            Self::External => (!is_local).then_some(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').expect("an address and a length");
        Prefix::new(address.parse().expect("an address"), length.parse().expect("a length"))
    }

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| prefix(text)).collect()
    }

    fn to(destinations: &[&str]) -> ChainMatch {
        ChainMatch { destinations: prefixes(destinations), ..ChainMatch::default() }
    }

    fn from(sources: &[&str]) -> ChainMatch {
        ChainMatch { sources: prefixes(sources), ..ChainMatch::default() }
    }

    fn typed(source_type: SourceType) -> ChainMatch {
        ChainMatch { source_type, ..ChainMatch::default() }
    }

    fn ports(source_ports: &[u16]) -> ChainMatch {
        ChainMatch { source_ports: source_ports.to_vec(), ..ChainMatch::default() }
    }

    fn chain() -> Arc<FilterChain> {
        Arc::new(FilterChain {
            name: "chain".into(),
            security: None,
            filters: HttpFilters::default(),
            routes: RouteSource::Named("routes".into()),
        })
    }

    /// The place of the chain that a connection gets.
    fn found(matches: &[ChainMatch], local: &str, peer: &str) -> Option<usize> {
        let chains = matches.iter().map(|matched| (matched.clone(), chain())).collect();
        let chains = FilterChains { chains, default: None };
        chains.find(local.parse().expect("an address"), peer.parse().expect("an address"))
    }

    #[test]
    fn the_most_specific_chain_is_found_criterion_by_criterion() {
        let (here, peer) = ("10.1.2.3:80", "10.9.9.9:5000");
        let raw = |matched| ChainMatch { raw_buffer: true, ..matched };
        for (what, matches, local, peer, expected) in [
            ("nothing said matches all", vec![ChainMatch::default()], here, peer, Some(0)),
            ("no chain", vec![], here, peer, None),
            ("the longest destination", vec![to(&["10.0.0.0/8"]), to(&["10.1.0.0/16"]), to(&[])], here, peer, Some(1)),
            (
                "of several destinations",
                vec![to(&["10.1.0.0/16"]), to(&["1.1.1.1/32", "10.1.2.0/24"])],
                here,
                peer,
                Some(1),
            ),
            ("0 bits are more than nothing said", vec![to(&[]), to(&["0.0.0.0/0"])], here, peer, Some(1)),
            ("another family", vec![to(&["::/0"])], here, peer, None),
            ("a mapped address is the IPv4 one", vec![to(&["10.0.0.0/8"])], "[::ffff:10.1.2.3]:80", peer, Some(0)),
            ("IPv6", vec![to(&["fd00::/8"]), to(&["fd00:1::/32"])], "[fd00:1::5]:80", "[fd00::9]:1", Some(1)),
            ("raw_buffer is more than nothing said", vec![to(&[]), raw(to(&[]))], here, peer, Some(1)),
            (
                "an external peer",
                vec![typed(SourceType::SameIpOrLoopback), typed(SourceType::External)],
                here,
                peer,
                Some(1),
            ),
            ("the same address", vec![typed(SourceType::SameIpOrLoopback)], here, "10.1.2.3:9", Some(0)),
            (
                "loopback",
                vec![typed(SourceType::Any), typed(SourceType::SameIpOrLoopback)],
                here,
                "127.0.0.9:9",
                Some(1),
            ),
            ("loopback is not external", vec![typed(SourceType::External)], here, "127.0.0.9:9", None),
            ("the longest source", vec![from(&["10.0.0.0/8"]), from(&["10.9.0.0/16"])], here, peer, Some(1)),
            ("another source", vec![from(&["10.8.0.0/16"])], here, peer, None),
            ("the port", vec![ports(&[]), ports(&[1, 5000])], here, peer, Some(1)),
            ("another port", vec![ports(&[1])], here, peer, None),
        ] {
            assert_eq!(found(&matches, local, peer), expected, "{what}");
        }
    }

    #[test]
    fn a_chain_that_an_earlier_criterion_ruled_out_is_not_gone_back_to() {
        let destination = ChainMatch { sources: prefixes(&["1.0.0.0/8"]), ..to(&["10.1.0.0/16"]) };
        assert_eq!(found(&[destination, to(&["10.0.0.0/8"])], "10.1.2.3:80", "10.9.9.9:1"), None);
        let source = ChainMatch { source_ports: vec![1], ..from(&["10.9.0.0/16"]) };
        assert_eq!(found(&[source, from(&["10.0.0.0/8"])], "10.1.2.3:80", "10.9.9.9:2"), None);
    }

    #[test]
    fn the_default_chain_is_for_connections_that_no_other_matches() {
        let chains = FilterChains { chains: vec![(to(&["10.0.0.0/8"]), chain())], default: Some(chain()) };
        let found = |local: &str| chains.find(local.parse().expect("an address"), ([1, 1, 1, 1], 1).into());
        assert_eq!((found("10.0.0.1:80"), found("11.0.0.1:80")), (Some(0), Some(1)));
    }

    #[test]
    fn prefixes_are_masked_and_clamped() {
        assert_eq!(prefix("127.1.2.3/8"), prefix("127.0.0.0/8"));
        assert_eq!(prefix("127.1.2.3/99"), prefix("127.1.2.3/32"));
        assert_eq!(prefix("::1/4000000000"), prefix("::1/128"));
        assert_ne!(prefix("0.0.0.0/0"), prefix("::/0"));
    }
}
