//! Targets as applications write them, after gRPC's naming: `xds:///greeter`, `dns:///greeter:80`,
//! `static:///10.0.0.1:80,10.0.0.2:80`, `ipv4:10.0.0.1:80`, `unix:/run/greeter.sock`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use http::uri::Authority;
use percent_encoding::percent_decode_str;

use crate::error::{Error, ErrorKind};
use crate::resource::endpoints::Address;

/// A target, understood.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TargetUri {
    /// As it was written.
    pub(crate) written: Arc<str>,
    pub(crate) scheme: Scheme,
    /// The `:authority` of its calls.
    pub(crate) authority: Authority,
}

/// How a target is discovered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scheme {
    /// By the control plane, under this listener name.
    Xds(Arc<str>),
    /// By DNS, at the system's servers or at `server`.
    Dns { server: Option<SocketAddr>, host: Arc<str>, port: u16 },
    /// At these addresses.
    Fixed(Vec<Address>),
}

impl TargetUri {
    /// Reads a target whose calls carry its own authority, or `authority`.
    pub(crate) fn parse(written: &str, authority: Option<&str>) -> Result<Self, Error> {
        let problem = |text: String| {
            Error::new(ErrorKind::Setup, format!("read target `{written}`: {text}")).with_next_step(
                "write `xds:///NAME`, `dns:///HOST:PORT`, `static:///HOST:PORT,…`, `ipv4:ADDRESS:PORT` or `unix:PATH`",
            )
        };
        let (scheme, rest) = split_scheme(written);
        let (scheme, own_authority) = match scheme {
            "xds" => xds(rest),
            "dns" => dns(rest),
            "static" => fixed(scheme, rest, host_and_port),
            "ipv4" | "ipv6" => fixed(scheme, rest, |address| ip_and_port(scheme, address)),
            "unix" => unix(rest),
            other => Err(format!("scheme `{other}` is not known")),
        }
        .map_err(problem)?;
        let authority = authority.unwrap_or(&own_authority);
        let authority = authority
            .parse()
            .map_err(|_| problem(format!("`{authority}` cannot be an `:authority`; set one that can")))?;
        Ok(Self { written: written.into(), scheme, authority })
    }

    /// What comes after the scheme.
    pub(crate) fn name(&self) -> &str {
        strip_empty_authority(split_scheme(&self.written).1)
    }
}

/// Scheme and rest; a target without a known scheme is a DNS name, as in gRPC.
fn split_scheme(written: &str) -> (&str, &str) {
    match written.split_once(':') {
        Some((scheme, rest))
            if rest.starts_with("//") || matches!(scheme, "xds" | "dns" | "static" | "ipv4" | "ipv6" | "unix") =>
        {
            (scheme, rest)
        }
        _ => ("dns", written),
    }
}

fn strip_empty_authority(rest: &str) -> &str {
    rest.strip_prefix("///").unwrap_or(rest)
}

fn xds(rest: &str) -> Result<(Scheme, String), String> {
    let name = match rest.strip_prefix("//") {
        None => rest,
        Some(rest) => match rest.split_once('/') {
            Some(("", name)) => name,
            Some((authority, _)) => {
                return Err(format!("xDS authority `{authority}` is not supported yet: write `xds:///NAME`"));
            }
            None => return Err(format!("`{rest}` stands where an xDS authority would: write `xds:///{rest}`")),
        },
    };
    if name.is_empty() {
        return Err("the name of the service is missing".into());
    }
    let name = percent_decode_str(name).decode_utf8().map_err(|_| "the name is not UTF-8".to_owned())?.into_owned();
    Ok((Scheme::Xds(name.as_str().into()), name))
}

fn dns(rest: &str) -> Result<(Scheme, String), String> {
    let (server, name) = match rest.strip_prefix("//").map(|rest| rest.split_once('/')) {
        None => (None, rest),
        Some(Some(("", name))) => (None, name),
        Some(Some((server, name))) => (Some(dns_server(server)?), name),
        Some(None) => return Err("the host is missing after the DNS server".into()),
    };
    let scheme = match host_and_port(name)? {
        Address::Host(host, port) => Scheme::Dns { server, host, port },
        address => Scheme::Fixed(vec![address]),
    };
    Ok((scheme, name.to_owned()))
}

fn dns_server(server: &str) -> Result<SocketAddr, String> {
    let with_default_port = || server.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
    server.parse().or_else(|_| with_default_port()).map_err(|_| format!("DNS server `{server}` is not an IP address"))
}

/// A list of addresses; calls carry the first as their authority.
fn fixed(
    scheme: &str,
    list: &str,
    parse: impl Fn(&str) -> Result<Address, String>,
) -> Result<(Scheme, String), String> {
    let right = match scheme {
        "static" => "static:///10.0.0.1:50051,greeter-2:50051",
        "ipv4" => "ipv4:10.0.0.1:50051,10.0.0.2:50051",
        _ => "ipv6:[fd00::1]:50051,[fd00::2]:50051",
    };
    let list = strip_empty_authority(list);
    if list.is_empty() {
        return Err(format!("the addresses are missing: write for example `{right}`"));
    }
    if let Some(list) = list.strip_prefix("//") {
        return Err(format!("`{list}` stands where an authority would: write for example `{right}`"));
    }
    let entry = |(index, entry): (usize, &str)| {
        let wrong =
            |what: String| format!("address {} of the list: {what} (right is for example `{right}`)", index + 1);
        match entry {
            "" => Err(wrong("it is empty".to_owned())),
            entry => parse(entry).map_err(wrong),
        }
    };
    let addresses = list.split(',').enumerate().map(entry).collect::<Result<Vec<_>, _>>()?;
    Ok((Scheme::Fixed(addresses), list.split(',').next().unwrap_or_default().to_owned()))
}

fn host_and_port(text: &str) -> Result<Address, String> {
    text.parse().map_err(|error: Error| error.to_string()).and_then(callable)
}

/// Port 0 asks the system for one, and nobody listens on it.
fn callable(address: Address) -> Result<Address, String> {
    match &address {
        Address::Host(_, 0) => Err(format!("`{address}` has the port 0, which cannot be called")),
        Address::Socket(known) if known.port() == 0 => {
            Err(format!("`{address}` has the port 0, which cannot be called"))
        }
        _ => Ok(address),
    }
}

fn ip_and_port(scheme: &str, text: &str) -> Result<Address, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.is_ipv4() == (scheme == "ipv4") => callable(Address::Socket(address)),
        _ => Err(format!("`{text}` is not an {scheme} address with a port")),
    }
}

/// `unix:relative`, `unix:/absolute` and `unix:///absolute`.
fn unix(rest: &str) -> Result<(Scheme, String), String> {
    let path = match rest.strip_prefix("//") {
        None => rest,
        Some(path) if path.is_empty() || path.starts_with('/') => path,
        Some(path) => {
            return Err(format!("`{path}` stands where an authority would: write `unix:///{path}` or `unix:{path}`"));
        }
    };
    if path.is_empty() {
        return Err("the path is missing".into());
    }
    Ok((Scheme::Fixed(vec![Address::Unix(Arc::from(Path::new(path)))]), "localhost".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_grpc_reads_them() {
        let host = |host: &str, port| Address::Host(host.into(), port);
        let socket = |text: &str| Address::Socket(text.parse().unwrap());
        let dns = |server: Option<&str>, host: &str, port| Scheme::Dns {
            server: server.map(|s| s.parse().unwrap()),
            host: host.into(),
            port,
        };
        let cases = [
            ("xds:///greeter", Scheme::Xds("greeter".into()), "greeter"),
            ("xds:///echo.default:7070", Scheme::Xds("echo.default:7070".into()), "echo.default:7070"),
            ("xds:greeter", Scheme::Xds("greeter".into()), "greeter"),
            ("dns:///greeter:80", dns(None, "greeter", 80), "greeter:80"),
            ("greeter:80", dns(None, "greeter", 80), "greeter:80"),
            ("dns://127.0.0.1/greeter:80", dns(Some("127.0.0.1:53"), "greeter", 80), "greeter:80"),
            ("dns://127.0.0.1:5353/greeter:80", dns(Some("127.0.0.1:5353"), "greeter", 80), "greeter:80"),
            ("dns:///127.0.0.1:80", Scheme::Fixed(vec![socket("127.0.0.1:80")]), "127.0.0.1:80"),
            (
                "static:///127.0.0.1:1,[::1]:2",
                Scheme::Fixed(vec![socket("127.0.0.1:1"), socket("[::1]:2")]),
                "127.0.0.1:1",
            ),
            ("static:///localhost:1", Scheme::Fixed(vec![host("localhost", 1)]), "localhost:1"),
            (
                "ipv4:127.0.0.1:1,127.0.0.2:2",
                Scheme::Fixed(vec![socket("127.0.0.1:1"), socket("127.0.0.2:2")]),
                "127.0.0.1:1",
            ),
            ("ipv6:[::1]:1", Scheme::Fixed(vec![socket("[::1]:1")]), "[::1]:1"),
            ("unix:/run/a.sock", Scheme::Fixed(vec![Address::Unix(Path::new("/run/a.sock").into())]), "localhost"),
            ("unix:///run/a.sock", Scheme::Fixed(vec![Address::Unix(Path::new("/run/a.sock").into())]), "localhost"),
            ("unix:a.sock", Scheme::Fixed(vec![Address::Unix(Path::new("a.sock").into())]), "localhost"),
        ];
        for (written, scheme, authority) in cases {
            let target = TargetUri::parse(written, None).unwrap();
            assert_eq!((target.scheme, target.authority.as_str()), (scheme, authority), "{written}");
        }
    }

    #[test]
    fn a_target_that_cannot_be_read_is_refused_with_the_reason() {
        let cases = [
            ("xds:///", "name of the service is missing"),
            ("xds://authority/greeter", "not supported yet"),
            ("xds://greeter", "write `xds:///greeter`"),
            ("greeter", "has no port"),
            ("dns:///greeter:99999", "not a number"),
            ("dns:///greeter:0", "`greeter:0` has the port 0, which cannot be called"),
            ("static:///127.0.0.1:0", "`127.0.0.1:0` has the port 0"),
            ("ipv6:[::1]:0", "`[::1]:0` has the port 0"),
            ("static:///", "the addresses are missing: write for example `static:///10.0.0.1:50051"),
            ("static:", "the addresses are missing"),
            ("static:///a:1,,b:2", "address 2 of the list: it is empty (right is for example `static:///"),
            (
                "static:///a:1,greeter",
                "address 2 of the list: read address `greeter`: it has no port: write `greeter:PORT` (right is",
            ),
            ("static:///a:1,b:1O", "port `1O` is not a number"),
            ("static:///::1:80", "write an IPv6 address in brackets, `[::1]:80`"),
            ("ipv4:", "the addresses are missing: write for example `ipv4:10.0.0.1:50051"),
            ("ipv4:[::1]:1", "`[::1]:1` is not an ipv4 address"),
            ("http://greeter:80", "scheme `http` is not known"),
            ("unix:", "path is missing"),
            ("unix://", "path is missing"),
            ("unix://run/a.sock", "write `unix:///run/a.sock` or `unix:run/a.sock`"),
            ("static://a:1", "`a:1` stands where an authority would: write for example `static:///10.0.0.1:50051"),
            ("ipv4://127.0.0.1:1", "stands where an authority would: write for example `ipv4:10.0.0.1:50051"),
            ("xds:///outbound|70||a", "cannot be an `:authority`"),
        ];
        for (written, reason) in cases {
            let error = TargetUri::parse(written, None).unwrap_err().report();
            assert!(error.contains(reason) && error.contains(written), "{written}: {error}");
        }
    }

    #[test]
    fn a_name_that_cannot_be_an_authority_goes_with_another() {
        let target = TargetUri::parse("xds:///outbound|70||a", Some("a:70")).unwrap();
        assert_eq!((target.scheme, target.authority.as_str()), (Scheme::Xds("outbound|70||a".into()), "a:70"));
    }
}
