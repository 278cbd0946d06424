//! A head that is held while it is sent.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use smallvec::SmallVec;

/// Method, URI with scheme and authority, and headers: what goes on the wire of a request's head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
}

/// A [`Head`] in the form that is cheapest to make: no allocation for up to four headers, where a clone of the map takes
/// two, and the usual names and values are reference counts. More room would be moved about with each call.
pub(crate) struct HeadCopy {
    method: Method,
    uri: Uri,
    headers: SmallVec<[(HeaderName, HeaderValue); 4]>,
}

impl HeadCopy {
    pub(crate) fn new(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Self { method: method.clone(), uri: uri.clone(), headers }
    }

    pub(crate) fn to_head(&self) -> Head {
        let mut headers = HeaderMap::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        Head { method: self.method.clone(), uri: self.uri.clone(), headers }
    }
}
