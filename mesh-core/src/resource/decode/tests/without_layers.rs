//! A build without layers: what they would act on is listed by its feature, and a filter that would have to run is refused.

use mesh_xds_proto::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
use mesh_xds_proto::envoy::extensions::filters::http::fault::v3::HttpFault;
use mesh_xds_proto::envoy::extensions::filters::http::jwt_authn::v3::JwtAuthentication;
use mesh_xds_proto::envoy::extensions::filters::http::rbac::v3::Rbac;
use prost::Name;
use prost_types::Any;

use super::fixture::*;
use super::verdicts::{found, with_each_field};
use crate::resource::LISTENER;
use crate::resource::listener::Listener;
use crate::resource::verdict::{Verdict, verdicts};

#[test]
fn what_a_layer_would_act_on_is_listed_by_the_feature_that_is_off() {
    let mut checked = Vec::new();
    with_each_field(
        |row| row.feature.is_some(),
        |full_name, row, fixture| {
            let reason = format!("mesh-core's feature `{}` is off", row.feature.expect("chosen by it"));
            let (_, ignored) = found(fixture);
            let lists = |path: &str| path == row.field || path.ends_with(&format!(".{}", row.field));
            let listed = ignored.iter().any(|field| lists(&field.path) && field.reason == reason);
            assert!(listed, "{full_name}.{}: {ignored:?}", row.field);
            assert!(matches!(row.verdict, Verdict::Ignore | Verdict::CallFails), "{full_name}.{}", row.field);
            checked.push(row.feature.expect("chosen by it"));
        },
    );
    for feature in ["timeout", "filter", "mirror", "retry", "cluster"] {
        assert!(checked.contains(&feature), "{feature}");
    }
}

#[test]
fn calls_that_a_route_would_answer_itself_fail_and_the_list_says_so() {
    let fail = verdicts().filter(|row| row.feature == Some("filter") && row.verdict == Verdict::CallFails);
    assert_eq!(fail.map(|row| row.field).collect::<Vec<_>>(), ["redirect", "direct_response"]);
}

#[test]
fn a_filter_is_refused_unless_it_is_optional_and_then_listed() {
    let names = [HttpFault::full_name(), ExtAuthz::full_name(), Rbac::full_name(), JwtAuthentication::full_name()];
    for name in names {
        let place = format!("api_listener.api_listener.http_filters[0].typed_config[{name}]");
        let mut f = Fixture::default();
        let config = Any { type_url: format!("type.googleapis.com/{name}"), value: Vec::new() };
        f.manager.http_filters.insert(0, filter_of("x", config));
        let refused = format!("{place}: mesh-core's feature `filter` is off, and the filter is not optional");
        assert_eq!(f.listener().unwrap_err(), [refused]);
        f.manager.http_filters[0].is_optional = true;
        let (listener, ignored) = decode_shared::<Listener>(&LISTENER, &f.packed());
        assert!(listener.is_ok(), "{name}");
        assert_eq!(ignored, [place.replace("[0]", "")]);
    }
}
