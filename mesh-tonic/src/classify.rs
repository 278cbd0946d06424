//! What gRPC's responses say of the endpoint: the `grpc-status`, taken as the HTTP status that Envoy takes it as.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use mesh_core::Classify;
use mesh_core::connect::Outcome;
use tonic::Code;

use crate::grpc::Grpc;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

impl Classify for Grpc {
    fn outcome(&self, status: StatusCode, trailers: Option<&HeaderMap>) -> Outcome {
        match trailers.and_then(grpc_status) {
            Some(code) => of_code(Code::from_bytes(code.as_bytes())),
            None => of_http(status),
        }
    }
}

/// Found by looking at all: there are few, and hashing the name costs more.
fn grpc_status(trailers: &HeaderMap) -> Option<&HeaderValue> {
    trailers.iter().find_map(|(name, value)| (name == GRPC_STATUS).then_some(value))
}

fn of_code(code: Code) -> Outcome {
    match code {
        Code::Ok => Outcome::Success,
        Code::ResourceExhausted => Outcome::Overloaded,
        Code::Unavailable | Code::DeadlineExceeded => Outcome::GatewayError,
        Code::Unknown | Code::Internal | Code::DataLoss | Code::Unimplemented => Outcome::ServerError,
        Code::Cancelled
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unauthenticated => Outcome::Failure,
    }
}

/// What is not gRPC's is never a success.
fn of_http(status: StatusCode) -> Outcome {
    match status.as_u16() {
        429 => Outcome::Overloaded,
        502..=504 => Outcome::GatewayError,
        400..=499 => Outcome::Failure,
        _ => Outcome::ServerError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_what_envoy_takes_its_grpc_status_for() {
        use Outcome::{Failure, GatewayError, Overloaded, ServerError, Success};
        let by_code = [
            Success,
            Failure,
            ServerError,
            Failure,
            GatewayError,
            Failure,
            Failure,
            Failure,
            Overloaded,
            Failure,
            Failure,
            Failure,
            ServerError,
            ServerError,
            GatewayError,
            ServerError,
            Failure,
        ];
        for (code, expected) in by_code.into_iter().enumerate() {
            let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from(code))]);
            assert_eq!(Grpc.outcome(StatusCode::OK, Some(&trailers)), expected, "{code}");
        }
        let nonsense = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("x"))]);
        assert_eq!(Grpc.outcome(StatusCode::OK, Some(&nonsense)), ServerError);
    }

    #[test]
    fn a_response_without_a_grpc_status_failed_by_its_http_status() {
        for (status, expected) in [
            (200, Outcome::ServerError),
            (404, Outcome::Failure),
            (429, Outcome::Overloaded),
            (500, Outcome::ServerError),
            (503, Outcome::GatewayError),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(Grpc.outcome(status, None), expected, "{status}");
            assert_eq!(Grpc.outcome(status, Some(&HeaderMap::new())), expected, "{status}");
        }
    }
}
