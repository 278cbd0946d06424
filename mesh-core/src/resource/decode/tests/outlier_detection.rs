//! `OutlierDetection`: gRPC's defaults (A50), and what asks for Envoy's consecutive failures.

use std::time::Duration;

use mesh_xds_proto::envoy::config::cluster::v3 as proto;

use super::fixture::*;
use crate::resource::outlier_detection::{Consecutive, FailurePercentage, OutlierDetection, SuccessRate};

fn with(message: proto::OutlierDetection) -> Fixture {
    let mut f = Fixture::default();
    f.cluster.outlier_detection = Some(message);
    f
}

fn read(message: proto::OutlierDetection) -> OutlierDetection {
    let detection = with(message).cluster().expect("a good cluster").outlier_detection.expect("it is set");
    OutlierDetection::clone(&detection)
}

#[test]
fn an_empty_message_means_what_it_means_in_grpc() {
    let success_rate = SuccessRate { stdev_factor: 1900, enforcing: 100, minimum_hosts: 5, request_volume: 100 };
    let expected = OutlierDetection {
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(300),
        max_ejection_percent: 10,
        success_rate: Some(success_rate),
        failure_percentage: None,
        consecutive_5xx: None,
        consecutive_gateway_failure: None,
        consecutive_local_origin_failure: None,
        split_local_origin: false,
    };
    assert_eq!(read(proto::OutlierDetection::default()), expected);
    assert_eq!(Fixture::default().cluster().expect("a good cluster").outlier_detection, None);
}

#[test]
fn zero_percent_turns_grpcs_algorithms_off() {
    let message = proto::OutlierDetection { enforcing_success_rate: Some(0), ..Default::default() };
    assert_eq!(read(message).success_rate, None);
    let message = |enforcing| proto::OutlierDetection {
        enforcing_failure_percentage: Some(enforcing),
        failure_percentage_request_volume: Some(7),
        ..Default::default()
    };
    assert_eq!(read(message(0)).failure_percentage, None);
    let expected = FailurePercentage { threshold: 85, enforcing: 1, minimum_hosts: 5, request_volume: 7 };
    assert_eq!(read(message(1)).failure_percentage, Some(expected));
}

#[test]
fn the_longest_ejection_is_no_shorter_than_the_first_unless_it_says_so() {
    let times = |base, max| {
        let message =
            proto::OutlierDetection { base_ejection_time: base, max_ejection_time: max, ..Default::default() };
        read(message).max_ejection_time.as_secs()
    };
    assert_eq!([times(seconds(600), None), times(None, seconds(40)), times(seconds(600), seconds(40))], [600, 40, 40]);
}

#[test]
fn consecutive_failures_count_for_those_who_ask() {
    type Message = proto::OutlierDetection;
    let found = |message: Message| {
        let read = read(message);
        let both = |found: Option<Consecutive>| found.map(|found| (found.failures, found.enforcing));
        let local = both(read.consecutive_local_origin_failure);
        [both(read.consecutive_5xx), both(read.consecutive_gateway_failure), local]
    };
    for (message, expected) in [
        (Message { consecutive_5xx: Some(7), ..Default::default() }, [Some((7, 100)), None, None]),
        (Message { enforcing_consecutive_5xx: Some(30), ..Default::default() }, [Some((5, 30)), None, None]),
        (Message { consecutive_5xx: Some(0), ..Default::default() }, [None; 3]),
        (Message { consecutive_gateway_failure: Some(3), ..Default::default() }, [None, Some((3, 0)), None]),
        (Message { enforcing_consecutive_gateway_failure: Some(9), ..Default::default() }, [None, Some((5, 9)), None]),
        (Message { consecutive_local_origin_failure: Some(2), ..Default::default() }, [None; 3]),
        (Message { split_external_local_origin_errors: true, ..Default::default() }, [None, None, Some((5, 100))]),
    ] {
        assert_eq!(found(message.clone()), expected, "{message:?}");
    }
}

#[test]
fn what_is_no_percentage_or_no_time_is_refused_by_field() {
    type Message = proto::OutlierDetection;
    let cases: [(Message, &str); 12] = [
        (Message { interval: seconds(0), ..Default::default() }, "interval: must be greater than 0 s"),
        (Message { interval: seconds(-1), ..Default::default() }, "interval: -1 s"),
        (Message { base_ejection_time: seconds(-1), ..Default::default() }, "base_ejection_time: -1 s"),
        (Message { max_ejection_time: seconds(-1), ..Default::default() }, "max_ejection_time: -1 s"),
        (Message { max_ejection_percent: Some(101), ..Default::default() }, "max_ejection_percent: 101 is"),
        (Message { enforcing_success_rate: Some(101), ..Default::default() }, "enforcing_success_rate: 101 is"),
        (
            Message { failure_percentage_threshold: Some(101), ..Default::default() },
            "failure_percentage_threshold: 101 is",
        ),
        (
            Message { enforcing_failure_percentage: Some(101), ..Default::default() },
            "enforcing_failure_percentage: 101 is",
        ),
        (Message { enforcing_consecutive_5xx: Some(101), ..Default::default() }, "enforcing_consecutive_5xx: 101 is"),
        (
            Message { enforcing_consecutive_gateway_failure: Some(101), ..Default::default() },
            "enforcing_consecutive_gateway_failure: 101 is",
        ),
        (
            Message { enforcing_consecutive_local_origin_failure: Some(101), ..Default::default() },
            "enforcing_consecutive_local_origin_failure: 101 is",
        ),
        (
            Message { interval: Some(prost_types::Duration { seconds: 0, nanos: -1 }), ..Default::default() },
            "interval: ",
        ),
    ];
    for (message, expected) in cases {
        let errors = with(message).cluster().unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(&format!("outlier_detection.{expected}")), "{errors:?}");
    }
}
