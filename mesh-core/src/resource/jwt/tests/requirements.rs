//! Several providers, places and requirements; and what a request looks like behind the filter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;

use super::signer::{Signer, encoded};
use super::{NOW, bearer, provider, request};
use crate::resource::claims::Claims;
use crate::resource::jwt::failure::Failure;
use crate::resource::jwt::keys::TRIES;
use crate::resource::jwt::place::TokenPlace;
use crate::resource::jwt::provider::{Effects, Provider};
use crate::resource::jwt::requirement::{Requirement, TokenOf};
use crate::resource::jwt::{JwtConfig, JwtFilter};
use crate::resource::matcher::RouteMatch;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

/// With one rule for all requests.
fn filter(providers: Vec<Provider>, requirement: Requirement) -> JwtConfig {
    let rules = vec![(RouteMatch::prefix(""), requirement)];
    JwtConfig::Rules(Arc::new(JwtFilter::new(providers, rules, BTreeMap::new(), false)))
}

fn of(provider: usize) -> Requirement {
    Requirement::Provider(TokenOf::provider(provider))
}

#[test]
fn requirements_hold_as_they_are_put_together() {
    let (joe, jim, eve) = (Signer::new("joe"), Signer::new("jim"), Signer::new("eve"));
    let token = |signer: &Signer, issuer: &str| signer.token(&json!({"iss": issuer}));
    let expired = joe.token(&json!({"iss": "joe", "exp": 1}));
    let (of_joe, of_jim, of_eve) = (token(&joe, "joe"), token(&jim, "jim"), token(&eve, "eve"));
    let forged = token(&Signer::new("joe"), "joe");
    let aside = |signer: &Signer, issuer: &str| Provider {
        places: vec![TokenPlace::Header { name: HeaderName::from_static("x-jim"), prefix: "".into() }],
        ..provider(issuer, signer)
    };
    let any = |list: Vec<Requirement>| Requirement::Any(list.into());
    let all = |list: Vec<Requirement>| Requirement::All(list.into());
    let both = || Box::<[TokenOf]>::from([0, 1].map(TokenOf::provider));
    type Make<'a> = &'a dyn Fn() -> Requirement;
    let of_joe_for = |one: &str| TokenOf { provider: 0, audiences: Some([one.to_owned()].into()) };
    let audience = |one: &str| Requirement::Provider(of_joe_for(one));
    let require: [(&str, Make<'_>); 8] = [
        ("joe", &|| of(0)),
        ("joe or jim", &|| any(vec![of(0), of(1)])),
        ("joe and jim", &|| all(vec![of(0), of(1)])),
        ("joe, for x", &|| audience("x")),
        ("joe, or nothing", &|| any(vec![of(0), Requirement::AllowMissing([TokenOf::provider(0)].into())])),
        ("none missing but good", &|| Requirement::AllowMissing(both())),
        ("whatever", &|| Requirement::AllowMissingOrFailed(both())),
        ("nothing", &|| Requirement::Nothing),
    ];
    use Failure::{Audience, BadSignature, Expired, Malformed, Missing, UnknownIssuer};
    type Headers<'a> = &'a [(&'static str, &'a str)];
    let cases: [(Headers<'_>, [Result<(), Failure>; 8]); 8] = [
        (&[], [Err(Missing), Err(Missing), Err(Missing), Err(Missing), Ok(()), Ok(()), Ok(()), Ok(())]),
        (&[("authorization", &of_joe)], [Ok(()), Ok(()), Err(Missing), Err(Audience), Ok(()), Ok(()), Ok(()), Ok(())]),
        (&[("x-jim", &of_jim)], [Err(Missing), Ok(()), Err(Missing), Err(Missing), Ok(()), Ok(()), Ok(()), Ok(())]),
        (
            &[("authorization", &of_joe), ("x-jim", &of_jim)],
            [Ok(()), Ok(()), Ok(()), Err(Audience), Ok(()), Ok(()), Ok(()), Ok(())],
        ),
        (&[("authorization", &forged)], bad(BadSignature)),
        (&[("authorization", &of_eve)], bad(UnknownIssuer)),
        (&[("authorization", &expired)], bad(Expired)),
        (&[("authorization", "junk")], bad(Malformed)),
    ];
    for (headers, expected) in cases {
        let headers: Vec<_> = headers.iter().map(|(name, token)| (*name, format!("{}{token}", prefix(name)))).collect();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        for ((name, make), expected) in require.iter().zip(expected) {
            let filter = filter(vec![provider("joe", &joe), aside(&jim, "jim")], make());
            let found = filter.authenticate(&mut request("http://svc.test/a.B/C", &headers), now());
            assert_eq!(found, expected, "`{name}` for {headers:?}");
        }
    }
}

#[test]
fn a_signature_is_verified_once_wherever_the_token_is_and_whomever_it_may_be_for() {
    let joe = Signer::new("joe");
    let token = joe.token(&json!({"iss": "joe", "aud": "e"}));
    let for_one = |audience: &str| TokenOf { provider: 0, audiences: Some([audience.to_owned()].into()) };
    let all = || ["a", "b", "c", "d", "e"].map(for_one).map(Requirement::Provider);
    let uri = format!("http://svc.test/a.B/C?access_token={token}");
    let bearer = format!("Bearer {token}");
    for (requirement, expected) in [
        (Requirement::Any(all().into()), Ok(())),
        (Requirement::Any(all().into_iter().take(4).collect()), Err(Failure::Audience)),
        (Requirement::AllowMissingOrFailed(["a", "b", "e"].map(for_one).into()), Ok(())),
    ] {
        let filter = filter(vec![provider("joe", &joe)], requirement);
        TRIES.set(0);
        let found = filter.authenticate(&mut request(&uri, &[("authorization", &bearer)]), now());
        assert_eq!((found, TRIES.get()), (expected, 1));
    }
}

#[test]
fn a_good_token_beside_a_bad_one_is_not_believed_though_another_issuers_lets_the_call_pass() {
    let (joe, jim) = (Signer::new("joe"), Signer::new("jim"));
    let entry = |name: &str| Effects { payload_entry: Some(name.into()), ..Effects::default() };
    let places = vec![TokenPlace::Header { name: HeaderName::from_static("x-jim"), prefix: "".into() }];
    let providers = vec![
        Provider { effects: entry("joe"), ..provider("joe", &joe) },
        Provider { effects: entry("jim"), places, ..provider("jim", &jim) },
    ];
    let filter = filter(providers, Requirement::Any(vec![of(0), of(1)].into()));
    let of_joe = format!("Bearer {}", joe.token(&json!({"iss": "joe"})));
    let of_jim = jim.token(&json!({"iss": "jim"}));
    let headers = [("authorization", &*of_joe), ("x-jim", &of_jim)];
    let mut head = request("http://svc.test/a.B/C?access_token=junk", &headers);
    assert_eq!(filter.authenticate(&mut head, now()), Ok(()));
    let claims = head.extensions.get::<Claims>().expect("those of jim");
    assert_eq!(claims.entries().count(), 1);
    assert_eq!((claims.text("jim", &["iss"]), claims.text("joe", &["iss"])), (Some("jim"), None));
}

#[test]
fn a_token_for_another_audience_is_not_missing() {
    let joe = Signer::new("joe");
    let effects = || Effects { payload_entry: Some("payload".into()), ..Effects::default() };
    let provider = || vec![Provider { effects: effects(), ..provider("joe", &joe) }];
    let for_one = |audience: &str| TokenOf { provider: 0, audiences: Some([audience.to_owned()].into()) };
    let either = |lenient: fn(Box<[TokenOf]>) -> Requirement| {
        let beside = [for_one("x"), for_one("y")];
        let strict = beside.clone().map(Requirement::Provider);
        Requirement::Any(strict.into_iter().chain([lenient(beside.into())]).collect())
    };
    let authenticate = |requirement, audience: &str| {
        let mut head = bearer(&joe.token(&json!({"iss": "joe", "aud": audience})));
        filter(provider(), requirement).authenticate(&mut head, now())?;
        Ok(head.extensions.get::<Claims>().expect("some or none").entries().count())
    };
    assert_eq!(authenticate(either(Requirement::AllowMissing), "y"), Ok(1));
    assert_eq!(authenticate(either(Requirement::AllowMissing), "z"), Err(Failure::Audience));
    assert_eq!(
        authenticate(either(Requirement::AllowMissingOrFailed), "z"),
        Ok(0),
        "and nothing that it says is believed"
    );
}

fn prefix(name: &str) -> &'static str {
    if name == "authorization" { "Bearer " } else { "" }
}

/// Of a call with a token that is not good; the last two requirements hold for every call.
fn bad(failure: Failure) -> [Result<(), Failure>; 8] {
    std::array::from_fn(|place| if place < 6 { Err(failure) } else { Ok(()) })
}

#[test]
fn a_good_token_beside_another_one_does_not_do() {
    let signer = Signer::new("k");
    let token = signer.token(&json!({"iss": "joe"}));
    let good = format!("Bearer {token}");
    let filter = filter(vec![provider("joe", &signer)], of(0));
    let places = ["http://svc.test/a.B/C", "http://svc.test/a.B/C?access_token=junk"];
    let authenticate =
        |uri: &str, headers: &[(&'static str, &str)]| filter.authenticate(&mut request(uri, headers), now());
    assert_eq!(authenticate(places[0], &[("authorization", &good)]), Ok(()));
    assert_eq!(authenticate(places[1], &[("authorization", &good)]), Err(Failure::Malformed));
    let two = |other: &str| format!("{}?access_token={other}", places[0]);
    assert_eq!(authenticate(&two(&token), &[("authorization", &good)]), Ok(()), "twice the same");
    let other = signer.token(&json!({"iss": "joe", "sub": "mallory"}));
    assert_eq!(authenticate(&two(&other), &[("authorization", &good)]), Err(Failure::Ambiguous));
    let twice = [("authorization", good.as_str()), ("authorization", "Bearer junk")];
    assert_eq!(authenticate(places[0], &twice), Err(Failure::Ambiguous));
    let both = format!("http://svc.test/a.B/C?access_token={token}&access_token={token}");
    assert_eq!(authenticate(&both, &[]), Err(Failure::Ambiguous));
    assert_eq!(authenticate(places[0], &[("authorization", "Basic abc")]), Err(Failure::Missing));
    assert_eq!(authenticate(places[0], &[("authorization", &good.replace("Bearer", "bearer"))]), Ok(()));
    assert_eq!(authenticate(places[0], &[("authorization", "Bearer ")]), Err(Failure::Malformed));
}

#[test]
fn tokens_are_found_where_the_provider_says_and_nowhere_else() {
    let signer = Signer::new("k");
    let token = signer.token(&json!({"iss": "joe"}));
    let header = TokenPlace::Header { name: HeaderName::from_static("x-token"), prefix: "jwt=".into() };
    let places = vec![header, TokenPlace::Parameter("t".into()), TokenPlace::Cookie("session".into())];
    let filter = filter(vec![Provider { places, ..provider("joe", &signer) }], of(0));
    let plain = "http://svc.test/a.B/C";
    let authenticate = |mut head: Parts| filter.authenticate(&mut head, now()).map(|()| head);
    let header = authenticate(request(plain, &[("x-token", &format!("JWT={token}"))])).expect("a good token");
    assert!(header.headers.is_empty(), "who is served gets no token");
    let parameter = authenticate(request(&format!("{plain}?a=1&t={token}&b"), &[])).expect("a good token");
    assert_eq!(parameter.uri, "http://svc.test/a.B/C?a=1&b");
    let encoded = authenticate(request(&format!("{plain}?a=1&%74={token}"), &[])).expect("a good token");
    assert_eq!(encoded.uri, "http://svc.test/a.B/C?a=1");
    let alone = authenticate(request(&format!("{plain}?t={token}"), &[])).expect("a good token");
    assert_eq!(alone.uri, plain);
    let cookie = format!("a=b; session={token}; c=d");
    assert_eq!(authenticate(request(plain, &[("cookie", &cookie)])).expect("a good token").headers["cookie"], cookie);
    assert_eq!(authenticate(bearer(&token)).map(drop), Err(Failure::Missing));
    let mut odd = request(plain, &[]);
    for (cookie, expected) in [
        (&b"session=\xff"[..], Err(Failure::Malformed)),
        (b"x=\xff; session=junk", Err(Failure::Malformed)),
        (b"x=\xff", Err(Failure::Missing)),
    ] {
        odd.headers.insert("cookie", HeaderValue::from_bytes(cookie).expect("a value"));
        assert_eq!(authenticate(odd.clone()).map(drop), expected, "{cookie:?}");
    }
}

#[test]
fn a_request_has_what_its_token_says_and_not_what_its_caller_does() {
    let signer = Signer::new("k");
    let payload =
        json!({"iss": "joe", "sub": "alice", "scope": "read  write", "n": 7, "ok": true, "deep": {"a": "b"}, "l": []});
    let claim =
        |name, path: &[&str]| (HeaderName::from_static(name), path.iter().map(|step| (*step).to_owned()).collect());
    let effects = Effects {
        forwards: true,
        payload_header: Some(HeaderName::from_static("x-payload")),
        pads: false,
        claim_headers: vec![
            claim("x-sub", &["sub"]),
            claim("x-n", &["n"]),
            claim("x-ok", &["ok"]),
            claim("x-deep", &["deep", "a"]),
            claim("x-list", &["l"]),
            claim("x-none", &["none"]),
        ],
        payload_entry: Some("payload".into()),
        header_entry: Some("header".into()),
        lists: vec!["scope".into(), "sub_of_none".into()],
    };
    let filter = filter(vec![Provider { effects, ..provider("joe", &signer) }], of(0));
    let token = signer.token(&payload);
    let mut head = bearer(&token);
    for name in ["x-payload", "x-sub", "x-list", "x-none"] {
        head.headers.append(HeaderName::from_static(name), "forged".parse().expect("a value"));
    }
    filter.authenticate(&mut head, now()).expect("a good token");
    assert!(head.headers.contains_key("authorization"), "it is forwarded");
    assert_eq!(head.headers["x-payload"], encoded(payload.to_string().as_bytes()));
    let of =
        |name: &str| head.headers.get_all(name).iter().map(|value| value.to_str().expect("text")).collect::<Vec<_>>();
    assert_eq!([of("x-sub"), of("x-n"), of("x-ok"), of("x-deep")], [["alice"], ["7"], ["true"], ["b"]]);
    assert!(of("x-list").is_empty() && of("x-none").is_empty(), "nobody but the filter sets them");
    let claims = head.extensions.get::<Claims>().expect("claims");
    assert_eq!(claims.text("payload", &["sub"]), Some("alice"));
    assert!(claims.has("payload", &["scope"], "write") && !claims.has("payload", &["scope"], ""));
    assert_eq!(claims.text("header", &["alg"]), Some("ES256"));
}

#[test]
fn what_only_the_filter_may_say_is_taken_out_where_nothing_is_required_too() {
    let signer = Signer::new("k");
    let effects = || Effects { payload_header: Some(HeaderName::from_static("x-payload")), ..Effects::default() };
    let providers = || vec![Provider { effects: effects(), ..provider("joe", &signer) }];
    for requirement in [Requirement::Nothing, Requirement::AllowMissing([TokenOf::provider(0)].into())] {
        let mut head = request("http://svc.test/", &[("x-payload", "forged")]);
        filter(providers(), requirement).authenticate(&mut head, now()).expect("nothing is required");
        assert!(head.headers.is_empty());
        assert_eq!(head.extensions.get::<Claims>().expect("none of them").entries().count(), 0);
    }
    let mut head = request("http://svc.test/", &[("x-payload", "forged")]);
    let off = filter(providers(), of(0)).switched_off();
    assert!(!off.is_idle() && off.authenticate(&mut head, now()).is_ok() && head.headers.is_empty());
    let none = JwtConfig::Rules(Arc::new(JwtFilter::new(providers(), Vec::new(), BTreeMap::new(), false)));
    assert!(!none.is_idle());
}

#[test]
fn the_first_rule_that_matches_holds_and_a_route_may_name_another() {
    let signer = Signer::new("k");
    let rules = vec![
        (RouteMatch::prefix("/open."), Requirement::Nothing),
        (RouteMatch::prefix("/"), of(0)),
        (RouteMatch::prefix("/"), Requirement::Nothing),
    ];
    let named = BTreeMap::from([(Arc::from("open"), Requirement::Nothing)]);
    let rules = JwtConfig::Rules(Arc::new(JwtFilter::new(vec![provider("joe", &signer)], rules, named, false)));
    let authenticate = |config: &JwtConfig, path: &str| {
        config.authenticate(&mut request(&format!("http://svc.test{path}"), &[]), now())
    };
    assert_eq!(authenticate(&rules, "/open.A/B"), Ok(()));
    assert_eq!(authenticate(&rules, "/closed.A/B"), Err(Failure::Missing));
    let open = JwtConfig::Named("open".into());
    assert_eq!(authenticate(&rules.overridden(&open), "/closed.A/B"), Ok(()));
    let unknown = rules.overridden(&JwtConfig::Named("x".into()));
    assert_eq!(authenticate(&unknown, "/open.A/B"), Err(Failure::UnknownRequirement));
    assert_eq!(authenticate(&open, "/open.A/B"), Err(Failure::UnknownRequirement));
}

#[test]
fn an_answer_says_why_unless_it_must_not() {
    let signer = Signer::new("k");
    let config = |is_silent| {
        JwtConfig::Rules(Arc::new(JwtFilter::new(
            vec![provider("joe", &signer)],
            Vec::new(),
            BTreeMap::new(),
            is_silent,
        )))
    };
    for (failure, status, challenge) in [
        (Failure::Missing, StatusCode::UNAUTHORIZED, Some("Bearer")),
        (Failure::Expired, StatusCode::UNAUTHORIZED, Some("Bearer error=\"invalid_token\"")),
        (Failure::Audience, StatusCode::FORBIDDEN, None),
    ] {
        let (told, silent) = (config(false).answer(failure).into_http(), config(true).answer(failure).into_http());
        assert_eq!((told.status(), silent.status()), (status, status));
        assert_eq!(told.headers().get("www-authenticate").map(|value| value.to_str().expect("text")), challenge);
        assert_eq!(told.body(), failure.text());
        assert!(silent.body().is_empty() && silent.headers().is_empty());
    }
}
