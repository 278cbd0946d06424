//! Tables: files as generators write them, and what is wrong with others.

use std::time::Duration;

use super::*;

/// What istio-agent writes for an injected pod, with the Go encoder's `null`.
const ISTIO: &str = r#"{
  "xds_servers": [
    {
      "server_uri": "unix:///etc/istio/proxy/XDS",
      "channel_creds": [{"type": "insecure"}],
      "server_features": ["xds_v3"]
    }
  ],
  "node": {
    "id": "sidecar~10.0.0.7~greeter-5d9c.shop~shop.svc.cluster.local",
    "metadata": {
      "GENERATOR": "grpc",
      "NAMESPACE": "shop",
      "INSTANCE_IPS": "10.0.0.7",
      "LABELS": {"app": "greeter", "version": "v1"},
      "PROXY_CONFIG": {"concurrency": 2, "holdApplicationUntilProxyStarts": true}
    },
    "locality": {"region": "eu-west1", "zone": "eu-west1-b"},
    "UserAgentVersionType": null
  },
  "certificate_providers": {
    "default": {
      "plugin_name": "file_watcher",
      "config": {
        "certificate_file": "/var/lib/istio/data/cert-chain.pem",
        "private_key_file": "/var/lib/istio/data/key.pem",
        "ca_certificate_file": "/var/lib/istio/data/root-cert.pem",
        "refresh_interval": "900s"
      }
    }
  },
  "server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%s"
}"#;

/// What td-grpc-bootstrap writes, federation included.
const TRAFFIC_DIRECTOR: &str = r#"{
  "xds_servers": [
    {
      "server_uri": "trafficdirector.googleapis.com:443",
      "channel_creds": [{"type": "google_default"}],
      "server_features": ["xds_v3", "ignore_resource_deletion"]
    }
  ],
  "authorities": {
    "traffic-director-c2p.xds.googleapis.com": {
      "xds_servers": [
        {
          "server_uri": "dns:///directpath-pa.googleapis.com",
          "channel_creds": [{"type": "google_default"}],
          "server_features": ["xds_v3", "ignore_resource_deletion"]
        }
      ],
      "client_listener_resource_name_template":
        "xdstp://traffic-director-c2p.xds.googleapis.com/envoy.config.listener.v3.Listener/%s"
    }
  },
  "node": {
    "id": "projects/1234/networks/default/nodes/7f1e",
    "cluster": "cluster",
    "metadata": {"INSTANCE_IP": "10.9.8.7", "TRAFFICDIRECTOR_DIRECTPATH_C2P_IPV6_CAPABLE": true},
    "locality": {"zone": "europe-west1-b"}
  },
  "server_listener_resource_name_template": "grpc/server?xds.resource.listening_address=%s"
}"#;

fn server(fields: &str) -> String {
    format!(r#"{{"xds_servers": [{{{fields}}}]}}"#)
}

fn with_uri(uri: &str) -> Result<Bootstrap, Error> {
    Bootstrap::from_json(&server(&format!(r#""server_uri": "{uri}", "channel_creds": [{{"type": "insecure"}}]"#)))
}

fn with_creds(creds: &str) -> Result<Bootstrap, Error> {
    Bootstrap::from_json(&server(&format!(r#""server_uri": "a:1", "channel_creds": {creds}"#)))
}

#[test]
fn the_file_of_istio_agent_is_understood() {
    let bootstrap = Bootstrap::from_json(ISTIO).unwrap();
    assert_eq!(bootstrap.server().address, ServerAddress::Unix("/etc/istio/proxy/XDS".into()));
    assert_eq!(bootstrap.server().credentials, ChannelCredentials::Insecure);
    assert_eq!(bootstrap.node_id(), "sidecar~10.0.0.7~greeter-5d9c.shop~shop.svc.cluster.local");
    assert_eq!(bootstrap.node().metadata["GENERATOR"], "grpc");
    assert_eq!(bootstrap.node().metadata["LABELS"]["app"], "greeter");
    assert_eq!(bootstrap.node().locality.as_ref().unwrap().zone, "eu-west1-b");
    let ignored: &[&str] = &[
        #[cfg(not(feature = "tls"))]
        "certificate_providers.default: needs mesh-core's feature `tls`, which is off",
    ];
    assert_eq!(bootstrap.ignored(), ignored);
    #[cfg(feature = "server")]
    assert_eq!(
        bootstrap.server_listener_name("[::]:80".parse().unwrap()).unwrap(),
        "xds.istio.io/grpc/lds/inbound/[::]:80"
    );
}

#[test]
fn the_file_of_traffic_director_says_what_it_lacks() {
    let error = Bootstrap::from_json(TRAFFIC_DIRECTOR).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup);
    assert_eq!(
        error.report(),
        "bootstrap: xds_servers[0].channel_creds: no supported type among `google_default`; add {\"type\": \"tls\"}, \
         or {\"type\": \"insecure\"} for a trusted network"
    );
}

#[cfg(feature = "tls")]
#[test]
fn the_file_of_traffic_director_is_understood_with_other_credentials() {
    let json = TRAFFIC_DIRECTOR.replacen(
        r#"[{"type": "google_default"}]"#,
        r#"[{"type": "google_default"}, {"type": "tls"}]"#,
        1,
    );
    let bootstrap = Bootstrap::from_json(&json).unwrap();
    let host = ServerAddress::Host { host: "trafficdirector.googleapis.com".into(), port: 443 };
    assert_eq!(bootstrap.server().address, host);
    assert_eq!(bootstrap.node().cluster, "cluster");
    assert_eq!(
        bootstrap.ignored(),
        [
            "xds_servers[0].channel_creds[0]: channel credentials `google_default` are not supported",
            "authorities.traffic-director-c2p.xds.googleapis.com: federation (A47) is not acted on",
        ]
    );
}

#[test]
fn server_uris_of_every_form_are_understood() {
    let host = |host: &str, port| ServerAddress::Host { host: host.into(), port };
    let addresses = |list: &[&str]| ServerAddress::Addresses(list.iter().map(|a| a.parse().unwrap()).collect());
    let unix = |path: &str| ServerAddress::Unix(path.into());
    let table = [
        ("istiod.istio-system.svc:15010", host("istiod.istio-system.svc", 15010), "istiod.istio-system.svc:15010"),
        ("localhost:18000", host("localhost", 18000), "localhost:18000"),
        ("localhost", host("localhost", 443), "localhost:443"),
        ("dns:///istiod:15010", host("istiod", 15010), "istiod:15010"),
        ("dns:istiod:15010", host("istiod", 15010), "istiod:15010"),
        ("dns:///istiod", host("istiod", 443), "istiod:443"),
        ("127.0.0.1:18000", addresses(&["127.0.0.1:18000"]), "127.0.0.1:18000"),
        ("[::1]:18000", addresses(&["[::1]:18000"]), "[::1]:18000"),
        ("::1", addresses(&["[::1]:443"]), "[::1]:443"),
        ("ipv4:127.0.0.1:5", addresses(&["127.0.0.1:5"]), "127.0.0.1:5"),
        ("ipv4:127.0.0.1:5,127.0.0.2:6", addresses(&["127.0.0.1:5", "127.0.0.2:6"]), "127.0.0.1:5"),
        ("ipv6:[::1]:5", addresses(&["[::1]:5"]), "[::1]:5"),
        ("ipv6:[2001:db8::1]", addresses(&["[2001:db8::1]:443"]), "[2001:db8::1]:443"),
        ("http://127.0.0.1:18000", addresses(&["127.0.0.1:18000"]), "127.0.0.1:18000"),
        ("http://istiod:15010/", host("istiod", 15010), "istiod:15010"),
        ("unix:run/xds", unix("run/xds"), "localhost"),
        ("unix:/run/xds", unix("/run/xds"), "localhost"),
        ("unix:///run/xds", unix("/run/xds"), "localhost"),
        ("unix:///./etc/istio/proxy/XDS", unix("/./etc/istio/proxy/XDS"), "localhost"),
        ("inprocess:test", ServerAddress::InProcess("test".into()), "localhost"),
    ];
    for (uri, address, authority) in table {
        let bootstrap = with_uri(uri).unwrap_or_else(|error| panic!("{uri}: {}", error.report()));
        assert_eq!(bootstrap.server().address, address, "{uri}");
        assert_eq!(bootstrap.server().address.authority(), authority, "{uri}");
    }
}

#[test]
fn a_server_uri_that_leads_nowhere_is_refused_with_what_to_write() {
    let table = [
        ("xds:///istiod", "cannot be reached by `xds:`"),
        ("google-c2p:///x", "cannot be reached by `google-c2p:`"),
        ("unix-abstract:x", "cannot be reached by `unix-abstract:`"),
        ("dns://8.8.8.8/istiod:1", "a DNS server of its own (`8.8.8.8`) is not supported"),
        ("dns://istiod:1", "no name after the authority"),
        ("istiod:http", "`http` is not a port"),
        ("istiod:0", "`0` is not a port"),
        ("istiod:70000", "`70000` is not a port"),
        (":1", "`` is not a host"),
        ("bad host:1", "`bad host` is not a host"),
        ("a:b:1", "more than one `:`"),
        ("[::1:1", "write `host:port`"),
        ("[::g]:1", "`::g` is not an IPv6 address"),
        ("ipv4:istiod:1", "`istiod:1` is not an IP address"),
        ("http://istiod:1/path", "a path (`/path`) means nothing here"),
        ("unix:", "no path"),
        ("unix://relative", "must be absolute"),
        ("https://istiod:1", "asks for TLS, but the credentials are insecure"),
    ];
    for (uri, wanted) in table {
        let report = with_uri(uri).expect_err(uri).report();
        assert!(report.starts_with(&format!("bootstrap: xds_servers[0].server_uri: `{uri}`")), "{report}");
        assert!(report.contains(wanted), "{uri}: {report}");
    }
}

#[cfg(feature = "tls")]
#[test]
fn the_first_supported_credentials_win() {
    let tls = |ca: Option<&str>, identity: Option<(&str, &str)>, seconds| {
        ChannelCredentials::Tls(TlsFiles {
            ca_certificate: ca.map(Into::into),
            identity: identity.map(|(certificate, key)| (certificate.into(), key.into())),
            refresh_interval: Duration::from_secs(seconds),
        })
    };
    let table = [
        (r#"[{"type": "insecure"}, {"type": "tls"}]"#, ChannelCredentials::Insecure),
        (r#"[{"type": "google_default"}, {"type": "insecure"}]"#, ChannelCredentials::Insecure),
        (r#"[{"type": "tls"}, {"type": "insecure"}]"#, tls(None, None, 600)),
        (r#"[{"type": "tls", "config": {"ca_certificate_file": "/ca"}}]"#, tls(Some("/ca"), None, 600)),
        (
            r#"[{"type": "tls", "config":
                {"certificate_file": "/c", "private_key_file": "/k", "refresh_interval": "1.0s"}}]"#,
            tls(None, Some(("/c", "/k")), 1),
        ),
    ];
    for (json, wanted) in table {
        assert_eq!(with_creds(json).unwrap().server().credentials, wanted, "{json}");
    }
}

#[cfg(feature = "tls")]
#[test]
fn a_wrong_tls_entry_is_an_error_although_insecure_follows() {
    let table = [
        (r#"{"certificate_file": "/c"}"#, "channel_creds[0].config.private_key_file: missing"),
        (r#"{"private_key_file": "/k"}"#, "channel_creds[0].config.certificate_file: missing"),
        (r#"{"ca_certificate_file": 1}"#, "config.ca_certificate_file: a number where a string is wanted"),
        (r#"{"refresh_interval": "soon"}"#, "`soon` is not a duration"),
        (r#"{"refresh_interval": "-1s"}"#, "`-1s` is not a duration"),
        (r#""files""#, "channel_creds[0].config: a string where an object is wanted"),
    ];
    for (config, wanted) in table {
        let creds = format!(r#"[{{"type": "tls", "config": {config}}}, {{"type": "insecure"}}]"#);
        let report = with_creds(&creds).expect_err(config).report();
        assert!(report.contains(wanted), "{config}: {report}");
    }
}

#[cfg(not(feature = "tls"))]
#[test]
fn tls_without_its_feature_is_an_error_although_insecure_follows() {
    let report = with_creds(r#"[{"type": "tls"}, {"type": "insecure"}]"#).unwrap_err().report();
    assert!(report.contains("channel_creds[0].type: `tls` needs mesh-core's feature `tls`"), "{report}");
}

#[test]
fn what_is_wrong_is_named_by_its_path() {
    let table = [
        ("[]", "top level: a list where an object is wanted"),
        ("{}", "xds_servers: missing or empty"),
        (r#"{"xds_servers": []}"#, "xds_servers: missing or empty"),
        (r#"{"xds_servers": {}}"#, "xds_servers: an object where a list is wanted"),
        (r#"{"xds_servers": [7]}"#, "xds_servers[0]: a number where an object is wanted"),
        (r#"{"xds_servers": [{}]}"#, "xds_servers[0].server_uri: missing or empty"),
        (r#"{"xds_servers": [{"server_uri": true}]}"#, "xds_servers[0].server_uri: a boolean where a string"),
        (r#"{"xds_servers": [{"server_uri": "a:1"}]}"#, "xds_servers[0].channel_creds: missing or empty"),
        (
            r#"{"xds_servers": [{"server_uri": "a:1", "channel_creds": [{}]}]}"#,
            "xds_servers[0].channel_creds[0].type: missing or empty",
        ),
    ];
    for (json, wanted) in table {
        let report = Bootstrap::from_json(json).expect_err(json).report();
        assert!(report.starts_with(&format!("bootstrap: {wanted}")), "{json}: {report}");
    }
    let base = r#""xds_servers": [{"server_uri": "a:1", "channel_creds": [{"type": "insecure"}]}]"#;
    let table = [
        (r#""node": {"id": 7}"#, "node.id: a number where a string is wanted"),
        (r#""node": {"metadata": []}"#, "node.metadata: a list where an object is wanted"),
        (r#""node": {"locality": {"zone": 1}}"#, "node.locality.zone: a number where a string is wanted"),
        (
            r#""certificate_providers": {"a": {}}"#,
            "certificate_providers.a.plugin_name: missing or empty, but required",
        ),
        (
            r#""authorities": {"a": {"client_listener_resource_name_template": "xdstp://b/%s"}}"#,
            "authorities.a.client_listener_resource_name_template: `xdstp://b/%s` does not start with `xdstp://a/`",
        ),
    ];
    for (field, wanted) in table {
        let report = Bootstrap::from_json(&format!("{{{base}, {field}}}")).expect_err(field).report();
        assert_eq!(report, format!("bootstrap: {wanted}"), "{field}");
    }
}

#[test]
fn what_nothing_acts_on_is_listed() {
    let json = r#"{
        "xds_servers": [
            {
                "server_uri": "a:1",
                "channel_creds": [{"type": "insecure", "config": {}, "x": 1}],
                "call_creds": [{"type": "oauth2", "config": {}}],
                "server_features": ["xds_v3", "fail_on_data_errors", "resource_timer_is_transient_error",
                    "ignore_resource_deletion", "trusted_xds_server", "warp"],
                "priority": 1
            },
            {"server_uri": "b:1"}
        ],
        "node": {"id": "n", "user_agent_name": "me", "dynamic_parameters": {}, "locality": {"planet": "earth"}},
        "allowed_grpc_services": {"dns:///a:1": {"channel_creds": [{"type": "insecure"}], "retries": 3}}
    }"#;
    let bootstrap = Bootstrap::from_json(json).unwrap();
    assert_eq!(
        bootstrap.ignored(),
        [
            "xds_servers[0].channel_creds[0].x: unknown field",
            "xds_servers[0].call_creds[0]: call credentials `oauth2` are not supported",
            "xds_servers[0].server_features[5]: server feature `warp` is not acted on",
            "xds_servers[0].priority: unknown field",
            "xds_servers[1]: fallback between servers (A71) is not acted on",
            "node.locality.planet: unknown field",
            "node.user_agent_name: the library fills it in",
            "node.dynamic_parameters: unknown field",
            "allowed_grpc_services.dns:///a:1.retries: unknown field",
        ]
    );
    let features = ServerFeatures { fail_on_data_errors: true, resource_timer_is_transient_error: true, trusted: true };
    assert_eq!(bootstrap.server().features, features);
}

#[test]
fn the_path_variable_wins_over_the_inline_one() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ISTIO).unwrap();
    let inline = server(r#""server_uri": "inline:1", "channel_creds": [{"type": "insecure"}]"#);
    let from = |path: Option<&OsString>, inline: &str| Bootstrap::from_variables(path.cloned(), Some(inline.into()));
    let path = file.path().as_os_str().to_owned();
    assert_eq!(from(Some(&path), &inline).unwrap().server_uri(), "unix:///etc/istio/proxy/XDS");
    assert_eq!(from(None, &inline).unwrap().server_uri(), "inline:1");
    assert_eq!(from(Some(&OsString::new()), &inline).unwrap().server_uri(), "inline:1");
    let report = from(None, "").unwrap_err().report();
    assert!(report.starts_with("neither GRPC_XDS_BOOTSTRAP nor GRPC_XDS_BOOTSTRAP_CONFIG is set; set"), "{report}");
    let report = from(None, "{").unwrap_err().report();
    assert!(report.starts_with("GRPC_XDS_BOOTSTRAP_CONFIG is not JSON: EOF"), "{report}");
    let report = from(Some(&"/nowhere/b.json".into()), &inline).unwrap_err().report();
    assert!(
        report.starts_with("bootstrap file /nowhere/b.json (GRPC_XDS_BOOTSTRAP) cannot be read: No such"),
        "{report}"
    );
}

#[test]
fn code_builds_what_a_file_would_hold() {
    let bootstrap = Bootstrap::builder("127.0.0.1:18000")
        .insecure()
        .node_id("n")
        .node_cluster("c")
        .locality("r", "z", "")
        .node_metadata("GENERATOR", "grpc")
        .server_feature("fail_on_data_errors")
        .build()
        .unwrap();
    assert_eq!((bootstrap.node_id(), bootstrap.node().cluster.as_str()), ("n", "c"));
    let locality = LocalityConfig { region: "r".into(), zone: "z".into(), sub_zone: String::new() };
    assert_eq!(bootstrap.node().locality, Some(locality));
    assert_eq!(bootstrap.node().metadata["GENERATOR"], "grpc");
    assert!(bootstrap.server().features.fail_on_data_errors);
    assert!(bootstrap.ignored().is_empty());
    let report = Bootstrap::builder("a:1").build().unwrap_err().report();
    assert!(report.contains("xds_servers[0].channel_creds: missing or empty"), "{report}");
}

#[cfg(all(unix, feature = "tls"))]
#[test]
fn a_path_that_json_cannot_hold_is_an_error() {
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new(std::ffi::OsStr::from_bytes(b"/\xff"));
    let report = Bootstrap::builder("a:1").tls_with_roots(path).build().unwrap_err().report();
    assert!(report.contains("ca_certificate_file"), "{report}");
}

#[test]
fn listener_names_follow_their_templates() {
    let base = r#""xds_servers": [{"server_uri": "a:1", "channel_creds": [{"type": "insecure"}]}]"#;
    let table = [
        (None, "greeter:80", "greeter:80"),
        (Some("prefix/%s/%s"), "g", "prefix/g/g"),
        (Some("xdstp://a/envoy.config.listener.v3.Listener/%s"), "a/b c%?|", "a/b%20c%25%3F%7C"),
        (Some("xdstp://a/envoy.config.listener.v3.Listener/%s"), "[::1]:80", "%5B::1%5D:80"),
    ];
    for (template, target, end) in table {
        let field = template.map(|t| format!(r#", "client_default_listener_resource_name_template": "{t}""#));
        let bootstrap = Bootstrap::from_json(&format!("{{{base}{}}}", field.unwrap_or_default())).unwrap();
        let name = bootstrap.client_listener_name(target);
        let prefix = template.filter(|t| t.starts_with("xdstp")).map_or("", |t| t.trim_end_matches("%s"));
        assert_eq!(name, format!("{prefix}{end}"));
    }
}

#[cfg(feature = "tls")]
#[test]
fn services_that_resources_may_name_have_an_address_and_credentials_of_the_bootstrap() {
    let (base, service) = (Bootstrap::builder("a:1").insecure(), || GrpcService::new("dns:///authz.test:9000"));
    let bootstrap = base.clone().allow_grpc_service(service().tls()).build().unwrap();
    let [allowed] = bootstrap.allowed_grpc_services() else { panic!("one service") };
    assert_eq!(&*allowed.uri, "dns:///authz.test:9000");
    assert_eq!(allowed.address, ServerAddress::Host { host: "authz.test".into(), port: 9000 });
    assert!(matches!(allowed.credentials, ChannelCredentials::Tls(_)));
    for (service, wanted) in [
        (service(), "allowed_grpc_services.dns:///authz.test:9000.channel_creds: missing or empty, but required"),
        (
            service().insecure().jwt_token_file("/token"),
            "allowed_grpc_services.dns:///authz.test:9000.call_creds: a token is never sent in plaintext",
        ),
        (
            GrpcService::new("xds:///authz").insecure(),
            "allowed_grpc_services.xds:///authz: `xds:///authz`: a server cannot be reached by `xds:`",
        ),
        (GrpcService::new("https://a").insecure(), "allowed_grpc_services.https://a: `https://a` asks for TLS"),
    ] {
        let report = base.clone().allow_grpc_service(service).build().expect_err(wanted).report();
        assert!(report.starts_with(&format!("bootstrap: {wanted}")), "{report}");
    }
}
