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
#[derive(Default)]
pub(crate) struct HeadCopy {
    method: Method,
    uri: Uri,
    headers: SmallVec<[(HeaderName, HeaderValue); 4]>,
    /// Of the headers, as RFC 9113 counts them.
    headers_size: usize,
}

impl HeadCopy {
    /// Makes an empty copy one of this head, without moving it about.
    pub(crate) fn fill(&mut self, method: &Method, uri: &Uri, headers: &HeaderMap) {
        self.method.clone_from(method);
        self.uri.clone_from(uri);
        for (name, value) in headers {
            self.headers_size += field_size(name, value);
            self.headers.push((name.clone(), value.clone()));
        }
    }

    /// The size of the head as RFC 9113 counts it (section 6.5.2).
    pub(crate) fn list_size(&self) -> usize {
        /// What the four pseudo-headers count besides their values.
        const PSEUDO: usize = ":method".len() + ":scheme".len() + ":authority".len() + ":path".len() + 4 * FIELD;
        let scheme = self.uri.scheme_str().map_or(0, str::len);
        let authority = self.uri.authority().map_or(0, |authority| authority.as_str().len());
        let path = self.uri.path_and_query().map_or(1, |path| path.as_str().len());
        PSEUDO + self.method.as_str().len() + scheme + authority + path + self.headers_size
    }

    pub(crate) fn to_head(&self) -> Head {
        let mut headers = HeaderMap::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        Head { method: self.method.clone(), uri: self.uri.clone(), headers }
    }
}

/// What a field counts besides its name and its value (RFC 9113, section 6.5.2).
const FIELD: usize = 32;

/// The size of one field of a header list as RFC 9113 counts it.
pub(crate) fn field_size(name: &HeaderName, value: &HeaderValue) -> usize {
    name.as_str().len() + value.len() + FIELD
}
