//! What gRPC's responses say of the endpoint: the `grpc-status`, taken as the HTTP status that Envoy takes it as.

use http::{HeaderMap, StatusCode, header};
use mesh_core::Classify;
use mesh_core::connect::Outcome;
use tonic::Code;

use crate::grpc::{Grpc, MEDIA_TYPE, grpc_status};

/// [`Code::Cancelled`] as it is written.
const CANCELLED: &str = "1";

impl Classify for Grpc {
    fn is_answer(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        status == StatusCode::OK && has_messages(headers) || grpc_status(headers).is_some()
    }

    fn outcome(&self, status: StatusCode, trailers: Option<&HeaderMap>) -> Outcome {
        match trailers.and_then(grpc_status) {
            Some(code) => of_code(Code::from_bytes(code.as_bytes())),
            None => of_http(status),
        }
    }

    fn is_cancelled(&self, trailers: &HeaderMap) -> bool {
        grpc_status(trailers).is_some_and(|code| code == CANCELLED)
    }
}

/// Whether what follows is of gRPC: `application/grpc`, perhaps with the messages' format or parameters.
fn has_messages(headers: &HeaderMap) -> bool {
    let content_type = headers.iter().find_map(|(name, value)| (*name == header::CONTENT_TYPE).then_some(value));
    let grpc = MEDIA_TYPE.as_bytes();
    content_type.and_then(|value| value.as_bytes().split_at_checked(grpc.len())).is_some_and(|(kind, rest)| {
        (kind == grpc || kind.eq_ignore_ascii_case(grpc)) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
    })
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
    use http::header::CONTENT_TYPE;
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::grpc::GRPC_STATUS;

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
    fn an_answer_has_a_grpc_status_or_messages_of_grpc() {
        let answers = |status: u16, headers: &[(HeaderName, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
            Grpc.is_answer(StatusCode::from_u16(status).expect("a status"), &headers)
        };
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc;x=y", "Application/gRPC"] {
            assert!(answers(200, &[(CONTENT_TYPE, kind)]), "{kind}");
            assert!(!answers(503, &[(CONTENT_TYPE, kind)]), "{kind}");
        }
        for kind in ["text/html", "application/grpc-web", "application/json", ""] {
            assert!(!answers(200, &[(CONTENT_TYPE, kind)]), "{kind}");
            assert!(answers(503, &[(CONTENT_TYPE, kind), (GRPC_STATUS, "5")]), "{kind}");
        }
        assert!(!answers(200, &[]) && answers(200, &[(GRPC_STATUS, "0")]));
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
