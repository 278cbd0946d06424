//! A control plane's `server_uri`: a gRPC target, as gRPC's `doc/naming.md` has it.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use smallvec::SmallVec;

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerAddress {
    /// A name to resolve when connecting.
    Host { host: String, port: u16 },
    /// Addresses to try in order.
    Addresses(SmallVec<[SocketAddr; 1]>),
    /// A Unix socket.
    Unix(PathBuf),
    /// A control plane in this process, reached by a connector given in code.
    InProcess(String),
}

impl ServerAddress {
    /// Parses a target; also whether its scheme asks for TLS.
    pub(super) fn parse(uri: &str) -> Result<(Self, bool), String> {
        let Some((scheme, rest)) = uri.split_once(':') else { return Ok((host(uri, 443)?, false)) };
        let address = match scheme {
            "dns" => host(without_authority(rest)?, 443)?,
            "ipv4" | "ipv6" => addresses(rest)?,
            "unix" => unix(rest)?,
            "inprocess" if !rest.is_empty() => Self::InProcess(rest.into()),
            "http" => host(web_authority(rest)?, 80)?,
            "https" => return Ok((host(web_authority(rest)?, 443)?, true)),
            "xds" | "google-c2p" | "unix-abstract" | "vsock" | "static" | "inprocess" => {
                return Err(format!("a server cannot be reached by `{scheme}:`; {FORMS}"));
            }
            // `localhost:18000` has no scheme, though it reads like one.
            _ => host(uri, 443)?,
        };
        Ok((address, false))
    }

    /// The `:authority` of requests.
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Host { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Host { host, port } => format!("{host}:{port}"),
            Self::Addresses(addresses) => addresses.first().map(ToString::to_string).unwrap_or_default(),
            Self::Unix(_) | Self::InProcess(_) => "localhost".into(),
        }
    }

    /// The name that the server's certificate must be valid for.
    pub(crate) fn server_name(&self) -> String {
        match self {
            Self::Host { host, .. } => host.clone(),
            Self::Addresses(addresses) => addresses.first().map(|a| a.ip().to_string()).unwrap_or_default(),
            Self::Unix(_) | Self::InProcess(_) => "localhost".into(),
        }
    }
}

/// An address of which TLS is asked whatever its scheme says.
///
/// # Errors
///
/// What is wrong with it.
#[cfg(feature = "istio")]
pub(crate) fn server_address(text: &str) -> Result<ServerAddress, String> {
    ServerAddress::parse(text).map(|(address, _)| address)
}

const FORMS: &str = "write `host:port`, `dns:///host:port`, `ipv4:IP:port`, `ipv6:[IP]:port` or `unix:path`";

/// `///host:port` or `host:port`; a DNS server of its own cannot be named.
fn without_authority(rest: &str) -> Result<&str, String> {
    match rest.strip_prefix("//") {
        None => Ok(rest),
        Some(rest) => match rest.split_once('/') {
            Some(("", path)) => Ok(path),
            Some((server, _)) => Err(format!("a DNS server of its own (`{server}`) is not supported; {FORMS}")),
            None => Err(format!("no name after the authority; {FORMS}")),
        },
    }
}

fn web_authority(rest: &str) -> Result<&str, String> {
    let rest = rest.strip_prefix("//").ok_or(FORMS)?;
    match rest.split_once('/') {
        None => Ok(rest),
        Some((authority, "")) => Ok(authority),
        Some((_, path)) => Err(format!("a path (`/{path}`) means nothing here; {FORMS}")),
    }
}

fn host(text: &str, default_port: u16) -> Result<ServerAddress, String> {
    let (host, port) = split_port(text)?;
    let port = match port {
        None => default_port,
        Some(port) => {
            port.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("`{port}` is not a port; {FORMS}"))?
        }
    };
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if host.is_empty() || !host.chars().all(allowed) {
        return Err(format!("`{host}` is not a host; {FORMS}"));
    }
    match host.parse() {
        Ok(ip) => Ok(ServerAddress::Addresses([SocketAddr::new(ip, port)].into_iter().collect())),
        Err(_) => Ok(ServerAddress::Host { host: host.into(), port }),
    }
}

fn split_port(text: &str) -> Result<(&str, Option<&str>), String> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok((text, None));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']').ok_or(FORMS)?;
        ip.parse::<Ipv6Addr>().map_err(|_| format!("`{ip}` is not an IPv6 address; {FORMS}"))?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((ip, Some(port))),
            None if rest.is_empty() => Ok((ip, None)),
            None => Err(FORMS.into()),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(format!("more than one `:`; {FORMS}")),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

fn addresses(text: &str) -> Result<ServerAddress, String> {
    let parse = |part: &str| match host(part, 443)? {
        ServerAddress::Addresses(addresses) => Ok(addresses),
        _ => Err(format!("`{part}` is not an IP address; {FORMS}")),
    };
    let lists = text.split(',').map(parse).collect::<Result<Vec<_>, String>>()?;
    Ok(ServerAddress::Addresses(lists.into_iter().flatten().collect()))
}

/// `path`, `//authority-less/absolute` as `///path`: gRPC allows an absolute path only in the second form.
fn unix(rest: &str) -> Result<ServerAddress, String> {
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => return Err(format!("the path after `unix://` must be absolute; {FORMS}")),
        None => rest,
    };
    if path.is_empty() || path.contains('\0') {
        return Err(format!("no path; {FORMS}"));
    }
    Ok(ServerAddress::Unix(path.into()))
}
