//! The mesh's own answers as responses of gRPC: trailers only, as a server's that fails at once.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use mesh_core::filter::{Answer, AnswerProtocol, AnswerStatus};
use tonic::{Code, Status};

use crate::Grpc;

impl AnswerProtocol for Grpc {
    fn respond(&self, answer: Answer) -> Response<Bytes> {
        let code = match answer.status() {
            AnswerStatus::Grpc(code) => Code::from_i32(code.into()),
            AnswerStatus::Http(status) => code_of_http(status),
            _ => Code::Unknown,
        };
        let message = String::from_utf8_lossy(answer.body());
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.extend(answer.headers().iter().map(|(name, value)| (name.clone(), value.clone())));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        // What fails is a message that no header can hold, and that is percent-encoded.
        let _ = Status::new(code, message).add_header(headers);
        response
    }
}

/// gRPC over HTTP/2, "HTTP to gRPC Status Code Mapping": a response without gRPC's own status is never a success.
fn code_of_http(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_http_is_a_code_of_grpc() {
        for (status, code) in [
            (200, Code::Unknown),
            (301, Code::Unknown),
            (400, Code::Internal),
            (401, Code::Unauthenticated),
            (403, Code::PermissionDenied),
            (404, Code::Unimplemented),
            (429, Code::Unavailable),
            (500, Code::Unknown),
            (501, Code::Unknown),
            (502, Code::Unavailable),
            (503, Code::Unavailable),
            (504, Code::Unavailable),
        ] {
            assert_eq!(code_of_http(StatusCode::from_u16(status).expect("a status")), code, "{status}");
        }
    }
}
