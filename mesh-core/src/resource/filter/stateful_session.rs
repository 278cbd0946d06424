//! The filter `stateful_session` (A55, A60): calls of a session go to the endpoint that answered its first one. What the
//! session is, a cookie says that the application keeps: the endpoint's addresses and its cluster, `ADDRESS,…;CLUSTER` in
//! base64; or, as in Envoy, a header of its own, which has the endpoint's address alone.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::resource::cookie::Cookie;
use crate::resource::endpoints::Address;

/// Padding is written, and not asked for.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// One endpoint has no more addresses, as far as cookies of others are concerned.
const MOST_ADDRESSES: usize = 16;

/// How the session of a call is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct StatefulSession {
    /// `None`: there are no sessions.
    pub(crate) state: Option<SessionState>,
    /// Whether a call fails when the endpoint of its session cannot take it, rather than go elsewhere (Envoy).
    pub(crate) strict: bool,
}

/// Where a request says what its session is, and its response.
#[derive(Clone, Debug)]
pub(crate) enum SessionState {
    Cookie(Cookie),
    /// As in Envoy.
    Header(HeaderName),
}

/// Where a session is, as its request says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Of one endpoint; none if the request says nothing that could be understood.
    pub(crate) addresses: Vec<Address>,
    /// Empty if it is not said.
    pub(crate) cluster: String,
}

impl StatefulSession {
    /// Where the session of a request is; `None`: its path has none.
    pub(crate) fn place(&self, path: &str, headers: &HeaderMap) -> Option<Place> {
        let said = match self.state.as_ref()? {
            SessionState::Cookie(cookie) if cookie.is_for(path) => cookie.find(headers),
            SessionState::Cookie(_) => return None,
            SessionState::Header(name) => headers.get(name).map(HeaderValue::as_bytes),
        };
        Some(said.and_then(Place::decode).unwrap_or_default())
    }

    /// Says in a response's headers where the session is, unless its request said so.
    pub(crate) fn tell(&self, said: &Place, address: &Address, cluster: &str, headers: &mut HeaderMap) {
        let is_there = said.addresses.contains(address);
        match &self.state {
            Some(SessionState::Cookie(cookie)) if !is_there || said.cluster != cluster => {
                if let Some(value) = cookie.set(&BASE64.encode(format!("{address};{cluster}"))) {
                    headers.append(header::SET_COOKIE, value);
                }
            }
            Some(SessionState::Header(name)) if !is_there => {
                let value = HeaderValue::try_from(BASE64.encode(address.to_string()));
                headers.insert(name.clone(), value.expect("base64 can stand in a header"));
            }
            _ => {}
        }
    }
}

impl Place {
    fn decode(value: &[u8]) -> Option<Self> {
        let text = String::from_utf8(BASE64.decode(value).ok()?).ok()?;
        let (addresses, cluster) = text.split_once(';').unwrap_or((&text, ""));
        let addresses = addresses.split(',').take(MOST_ADDRESSES).map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Self { addresses, cluster: cluster.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> StatefulSession {
        let cookie = Cookie { name: "s".into(), ttl: None, path: "/a".into(), attributes: Vec::new() };
        StatefulSession { state: Some(SessionState::Cookie(cookie)), strict: false }
    }

    fn place(text: &str) -> Option<Place> {
        let value = format!("s={}", BASE64.encode(text));
        session().place("/a", &[(header::COOKIE, value.parse().expect("a value"))].into_iter().collect())
    }

    #[test]
    fn what_is_set_is_understood_again() {
        let address: Address = "127.0.0.1:80".parse().expect("an address");
        let mut headers = HeaderMap::new();
        session().tell(&Place::default(), &address, "outbound|80||a;b", &mut headers);
        let value = headers[header::SET_COOKIE]
            .to_str()
            .expect("text")
            .split(';')
            .next()
            .expect("a pair")
            .parse()
            .expect("a value");
        let place = session().place("/a/b", &[(header::COOKIE, value)].into_iter().collect()).expect("a path of it");
        assert_eq!(place, Place { addresses: vec![address], cluster: "outbound|80||a;b".into() });
    }

    #[test]
    fn cookies_of_others_are_understood_and_nonsense_is_no_session() {
        let addresses = |text: &str| place(text).expect("a path of it").addresses.len();
        for (text, count) in [
            ("127.0.0.1:80", 1),
            ("127.0.0.1:80;c", 1),
            ("127.0.0.1:80,[::1]:80,unix:/a;c", 3),
            ("", 0),
            (";c", 0),
            ("nonsense;c", 0),
            ("127.0.0.1:80,nonsense", 0),
        ] {
            assert_eq!(addresses(text), count, "{text}");
        }
        assert_eq!(addresses(&"127.0.0.1:80,".repeat(1000)), MOST_ADDRESSES);
        for value in ["s=!", "s=", "t=x", "s=MTI3LjAuMC4xOjgw", "s=MTI3LjAuMC4xOjgwOw"] {
            let headers = [(header::COOKIE, value.parse().expect("a value"))].into_iter().collect();
            let found = session().place("/a", &headers).expect("a path of it").addresses.len();
            assert_eq!(found, usize::from(value.starts_with("s=MTI")), "{value}");
        }
        assert_eq!(session().place("/b", &HeaderMap::new()), None);
        assert_eq!(StatefulSession::default().place("/a", &HeaderMap::new()), None);
    }
}
