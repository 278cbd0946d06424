//! `CircuitBreakers`: which thresholds count, and what of them is read (A32, A105).

use mesh_xds_proto::envoy::config::cluster::v3 as proto;
use mesh_xds_proto::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use mesh_xds_proto::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget as Budget;
use mesh_xds_proto::envoy::r#type::v3::Percent;

use super::fixture::*;
use crate::resource::CLUSTER;
use crate::resource::circuit_breakers::{CircuitBreakers, RetryBudget};
use crate::resource::cluster::Cluster;

const HIGH: i32 = 1;

fn with(thresholds: Vec<Thresholds>, per_host_thresholds: Vec<Thresholds>) -> Fixture {
    let mut f = Fixture::default();
    f.cluster.circuit_breakers = Some(proto::CircuitBreakers { thresholds, per_host_thresholds });
    f
}

fn breakers(f: &Fixture) -> CircuitBreakers {
    f.cluster().expect("a good cluster").circuit_breakers
}

fn max_requests(limit: u32) -> Thresholds {
    Thresholds { max_requests: Some(limit), ..Default::default() }
}

fn max_connections(limit: u32) -> Thresholds {
    Thresholds { max_connections: Some(limit), ..Default::default() }
}

#[test]
fn the_first_thresholds_of_priority_default_count_and_the_others_are_listed() {
    let high = Thresholds { priority: HIGH, ..max_requests(7) };
    for (thresholds, expected) in [
        (vec![], 1024),
        (vec![Thresholds::default()], 1024),
        (vec![max_requests(0)], 0),
        (vec![high], 1024),
        (vec![high, max_requests(3), max_requests(5)], 3),
        (vec![Thresholds::default(), max_requests(5)], 1024),
    ] {
        assert_eq!(breakers(&with(thresholds.clone(), vec![])).max_requests.value, expected, "{thresholds:?}");
    }
    assert_eq!(breakers(&Fixture::default()).max_requests.value, 1024);
    let f = with(vec![high, max_requests(3), max_requests(5)], vec![]);
    let (_, ignored) = decode::<Cluster>(&CLUSTER, &f.cluster);
    assert_eq!(ignored, ["circuit_breakers.thresholds"], "a path is listed once: {ignored:?}");
}

#[test]
fn an_endpoint_has_one_to_ten_connections() {
    for (limit, expected) in [(1, 1), (10, 10), (11, 10), (u32::MAX, 10)] {
        let read = breakers(&with(vec![], vec![max_connections(limit)]));
        assert_eq!(read.max_connections_per_endpoint, Some(expected), "{limit}");
    }
    assert_eq!(breakers(&with(vec![], vec![Thresholds::default()])).max_connections_per_endpoint, None);
    let errors = with(vec![], vec![max_connections(0)]).cluster().unwrap_err();
    assert_eq!(errors, ["circuit_breakers.per_host_thresholds[0].max_connections: must be greater than 0"]);
    let f = with(vec![], vec![Thresholds { max_retries: Some(1), ..max_requests(1) }]);
    let (_, ignored) = decode::<Cluster>(&CLUSTER, &f.cluster);
    assert_eq!(
        ignored,
        ["max_requests", "max_retries"].map(|field| format!("circuit_breakers.per_host_thresholds.{field}"))
    );
}

#[test]
fn a_retry_budget_has_envoys_defaults_and_a_percentage() {
    let budget = |percent: Option<f64>, min_retry_concurrency| {
        let budget_percent = percent.map(|value| Percent { value });
        let budget = Budget { budget_percent, min_retry_concurrency, ..Default::default() };
        with(vec![Thresholds { retry_budget: Some(budget), ..Default::default() }], vec![])
    };
    let read = |f: &Fixture| breakers(f).retry_budget;
    assert_eq!(read(&budget(None, None)), Some(RetryBudget { percent: 20.0, min_concurrency: 3 }));
    assert_eq!(read(&budget(Some(0.5), Some(0))), Some(RetryBudget { percent: 0.5, min_concurrency: 0 }));
    for percent in [-1.0, 100.5, f64::NAN, f64::INFINITY] {
        let errors = budget(Some(percent), None).cluster().unwrap_err();
        let field = "circuit_breakers.thresholds[0].retry_budget.budget_percent";
        assert_eq!(errors, [format!("{field}: {percent} is not a percentage")]);
    }
}
