//! Cookies: where requests have them, and how a response sets one (RFC 6265).

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

/// A cookie, and how to make one for calls that have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cookie {
    pub(crate) name: Box<str>,
    /// `None`: none is made. Zero: one without an end.
    pub(crate) ttl: Option<Duration>,
    pub(crate) path: Box<str>,
    /// Names and values that are added as they are.
    pub(crate) attributes: Vec<(Box<str>, Box<str>)>,
}

impl Cookie {
    /// Its value in a request; the first if there are several.
    pub(crate) fn find<'h>(&self, headers: &'h HeaderMap) -> Option<&'h [u8]> {
        let pairs =
            headers.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
        let mut named = pairs.filter_map(|pair| {
            let pair = pair.trim_ascii();
            let value = pair.strip_prefix(self.name.as_bytes())?.strip_prefix(b"=")?;
            Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
        });
        named.next()
    }

    /// The value of `Set-Cookie`; `None` if what was configured cannot stand in a header.
    pub(crate) fn set(&self, value: &str) -> Option<HeaderValue> {
        let mut text = format!("{}={value}", self.name);
        if let Some(ttl) = self.ttl.filter(|ttl| !ttl.is_zero()) {
            text += &format!("; Max-Age={}", ttl.as_secs());
        }
        if !self.path.is_empty() {
            text += &format!("; Path={}", self.path);
        }
        for (name, value) in &self.attributes {
            let equals = if value.is_empty() { "" } else { "=" };
            text += &format!("; {name}{equals}{value}");
        }
        text += "; HttpOnly";
        HeaderValue::try_from(text).ok()
    }

    /// Whether requests for this path have the cookie (RFC 6265, 5.1.4).
    pub(crate) fn is_for(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix(&*self.path) else { return false };
        self.path.is_empty() || rest.is_empty() || self.path.ends_with('/') || rest.starts_with('/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie(path: &str) -> Cookie {
        Cookie { name: "c".into(), ttl: None, path: path.into(), attributes: Vec::new() }
    }

    #[test]
    fn a_cookie_is_for_its_path_and_what_lies_below_it() {
        for (of, path, is_for) in [
            ("", "/a.B/C", true),
            ("/", "/a.B/C", true),
            ("/a.B", "/a.B/C", true),
            ("/a.B/", "/a.B/C", true),
            ("/a.B/C", "/a.B/C", true),
            ("/a", "/a.B/C", false),
            ("/a.B/C/D", "/a.B/C", false),
            ("/x", "/a.B/C", false),
        ] {
            assert_eq!(cookie(of).is_for(path), is_for, "{of}, {path}");
        }
    }

    #[test]
    fn the_first_of_its_name_is_found_wherever_it_stands() {
        for (headers, value) in [
            (&["a=1; c=2; c=3"][..], Some("2")),
            (&["a=1", "b=1;c=\"2\""], Some("2")),
            (&["cc=1; C=2; c"], None),
            (&["c="], Some("")),
            (&[], None),
        ] {
            let mut map = HeaderMap::new();
            headers.iter().for_each(|value| _ = map.append(header::COOKIE, value.parse().expect("a value")));
            assert_eq!(cookie("").find(&map), value.map(str::as_bytes), "{headers:?}");
        }
    }

    #[test]
    fn what_is_set_has_its_attributes() {
        let attributes = vec![("SameSite".into(), "Strict".into()), ("Secure".into(), "".into())];
        let ttl = Some(Duration::from_secs(120));
        let full = Cookie { ttl, attributes, ..cookie("/a") };
        assert_eq!(full.set("x").expect("a value"), "c=x; Max-Age=120; Path=/a; SameSite=Strict; Secure; HttpOnly");
        assert_eq!(Cookie { ttl: Some(Duration::ZERO), ..cookie("") }.set("x").expect("a value"), "c=x; HttpOnly");
        assert_eq!(cookie("\n").set("x"), None);
    }
}
