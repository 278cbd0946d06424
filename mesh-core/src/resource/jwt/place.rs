//! Where a request has its tokens.

use http::header::{AUTHORIZATION, COOKIE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderName, Uri};
use percent_encoding::percent_decode_str;

use super::failure::Failure;
use crate::resource::matcher::RequestHead;

/// A place in a request that may have a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenPlace {
    /// Behind this prefix, whose case does not matter.
    Header {
        name: HeaderName,
        prefix: Box<str>,
    },
    Parameter(Box<str>),
    Cookie(Box<str>),
}

impl TokenPlace {
    /// Where a provider's tokens are that does not say it (RFC 6750).
    pub(crate) fn defaults() -> Vec<Self> {
        vec![Self::Header { name: AUTHORIZATION, prefix: "Bearer ".into() }, Self::Parameter("access_token".into())]
    }

    /// The token there. Of two, whoever reads them next might take the one that was not verified: that is a failure.
    pub(super) fn token<'a>(&self, head: &RequestHead<'a>) -> Option<Result<&'a str, Failure>> {
        match self {
            Self::Header { name, prefix } => {
                let mut values = head.headers.get_all(name).iter();
                let value = values.next()?;
                if values.next().is_some() {
                    return Some(Err(Failure::Ambiguous));
                }
                let Ok(value) = value.to_str() else { return Some(Err(Failure::Malformed)) };
                let (start, token) = value.split_at_checked(prefix.len())?;
                start.eq_ignore_ascii_case(prefix).then(|| Ok(token.trim()))
            }
            Self::Parameter(name) => {
                only(parameters(head.path).filter(|(own, _)| is_named(own, name)).map(|(_, value)| Ok(value)))
            }
            Self::Cookie(name) => {
                let pairs =
                    head.headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|b| *b == b';'));
                let values =
                    pairs.filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="));
                // One that is no text is not missing.
                only(values.map(|value| std::str::from_utf8(value).map_err(|_| Failure::Malformed)))
            }
        }
    }

    /// Takes the token out of the request. A cookie stays: others may be beside it.
    pub(super) fn clear(&self, head: &mut Parts) {
        match self {
            Self::Header { name, .. } => drop(head.headers.remove(name)),
            Self::Parameter(name) => {
                if let Some(uri) = without_parameter(&head.uri, name) {
                    head.uri = uri;
                }
            }
            Self::Cookie(_) => {}
        }
    }
}

fn only<'a>(mut values: impl Iterator<Item = Result<&'a str, Failure>>) -> Option<Result<&'a str, Failure>> {
    let value = values.next()?;
    Some(if values.next().is_some() { Err(Failure::Ambiguous) } else { value })
}

/// Whoever reads a parameter decodes its name.
fn is_named(parameter: &str, name: &str) -> bool {
    percent_decode_str(parameter).eq(name.bytes())
}

fn parameters(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn without_parameter(uri: &Uri, name: &str) -> Option<Uri> {
    let left: Vec<_> =
        uri.query()?.split('&').filter(|pair| !pair.split('=').next().is_some_and(|own| is_named(own, name))).collect();
    let path = uri.path();
    let target = if left.is_empty() { path.to_owned() } else { format!("{path}?{}", left.join("&")) };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}
