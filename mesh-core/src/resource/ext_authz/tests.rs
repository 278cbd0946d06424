use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use mesh_xds_proto::envoy::config::core::v3::{self as core, HeaderValueOption};
use mesh_xds_proto::envoy::service::auth::v3::check_response::HttpResponse;
use mesh_xds_proto::envoy::service::auth::v3::{CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse};
use mesh_xds_proto::envoy::r#type::v3::HttpStatus;
use mesh_xds_proto::google::rpc::Status;
use proptest::prelude::*;
use prost::Message;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::bootstrap::{Bootstrap, GrpcService};
use crate::resource::filter::header_mutation::Change;
use crate::resource::filter::template::{self, Facts};
use crate::resource::matcher::RequestHead;
use crate::xds::transport::grpc::GrpcOptions;

/// Denies what nobody allows, and tells the service everything.
fn filter() -> ExtAuthz {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let service = GrpcService::new("127.0.0.1:1").insecure();
    let bootstrap = Bootstrap::builder("a:1").insecure().allow_grpc_service(service).build().expect("a bootstrap");
    let server = bootstrap.allowed_grpc_services()[0].clone();
    let channel = SideChannel::new(server, GrpcOptions::default(), runtime.handle(), &CancellationToken::new());
    ExtAuthz {
        service: AuthorizationService { channel: Arc::new(channel), timeout: DEFAULT_TIMEOUT },
        enabled: MILLION,
        deny_at_disable: false,
        failure_mode_allow: false,
        failure_mode_allow_header_add: false,
        status_on_error: StatusCode::FORBIDDEN,
        allowed_headers: None,
        disallowed_headers: [].into(),
        rules: MutationRules::default(),
        include_peer_certificate: false,
        is_open: AtomicBool::new(false),
    }
}

fn option(key: &str, value: &str) -> HeaderValueOption {
    let header = core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() };
    HeaderValueOption { header: Some(header), ..Default::default() }
}

fn overwriting(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption { append_action: 2, ..option(key, value) }
}

fn existing(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption { append_action: 3, ..option(key, value) }
}

fn response(code: i32, http_response: Option<HttpResponse>) -> CheckResponse {
    CheckResponse { status: Some(Status { code, ..Default::default() }), http_response, ..Default::default() }
}

fn ok(headers: Vec<HeaderValueOption>) -> CheckResponse {
    response(0, Some(HttpResponse::OkResponse(OkHttpResponse { headers, ..Default::default() })))
}

fn denied(code: i32, headers: Vec<HeaderValueOption>, body: &str) -> DeniedHttpResponse {
    DeniedHttpResponse { status: Some(HttpStatus { code }), headers, body: body.into() }
}

/// `Ok`: the call passes; `Err`: the status that it is denied with.
fn told(verdict: &Verdict) -> Result<usize, (u16, &str)> {
    match verdict {
        Verdict::Allow { request, response } => Ok(request.len() + response.len()),
        Verdict::Deny(denial) => Err((denial.status.as_u16(), &denial.body)),
    }
}

#[test]
fn an_answer_that_is_not_ok_denies_and_so_does_none() {
    let open = || ExtAuthz { failure_mode_allow: true, ..filter() };
    let tells = || ExtAuthz { failure_mode_allow_header_add: true, ..open() };
    let with_status = || ExtAuthz { status_on_error: StatusCode::SERVICE_UNAVAILABLE, ..filter() };
    let denies = |code| Ok(response(7, Some(HttpResponse::DeniedResponse(denied(code, vec![], "no")))));
    let fails = || Ok(response(13, Some(HttpResponse::ErrorResponse(denied(500, vec![], "broken")))));
    let lost = || Err("lost".to_owned());
    for (what, filter, answer, expected) in [
        ("OK", filter(), Ok(response(0, None)), Ok(0)),
        ("no status is OK's", filter(), Ok(CheckResponse::default()), Ok(0)),
        (
            "OK, beside what denies",
            filter(),
            Ok(response(0, Some(HttpResponse::DeniedResponse(denied(401, vec![], ""))))),
            Ok(0),
        ),
        ("another status", filter(), Ok(response(16, None)), Err((403, ""))),
        (
            "not OK, beside what allows",
            filter(),
            Ok(CheckResponse { status: response(7, None).status, ..ok(vec![]) }),
            Err((403, "")),
        ),
        ("with a status of its own", filter(), denies(401), Err((401, "no"))),
        ("with one that says no error", filter(), denies(200), Err((403, "no"))),
        ("with one that there is not", filter(), denies(7), Err((403, "no"))),
        ("denied, where failures pass", open(), denies(401), Err((401, "no"))),
        ("failed by its own account", filter(), fails(), Err((500, "broken"))),
        ("the same where failures pass", open(), fails(), Ok(0)),
        ("lost", filter(), lost(), Err((403, ""))),
        ("lost, with a status", with_status(), lost(), Err((503, ""))),
        ("lost, where failures pass", open(), lost(), Ok(0)),
        ("the same, and told", tells(), lost(), Ok(1)),
    ] {
        assert_eq!(told(&filter.decided(answer)), expected, "{what}");
    }
}

/// The headers as the changes leave them.
fn changed(changes: &[Change], before: &[(&'static str, &'static str)]) -> Vec<String> {
    let pairs = before.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let mut headers: HeaderMap = pairs.collect();
    for change in changes {
        let head = RequestHead { path: "/", method: &Method::POST, authority: "", headers: &headers };
        let value = change.value(&Facts { cluster: None, route: None, message: template::Message::Request(head) });
        change.apply(value, &mut headers);
    }
    let told = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().expect("text"));
    let mut told: Vec<_> = headers.iter().map(told).collect();
    // Values of one name stay as they are.
    told.sort_by(|one, other| one.split(':').next().cmp(&other.split(':').next()));
    told
}

#[test]
fn headers_are_changed_as_the_service_says_within_the_rules() {
    let rules = |rules| ExtAuthz { rules, ..filter() };
    let only = |name: &str| MutationRules {
        disallow_all: true,
        allow: Some(TextMatch::exact(name, false)),
        ..Default::default()
    };
    let raw = |key: &str, raw: &[u8]| {
        let header = core::HeaderValue { key: key.into(), raw_value: raw.to_vec().into(), ..Default::default() };
        HeaderValueOption { header: Some(header), ..Default::default() }
    };
    let fresh = || MutationRules::default();
    for (what, filter, option, expected) in [
        ("appended", rules(fresh()), option("x-user", "a"), &["x-user: caller", "x-user: a"][..]),
        ("in its place", rules(fresh()), overwriting("x-user", "a"), &["x-user: a"]),
        (
            "by the old field",
            rules(fresh()),
            HeaderValueOption { append: Some(false), ..option("x-user", "a") },
            &["x-user: a"],
        ),
        ("empty: none is left", rules(fresh()), overwriting("x-user", ""), &[]),
        (
            "kept empty",
            rules(fresh()),
            HeaderValueOption { keep_empty_value: true, ..overwriting("x-user", "") },
            &["x-user: "],
        ),
        (
            "only where it is not",
            rules(fresh()),
            HeaderValueOption { append_action: 1, ..option("x-user", "a") },
            &["x-user: caller"],
        ),
        ("only where it is", rules(fresh()), existing("x-user", "a"), &["x-user: a"]),
        ("there it is not", rules(fresh()), existing("x-team", "a"), &["x-user: caller"]),
        ("there, and empty", rules(fresh()), existing("x-user", ""), &[]),
        (
            "Envoy's, if it may",
            rules(MutationRules { allow_envoy: true, ..fresh() }),
            option("x-envoy-a", "1"),
            &["x-envoy-a: 1", "x-user: caller"],
        ),
        ("binary", rules(fresh()), raw("x-bin", &[0, 255]), &["x-bin: AP8", "x-user: caller"]),
        ("pseudo", rules(fresh()), option(":path", "/admin"), &["x-user: caller"]),
        ("host", rules(fresh()), option("host", "evil"), &["x-user: caller"]),
        ("gRPC's own", rules(fresh()), option("grpc-status", "0"), &["x-user: caller"]),
        ("framing", rules(fresh()), option("content-length", "3"), &["x-user: caller"]),
        ("Envoy's", rules(fresh()), option("x-envoy-retry-on", "5xx"), &["x-user: caller"]),
        ("none", rules(only("x-team")), overwriting("x-user", "a"), &["x-user: caller"]),
        ("but one", rules(only("x-team")), option("x-team", "a"), &["x-team: a", "x-user: caller"]),
        (
            "one forbidden, and allowed, too",
            rules(MutationRules { disallow: Some(TextMatch::exact("x-team", false)), ..only("x-team") }),
            option("x-team", "a"),
            &["x-user: caller"],
        ),
    ] {
        let Verdict::Allow { request, .. } = filter.decided(Ok(ok(vec![option]))) else { panic!("{what}: denied") };
        assert_eq!(changed(&request, &[("x-user", "caller")]), expected, "{what}");
    }
    let removes = OkHttpResponse {
        headers: vec![option("x-new", "1")],
        headers_to_remove: vec!["x-user".into(), "te".into(), ":path".into()],
        ..Default::default()
    };
    let verdict = filter().decided(Ok(response(0, Some(HttpResponse::OkResponse(removes)))));
    let Verdict::Allow { request, .. } = verdict else { panic!("denied") };
    assert_eq!(changed(&request, &[("x-user", "caller"), ("te", "trailers")]), ["te: trailers", "x-new: 1"]);
}

#[test]
fn a_service_that_fails_by_its_own_account_has_headers_for_the_caller_and_no_value_enters_a_header_table() {
    let fails = denied(500, vec![option("retry-after", "1")], "broken");
    let verdict = filter().decided(Ok(response(13, Some(HttpResponse::ErrorResponse(fails)))));
    let Verdict::Deny(Denial { headers, .. }) = verdict else { panic!("allowed") };
    assert_eq!(changed(&headers, &[]), ["retry-after: 1"]);
    let Verdict::Allow { request, .. } = filter().decided(Ok(ok(vec![option("x-user", "alice")]))) else {
        panic!("denied")
    };
    let head = RequestHead { path: "/", method: &Method::POST, authority: "", headers: &HeaderMap::new() };
    let facts = Facts { cluster: None, route: None, message: template::Message::Request(head) };
    assert!(request[0].value(&facts).expect("a value").is_sensitive());
}

/// Even where failures pass.
#[test]
fn a_change_that_is_none_or_is_forbidden_fails_the_call() {
    let strict = MutationRules { disallow_all: true, disallow_is_error: true, ..Default::default() };
    let filter = || ExtAuthz { failure_mode_allow: true, ..filter() };
    for (what, filter, option) in [
        ("no header", filter(), HeaderValueOption::default()),
        ("no name", filter(), option("", "1")),
        ("no name of a header", filter(), option("a b", "1")),
        ("upper case", filter(), option("X-User", "1")),
        ("a long name", filter(), option(&"x".repeat(16_385), "1")),
        ("a long value", filter(), option("x", &"1".repeat(16_385))),
        ("no value of a header", filter(), option("x", "a\r\nb: c")),
        ("no action", filter(), HeaderValueOption { append_action: 9, ..option("x", "1") }),
        ("forbidden", ExtAuthz { rules: strict, ..filter() }, option("x", "1")),
    ] {
        assert_eq!(told(&filter.decided(Ok(ok(vec![option])))), Err((500, "")), "{what}");
    }
}

#[test]
fn a_long_text_is_cut_for_callers() {
    let denies = denied(401, vec![], &"é".repeat(5_000));
    let verdict = filter().decided(Ok(response(7, Some(HttpResponse::DeniedResponse(denies)))));
    let Verdict::Deny(denial) = verdict else { panic!("allowed") };
    assert_eq!(denial.body, "é".repeat(2_048));
}

#[test]
fn a_share_of_calls_is_checked_and_the_others_pass_or_are_denied() {
    for (enabled, deny_at_disable, random, expected) in [
        (MILLION, true, 999_999, Checked::Yes),
        (500_000, false, 499_999, Checked::Yes),
        (500_000, false, 500_000, Checked::No),
        (500_000, true, 500_000, Checked::Denied),
        (0, false, 0, Checked::No),
        (0, true, 0, Checked::Denied),
    ] {
        let filter = ExtAuthz { enabled, deny_at_disable, ..filter() };
        assert_eq!(filter.is_checked(|| random), expected, "{enabled} {deny_at_disable} {random}");
    }
}

#[test]
fn a_service_is_told_what_a92_says() {
    let parties = Parties {
        peer_address: ([10, 0, 0, 9], 2).into(),
        peer: Some("spiffe://test/a".into()),
        certificate: Some("PEM".into()),
        local_address: ([10, 0, 0, 1], 443).into(),
        local: None,
    };
    let request =
        Request::post("http://svc.test/pkg.Svc/Get?q=1").header("x-a", "1").header("x-secret", "2").header("x-a", "3");
    let (head, ()) = request.body(()).expect("a request").into_parts();
    let context = [("tier".to_owned(), "gold".to_owned())].into();
    let ask = |filter: &ExtAuthz, parties| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        let asked = Asked { head: &head, parties, context_extensions: &context, time };
        CheckRequest::decode(&*filter.request(asked)).expect("a request").attributes.expect("attributes")
    };
    let hides = ExtAuthz { disallowed_headers: [TextMatch::exact("x-secret", false)].into(), ..filter() };
    let told = ask(&hides, Some(parties.clone()));
    let http = told.request.as_ref().and_then(|request| request.http.clone()).expect("the call");
    assert_eq!((&*http.method, &*http.path, &*http.host), ("POST", "/pkg.Svc/Get?q=1", "svc.test"));
    assert_eq!((http.size, &*http.protocol), (-1, "HTTP/2"));
    let headers = http.header_map.expect("headers").headers;
    let headers: Vec<_> = headers.iter().map(|header| (&*header.key, &header.raw_value[..])).collect();
    assert_eq!(headers, [("x-a", &b"1"[..]), ("x-a", b"3")]);
    let source = told.source.expect("a source");
    assert_eq!((&*source.principal, &*source.certificate), ("spiffe://test/a", ""));
    assert_eq!(told.request.and_then(|request| request.time).expect("a time").seconds, 5);
    assert_eq!(told.context_extensions, context);
    let shows = ExtAuthz {
        include_peer_certificate: true,
        allowed_headers: Some([TextMatch::prefix("x-s", false)].into()),
        ..filter()
    };
    let told = ask(&shows, Some(parties));
    assert_eq!(told.source.expect("a source").certificate, "PEM");
    let http = told.request.and_then(|request| request.http).expect("the call");
    assert_eq!(http.header_map.expect("headers").headers.len(), 1);
    assert!(ask(&shows, None).source.is_none(), "a client says nothing of connections");
}

/// Or its caller could have the service decide on another call than the one that is routed.
#[test]
fn a_service_is_told_the_host_of_a_call_without_an_authority() {
    let (head, ()) = Request::post("/pkg.Svc/Get").header("host", "svc.test").body(()).expect("a request").into_parts();
    let context_extensions = &BTreeMap::new();
    let asked = Asked { head: &head, parties: None, context_extensions, time: SystemTime::UNIX_EPOCH };
    let told = CheckRequest::decode(&*filter().request(asked)).expect("a request").attributes.expect("attributes");
    let http = told.request.and_then(|request| request.http).expect("the call");
    assert_eq!((&*http.path, &*http.host), ("/pkg.Svc/Get", "svc.test"));
}

proptest! {
    /// Whatever comes, there is a verdict, and what is not OK never passes.
    #[test]
    fn any_answer_leads_to_a_verdict(bytes in proptest::collection::vec(any::<u8>(), 0..200), code in 1..20, names in proptest::collection::vec(".{0,12}", 0..4)) {
        if let Ok(response) = CheckResponse::decode(&*bytes) {
            let is_ok = response.status.as_ref().is_none_or(|status| status.code == 0);
            let passes = matches!(filter().decided(Ok(response)), Verdict::Allow { .. });
            prop_assert!(!passes || is_ok);
        }
        let headers: Vec<_> = names.iter().map(|name| option(name, name)).collect();
        let _ = filter().decided(Ok(ok(headers.clone())));
        let denies = response(code, Some(HttpResponse::DeniedResponse(denied(code, headers, &names.concat()))));
        let is_denied = matches!(filter().decided(Ok(denies)), Verdict::Deny(_));
        prop_assert!(is_denied);
    }
}
