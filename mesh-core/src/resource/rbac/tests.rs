use std::net::SocketAddr;

use fastrand::Rng;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::access::{Refusal, decide};
use super::metadata::Known;
use super::*;
use crate::resource::filter_chain::Prefix;
use crate::resource::matcher::RequestHead;
use crate::resource::matcher::header::{Condition, HeaderMatch};
use crate::resource::matcher::text::TextMatch;

const ALICE: &str = "spiffe://test/alice";

/// A call to be asked about.
struct Sample {
    path: &'static str,
    headers: HeaderMap,
    names: Vec<String>,
    caller: fn(&[String]) -> Callers<'_>,
}

impl Sample {
    fn new(caller: fn(&[String]) -> Callers<'_>, names: &[&str]) -> Self {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Self { path: "/pkg.Svc/Get", headers: HeaderMap::new(), names, caller }
    }

    fn from(name: &str) -> Self {
        Self::new(|uris| Callers::Verified { uris, dns_names: &[], subject: "CN=a" }, &[name])
    }

    fn plaintext() -> Self {
        Self::new(|_| Callers::Plaintext, &[])
    }

    fn on(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }

    fn call(&self) -> InboundCall<'_> {
        let address = |text: &str| -> SocketAddr { text.parse().expect("an address") };
        InboundCall {
            head: RequestHead { path: self.path, method: &Method::POST, authority: "svc.test", headers: &self.headers },
            addresses: Some((address("10.1.2.3:443"), address("[::ffff:10.9.0.7]:5000"))),
            caller: (self.caller)(&self.names),
            known: Known::default(),
        }
    }
}

fn of(rule: Rule) -> Policy {
    Policy::new([Rule::any()], [rule])
}

/// Whether one policy with this principal matches, as ALLOW and as DENY.
fn matched(rule: fn() -> Rule, sample: &Sample) -> (bool, bool) {
    let call = sample.call();
    let is_matched = |rbac: Rbac| rbac.decide(&call).policy.is_some();
    (is_matched(Rbac::allow([("p", of(rule()))])), is_matched(Rbac::deny([("p", of(rule()))])))
}

fn prefix(address: &str, length: u32) -> Prefix {
    Prefix::new(address.parse().expect("an address"), length)
}

fn header(name: &str, condition: Condition) -> Rule {
    Rule(Kind::Header(HeaderMatch::inbound(name, condition).expect("a name")))
}

#[test]
fn each_rule_sees_its_part_of_the_call() {
    let sample = || Sample::from(ALICE).with("x-a", "1").with("x-a", "2").with("x-bin", "AAE=").with("te", "trailers");
    let subject =
        Sample::new(|names| Callers::Verified { uris: &[], dns_names: &[], subject: &names[0] }, &["CN=a,O=b"]);
    for (what, rule, sample, expected) in [
        ("any", (|| Rule::any()) as fn() -> Rule, sample(), true),
        ("never", || Rule(Kind::Constant(false)), sample(), false),
        ("path", || Rule::path("/pkg.Svc/Get"), sample(), true),
        ("path without its query", || Rule::path("/pkg.Svc/Get"), sample().on("/pkg.Svc/Get?a=b"), true),
        ("another path", || Rule::path("/pkg.Svc/get"), sample(), false),
        ("prefix", || Rule::path_prefix("/pkg.Svc/"), sample(), true),
        ("values are joined", || Rule::header("x-a", "1,2").expect("a header"), sample(), true),
        ("none of several values", || Rule::header("x-a", "3").expect("a header"), sample(), false),
        ("a binary header as it is sent", || Rule::header("x-bin", "AAE=").expect("a header"), sample(), true),
        ("the authority", || Rule::header(":authority", "svc.test").expect("a header"), sample(), true),
        ("by its other name", || Rule::header("Host", "svc.test").expect("a header"), sample(), true),
        ("the method", || Rule::header(":method", "POST").expect("a header"), sample(), true),
        ("the path as a header", || Rule::header(":path", "/pkg.Svc/Get").expect("a header"), sample(), true),
        ("what is of the connection is not there", || header("te", Condition::Present(true)), sample(), false),
        ("absent", || header("x-b", Condition::Present(true)), sample(), false),
        ("local address", || Rule(Kind::LocalIp(prefix("10.1.0.0", 16))), sample(), true),
        ("another local address", || Rule(Kind::LocalIp(prefix("10.2.0.0", 16))), sample(), false),
        ("port", || Rule(Kind::LocalPort(443..444)), sample(), true),
        ("another port", || Rule(Kind::LocalPort(400..443)), sample(), false),
        ("peer's address, mapped into IPv6", || Rule::peer_ip([10, 9, 0, 0].into(), 24), sample(), true),
        ("another peer", || Rule::peer_ip([10, 9, 1, 0].into(), 24), sample(), false),
        ("name", || Rule::principal(ALICE), sample(), true),
        ("another name", || Rule::principal("spiffe://test/bob"), sample(), false),
        ("trust domain", || Rule::principal_prefix("spiffe://test/"), sample(), true),
        ("anyone verified", || Rule::authenticated(), sample(), true),
        ("subject", || Rule::principal("CN=a,O=b"), subject, true),
        ("not", || Rule::not(Rule::principal(ALICE)), sample(), false),
        ("all", || Rule::all([Rule::any(), Rule::principal(ALICE)]), sample(), true),
        ("not all", || Rule::all([Rule::any(), Rule::path("/")]), sample(), false),
        ("one of", || Rule::one_of([Rule::path("/"), Rule::principal(ALICE)]), sample(), true),
        ("none of", || Rule::one_of([Rule::path("/"), Rule::path("/a")]), sample(), false),
    ] {
        assert_eq!(matched(rule, &sample), (expected, expected), "{what}");
    }
    for name in ["grpc-timeout", "GRPC-encoding", ":scheme", "a b"] {
        assert!(Rule::header(name, "").is_none(), "{name}");
    }
}

/// Values are joined (A41), and a policy is never evaded by what a caller sends beside the value that it is about.
#[test]
fn one_of_several_values_is_enough_to_refuse_a_call_and_never_to_allow_it() {
    let sample = || Sample::from(ALICE).with("x-a", "1").with("x-a", "2");
    fn is_1() -> Rule {
        Rule::header("x-a", "1").expect("a header")
    }
    fn is_not_1() -> Rule {
        let condition = Condition::Text(TextMatch::exact("1", false));
        Rule(Kind::Header(HeaderMatch::inbound("x-a", condition).expect("a header").inverted(true)))
    }
    for (what, rule, as_allow, as_deny) in [
        ("one of the values", is_1 as fn() -> Rule, false, true),
        ("not one of the values", || Rule::not(is_1()), false, true),
        ("twice not", || Rule::not(Rule::not(is_1())), false, true),
        ("another value", is_not_1, false, true),
        ("not another value", || Rule::not(is_not_1()), false, true),
        ("beside others", || Rule::all([Rule::any(), is_1()]), false, true),
    ] {
        assert_eq!(matched(rule, &sample()), (as_allow, as_deny), "{what}");
    }
}

/// What a policy that denies matches is A41's; one that allows is never met by who is not verified.
#[test]
fn s12_empty_and_negated_principals_never_admit_a_caller_without_a_verified_peer() {
    let anonymous = || Sample::new(|_| Callers::Anonymous, &[]);
    let prefixed = || Rule(Kind::Authenticated(Some(TextMatch::prefix("", false))));
    for (what, rule, plaintext, over_tls) in [
        ("anyone verified", (|| Rule::authenticated()) as fn() -> Rule, (false, false), (false, true)),
        ("the empty name", || Rule::principal(""), (false, false), (false, true)),
        ("a name", || Rule::principal(ALICE), (false, false), (false, false)),
        ("not a name", || Rule::not(Rule::principal(ALICE)), (false, true), (false, true)),
        ("not anyone verified", || Rule::not(Rule::authenticated()), (false, true), (false, false)),
        ("not not a name", || Rule::not(Rule::not(Rule::principal(""))), (false, false), (false, true)),
        (
            "neither of two",
            || Rule::not(Rule::one_of([Rule::path("/"), Rule::principal(ALICE)])),
            (false, true),
            (false, true),
        ),
        ("not an address", || Rule::not(Rule::peer_ip([1, 1, 1, 1].into(), 32)), (true, true), (true, true)),
        ("any", || Rule::any(), (true, true), (true, true)),
    ] {
        assert_eq!(matched(rule, &Sample::plaintext()), plaintext, "{what}, plaintext");
        assert_eq!(matched(rule, &anonymous()), over_tls, "{what}, without a certificate");
    }
    let call = Sample::plaintext();
    assert!(!Rbac::allow([("p", of(prefixed()))]).decide(&call.call()).allowed);
}

#[test]
fn addresses_that_nobody_said_count_against_the_caller() {
    let sample = Sample::from(ALICE);
    let call = InboundCall { addresses: None, ..sample.call() };
    let rule = || Rule::peer_ip([10, 9, 0, 0].into(), 24);
    for rule in [rule as fn() -> Rule, || Rule::not(Rule::peer_ip([10, 9, 0, 0].into(), 24))] {
        assert!(!Rbac::allow([("p", of(rule()))]).decide(&call).allowed);
        assert!(!Rbac::deny([("p", of(rule()))]).decide(&call).allowed);
    }
}

#[test]
fn s12_deny_by_default_admits_what_an_allow_policy_matched_and_nothing_else() {
    let filter = |rules: Option<Rbac>| RbacFilter { rules, shadow: None };
    let everyone = || [("everyone", of(Rule::any()))];
    let nobody = || [("nobody", of(Rule::not(Rule::any())))];
    for (what, filters, by_default, denying_by_default) in [
        ("no filter", vec![], true, false),
        ("LOG", vec![filter(None)], true, false),
        ("DENY alone", vec![filter(Some(Rbac::deny(nobody())))], true, false),
        ("ALLOW", vec![filter(Some(Rbac::allow(everyone())))], true, true),
        ("ALLOW of nothing", vec![filter(Some(Rbac::allow(nobody())))], false, false),
        ("ALLOW without policies", vec![filter(Some(Rbac::allow::<&str>([])))], false, false),
        (
            "DENY behind ALLOW",
            vec![filter(Some(Rbac::allow(everyone()))), filter(Some(Rbac::deny(everyone())))],
            false,
            false,
        ),
        (
            "two that allow, one of nothing",
            vec![filter(Some(Rbac::allow(everyone()))), filter(Some(Rbac::allow(nobody())))],
            false,
            false,
        ),
        ("shadow rules", vec![RbacFilter { rules: None, shadow: Some(Rbac::allow(everyone())) }], true, false),
        ("shadow rules that deny", vec![RbacFilter { rules: None, shadow: Some(Rbac::deny(everyone())) }], true, false),
    ] {
        let sample = Sample::from(ALICE);
        let decided = |deny| decide(&sample.call(), filters.iter().map(|filter| ("f", filter)), deny, None).is_ok();
        assert_eq!((decided(false), decided(true)), (by_default, denying_by_default), "{what}");
    }
}

#[test]
fn a_refusal_names_the_filter_and_the_first_policy_by_name() {
    let rbac = Rbac::deny([("b", of(Rule::any())), ("a", of(Rule::principal(ALICE)))]);
    let filter = RbacFilter { rules: Some(rbac), shadow: None };
    let refusal = |sample: Sample| {
        let refusal = decide(&sample.call(), [("f", &filter)].into_iter(), false, None).expect_err("refused");
        assert_eq!(refusal.filter, "f");
        refusal.policy.to_owned()
    };
    assert_eq!(refusal(Sample::from(ALICE)), "a");
    assert_eq!(refusal(Sample::plaintext()), "b");
    let nothing = decide(&Sample::plaintext().call(), std::iter::empty(), true, None);
    assert_eq!(nothing, Err(Refusal { filter: "", policy: "" }));
}

/// A rule that is easy to judge.
#[derive(Clone, Debug)]
enum Plain {
    Any,
    Never,
    Path(&'static str, bool),
    Name(&'static str, bool),
    Verified,
    Not(Box<Plain>),
    All(Vec<Plain>),
    OneOf(Vec<Plain>),
}

const PATHS: [&str; 4] = ["/", "/a", "/a/b", "/c"];
const NAMES: [&str; 4] = ["", "u", "u/v", "w"];

impl Plain {
    fn random(random: &mut Rng, depth: usize) -> Self {
        let list = |random: &mut Rng| (0..random.usize(1..4)).map(|_| Self::random(random, depth - 1)).collect();
        match random.u8(..if depth > 0 { 8 } else { 5 }) {
            0 => Self::Any,
            1 => Self::Never,
            2 => Self::Path(PATHS[random.usize(..4)], random.bool()),
            3 => Self::Name(NAMES[random.usize(..4)], random.bool()),
            4 => Self::Verified,
            5 => Self::Not(Box::new(Self::random(random, depth - 1))),
            6 => Self::All(list(random)),
            _ => Self::OneOf(list(random)),
        }
    }

    fn rule(&self) -> Rule {
        let rules = |list: &[Self]| list.iter().map(Self::rule).collect::<Vec<_>>();
        match self {
            Self::Any => Rule::any(),
            Self::Never => Rule(Kind::Constant(false)),
            Self::Path(path, true) => Rule::path(path),
            Self::Path(path, false) => Rule::path_prefix(path),
            Self::Name(name, true) => Rule::principal(name),
            Self::Name(name, false) => Rule::principal_prefix(name),
            Self::Verified => Rule::authenticated(),
            Self::Not(rule) => Rule::not(rule.rule()),
            Self::All(list) => Rule::all(rules(list)),
            Self::OneOf(list) => Rule::one_of(rules(list)),
        }
    }

    /// In a logic of three values, so that no negation makes something of what is not known.
    fn holds(&self, path: &str, name: Option<&str>, action: Action) -> Option<bool> {
        let of = |list: &[Self]| list.iter().map(|rule| rule.holds(path, name, action)).collect::<Vec<_>>();
        let unverified = if action == Action::Allow { None } else { Some(false) };
        match self {
            Self::Any => Some(true),
            Self::Never => Some(false),
            Self::Path(wanted, exact) => Some(if *exact { path == *wanted } else { path.starts_with(wanted) }),
            Self::Name(wanted, exact) => {
                name.map_or(unverified, |name| Some(if *exact { name == *wanted } else { name.starts_with(wanted) }))
            }
            Self::Verified => name.map_or(unverified, |_| Some(true)),
            Self::Not(rule) => rule.holds(path, name, action).map(|holds| !holds),
            Self::All(list) => {
                let all = of(list);
                if all.contains(&Some(false)) { Some(false) } else { (!all.contains(&None)).then_some(true) }
            }
            Self::OneOf(list) => {
                let all = of(list);
                if all.contains(&Some(true)) { Some(true) } else { (!all.contains(&None)).then_some(false) }
            }
        }
    }
}

#[test]
fn whatever_the_policies_the_decision_is_that_of_a_plain_walk_over_them() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    for _ in 0..3_000 {
        let list = |random: &mut Rng| (0..random.usize(1..3)).map(|_| Plain::random(random, 3)).collect::<Vec<_>>();
        let policies: Vec<_> = (0..random.usize(..40)).map(|_| (list(&mut random), list(&mut random))).collect();
        let rules = |list: &[Plain]| list.iter().map(Plain::rule).collect::<Vec<_>>();
        let built = policies.iter().enumerate().map(|(place, (permissions, principals))| {
            (format!("{place:02}"), Policy::new(rules(permissions), rules(principals)))
        });
        let action = if random.bool() { Action::Allow } else { Action::Deny };
        let rbac = Rbac::new(action, built, Audit::default());
        for _ in 0..8 {
            let path = PATHS[random.usize(..4)];
            let name = random.bool().then(|| NAMES[random.usize(1..4)]);
            let sample = name.map_or_else(Sample::plaintext, Sample::from).on(path);
            let holds = |list: &[Plain]| list.iter().any(|rule| rule.holds(path, name, action) == Some(true));
            let expected =
                policies.iter().position(|(permissions, principals)| holds(permissions) && holds(principals));
            let call = sample.call();
            let decision = rbac.decide(&call);
            assert_eq!(
                decision.policy.map(|name| name.parse().expect("a place")),
                expected,
                "{action:?}, {policies:?}"
            );
            assert_eq!(decision.allowed, expected.is_some() == (action == Action::Allow));
        }
    }
}

/// Neither the callers' names nor the paths of other policies cost a call anything.
#[test]
fn policies_of_other_names_and_paths_are_not_tried() {
    let tried = |policies: Vec<(String, Policy)>, sample: &Sample| {
        let index = PolicyIndex::new(policies.iter().map(|(_, policy)| policy));
        let tried = std::cell::Cell::new(0);
        index.first(&sample.call(), |_| {
            tried.set(tried.get() + 1);
            false
        });
        tried.get()
    };
    let policies = |name: fn(usize) -> String, path: fn(usize) -> String| {
        let policy = |n| Policy::new([Rule::path_prefix(&path(n))], [Rule::principal(&name(n))]);
        (0..1_000).map(|n| (format!("{n:04}"), policy(n))).collect::<Vec<_>>()
    };
    let last = Sample::from("n999").on("/s999/Get");
    assert_eq!(tried(policies(|n| format!("n{n}"), |n| format!("/s{n}/")), &last), 1);
    assert_eq!(tried(policies(|n| format!("n{n}"), |_| "/".to_owned()), &last), 1);
    assert_eq!(tried(policies(|_| "n999".to_owned(), |n| format!("/s{n}/")), &last), 1);
    assert_eq!(tried(policies(|n| format!("n{n}"), |n| format!("/s{n}/")), &Sample::plaintext()), 0);
}
