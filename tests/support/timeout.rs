//! What a `grpc-timeout` says.

use std::time::Duration;

pub(crate) fn read_timeout(value: &str) -> Duration {
    let (amount, unit) = value.split_at(value.len() - 1);
    let unit = match unit {
        "H" => Duration::from_secs(3600),
        "M" => Duration::from_secs(60),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        other => panic!("unit {other}"),
    };
    unit * amount.parse::<u32>().expect("up to eight digits")
}
