//! Routes that answer calls themselves, as in Envoy: `redirect` and `direct_response`.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};

use super::answer::{Answer, AnswerStatus};
use super::rewrite::PathRewrite;

/// What a route answers every call with.
#[derive(Debug)]
pub(crate) enum RouteAnswer {
    Redirect(Redirect),
    Direct { status: StatusCode, body: Bytes },
}

/// Where calls are sent instead; what is not said stays as the request has it.
#[derive(Debug)]
pub(crate) struct Redirect {
    pub(crate) status: StatusCode,
    pub(crate) scheme: Option<Box<str>>,
    pub(crate) host: Option<Box<str>>,
    pub(crate) port: Option<u16>,
    pub(crate) path: Option<RedirectPath>,
    pub(crate) strip_query: bool,
}

/// Another path.
#[derive(Debug)]
pub(crate) enum RedirectPath {
    /// It may bring a query of its own.
    Whole(Box<str>),
    Rewritten(PathRewrite),
}

impl RouteAnswer {
    /// The field of the route, for people.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Redirect(_) => "redirect",
            Self::Direct { .. } => "direct_response",
        }
    }

    /// The answer to a request for this URI.
    pub(crate) fn answer(&self, uri: &Uri) -> Answer {
        match self {
            Self::Direct { status, body } => Answer::new(AnswerStatus::Http(*status), body.clone()),
            Self::Redirect(redirect) => {
                let location = redirect.location(uri);
                let mut headers = HeaderMap::new();
                if let Ok(value) = HeaderValue::try_from(&location) {
                    headers.insert(header::LOCATION, value);
                }
                let text = format!("the route redirects to {location}");
                Answer::new(AnswerStatus::Http(redirect.status), text).with_headers(headers)
            }
        }
    }
}

impl Redirect {
    fn location(&self, uri: &Uri) -> String {
        let before = uri.scheme_str().unwrap_or("http");
        let scheme = self.scheme.as_deref().unwrap_or(before);
        let host = self.host.as_deref().unwrap_or_else(|| uri.host().unwrap_or_default());
        // The port that stands for the scheme before says nothing behind another one.
        let kept = uri.port_u16().filter(|port| self.host.is_none() && !is_default(before, *port));
        let port = self.port.or(kept).filter(|port| !is_default(scheme, *port));
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{scheme}://{host}{port}{}", self.path_and_query(uri))
    }

    fn path_and_query(&self, uri: &Uri) -> String {
        let path = match &self.path {
            None => uri.path().to_owned(),
            Some(RedirectPath::Rewritten(rewrite)) => rewrite.of(uri.path()),
            Some(RedirectPath::Whole(path)) => path.to_string(),
        };
        match uri.query().filter(|_| !self.strip_query && !path.contains('?')) {
            Some(query) => format!("{path}?{query}"),
            None => path,
        }
    }
}

fn is_default(scheme: &str, port: u16) -> bool {
    matches!((scheme, port), ("http", 80) | ("https", 443))
}

#[cfg(test)]
mod tests {
    use super::super::rewrite::Matched;
    use super::*;

    fn redirect() -> Redirect {
        let status = StatusCode::MOVED_PERMANENTLY;
        Redirect { status, scheme: None, host: None, port: None, path: None, strip_query: false }
    }

    #[test]
    fn what_a_redirect_does_not_say_stays() {
        let prefix = || PathRewrite::Matched { matched: Matched::Prefix(2), with: "/z".into() };
        let https = || Redirect { scheme: Some("https".into()), ..redirect() };
        for (redirect, uri, expected) in [
            (redirect(), "http://a:8080/p/M?q=1", "http://a:8080/p/M?q=1"),
            (https(), "http://a/p", "https://a/p"),
            (https(), "http://a:80/p", "https://a/p"),
            (https(), "http://a:8080/p", "https://a:8080/p"),
            (Redirect { port: Some(8443), ..https() }, "http://a:80/p", "https://a:8443/p"),
            (Redirect { port: Some(443), ..https() }, "http://a:80/p", "https://a/p"),
            (Redirect { host: Some("b".into()), ..redirect() }, "http://a:8080/p", "http://b/p"),
            (Redirect { strip_query: true, ..redirect() }, "http://a/p?q=1", "http://a/p"),
            (
                Redirect { path: Some(RedirectPath::Whole("/x".into())), ..redirect() },
                "http://a/p?q=1",
                "http://a/x?q=1",
            ),
            (
                Redirect { path: Some(RedirectPath::Whole("/x?y".into())), ..redirect() },
                "http://a/p?q=1",
                "http://a/x?y",
            ),
            (Redirect { path: Some(RedirectPath::Rewritten(prefix())), ..redirect() }, "http://a/p/M", "http://a/z/M"),
        ] {
            assert_eq!(redirect.location(&Uri::from_static(uri)), expected, "{uri}");
        }
    }

    #[test]
    fn an_answer_has_the_routes_status_and_says_where_to_go() {
        let answer = RouteAnswer::Redirect(redirect()).answer(&Uri::from_static("http://a/p"));
        assert_eq!(answer.status(), AnswerStatus::Http(StatusCode::MOVED_PERMANENTLY));
        assert_eq!(answer.headers()["location"], "http://a/p");
        let direct = RouteAnswer::Direct { status: StatusCode::IM_A_TEAPOT, body: "tea".into() };
        let answer = direct.answer(&Uri::from_static("http://a/p"));
        assert_eq!((answer.status(), &**answer.body()), (AnswerStatus::Http(StatusCode::IM_A_TEAPOT), &b"tea"[..]));
    }
}
