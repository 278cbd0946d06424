//! Values of headers with substitutions: `%REQ(x-user)%`.
//!
//! Envoy knows many commands. Those that a client can answer are here; a header with another one is not added, and listed.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::resource::matcher::RequestHead;

/// The value of a header.
#[derive(Clone, Debug)]
pub(crate) enum Template {
    Literal(HeaderValue),
    Parts(Vec<Part>),
}

#[derive(Clone, Debug)]
pub(crate) enum Part {
    Text(Box<str>),
    Command(Command),
}

/// What is put in.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// `%REQ(name?alternative):length%`: the first of the two that the request has.
    Request(Vec<Source>, Option<usize>),
    /// `%RESP(name?alternative):length%`
    Response(Vec<HeaderName>, Option<usize>),
    /// `%UPSTREAM_CLUSTER%`
    Cluster,
    /// `%ROUTE_NAME%`
    Route,
    /// `%PROTOCOL%`
    Protocol,
    /// `%RESPONSE_CODE%`
    Status,
}

/// Where a part of a request is found.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Path,
    Method,
    Authority,
    Header(HeaderName),
}

/// What commands are answered from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) cluster: Option<&'a str>,
    pub(crate) route: Option<&'a str>,
    pub(crate) message: Message<'a>,
}

/// The message whose headers are changed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Message<'a> {
    Request(RequestHead<'a>),
    Response(http::StatusCode, &'a HeaderMap),
}

/// Why a template is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BadTemplate {
    /// In words.
    Malformed(String),
    /// A command that is not known, or that this message cannot answer.
    Unsupported,
}

impl Template {
    /// Reads the value of a header of requests, or else of responses.
    pub(crate) fn parse(text: &str, of_request: bool) -> Result<Self, BadTemplate> {
        if !text.contains('%') {
            let value = HeaderValue::from_str(text);
            return value.map(Self::Literal).map_err(|_| malformed("is not the value of a header"));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, from)) = rest.split_once('%') {
            push_text(&mut parts, before)?;
            let (command, after) = from.split_once('%').ok_or_else(|| malformed("has a `%` without its second"))?;
            match command {
                "" => push_text(&mut parts, "%")?,
                command => parts.push(Part::Command(Command::parse(command, of_request)?)),
            }
            rest = after;
        }
        push_text(&mut parts, rest)?;
        Ok(Self::Parts(parts))
    }

    /// The value; `None` if what commands put in can stand in no header.
    pub(crate) fn render(&self, facts: &Facts<'_>) -> Option<HeaderValue> {
        let parts = match self {
            Self::Literal(value) => return Some(value.clone()),
            Self::Parts(parts) => parts,
        };
        let mut text = Vec::new();
        for part in parts {
            match part {
                Part::Text(literal) => text.extend_from_slice(literal.as_bytes()),
                Part::Command(command) => command.write(facts, &mut text),
            }
        }
        HeaderValue::from_bytes(&text).ok()
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) -> Result<(), BadTemplate> {
    if HeaderValue::from_str(text).is_err() {
        return Err(malformed("is not the value of a header"));
    }
    if !text.is_empty() {
        parts.push(Part::Text(text.into()));
    }
    Ok(())
}

fn malformed(problem: &str) -> BadTemplate {
    BadTemplate::Malformed(problem.to_owned())
}

impl Command {
    /// `NAME`, `NAME(arguments)` or `NAME(arguments):length`, without the `%`s.
    fn parse(text: &str, of_request: bool) -> Result<Self, BadTemplate> {
        let (name, arguments, length) = match text.split_once('(') {
            None => (text, None, None),
            Some((name, rest)) => {
                let (arguments, after) = rest.split_once(')').ok_or_else(|| malformed("has a `(` without its `)`"))?;
                (name, Some(arguments), length(after)?)
            }
        };
        match (name, arguments) {
            ("REQ" | "REQUEST_HEADER", Some(names)) if of_request => {
                Ok(Self::Request(names.split('?').map(source).collect::<Result<_, _>>()?, length))
            }
            ("RESP" | "RESPONSE_HEADER", Some(names)) if !of_request => {
                Ok(Self::Response(names.split('?').map(header).collect::<Result<_, _>>()?, length))
            }
            ("UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW", None) => Ok(Self::Cluster),
            ("ROUTE_NAME", None) => Ok(Self::Route),
            ("PROTOCOL", None) => Ok(Self::Protocol),
            ("RESPONSE_CODE", None) if !of_request => Ok(Self::Status),
            _ => Err(BadTemplate::Unsupported),
        }
    }

    fn write(&self, facts: &Facts<'_>, text: &mut Vec<u8>) {
        match (self, facts.message) {
            (Self::Request(sources, length), Message::Request(head)) => {
                let found = sources.iter().find_map(|source| source.find(&head)).unwrap_or_default();
                text.extend_from_slice(cut(found, *length));
            }
            (Self::Response(names, length), Message::Response(_, headers)) => {
                let found = names.iter().find_map(|name| headers.get(name)).map_or(&b""[..], HeaderValue::as_bytes);
                text.extend_from_slice(cut(found, *length));
            }
            (Self::Status, Message::Response(status, _)) => text.extend_from_slice(status.as_str().as_bytes()),
            (Self::Cluster, _) => text.extend_from_slice(facts.cluster.unwrap_or_default().as_bytes()),
            (Self::Route, _) => text.extend_from_slice(facts.route.unwrap_or_default().as_bytes()),
            (Self::Protocol, _) => text.extend_from_slice(b"HTTP/2"),
            // Not parsed for the other message.
            (Self::Request(..) | Self::Response(..) | Self::Status, _) => {}
        }
    }
}

fn length(text: &str) -> Result<Option<usize>, BadTemplate> {
    match text.strip_prefix(':') {
        Some(digits) => digits.parse().map(Some).map_err(|_| malformed("has a length that is no number")),
        None if text.is_empty() => Ok(None),
        None => Err(malformed("has text behind a `)`")),
    }
}

fn cut(value: &[u8], length: Option<usize>) -> &[u8] {
    &value[..length.map_or(value.len(), |length| length.min(value.len()))]
}

fn header(name: &str) -> Result<HeaderName, BadTemplate> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| malformed("names a header that can be none"))
}

fn source(name: &str) -> Result<Source, BadTemplate> {
    match name.to_ascii_lowercase().as_str() {
        ":path" => Ok(Source::Path),
        ":method" => Ok(Source::Method),
        ":authority" | "host" => Ok(Source::Authority),
        pseudo if pseudo.starts_with(':') => Err(BadTemplate::Unsupported),
        name => header(name).map(Source::Header),
    }
}

impl Source {
    fn find<'a>(&self, head: &RequestHead<'a>) -> Option<&'a [u8]> {
        match self {
            Self::Path => Some(head.path.as_bytes()),
            Self::Method => Some(head.method.as_str().as_bytes()),
            Self::Authority => Some(head.authority.as_bytes()),
            Self::Header(name) => head.headers.get(name).map(HeaderValue::as_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};

    use super::*;

    fn of_request(text: &str) -> Result<String, BadTemplate> {
        let headers = [(HeaderName::from_static("x-user"), HeaderValue::from_static("ada"))].into_iter().collect();
        let head = RequestHead { path: "/s/M", method: &Method::POST, authority: "greeter", headers: &headers };
        render(text, true, Message::Request(head))
    }

    fn render(text: &str, is_request: bool, message: Message<'_>) -> Result<String, BadTemplate> {
        let facts = Facts { cluster: Some("c1"), route: Some("r1"), message };
        let value = Template::parse(text, is_request)?.render(&facts).expect("a value");
        Ok(value.to_str().expect("text").to_owned())
    }

    #[test]
    fn commands_are_replaced_by_what_the_request_has() {
        for (text, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("100%%", "100%"),
            ("%REQ(x-user)%", "ada"),
            ("<%REQ(X-User)%>", "<ada>"),
            ("%REQ(x-user):2%", "ad"),
            ("%REQ(x-none)%", ""),
            ("%REQ(x-none?x-user)%", "ada"),
            ("%REQUEST_HEADER(:path)%", "/s/M"),
            ("%REQ(:METHOD)% %REQ(:AUTHORITY)%", "POST greeter"),
            ("%UPSTREAM_CLUSTER%/%ROUTE_NAME%/%PROTOCOL%", "c1/r1/HTTP/2"),
        ] {
            assert_eq!(of_request(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn commands_are_replaced_by_what_the_response_has() {
        let headers = [(HeaderName::from_static("x-by"), HeaderValue::from_static("b7"))].into_iter().collect();
        let message = Message::Response(StatusCode::OK, &headers);
        let text = "%RESPONSE_CODE% %RESP(x-none?x-by)% %UPSTREAM_CLUSTER%";
        assert_eq!(render(text, false, message).as_deref(), Ok("200 b7 c1"));
        assert_eq!(render("%REQ(x-user)%", false, message), Err(BadTemplate::Unsupported));
    }

    #[test]
    fn what_is_no_template_says_why_and_what_is_not_known_is_told_apart() {
        for bad in ["50%", "%REQ(x%", "%REQ(x):y%", "%REQ(x)y%", "%REQ(a b)%", "a\nb", "a\n%PROTOCOL%"] {
            assert!(matches!(of_request(bad), Err(BadTemplate::Malformed(_))), "{bad}");
        }
        for unknown in ["%DOWNSTREAM_REMOTE_ADDRESS%", "%RESP(x)%", "%REQ%", "%REQ(:scheme)%", "%RESPONSE_CODE%"] {
            assert_eq!(of_request(unknown), Err(BadTemplate::Unsupported), "{unknown}");
        }
    }

    #[test]
    fn a_value_that_no_header_can_have_is_none() {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", HeaderValue::from_bytes(b"\xff\xfe").expect("opaque bytes"));
        let head = RequestHead { path: "/", method: &Method::GET, authority: "", headers: &headers };
        let facts = Facts { cluster: Some("c\n1"), route: None, message: Message::Request(head) };
        let rendered = |text| Template::parse(text, true).expect("a template").render(&facts);
        assert_eq!(rendered("%REQ(x-user)%").map(|value| value.as_bytes().to_vec()), Some(b"\xff\xfe".to_vec()));
        assert_eq!(rendered("%UPSTREAM_CLUSTER%"), None);
    }
}
